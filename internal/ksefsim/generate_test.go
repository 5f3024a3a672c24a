package ksefsim_test

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"ksefmirror/internal/ksef"
	"ksefmirror/internal/ksefsim"
	"ksefmirror/internal/ksefsim/contract"
)

func generate(count int, seed uint64) []ksefsim.Invoice {
	return ksefsim.Generate(ksefsim.GenerateOptions{
		Count: count, Context: company, From: start.AddDate(0, -3, 0), To: start, Seed: seed,
	})
}

func TestGenerateIsDeterministic(t *testing.T) {
	equal := func(a, b ksefsim.Invoice) bool {
		return a.Number == b.Number && a.Stored.Equal(b.Stored) && bytes.Equal(a.XML, b.XML)
	}
	if !slices.EqualFunc(generate(500, 1), generate(500, 1), equal) {
		t.Error("the same options gave other invoices")
	}
	if slices.EqualFunc(generate(500, 1), generate(500, 2), equal) {
		t.Error("another seed gave the same invoices")
	}
}

// The generated invoices can be stored and are of every kind, in every role.
func TestGenerateHasEverything(t *testing.T) {
	invoices := generate(1000, 3)
	if len(invoices) != 1000 {
		t.Fatalf("%d invoices, want 1000", len(invoices))
	}
	s := newSim(t, ksefsim.Options{}, contract.Wrap)
	if _, err := s.Add(invoices...); err != nil {
		t.Fatal(err)
	}
	s.login(company, token)
	kinds, rates, currencies := map[string]int{}, map[string]int{}, map[string]int{}
	instants := map[time.Time]int{}
	numbers := map[ksef.Number]int{}
	for i, invoice := range invoices {
		if _, err := ksef.ParseNumber(string(invoice.Number)); err != nil {
			t.Error(err)
		}
		if i > 0 && invoice.Stored.Before(invoices[i-1].Stored) {
			t.Error("the invoices are not in the order of storage")
		}
		instants[invoice.Stored]++
		numbers[invoice.Number] = i
		for _, match := range regexp.MustCompile(`<P_12>([^<]*)</P_12>`).FindAllSubmatch(invoice.XML, -1) {
			rates[string(match[1])]++
		}
		// What is referred to came earlier, and is there.
		for _, match := range regexp.MustCompile(`<NrKSeFFa\w+>([^<]*)<`).FindAllSubmatch(invoice.XML, -1) {
			if earlier, ok := numbers[ksef.Number(match[1])]; !ok || earlier >= i {
				t.Errorf("%s refers to %s, which is not before it", invoice.Number, match[1])
			}
		}
	}
	if len(numbers) != len(invoices) {
		t.Errorf("%d different numbers of %d invoices", len(numbers), len(invoices))
	}
	for _, subject := range []ksef.SubjectType{ksef.Seller, ksef.Buyer, ksef.ThirdParty, ksef.Authorized} {
		listed := s.Listed(company, subject)
		if len(listed) < 10 {
			t.Errorf("%d invoices as %s, want some", len(listed), subject)
		}
		for _, one := range listed {
			kinds[one.Metadata.InvoiceType]++
			currencies[one.Metadata.Currency]++
		}
	}
	for what, counts := range map[string]map[string]int{"Vat Kor Zal Roz Upr": kinds, "23|8|5|0 KR|zw|oo|np I": rates, "PLN EUR USD CZK": currencies} {
		for _, each := range strings.FieldsFunc(what, func(r rune) bool { return r == '|' || r == ' ' && !strings.Contains(what, "|") }) {
			if counts[each] < 3 {
				t.Errorf("%s occurs %d times, want some: %v", each, counts[each], counts)
			}
		}
	}
	if len(instants) > 950 {
		t.Errorf("%d instants of 1000 invoices, want bursts", len(instants))
	}
	var pairs, differences int
	for _, invoice := range invoices {
		if bytes.Contains(invoice.XML, []byte("<RodzajFaktury>KOR<")) {
			if bytes.Contains(invoice.XML, []byte("<StanPrzed>1<")) {
				pairs++
			} else if regexp.MustCompile(`<P_11>-`).Match(invoice.XML) {
				differences++
			}
		}
	}
	if pairs < 5 || differences < 5 {
		t.Errorf("%d corrections by pairs, %d by differences, want some of each", pairs, differences)
	}
	// One page over the wire holds the rows against the specification.
	if got := len(s.rows(ksef.Seller, start.AddDate(0, -3, 0), start, 0, 250).Invoices); got != 250 {
		t.Errorf("%d rows on a page, want 250", got)
	}
}

