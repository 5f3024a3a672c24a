package main

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"ksefmirror/internal/ksef"
	"ksefmirror/internal/ksefsim"
	"ksefmirror/internal/ksefsim/contract"
)

// pair is a certificate and its key.
type pair struct {
	key         crypto.Signer
	certificate *x509.Certificate
}

// seal gives a certificate that KSeF takes for the company with the NIP, valid
// for a year around now.
func seal(t testing.TB, nip string, changes ...func(*x509.Certificate)) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return certify(t, key, pkix.Name{
		Country: []string{"PL"}, Organization: []string{"Przykładowa Firma"}, CommonName: "Przykładowa Firma",
		ExtraNames: []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{2, 5, 4, 97}, Value: "VATPL-" + nip}},
	}, changes...)
}

// person gives a certificate that KSeF takes for the person with the PESEL.
func person(t testing.TB, pesel string) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return certify(t, key, pkix.Name{
		Country: []string{"PL"}, SerialNumber: "PNOPL-" + pesel, CommonName: "Jan Kowalski",
		ExtraNames: []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{2, 5, 4, 42}, Value: "Jan"}, {Type: asn1.ObjectIdentifier{2, 5, 4, 4}, Value: "Kowalski"}},
	})
}

func certify(t testing.TB, key crypto.Signer, subject pkix.Name, changes ...func(*x509.Certificate)) pair {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: subject, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: time.Now().AddDate(0, -6, 0), NotAfter: time.Now().AddDate(0, 6, 0),
	}
	for _, change := range changes {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return pair{key, certificate}
}

func (p pair) certificatePEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.certificate.Raw})
}

