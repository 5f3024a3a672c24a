package tree

import (
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

const testNumber = "5265877635-20261105-0100001AF629-AF"

func TestPath(t *testing.T) {
	acme := Name{Number: testNumber, Role: "buyer", IssueDate: "2026-11-05", Counterparty: "ACME Sp. z o.o.", InvoiceNumber: "FV/12/2026"}
	with := func(change func(*Name)) Name {
		name := acme
		change(&name)
		return name
	}
	hash := "xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" // of nothing
	tests := []struct {
		name   string
		layout string
		of     Name
		want   string
	}{
		{"default", DefaultLayout, acme, "purchases/2026/11/2026-11-05_ACME-Sp-z-o-o_FV-12-2026_" + testNumber + ".xml"},
		{"seller", "{role}/f", with(func(n *Name) { n.Role = "seller" }), "sales/f_" + testNumber + ".xml"},
		{"third party", "{role}/f", with(func(n *Name) { n.Role = "third_party" }), "third-party/f_" + testNumber + ".xml"},
		{"authorized", "{role}/f", with(func(n *Name) { n.Role = "authorized" }), "authorized/f_" + testNumber + ".xml"},
		{"unknown role", "{role}/f", with(func(n *Name) { n.Role = "../x" }), "other/f_" + testNumber + ".xml"},
		{"no decoration", DefaultLayout, Name{Number: testNumber, Role: "seller", IssueDate: "2026-01-31"}, "sales/2026/01/2026-01-31_" + testNumber + ".xml"},
		{"no counterparty", DefaultLayout, with(func(n *Name) { n.Counterparty = " /// " }), "purchases/2026/11/2026-11-05_FV-12-2026_" + testNumber + ".xml"},
		{"no such date", DefaultLayout, with(func(n *Name) { n.IssueDate = "2026-02-30" }), "purchases/undated/undated_ACME-Sp-z-o-o_FV-12-2026_" + testNumber + ".xml"},
		{"day and literals", "Faktury {year}/{day}.{month} {invoice}", acme, "Faktury 2026/05.11 FV-12-2026_" + testNumber + ".xml"},
		{"empty file part", "{role}/{invoice}", with(func(n *Name) { n.InvoiceNumber = "" }), "purchases/" + testNumber + ".xml"},
		{"empty folder", "{counterparty}/{role}", with(func(n *Name) { n.Counterparty = "?" }), "purchases_" + testNumber + ".xml"},
		{"Polish letters", "{counterparty}", with(func(n *Name) { n.Counterparty = "Zażółć Gęślą Jaźń S.A." }), "Zażółć-Gęślą-Jaźń-S-A_" + testNumber + ".xml"},
		{"composed form", "{counterparty}", with(func(n *Name) { n.Counterparty = "Z\u0301rebak" }), "\u0179rebak_" + testNumber + ".xml"},
		{"hostile number of the seller", "{invoice}", with(func(n *Name) { n.InvoiceNumber = "../..\\:*?\"<>|\x00\u202e😀FV\xff1..." }), "FV-1_" + testNumber + ".xml"},
		{"device name as folder", "{counterparty}/{invoice}", with(func(n *Name) { n.Counterparty = "nul" }), "_nul/FV-12-2026_" + testNumber + ".xml"},
		{"device name before a dot", "{counterparty}.x/f", with(func(n *Name) { n.Counterparty = "Com1" }), "_Com1.x/f_" + testNumber + ".xml"},
		{"device name in the file name", "{counterparty}.x", with(func(n *Name) { n.Counterparty = "Con" }), "_Con.x_" + testNumber + ".xml"},
		{"KSeF 1.0 number", "f", Name{Number: "1111111111-20230501-ABCDEF-012345-6F"}, "f_1111111111-20230501-ABCDEF-012345-6F.xml"},
		{"no number", "f", Name{}, "f_" + hash + ".xml"},
		{"the longest value is cut first", DefaultLayout, with(func(n *Name) { n.Counterparty = strings.Repeat("Bardzo długa nazwa ", 20) }),
			"purchases/2026/11/2026-11-05_Bardzo-długa-nazwa-Bardzo-długa-nazwa-Bardzo-długa-nazw_FV-12-2026_" + testNumber + ".xml"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			layout, err := ParseLayout(test.layout)
			if err != nil {
				t.Fatal(err)
			}
			if got := layout.Path(test.of); got != test.want {
				t.Errorf("path is\n%s, want\n%s", got, test.want)
			}
		})
	}
	if got := (Layout{}).Path(acme); got != testNumber+".xml" {
		t.Errorf("the zero layout gives %s", got)
	}
}

