package credential

import (
	"crypto"
	"crypto/x509"
	"log/slog"
	"sync"
	"time"
)

// Rotation gives the credential for every full login, so that new files are used
// without a restart, and keeps the one that last logged in until the new one has
// done so: while new files are being copied, when they are damaged or not valid
// yet, or when KSeF refuses them, the old one serves on, until it ends itself.
//
// The old one is in memory only. After a restart there are the files alone.
//
// It is safe for concurrent use.
type Rotation struct {
	// Load reads and checks the files anew.
	Load func() (*Credential, error)
	Log  *slog.Logger
	Now  func() time.Time // nil means time.Now

	mu      sync.Mutex
	newest  *Credential       // what Load gave last
	proven  *Credential       // what KSeF accepted last, nil before the first login
	refused *x509.Certificate // what KSeF has refused since then, nil if nothing
	logged  string            // the error of Load that has been logged
}

// Certificate gives the key and the certificate for a full login: those in the
// files, or those that last logged in when the files cannot be used or KSeF has
// refused what is in them. The error is that of Load, when there are no others.
func (r *Rotation) Certificate() (crypto.Signer, *x509.Certificate, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	loaded, err := r.Load()
	switch {
	case err == nil:
		r.newest, r.logged = loaded, ""
		if r.refused != nil && r.refused.Equal(loaded.certificate) && r.provenServes() {
			return r.proven.key, r.proven.certificate, nil
		}
		return loaded.key, loaded.certificate, nil
	case !r.provenServes():
		return nil, nil, err
	}
	if text := err.Error(); text != r.logged {
		r.logged = text
		r.Log.Warn("the new credential cannot be used; the one before serves on", "err", err)
	}
	return r.proven.key, r.proven.certificate, nil
}

// Succeeded tells that a login with a certificate from [Rotation.Certificate] has
// succeeded: what was before it is forgotten.
func (r *Rotation) Succeeded(certificate *x509.Certificate) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.newest == nil || !r.newest.certificate.Equal(certificate) {
		return // it is the old one, and the new one may yet be mended
	}
	if r.proven != nil && !r.proven.certificate.Equal(certificate) {
		r.Log.Info("logged in with the new certificate", "valid_until", certificate.NotAfter.UTC())
	}
	r.proven, r.refused = r.newest, nil
}

// Refused tells that KSeF has refused a certificate from [Rotation.Certificate]
// for good, and reports whether the next one from there is another, which may be
// tried at once. A certificate that was refused is not given again while another
// serves; the files must change first.
func (r *Rotation) Refused(certificate *x509.Certificate) (another bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.provenServes() || r.proven.certificate.Equal(certificate) {
		return false
	}
	r.refused = certificate
	r.Log.Warn("KSeF refused the new certificate; the one before serves on", "valid_until", r.proven.certificate.NotAfter.UTC())
	return true
}

// provenServes reports whether there is a credential that has logged in and has
// not ended.
func (r *Rotation) provenServes() bool {
	now := time.Now
	if r.Now != nil {
		now = r.Now
	}
	return r.proven != nil && !now().After(r.proven.certificate.NotAfter)
}