func (p pair) keyPEM(t testing.TB) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(p.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// put replaces a file of the place, for its owner only, as one step. A configuration
// that says nothing about the folder watcher gets what the environment says.
func (p *place) put(name string, content []byte) {
	p.t.Helper()
	if name == "config.toml" && os.Getenv(unwatched) != "" && !regexp.MustCompile("(?m)^watch_folders").Match(content) {
		content = append([]byte("watch_folders = false\n"), content...)
	}
	path := filepath.Join(p.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(path+".tmp", content, 0o600); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) putPair(name string, files pair) {
	p.t.Helper()
	p.put("secrets/"+name+".key", files.keyPEM(p.t))
	p.put("secrets/"+name+".crt", files.certificatePEM())
}

// byCertificate are the lines of the table auth for [place.putPair].
func byCertificate(name string) string {
	return fmt.Sprintf("method = \"certificate\"\ncertificate = \"file:secrets/%s.crt\"\nprivate_key = \"file:secrets/%[1]s.key\"\n", name)
}

// table is the table of one mirror in the configuration.
func (p *place) table(name, nip, auth string) string {
	return fmt.Sprintf("[mirror.%s]\nenvironment = \"test\"\napi_url = %q\ncontext = \"nip:%s\"\ninterval = \"1s\"\nsince = %q\n[mirror.%[1]s.auth]\n%[5]s\n", name, p.url, nip, time.Now().UTC().AddDate(0, 0, -2).Format(time.DateOnly), auth)
}

// newSimulator is a place with a simulator and no configuration yet. handler may
// stand before it; nil for none.
func newSimulator(t *testing.T, o ksefsim.Options, before func(http.Handler) http.Handler) *place {
	t.Helper()
	if o.HWMLag == 0 {
		o.HWMLag = time.Millisecond
	}
	p := &place{t: t, dir: folder(t), sim: ksefsim.New(o)}
	handler := contract.Wrap(t, p.sim)
	if before != nil {
		handler = before(handler)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	p.url = server.URL + "/v2"
	t.Cleanup(func() {
		if v := p.sim.Stats().Violations; len(v) > 0 {
			t.Errorf("requests against the specification: %q", v)
		}
	})
	return p
}

// newRestless is a place whose daemon begins a cycle every second.
func newRestless(t *testing.T, o ksefsim.Options) *place {
	t.Helper()
	p := newSimulator(t, o, nil)
	p.sim.AddToken(company, secretToken)
	p.put("secrets/acme.token", []byte(secretToken))
	p.put("config.toml", []byte(p.table("acme", company.Value, `token = "file:secrets/acme.token"`)))
	return p
}

// add puts generated invoices into KSeF. Without a time KSeF stores them now: never
// below a high water mark that it has told.
func (p *place) add(o ksefsim.GenerateOptions) {
	p.t.Helper()
	now := o.To.IsZero()
	if now {
		o.From, o.To = time.Now().Add(-time.Millisecond), time.Now()
	}
	invoices := ksefsim.Generate(o)
	for i := range invoices {
		if now {
			invoices[i].Stored = time.Time{}
		}
	}
	if _, err := p.sim.Add(invoices...); err != nil {
		p.t.Fatal(err)
	}
}

// watermarks gives how far each role is complete, by role, and the invoices.
func (p *place) watermarks() (marks map[string]string, invoices int) {
	p.t.Helper()
	out, _ := p.run("", "status", "--json")
	out = out[strings.Index(out, "["):]
	var all []struct {
		Invoices int `json:"invoices"`
		Streams  []struct {
			Role      string `json:"role"`
			Watermark string `json:"watermark"`
		} `json:"streams"`
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		p.t.Fatalf("%v\n%s", err, out)
	}
	marks = map[string]string{}
	for _, s := range all[0].Streams {
		marks[s.Role] = s.Watermark
	}
	return marks, all[0].Invoices
}

// A mirror that was started with a token goes on with a certificate from where it
// is: it asks KSeF for nothing below its watermark and downloads nothing twice.
// Tokens are refused in both ways in which KSeF may refuse them from 2027.
// Scenario 57.
func TestScenario57FromTokenToCertificate(t *testing.T) {
	t.Parallel()
	// By KSeF's clock tokens have ended; this machine's is slow.
	ahead := max(0, time.Until(time.Date(2027, time.January, 2, 0, 0, 0, 0, time.UTC)))
	for name, refuse := range map[string]func(*ksefsim.Server){
		"status 450":              func(s *ksefsim.Server) { s.RefuseTokens(true) },
		"auth-method-not-allowed": func(s *ksefsim.Server) { s.Fault(ksefsim.Forbidden("/auth/ksef-token", 0, "auth-method-not-allowed")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked []string // where queries begin
			now := func() time.Time { return time.Now().Add(ahead) }
			p := newSimulator(t, ksefsim.Options{Now: now}, func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/v2/invoices/query/metadata" || r.URL.Path == "/v2/invoices/exports" {
						body, err := io.ReadAll(r.Body)
						if err != nil {
							t.Error(err)
						}
						r.Body = io.NopCloser(bytes.NewReader(body))
						asked = append(asked, regexp.MustCompile(`"from":"([^"]*)"`).FindStringSubmatch(string(body))[1])
					}
					next.ServeHTTP(w, r)
				})
			})
			p.sim.AddToken(company, secretToken)
			p.put("secrets/acme.token", []byte(secretToken))
			p.put("config.toml", []byte(p.table("acme", company.Value, `token = "file:secrets/acme.token"`)))
			p.add(ksefsim.GenerateOptions{Count: 30, Context: company, From: now().Add(-time.Hour), To: now().Add(-time.Second), Seed: 30})
			p.want(0, nil, "sync")
			before, _ := p.watermarks()

			refuse(p.sim)
			p.want(1, []string{"tokens end", "KSeF certificate"}, "sync")
			if marks, n := p.watermarks(); n != 30 || !maps.Equal(marks, before) {
				t.Errorf("after the refusal there are %d invoices and the watermarks %v, before it %v", n, marks, before)
			}

			p.putPair("acme", seal(t, company.Value))
			p.put("config.toml", []byte(p.table("acme", company.Value, byCertificate("acme"))))
			asked = nil
			p.add(ksefsim.GenerateOptions{Count: 12, Context: company, Seed: 99})
			p.want(0, nil, "sync")
			lowest := slices.MinFunc(slices.Collect(maps.Values(before)), func(a, b string) int { return ksef.Timestamp(a).Compare(ksef.Timestamp(b)) })
			for _, from := range asked {
				if ksef.Timestamp(from).Compare(ksef.Timestamp(lowest)) < 0 {
					t.Errorf("with the certificate it asked from %s, below the watermark %s", from, lowest)
				}
			}
			if len(asked) == 0 {
				t.Error("with the certificate it asked for nothing")
			}
			for number, times := range p.sim.Stats().Downloads {
				if times > 1 {
					t.Errorf("%s was downloaded %d times", number, times)
				}
			}
			after, n := p.watermarks()
			if n != 42 {
				t.Errorf("%d invoices, want the 30 of the token and the 12 that came later", n)
			}
			for role, mark := range after {
				if ksef.Timestamp(mark).Compare(ksef.Timestamp(before[role])) < 0 {
					t.Errorf("%s: the watermark went back from %s to %s", role, before[role], mark)
				}
			}
			p.want(0, []string{"0 missing, 0 changed"}, "verify")
		})
	}
}

// daemon is the program running as one, and what it has logged so far.
type daemon struct {
	*place
	process *exec.Cmd
	lines   *bufio.Scanner
	log     strings.Builder
}

func (p *place) daemon() *daemon {
	p.t.Helper()
	if runtime.GOOS == "windows" {
		p.t.Skip("Windows has no SIGTERM")
	}
	d := &daemon{place: p, process: p.command("run")}
	stderr, err := d.process.StderrPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := d.process.Start(); err != nil {
		p.t.Fatal(err)
	}
	d.lines = bufio.NewScanner(stderr)
	return d
}

