package cli

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"ksefmirror/internal/config"
)

const testPassphrase = "canary in the passphrase"

// certified is a folder with a configuration that logs in with a certificate.
type certified struct {
	t           *testing.T
	dir         string
	key         *ecdsa.PrivateKey
	certificate *x509.Certificate
}

// newCertified makes a certificate that is valid for a year around now, unless
// change says otherwise, and the files for it: acme.crt, acme.key and acme.p12.
func newCertified(t *testing.T, change func(*x509.Certificate)) *certified {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(0xACE),
		Subject: pkix.Name{CommonName: "Przykładowa Firma", ExtraNames: []pkix.AttributeTypeAndValue{
			{Type: asn1.ObjectIdentifier{2, 5, 4, 97}, Value: "VATPL-5265877635"},
		}},
		NotBefore: time.Now().AddDate(0, -6, 0),
		NotAfter:  time.Now().AddDate(0, 6, 0),
		KeyUsage:  x509.KeyUsageDigitalSignature,
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c := &certified{t: t, dir: t.TempDir(), key: key}
	if c.certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	c.put("acme.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	c.put("acme.key", c.keyPEM(key))
	p12, err := pkcs12.Modern.Encode(key, c.certificate, nil, testPassphrase)
	if err != nil {
		t.Fatal(err)
	}
	c.put("acme.p12", p12)
	c.put("acme.passphrase", []byte(testPassphrase+"\n"))
	return c
}

func (c *certified) keyPEM(key *ecdsa.PrivateKey) []byte {
	c.t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		c.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func (c *certified) put(name string, content []byte) {
	c.t.Helper()
	if err := os.WriteFile(filepath.Join(c.dir, name), content, 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// configure writes the configuration with these lines in its table auth.
func (c *certified) configure(environment string, auth ...string) {
	c.t.Helper()
	c.put("config.toml", fmt.Appendf(nil, "[mirror.acme]\nenvironment = %q\ncontext = \"nip:5265877635\"\n[mirror.acme.auth]\n%s\n", environment, strings.Join(auth, "\n")))
}

// run runs a command and checks that nothing it prints holds a secret.
func (c *certified) run(args ...string) (string, int) {
	c.t.Helper()
	var out bytes.Buffer
	code := Main(c.t.Context(), append([]string{"--config", filepath.Join(c.dir, "config.toml")}, args...), strings.NewReader(""), &out, &out)
	number, err := c.key.Bytes()
	if err != nil {
		c.t.Fatal(err)
	}
	for _, secret := range []string{testPassphrase, fmt.Sprintf("%x", number), new(big.Int).SetBytes(number).String(), base64.StdEncoding.EncodeToString(number)} {
		if strings.Contains(out.String(), secret) {
			c.t.Errorf("%q shows a secret:\n%s", args, out.String())
		}
	}
	return out.String(), code
}

var (
	pair = []string{`method = "certificate"`, `certificate = "file:acme.crt"`, `private_key = "file:acme.key"`}
	p12  = []string{`method = "certificate"`, `pkcs12 = "file:acme.p12"`, `passphrase = "file:acme.passphrase"`}
)

func TestConfigCheckExplains(t *testing.T) {
	for name, auth := range map[string][]string{"pair": pair, "PKCS#12": p12} {
		c := newCertified(t, nil)
		c.configure("prod", auth...)
		out, code := c.run("config", "check")
		if code != 0 {
			t.Errorf("%s: exit %d", name, code)
		}
		for _, want := range []string{
			`logs in with the certificate ACE of "Przykładowa Firma", issued by "Przykładowa Firma", for an EC key on the curve P-256, valid from `,
			c.certificate.NotAfter.UTC().Format("to 2006-01-02 15:04 UTC"),
			"KSeF takes it for the holder of NIP 5265877635 (organizationIdentifier VATPL-5265877635)",
			"The configuration is in order.",
		} {
			if !strings.Contains(out, want) {
				t.Errorf("%s: no %q in\n%s", name, want, out)
			}
		}
	}
}

func TestConfigCheckRefuses(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*x509.Certificate)
		files  func(*certified)
		auth   []string
		want   []string
	}{
		{"expired", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) }, nil, pair,
			[]string{`config.toml: mirror.acme.auth.certificate = "file:`, `acme.crt": it ended on`}},
		{"not yet valid", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(2 * time.Hour) }, nil, p12,
			[]string{`mirror.acme.auth.pkcs12 = "file:`, "it is not valid before", "set the clock if it is wrong"}},
		{"Offline", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageContentCommitment }, nil, pair,
			[]string{`auth.certificate = `, "of the type Offline"}},
		{"wrong key, Offline", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageContentCommitment }, func(c *certified) {
			other, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
			if err != nil {
				c.t.Fatal(err)
			}
			c.put("acme.key", c.keyPEM(other))
		}, pair, []string{`mirror.acme.auth.private_key = "file:`, "not the key of the certificate", "of the type Offline"}},
		{"wrong passphrase", nil, func(c *certified) { c.put("acme.passphrase", []byte("hunter2")) }, p12,
			[]string{`mirror.acme.auth.passphrase = "file:`, "does not open the private key"}},
		{"no passphrase", nil, nil, p12[:2], []string{`mirror.acme.auth.passphrase: it is missing`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCertified(t, test.change)
			if test.files != nil {
				test.files(c)
			}
			c.configure("prod", test.auth...)
			out, code := c.run("config", "check")
			if code != exitUsage || strings.Contains(out, "in order") {
				t.Errorf("exit %d\n%s", code, out)
			}
			for _, want := range test.want {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in\n%s", want, out)
				}
			}
		})
	}
}

