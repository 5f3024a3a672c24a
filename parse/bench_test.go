package parse

import (
	"bytes"
	"testing"

	"github.com/antchfx/xmlquery"
)

// The invoice that speed is measured with: FA(3), five lines, about 6 KB.
const measured = "several_rates.xml"

func BenchmarkParse(b *testing.B) {
	xml := fixtureXML(b, measured)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(xml); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkXMLQueryAlone is the cost of the tree, which Parse cannot go below.
func BenchmarkXMLQueryAlone(b *testing.B) {
	xml := fixtureXML(b, measured)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := xmlquery.Parse(bytes.NewReader(xml)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkScan is what safety costs.
func BenchmarkScan(b *testing.B) {
	xml := fixtureXML(b, measured)
	b.ReportAllocs()
	for b.Loop() {
		if err := (&scanner{xml: xml}).scan(); err != nil {
			b.Fatal(err)
		}
	}
}

// TestAllocations keeps the check and the reading small beside the tree: they are
// done for every invoice of a company's first synchronisation.
func TestAllocations(t *testing.T) {
	xml := fixtureXML(t, measured)
	alone := testing.AllocsPerRun(100, func() {
		if _, err := xmlquery.Parse(bytes.NewReader(xml)); err != nil {
			t.Fatal(err)
		}
	})
	whole := testing.AllocsPerRun(100, func() {
		if _, err := Parse(xml); err != nil {
			t.Fatal(err)
		}
	})
	t.Logf("xmlquery alone %.0f, Parse %.0f allocations: %.3f", alone, whole, whole/alone)
	if whole > 3700 || whole > 1.12*alone {
		t.Errorf("Parse makes %.0f allocations, xmlquery alone %.0f", whole, alone)
	}
}
