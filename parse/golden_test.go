package parse

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew; review them as a diff")

// TestGolden reads every invoice of testdata and compares the whole Document with
// the golden file beside it. All but the two whose names say so are valid against
// the official schemas.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.xml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no invoices in testdata: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".xml"), func(t *testing.T) {
			doc := fixture(t, filepath.Base(file))
			var rendered strings.Builder
			statedFields(&rendered, "", reflect.ValueOf(*doc))
			got := rendered.String()
			golden := strings.TrimSuffix(file, ".xml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			// A checkout on Windows may end its lines otherwise.
			if diff := cmp.Diff(strings.ReplaceAll(string(want), "\r\n", "\n"), got); diff != "" {
				t.Errorf("-golden +parsed:\n%s", diff)
			}
		})
	}
}

// stated writes what a Document states, one field a line, under its path.
func statedFields(to *strings.Builder, path string, v reflect.Value) {
	switch {
	case v.IsZero():
	case v.Type() == reflect.TypeFor[Minor]():
		fmt.Fprintf(to, "%s: %s\n", path, render(v.Interface().(Minor).Value))
	case v.Kind() == reflect.Pointer:
		statedFields(to, path, v.Elem())
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			// An empty cell of a table holds the place of its column.
			if element := v.Index(i); element.IsZero() {
				fmt.Fprintf(to, "%s[%d]:\n", path, i)
			} else {
				statedFields(to, fmt.Sprintf("%s[%d]", path, i), element)
			}
		}
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			statedFields(to, strings.TrimPrefix(path+"."+v.Type().Field(i).Name, "."), v.Field(i))
		}
	default:
		fmt.Fprintf(to, "%s: %v\n", path, v)
	}
}

// fixture parses an invoice of testdata.
func fixture(t testing.TB, name string) *Document {
	t.Helper()
	doc, err := Parse(fixtureXML(t, name))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return doc
}

func fixtureXML(t testing.TB, name string) []byte {
	t.Helper()
	xml, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return xml
}