// TestConfigCheckElsewhere has secrets that only the service can see, and one in
// a place that is unwise.
func TestConfigCheckElsewhere(t *testing.T) {
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	c := newCertified(t, nil)
	c.configure("prod", pair[0], pair[1], `private_key = "cred:acme.key"`)
	if out, code := c.run("config", "check"); code != 0 || !strings.Contains(out, "a certificate that is not checked here: read cred:acme.key") {
		t.Errorf("exit %d\n%s", code, out)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", c.dir)
	if out, code := c.run("config", "check"); code != 0 || !strings.Contains(out, "the holder of NIP 5265877635") {
		t.Errorf("exit %d\n%s", code, out)
	}
	c.configure("prod", append(p12[:2:2], `passphrase = "env:ACME_PASSPHRASE"`)...)
	t.Setenv("ACME_PASSPHRASE", testPassphrase)
	if out, code := c.run("config", "check"); code != 0 || !strings.Contains(out, `warning: `) || !strings.Contains(out, `auth.passphrase = "env:ACME_PASSPHRASE": other programs`) {
		t.Errorf("exit %d\n%s", code, out)
	}
}

// mirror gives the mirror of the configuration.
func (c *certified) mirror() config.Mirror {
	c.t.Helper()
	loaded, err := config.Load(filepath.Join(c.dir, "config.toml"), nil)
	if err != nil {
		c.t.Fatal(err)
	}
	return loaded.Mirrors[0]
}

func TestJudgeLogin(t *testing.T) {
	end := time.Now().UTC().AddDate(0, 6, 0).Truncate(time.Second)
	c := newCertified(t, func(template *x509.Certificate) { template.NotAfter = end })
	token := []string{`token = "cred:acme.token"`}
	for _, test := range []struct {
		name        string
		environment string
		auth        []string
		now         time.Time
		level       int
		says        string
	}{
		{"in order", "prod", pair, end.AddDate(0, 0, -61), statusOK, ""},
		{"ends soon", "prod", pair, end.AddDate(0, 0, -7), statusWarning, "the certificate ends on"},
		{"ends soon, on test", "test", pair, end.AddDate(0, 0, -7), statusOK, "the certificate ends on"},
		{"ended", "prod", pair, end.Add(time.Second), statusCritical, "it ended on"},
		{"ended, on test", "test", p12, end.Add(time.Second), statusCritical, "it ended on"},
		{"only the service knows", "prod", []string{pair[0], pair[1], `private_key = "env:NO_SUCH_KEY"`}, end.Add(time.Second), statusOK, ""},
		{"token", "prod", token, time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC), statusWarning, "KSeF tokens end on 31 December 2026, in 30 days"},
		{"token, on test", "test", token, time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC), statusOK, "in 30 days"},
	} {
		c.configure(test.environment, test.auth...)
		s := mirrorStatus{}
		s.judgeLogin(c.mirror(), test.now)
		said := strings.Join(append(s.Problems, s.Notices...), "\n")
		if s.Level != test.level || !strings.Contains(said, test.says) || (said == "") != (test.says == "") {
			t.Errorf("%s: level %d, %q", test.name, s.Level, said)
		}
	}
}

