package credential

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// rotated is a rotation over two real files.
type rotated struct {
	*Rotation
	t   *testing.T
	dir string
	now time.Time
	log bytes.Buffer
}

func newRotated(t *testing.T) *rotated {
	r := &rotated{t: t, dir: t.TempDir(), now: today}
	r.Rotation = &Rotation{
		Load: func() (*Credential, error) {
			certificate, err := os.ReadFile(filepath.Join(r.dir, "certificate"))
			if err != nil {
				return nil, err
			}
			key, err := os.ReadFile(filepath.Join(r.dir, "key"))
			if err != nil {
				return nil, err
			}
			return LoadPair(certificate, key, "", r.now)
		},
		Log: slog.New(slog.NewTextHandler(&r.log, nil)),
		Now: func() time.Time { return r.now },
	}
	return r
}

// make gives the contents of a new certificate file and its key's.
func (r *rotated) make(change func(*x509.Certificate)) (certificate, key []byte) {
	signer := newEC(r.t, elliptic.P256())
	return toPEM(r.t, issue(r.t, signer, change)), toPEM(r.t, signer)
}

func (r *rotated) put(name string, content []byte) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, name), content, 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// want checks that the certificate given is the one in a file's content, and
// gives it.
func (r *rotated) want(file []byte) *x509.Certificate {
	r.t.Helper()
	key, certificate, err := r.Certificate()
	if err != nil {
		r.t.Fatal(err)
	}
	if !bytes.Equal(toPEM(r.t, certificate), file) {
		r.t.Error("it is another certificate")
	}
	if !matches(key, certificate) {
		r.t.Error("the key is not the certificate's")
	}
	return certificate
}

// wantLog checks how many lines the log has in all, and what is in the last.
func (r *rotated) wantLog(lines int, last string) {
	r.t.Helper()
	text := strings.TrimSpace(r.log.String())
	if got := strings.Count(r.log.String(), "\n"); got != lines || !strings.Contains(text[strings.LastIndex(text, "\n")+1:], last) {
		r.t.Errorf("%d lines, want %d with %q in the last:\n%s", got, lines, last, text)
	}
}

// TestHandOff exchanges the two files one after the other, as people and programs
// do, with logins in between.
func TestHandOff(t *testing.T) {
	r := newRotated(t)
	oldCertificate, oldKey := r.make(nil)
	r.put("certificate", oldCertificate)
	r.put("key", oldKey)
	r.Succeeded(r.want(oldCertificate))
	r.wantLog(0, "")

	newCertificate, newKey := r.make(nil)
	r.put("certificate", newCertificate[:100])
	r.Succeeded(r.want(oldCertificate))
	r.wantLog(1, "the new credential cannot be used; the one before serves on")
	r.put("certificate", newCertificate)
	r.Succeeded(r.want(oldCertificate)) // its key is not there yet
	r.wantLog(2, "not the key of the certificate")
	r.Succeeded(r.want(oldCertificate)) // the same trouble is logged once
	r.wantLog(2, "")
	r.put("key", newKey)

	// A login that comes to nothing, as when KSeF is down, changes nothing.
	r.want(newCertificate)
	r.put("key", nil)
	r.want(oldCertificate)
	r.put("key", newKey)
	r.wantLog(3, "the file is empty")

	r.Succeeded(r.want(newCertificate))
	r.wantLog(4, "logged in with the new certificate")
	r.put("key", nil)
	r.Succeeded(r.want(newCertificate)) // the old one is forgotten
	r.wantLog(5, "the file is empty")
}

func TestRefusedHandOff(t *testing.T) {
	r := newRotated(t)
	oldCertificate, oldKey := r.make(nil)
	r.put("certificate", oldCertificate)
	r.put("key", oldKey)
	old := r.want(oldCertificate)
	r.Succeeded(old)

	newCertificate, newKey := r.make(nil)
	r.put("certificate", newCertificate)
	r.put("key", newKey)
	if !r.Refused(r.want(newCertificate)) {
		t.Fatal("there is another one")
	}
	r.wantLog(1, "KSeF refused the new certificate; the one before serves on")
	r.Succeeded(r.want(oldCertificate))
	r.Succeeded(r.want(oldCertificate)) // it is not tried at every login
	if r.Refused(r.want(oldCertificate)) {
		t.Error("both were refused, and it promises a third")
	}
	r.want(oldCertificate)

	thirdCertificate, thirdKey := r.make(nil)
	r.put("certificate", thirdCertificate)
	r.put("key", thirdKey)
	r.Succeeded(r.want(thirdCertificate))
	r.wantLog(2, "logged in with the new certificate")

	// What was refused once may be put back, and is tried anew.
	r.put("certificate", newCertificate)
	r.put("key", newKey)
	r.want(newCertificate)
}

// TestNothingBefore has nothing to fall back on: not at the start, and not when
// the old certificate has ended itself.
func TestNothingBefore(t *testing.T) {
	r := newRotated(t)
	if _, _, err := r.Certificate(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	certificate, key := r.make(nil)
	r.put("certificate", certificate)
	r.put("key", key)
	if r.Refused(r.want(certificate)) {
		t.Error("there is no other one")
	}
	old := r.want(certificate)
	r.Succeeded(old)

	later, laterKey := r.make(func(c *x509.Certificate) { c.NotBefore, c.NotAfter = today.AddDate(0, 0, 60), today.AddDate(2, 0, 0) })
	r.put("certificate", later)
	r.put("key", laterKey)
	r.want(certificate)
	r.wantLog(1, "it is not valid before")
	r.now = old.NotAfter.Add(time.Second)
	if _, _, err := r.Certificate(); err == nil || !strings.Contains(err.Error(), "it is not valid before") {
		t.Errorf("got %v", err)
	}
	r.now = today.AddDate(0, 0, 60)
	r.Succeeded(r.want(later))
	r.wantLog(2, "logged in with the new certificate")
}
