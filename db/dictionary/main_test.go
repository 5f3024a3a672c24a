package main

import (
	"bytes"
	"os"
	"testing"
)

// The file must be what this program makes, or nobody could make the next one.
func TestFileIsWhatIsBuilt(t *testing.T) {
	built, err := build()
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile("invoices.zdict")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(built, file) {
		t.Errorf("invoices.zdict has %d bytes, the program makes %d other ones: run go generate in db, with a new dictionaryID if the file was released", len(file), len(built))
	}
}
