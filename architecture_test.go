package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// imports says which packages of the project each package may import. Arrows go
// one way, so that a package can be understood, and replaced, with what is below
// it alone. db takes the fields of a document from parse rather than declare a
// hundred of them again.
var imports = map[string][]string{
	"ksefmirror":                           {"internal/cli"},
	"ksefmirror/internal/cli":              {"daemon", "db", "sync", "service", "internal/config", "internal/control", "internal/credential", "internal/delivery", "internal/doctor", "internal/event", "internal/filewatch", "internal/health", "internal/ksef", "internal/ksefsim", "internal/sheet", "internal/tree"},
	"ksefmirror/daemon":                    {"sync", "internal/event", "internal/ksef"},
	"ksefmirror/sync":                      {"internal/audit", "internal/ksef", "db", "internal/tree", "parse"},
	"ksefmirror/db":                        {"parse"},
	"ksefmirror/db/dictionary":             {},
	"ksefmirror/parse":                     {},
	"ksefmirror/service":                   {"internal/event"},
	"ksefmirror/internal/audit":            {"db", "internal/tree"},
	"ksefmirror/internal/bench":            {"internal/cli", "sync", "db", "parse", "internal/ksef", "internal/ksefsim", "internal/tree"},
	"ksefmirror/internal/config":           {},
	"ksefmirror/internal/control":          {},
	"ksefmirror/internal/credential":       {},
	"ksefmirror/internal/delivery":         {"db"},
	"ksefmirror/internal/delivery/mailsim": {},
	"ksefmirror/internal/doctor":           {"internal/tree"},
	"ksefmirror/internal/event":            {},
	"ksefmirror/internal/filewatch":        {},
	"ksefmirror/internal/health":           {"sync", "internal/config", "internal/credential", "internal/event", "internal/ksef", "internal/tree"},
	"ksefmirror/internal/ksef":             {"internal/xades"},
	"ksefmirror/internal/sheet":            {},
	"ksefmirror/internal/xades":            {},
	"ksefmirror/internal/tree":             {},
	"ksefmirror/internal/ksefsim":          {"internal/ksef"},
	"ksefmirror/internal/ksefsim/contract": {"internal/ksefsim"},
}

func TestImportDirections(t *testing.T) {
	output, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	seen := 0
	for decoder := json.NewDecoder(strings.NewReader(string(output))); ; seen++ {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		allowed, known := imports[p.ImportPath]
		if !known {
			t.Errorf("package %s is new: say in this test what it may import", p.ImportPath)
		}
		for _, imported := range p.Imports {
			short, ours := strings.CutPrefix(imported, "ksefmirror/")
			if ours && !slices.Contains(allowed, short) {
				t.Errorf("%s must not import %s", p.ImportPath, imported)
			}
			if imported == "github.com/getkin/kin-openapi/openapi3" && p.ImportPath != "ksefmirror/internal/ksefsim/contract" {
				t.Errorf("%s brings the contract checker into the program", p.ImportPath)
			}
		}
	}
	if seen != len(imports) {
		t.Errorf("go list gave %d packages, this test names %d", seen, len(imports))
	}
}