// The sums of a generated invoice are those of its lines.
func TestGenerateAddsUp(t *testing.T) {
	type line struct {
		Net    string `xml:"P_11"`
		Rate   string `xml:"P_12"`
		Before string `xml:"StanPrzed"`
	}
	fields := map[string]string{"23": "P_13_1", "8": "P_13_2", "5": "P_13_3", "0 KR": "P_13_6_1", "zw": "P_13_7", "np I": "P_13_8", "oo": "P_13_10"}
	checked, sizes := 0, 0
	fiveLines := 0
	for _, invoice := range generate(500, 4) {
		var in struct {
			Fa struct {
				Kind   string `xml:"RodzajFaktury"`
				Gross  string `xml:"P_15"`
				Lines  []line `xml:"FaWiersz"`
				Fields []struct {
					XMLName xml.Name
					Text    string `xml:",chardata"`
				} `xml:",any"`
			} `xml:"Fa"`
		}
		if err := xml.Unmarshal(invoice.XML, &in); err != nil {
			t.Fatalf("%s: %v", invoice.Number, err)
		}
		if len(in.Fa.Lines) == 5 {
			fiveLines++
			sizes += len(invoice.XML)
		}
		stated := map[string]*big.Rat{}
		total := new(big.Rat)
		for _, field := range in.Fa.Fields {
			name := field.XMLName.Local
			if !strings.HasPrefix(name, "P_13_") && !strings.HasPrefix(name, "P_14_") || strings.HasSuffix(name, "W") {
				continue
			}
			value, _ := new(big.Rat).SetString(field.Text)
			stated[name] = value
			total.Add(total, value)
		}
		if len(stated) == 0 { // a simplified invoice may leave them out
			continue
		}
		if gross, _ := new(big.Rat).SetString(in.Fa.Gross); gross.Cmp(total) != 0 {
			t.Errorf("%s: P_15 %s, the parts add up to %s", invoice.Number, in.Fa.Gross, total.FloatString(2))
		}
		if in.Fa.Kind == "ZAL" || in.Fa.Kind == "ROZ" { // without lines, or lines of the whole order
			continue
		}
		sums := map[string]*big.Rat{}
		for _, each := range in.Fa.Lines {
			value, _ := new(big.Rat).SetString(each.Net)
			if each.Before == "1" {
				value.Neg(value)
			}
			name := fields[each.Rate]
			if sums[name] == nil {
				sums[name] = new(big.Rat)
			}
			sums[name].Add(sums[name], value)
		}
		for name, sum := range sums {
			checked++
			if stated[name] == nil || stated[name].Cmp(sum) != 0 {
				t.Errorf("%s: %s is %v, the lines add up to %s", invoice.Number, name, stated[name], sum.FloatString(2))
			}
		}
	}
	if checked < 300 {
		t.Errorf("only %d sums were compared", checked)
	}
	if mean := sizes / max(1, fiveLines); mean < 4000 || mean > 7500 {
		t.Errorf("an invoice of five lines has %d bytes on average, want about 6000", mean)
	}
}

func TestGenerateForAUnit(t *testing.T) {
	unit := ksef.Context{Type: ksef.ContextInternalID, Value: "5265877635-12345"}
	invoices := ksefsim.Generate(ksefsim.GenerateOptions{Count: 50, Context: unit, From: start.AddDate(0, -1, 0), To: start})
	s := ksefsim.New(ksefsim.Options{Now: func() time.Time { return start }})
	if _, err := s.Add(invoices...); err != nil {
		t.Fatal(err)
	}
	if got := len(s.Listed(unit, ksef.ThirdParty)); got != 50 {
		t.Errorf("the unit sees %d invoices as third party, want all 50", got)
	}
}

// Generated invoices are valid against the published schema of FA(3).
func TestGenerateIsValid(t *testing.T) {
	program, err := exec.LookPath("xmllint")
	if err != nil {
		t.Skip("xmllint is not installed")
	}
	schemas := filepath.Join("..", "..", "..", "shared", "ksef", "schemas", "FA")
	if _, err := os.Stat(schemas); err != nil {
		t.Skip("the official schemas are not beside the project: ", err)
	}
	// The schemas import each other by address. A copy finds its own neighbours.
	dir := t.TempDir()
	remote := regexp.MustCompile(`schemaLocation="[^"]*/([^"/]+)"`)
	copySchema := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		target := filepath.Join(dir, filepath.Base(path))
		if err := os.WriteFile(target, remote.ReplaceAll(text, []byte(`schemaLocation="$1"`)), 0o600); err != nil {
			t.Fatal(err)
		}
		return target
	}
	schema := copySchema(filepath.Join(schemas, "schemat_FA(3)_v1-0E.xsd"))
	parts, err := filepath.Glob(filepath.Join(schemas, "bazowe", "*.xsd"))
	if err != nil || len(parts) == 0 {
		t.Fatalf("no schemas in bazowe: %v", err)
	}
	for _, part := range parts {
		copySchema(part)
	}
	arguments := []string{"--nonet", "--noout", "--schema", schema}
	unit := ksefsim.Generate(ksefsim.GenerateOptions{Count: 50, Context: ksef.Context{Type: ksef.ContextInternalID, Value: "5265877635-12345"}, From: start.AddDate(0, -1, 0), To: start})
	for i, invoice := range append(generate(400, 5), unit...) {
		path := filepath.Join(dir, fmt.Sprintf("%03d-%s.xml", i, invoice.Number))
		if err := os.WriteFile(path, invoice.XML, 0o600); err != nil {
			t.Fatal(err)
		}
		arguments = append(arguments, path)
	}
	out, err := exec.CommandContext(t.Context(), program, arguments...).CombinedOutput()
	if err != nil {
		lines := strings.Split(string(out), "\n")
		var wrong []string
		for _, each := range lines {
			if !strings.HasSuffix(each, " validates") {
				wrong = append(wrong, each)
			}
		}
		t.Errorf("%v:\n%s", err, strings.Join(wrong[:min(20, len(wrong))], "\n"))
	}
}
