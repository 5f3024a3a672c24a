package cli

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"ksefmirror/internal/config"
	"ksefmirror/internal/credential"
	"ksefmirror/internal/ksef"
	ksefsync "ksefmirror/sync"
)

// loadCredential reads what a mirror logs in with that has the method
// certificate, and checks that it can at the time now. The error is a
// [config.Problems] without the file's name, or that of a reference that cannot
// be read.
func loadCredential(m config.Mirror, now time.Time) (*credential.Credential, error) {
	auth := m.Auth
	passphrase := ""
	if auth.Passphrase != (config.Reference{}) {
		var err error
		if passphrase, err = auth.Passphrase.ReadPassphrase(); err != nil {
			return nil, err
		}
	}
	var loaded *credential.Credential
	var err error
	if auth.PKCS12 != (config.Reference{}) {
		file, readErr := auth.PKCS12.ReadKey()
		if readErr != nil {
			return nil, readErr
		}
		loaded, err = credential.LoadPKCS12(file, passphrase, now)
	} else {
		certificate, certificateErr := auth.Certificate.ReadCertificate()
		key, keyErr := auth.PrivateKey.ReadKey()
		if err := errors.Join(certificateErr, keyErr); err != nil {
			return nil, err
		}
		loaded, err = credential.LoadPair(certificate, key, passphrase, now)
	}
	var wrong credential.Problems
	if !errors.As(err, &wrong) {
		return loaded, err
	}
	references := map[credential.Part]config.Reference{
		credential.PartCertificate: auth.Certificate, credential.PartPrivateKey: auth.PrivateKey,
		credential.PartPKCS12: auth.PKCS12, credential.PartPassphrase: auth.Passphrase,
	}
	var problems config.Problems
	for _, p := range wrong {
		problems = append(problems, config.Problem{
			Key: fmt.Sprintf("mirror.%s.auth.%s", m.Name, p.Part), Value: references[p.Part].String(), Want: p.Text,
		})
	}
	return nil, problems
}

// logInWith lets a client log in as the mirror is configured.
func logInWith(client *ksef.Client, m config.Mirror, log *slog.Logger) {
	if m.Auth.Method == config.MethodToken {
		client.Token = func() (ksef.Secret, error) {
			token, err := m.Auth.Token.Read()
			return ksef.NewSecret(token), err
		}
		return
	}
	rotation := &credential.Rotation{
		Load: func() (*credential.Credential, error) { return loadCredential(m, time.Now()) },
		Log:  log,
	}
	client.Certificate = rotation.Certificate
	client.CertificateTried = func(certificate *x509.Certificate, accepted bool) (another bool) {
		if accepted {
			rotation.Succeeded(certificate)
			return false
		}
		return rotation.Refused(certificate)
	}
}

// loginNotice gives the notice that is due about the end of what a mirror logs in
// with; due is false when none is. The error says why that cannot be used; it is
// [config.ErrNotHere] if only the service can see it.
func loginNotice(m config.Mirror, now time.Time) (notice credential.Notice, due bool, err error) {
	if m.Auth.Method == config.MethodToken {
		return credential.TokenNotice(now), true, nil
	}
	loaded, err := loadCredential(m, now)
	if err != nil {
		return credential.Notice{}, false, err
	}
	notice, due = credential.CertificateNotice(loaded.Certificate(), now)
	return notice, due, nil
}

// printLogin explains what a mirror logs in with, without a secret. The error
// holds everything that is wrong with it.
func (c *command) printLogin(m config.Mirror, now time.Time) error {
	say := func(format string, args ...any) { c.say("  "+format, args...) }
	if m.Auth.Method == config.MethodToken {
		say("logs in with a KSeF token (%s)", m.Auth.Token)
		say("! %s", credential.TokenNotice(now).Text)
		return nil
	}
	loaded, err := loadCredential(m, now)
	switch {
	case errors.Is(err, config.ErrNotHere):
		say("logs in with a certificate that is not checked here: %v", err)
		return nil
	case err != nil:
		return err
	}
	certificate := loaded.Certificate()
	say("logs in with the certificate %X of %q, issued by %q, for %s, valid from %s to %s", certificate.SerialNumber,
		certificate.Subject.CommonName, certificate.Issuer.CommonName, credential.DescribeKey(loaded.Key().Public()),
		certificate.NotBefore.UTC().Format("2006-01-02 15:04 UTC"), certificate.NotAfter.UTC().Format("2006-01-02 15:04 UTC"))
	for _, identity := range credential.Identities(certificate) {
		say("KSeF takes it for %s", identity)
	}
	if notice, due := credential.CertificateNotice(certificate, now); due {
		say("! %s", notice.Text)
	}
	return nil
}

// reminder gives a function that logs what is due about a mirror's login, each
// notice once, and daily that the mirror has lost what it logs in with: the session
// would hide that for as long as KSeF refreshes it, which is up to seven days. That
// sessions end by themselves needs no notice, for the next login is nobody's work.
func reminder(m config.Mirror, log *slog.Logger) func(now time.Time) {
	var logged *time.Time // when the notice that was logged last became due
	started, lost := false, time.Time{}
	return func(now time.Time) {
		err := canLogIn(m, now)
		switch {
		case err == nil:
			lost = time.Time{}
		case started && now.Sub(lost) >= 24*time.Hour: // at the start there is no session, and the login fails at once
			lost = now
			log.Warn("what the mirror logs in with cannot be used any more; put it right before its session ends, in seven days at most", "err", err)
		}
		started = true
		notice, due, err := loginNotice(m, now)
		if err != nil || !due || logged != nil && logged.Equal(notice.Due) {
			return
		}
		log.Warn(notice.Text)
		logged = &notice.Due
	}
}

// canLogIn says why what a mirror logs in with cannot be used.
func canLogIn(m config.Mirror, now time.Time) error {
	if m.Auth.Method == config.MethodToken {
		_, err := m.Auth.Token.Read()
		return err
	}
	_, err := loadCredential(m, now)
	return err
}

// reminded is a mirror that is reminded of its login before every cycle.
type reminded struct {
	*ksefsync.Mirror
	remind func(now time.Time)
}

// Cycle reminds and runs the cycle.
func (r reminded) Cycle(ctx context.Context) (ksefsync.Report, error) {
	r.remind(time.Now())
	return r.Mirror.Cycle(ctx)
}