// until reads the log up to a line that holds all of the texts, and gives it. It
// fails at trouble that is not waited for, which the daemon would try to get out of
// for ever.
func (d *daemon) until(texts ...string) string {
	d.t.Helper()
	// One that never says it is killed, so that the test ends with its log.
	timer := time.AfterFunc(2*time.Minute, func() { _ = d.process.Process.Kill() })
	defer timer.Stop()
	for d.lines.Scan() {
		line := d.lines.Text()
		d.log.WriteString(line + "\n")
		if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) }) {
			return line
		}
		if strings.Contains(line, "mirror is in trouble") {
			_ = d.process.Process.Kill() // it may have ended
			d.t.Fatalf("trouble instead of a line with %q:\n%s", texts, d.log.String())
		}
	}
	d.t.Fatalf("the daemon ended without a line with %q:\n%s", texts, d.log.String())
	return ""
}

// stop ends the daemon and gives all that it has logged.
func (d *daemon) stop() string {
	d.t.Helper()
	if err := d.process.Process.Signal(syscall.SIGTERM); err != nil {
		d.t.Fatal(err)
	}
	for d.lines.Scan() {
		d.log.WriteString(d.lines.Text() + "\n")
	}
	if err := d.process.Wait(); err != nil {
		d.t.Errorf("the daemon ended with %v", err)
	}
	return d.log.String()
}

// forceLogin makes the next query of a daemon with a session begin with a full
// login.
func (p *place) forceLogin() {
	p.sim.RevokeRefreshTokens()
	p.sim.Fault(ksefsim.Answer("/invoices/query/metadata", 1, http.StatusUnauthorized, http.Header{"Content-Type": {"application/problem+json"}}, `{"title":"Unauthorized","status":401}`))
}

// New files are used without a restart; while they are damaged, half there or
// refused, the daemon goes on with what it had.
func TestCertificateIsHandedOverWithoutRestart(t *testing.T) {
	t.Parallel()
	p := newSimulator(t, ksefsim.Options{}, nil)
	p.generate(5)
	p.put("config.toml", []byte(p.table("acme", company.Value, byCertificate("acme"))))
	first := seal(t, company.Value)
	p.putPair("acme", first)
	d := p.daemon()
	const done = `"ok":true`
	d.until("cycle done", done)

	p.put("secrets/acme.crt", []byte("-----BEGIN CERTIFICATE-----\nbroken\n-----END CERTIFICATE-----\n"))
	p.forceLogin()
	d.until("the new credential cannot be used; the one before serves on", "acme.crt")
	d.until("cycle done", done)

	refused := seal(t, company.Value)
	p.sim.RevokeCertificate(refused.certificate)
	p.put("secrets/acme.crt", refused.certificatePEM()) // with the key of the first
	p.forceLogin()
	d.until("the new credential cannot be used", "not the key of the certificate")
	d.until("cycle done", done)

	p.put("secrets/acme.key", refused.keyPEM(t))
	p.forceLogin()
	d.until("KSeF refused the new certificate; the one before serves on")
	d.until("cycle done", done)

	p.putPair("acme", seal(t, company.Value))
	p.forceLogin()
	d.until("logged in with the new certificate")
	d.until("cycle done", done)

	// Nothing is left that needs the first.
	p.sim.RevokeCertificate(first.certificate)
	p.forceLogin()
	logins := p.sim.Stats().Logins
	for p.sim.Stats().Logins == logins {
		d.until("cycle done")
	}
	d.until("cycle done", done)
	if log := d.stop(); strings.Contains(log, "mirror is in trouble") {
		t.Errorf("the mirror was in trouble meanwhile:\n%s", log)
	}
}