// TestReminder logs every notice once, and those of a new certificate anew.
func TestReminder(t *testing.T) {
	end := time.Now().UTC().AddDate(0, 6, 0)
	c := newCertified(t, func(template *x509.Certificate) { template.NotAfter = end })
	c.configure("prod", pair...)
	var log bytes.Buffer
	remind := reminder(c.mirror(), slog.New(slog.NewTextHandler(&log, nil)))
	for _, step := range []struct{ days, lines int }{
		{-100, 0}, {-60, 1}, {-59, 1}, {-31, 1}, {-30, 2}, {-29, 2}, {-14, 3}, {-7, 4}, {-2, 4}, {-1, 5}, {1, 6}, {2, 7},
	} {
		remind(end.AddDate(0, 0, step.days))
		if got := strings.Count(log.String(), "level=WARN"); got != step.lines {
			t.Errorf("%d days: %d lines, want %d\n%s", step.days, got, step.lines, log.String())
		}
	}
	if strings.Contains(log.String(), "5265877635") || strings.Contains(log.String(), "Firma") {
		t.Errorf("the log names the company:\n%s", log.String())
	}
}

// A session hides for days that the next login will fail. So the log says it at once,
// and daily.
func TestReminderOfALostKey(t *testing.T) {
	now := time.Now().UTC()
	c := newCertified(t, nil)
	c.configure("prod", pair...)
	m := c.mirror()
	key, err := os.ReadFile(m.Auth.PrivateKey.Name)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	remind := reminder(m, slog.New(slog.NewTextHandler(&log, nil)))
	for _, step := range []struct {
		content []byte // of the file of the key; nil: it is not there
		lines   int
	}{
		{nil, 0}, // at the start the login says it
		{nil, 1}, {nil, 1}, {[]byte("broken"), 1}, {key, 1}, {nil, 2},
	} {
		if err := os.Remove(m.Auth.PrivateKey.Name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if step.content != nil {
			if err := os.WriteFile(m.Auth.PrivateKey.Name, step.content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		remind(now)
		if got := strings.Count(log.String(), "in seven days at most"); got != step.lines {
			t.Errorf("with the key %q: %d lines, want %d\n%s", step.content, got, step.lines, log.String())
		}
	}

	remind(now.Add(25 * time.Hour))
	if got := strings.Count(log.String(), "in seven days at most"); got != 3 {
		t.Errorf("a day later: %d lines, want 3\n%s", got, log.String())
	}

	log.Reset()
	m.Auth = config.Auth{Method: config.MethodToken, Token: config.Reference{Scheme: "file", Name: filepath.Join(t.TempDir(), "gone")}}
	remind = reminder(m, slog.New(slog.NewTextHandler(&log, nil)))
	remind(now)
	remind(now)
	if strings.Count(log.String(), "in seven days at most") != 1 || strings.Count(log.String(), "tokens end") != 1 {
		t.Errorf("of a token that is gone:\n%s", log.String())
	}
}
