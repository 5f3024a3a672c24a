package cli

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ksefmirror/internal/config"
)

// A crash can cut a note short. The next one must not become part of it.
func TestNoteAfterOneThatWasCutShort(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	a := application{files: keyFiles{key: filepath.Join(t.TempDir(), "acme.key")}}
	pending := a.files.key + pendingSuffix
	want := func(asked bool, reference string) {
		t.Helper()
		got, gotAsked, gotReference, err := a.readPending()
		if err != nil || !key.Equal(got) || gotAsked != asked || gotReference != reference {
			t.Errorf("got asked %t, reference %q, %v; want %t, %q", gotAsked, gotReference, err, asked, reference)
		}
	}
	if err := config.WriteSecret(pending, keyPEM); err != nil {
		t.Fatal(err)
	}
	want(false, "")
	if err := a.note(askedLine); err != nil {
		t.Fatal(err)
	}
	want(true, "")
	whole, err := os.ReadFile(pending)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(pending, append(whole, referenceLine+"20261122-CR"...), 0o600); err != nil {
		t.Fatal(err)
	}
	want(true, "")
	if err := a.note(askedLine); err != nil {
		t.Fatal(err)
	}
	want(true, "")
	if err := a.note(referenceLine + "20261122-EC-1"); err != nil {
		t.Fatal(err)
	}
	want(true, "20261122-EC-1")

	if err := os.WriteFile(pending, keyPEM[:len(keyPEM)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := a.readPending(); err == nil || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("half a key: %v", err)
	}
}