func TestParseLayoutRefuses(t *testing.T) {
	tests := []struct{ name, pattern, complaint string }{
		{"nothing", "", "empty"},
		{"unknown placeholder", "{role}/{nip}", "{nip}"},
		{"empty placeholder", "{}", "{}"},
		{"open brace", "{role}/{year", "closing brace"},
		{"absolute", "/{role}", "empty"},
		{"folder only", "{role}/", "empty"},
		{"empty folder", "{role}//{year}", "empty"},
		{"parent folder", "../{role}", `".."`},
		{"this folder", "{role}/./x", `"."`},
		{"separators only", "{role}/_-_", `"_-_"`},
		{"backslash", `{role}\{year}`, "backslash"},
		{"drive", "C:{role}", "':'"},
		{"stray brace", "{role}}", "'}'"},
		{"wildcard", "{role}*", "'*'"},
		{"control character", "{role}\x00", `'\x00'`},
		{"not UTF-8", "{role}\xff", "UTF-8"},
		{"long folder", strings.Repeat("f", 121) + "/{role}", "too long"},
		{"long file name", "{role}/" + strings.Repeat("f", 60), "too long"},
		{"deep", strings.Repeat("folder/", 20) + "{role}", "too long"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := ParseLayout(test.pattern)
			if err == nil || !strings.Contains(err.Error(), test.complaint) {
				t.Errorf("error is %v, want one about %s", err, test.complaint)
			}
		})
	}
}

// checkSafe applies Windows' rules, which are stricter than those of the others, written down anew.
// https://learn.microsoft.com/en-us/windows/win32/fileio/naming-a-file
func checkSafe(t *testing.T, name string) {
	t.Helper()
	if !filepath.IsLocal(filepath.FromSlash(name)) || !utf8.ValidString(name) || len(name) > 160 {
		t.Errorf("%q (%d bytes) is not local, not UTF-8 or too long", name, len(name))
	}
	for component := range strings.SplitSeq(name, "/") {
		if component == "" || len(component) > 120 || strings.HasPrefix(component, ".") ||
			strings.ContainsAny(component, `<>:"\|?*`) || strings.ContainsFunc(component, unicode.IsControl) ||
			strings.HasSuffix(component, ".") || strings.HasSuffix(component, " ") {
			t.Errorf("%q has the bad component %q", name, component)
		}
		base, _, _ := strings.Cut(strings.ToUpper(component), ".")
		base = strings.TrimRight(base, " ")
		device := base == "CON" || base == "PRN" || base == "AUX" || base == "NUL" || base == "CONIN$" || base == "CONOUT$"
		if len(base) > 3 && (strings.HasPrefix(base, "COM") || strings.HasPrefix(base, "LPT")) {
			device = device || strings.Contains("0123456789¹²³", base[3:])
		}
		if device {
			t.Errorf("%q has a device's name, %q", name, component)
		}
	}
}

func FuzzPath(f *testing.F) {
	f.Add(DefaultLayout, testNumber, "seller", "2026-11-05", "ACME", "FV/1", "5265877635-20261105-0100001AF629-B0")
	f.Add("{counterparty}.{invoice}", "con", "", "", "nul", " ", "CON")
	f.Add("{date}/{day}/con{counterparty}/{invoice}.x", "..", "buyer", "0000-01-01", "1", strings.Repeat("ż", 300), "...")
	f.Add(strings.Repeat("f", 91)+"{counterparty}", "", "third_party", "2026", "\u1112\u1161\u11ab", "\u202e", "x")
	f.Fuzz(func(t *testing.T, pattern, number, role, date, counterparty, invoice, otherNumber string) {
		layout, err := ParseLayout(pattern)
		if err != nil {
			if layout.components != nil {
				t.Error("a layout beside an error")
			}
			layout, _ = ParseLayout(DefaultLayout)
		}
		name := Name{number, role, date, counterparty, invoice}
		got := layout.Path(name)
		checkSafe(t, got)
		if !strings.HasSuffix(got, SafeName(number)+".xml") {
			t.Errorf("%q is without its identity %q", got, SafeName(number))
		}
		if again := layout.Path(name); again != got {
			t.Errorf("the path changes from %q to %q", got, again)
		}
		if err := checkPath(got); err != nil {
			t.Error(err)
		}
		if IsKept(got) {
			t.Errorf("%q looks like a file kept beside another", got)
		}
		if number != otherNumber {
			name.Number = otherNumber
			if other := layout.Path(name); strings.EqualFold(got, other) {
				t.Errorf("%q and %q both have the path %q", number, otherNumber, got)
			}
		}
	})
}