// An accounting office's daemon keeps three companies with one certificate. One of
// them withdraws the permission, first while the session lasts and then for good;
// the others go on. Scenarios 56 and 58.
func TestScenario56And58PermissionIsWithdrawnForOneOfThree(t *testing.T) {
	long(t)
	t.Parallel()
	const pesel = "90010112345"
	nips := map[string]string{"a": "5265877635", "bb": "9616387173", "ccc": "6795308928"}
	subject := ksefsim.Subject{Type: "Pesel", Value: pesel}
	p := newSimulator(t, ksefsim.Options{}, nil)
	p.putPair("office", person(t, pesel))
	configuration := ""
	for name, nip := range nips {
		owner := ksef.Context{Type: ksef.ContextNIP, Value: nip}
		p.sim.Permit(owner, subject)
		configuration += p.table(name, nip, byCertificate("office"))
		p.add(ksefsim.GenerateOptions{Count: 4, Context: owner, From: time.Now().Add(-time.Hour), To: time.Now().Add(-time.Minute), Seed: uint64(len(name))}) // one seed each
	}
	p.put("config.toml", []byte(configuration))
	d := p.daemon()
	for range nips {
		d.until("cycle done", `"ok":true`, `"role":"authorized"`)
	}

	// The session still lasts, and KSeF refuses what it asks for.
	withdrawn := ksef.Context{Type: ksef.ContextNIP, Value: nips["bb"]}
	honest := ksefsim.Forbidden("/invoices/query/metadata", 0, "missing-permissions")
	p.sim.Fault(ksefsim.Fault{Path: honest.Path, Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if contextOf(t, r) == withdrawn.Value {
			honest.Do(w, r, next)
			return
		}
		w.Header().Del(ksefsim.FaultHeader)
		next.ServeHTTP(w, r)
	}})
	d.until("mirror is in trouble", `"mirror":"bb"`, "missing-permissions")
	d.until("cycle done", `"mirror":"a"`, `"ok":true`)
	d.until("cycle done", `"mirror":"ccc"`, `"ok":true`)
	d.stop()

	// The next login is refused for good (415), and is not tried in a loop.
	p.sim.ClearFaults()
	p.sim.Forbid(withdrawn, subject)
	logins := p.sim.Stats().Logins
	d = p.daemon()
	line := d.until("mirror is in trouble", `"mirror":"bb"`)
	if !strings.Contains(line, "has no permissions in this context") || strings.Contains(line, withdrawn.Value) || strings.Contains(line, pesel) {
		t.Errorf("the log says %s", line)
	}
	for range 3 {
		d.until("cycle done", `"mirror":"a"`, `"ok":true`)
		d.until("cycle done", `"mirror":"ccc"`, `"ok":true`)
	}
	d.stop()
	if n := p.sim.Stats().Logins - logins; n != 3 {
		t.Errorf("%d logins of three mirrors", n)
	}
	p.want(1, []string{"bb: log in to KSeF: status 415", "InvoiceRead"}, "sync", "bb")
	p.want(0, []string{"a: "}, "sync", "a", "ccc")
}

// contextOf tells whose session a request belongs to, as the access token says.
func contextOf(t *testing.T, r *http.Request) string {
	t.Helper()
	parts := strings.Split(r.Header.Get("Authorization"), ".")
	var claims struct {
		Context string `json:"context-identifier-value"`
	}
	if len(parts) == 3 {
		text, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err == nil {
			err = json.Unmarshal(text, &claims)
		}
		if err != nil {
			t.Error(err)
		}
	}
	return claims.Context
}

// A key that others can read is refused, with what to do; one world-readable file
// of one mirror does not stop commands that need no key of it.
func TestWorldReadableKeyIsRefused(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no modes; its rule is tested in package config")
	}
	p := newSimulator(t, ksefsim.Options{}, nil)
	p.put("config.toml", []byte(p.table("acme", company.Value, byCertificate("acme"))))
	p.putPair("acme", seal(t, company.Value))
	p.want(0, nil, "sync")
	key := filepath.Join(p.dir, "secrets", "acme.key")
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"sync", "status"} {
		p.want(2, []string{"mirror.acme.auth.private_key", "acme.key", "0644", "chmod 600"}, command)
	}
	p.want(2, []string{"mirror.acme.auth.private_key", "0644", "chmod 600"}, "config", "check")
	if err := os.Chmod(key, 0o600); err != nil {
		t.Fatal(err)
	}
	p.want(0, nil, "sync")
}

// With a clock that is two hours wrong either way the mirror works, for KSeF says
// what time it is. Only of a certificate that by the wrong clock is not valid yet,
// or no more, nothing can be known: the message names the clock.
func TestClockTwoHoursOff(t *testing.T) {
	t.Parallel()
	for name, off := range map[string]time.Duration{"slow": 2 * time.Hour, "fast": -2 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newSimulator(t, ksefsim.Options{Now: func() time.Time { return time.Now().Add(off) }}, nil)
			p.put("config.toml", []byte(p.table("acme", company.Value, byCertificate("acme"))))
			p.putPair("acme", seal(t, company.Value))
			p.add(ksefsim.GenerateOptions{Count: 9, Context: company, From: time.Now().Add(off - time.Hour), To: time.Now().Add(off - time.Minute), Seed: 3})
			p.want(0, nil, "sync")
			if _, n := p.watermarks(); n != 9 {
				t.Errorf("%d invoices of 9", n)
			}
			p.want(0, nil, "sync")

			now := time.Now().Add(off) // KSeF's
			p.putPair("acme", seal(t, company.Value, func(c *x509.Certificate) {
				c.NotBefore, c.NotAfter = now.Add(-time.Minute), now.Add(time.Minute)
			}))
			p.want(2, []string{"by the clock of this machine it is", "set the clock"}, "config", "check")
			p.want(1, []string{"by the clock of this machine it is", "set the clock"}, "sync")
		})
	}
}
