// Command dictionary makes invoices.zdict, the zstd dictionary that package db
// compresses documents with. It is built from invoices that this program makes
// up: the elements of FA(3) and FA(2) in the order of their schemas, in the
// layouts that invoicing software writes, with words that Polish invoices are
// full of. It is deterministic; a test compares its result with the file.
//
// A database keeps the dictionaries it was written with, so a new one can be
// released at any time.
package main

import (
	"bytes"
	"fmt"
	"os"

	"github.com/klauspost/compress/zstd"
)

// dictionaryID is in every frame. One byte, while it is below 256; it only keeps
// a frame from being read with another dictionary. Count it up with each release.
const dictionaryID = 2

func main() {
	dictionary, err := build()
	if err == nil {
		err = os.WriteFile("dictionary/invoices.zdict", dictionary, 0o600)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "dictionary:", err)
		os.Exit(1)
	}
}

// build makes the dictionary: text to refer back to, and statistics of what
// remains when that is done.
func build() ([]byte, error) {
	g := &generator{}
	var history bytes.Buffer
	history.WriteString(vocabulary())
	// Each layout has its own: what differs between layouts is between the elements,
	// so one cannot serve for another. A full invoice shows every element, usual ones
	// which elements follow each other. The schemas differ in little more than the
	// header.
	for _, l := range layouts {
		history.Write(l.render(g.invoice(3, full)))
		history.Write(l.render(g.header(2)))
		history.Write(l.render(g.invoice(3, usual)))
	}
	history.WriteString(metadata)
	var samples [][]byte
	for i := range 600 {
		schema := 3
		if i%5 == 0 {
			schema = 2
		}
		samples = append(samples, layouts[i%len(layouts)].render(g.invoice(schema, usual)))
	}
	return zstd.BuildDict(zstd.BuildDictOptions{
		ID:       dictionaryID,
		Contents: samples,
		History:  history.Bytes(),
		Offsets:  [3]int{1, 4, 8},   // the format's own defaults
		Level:    zstd.SpeedFastest, // as package db compresses
	})
}
