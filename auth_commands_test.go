package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"ksefmirror/internal/ksef"
	"ksefmirror/internal/ksefsim"
)

// files lists the files in the folder of secrets.
func (p *place) files() []string {
	p.t.Helper()
	entries, err := os.ReadDir(filepath.Join(p.dir, "secrets"))
	if err != nil {
		p.t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
		if info, err := entry.Info(); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
			p.t.Errorf("%s has the mode %v, %v", entry.Name(), info.Mode(), err)
		}
	}
	return names
}

func (p *place) wantFiles(want ...string) {
	p.t.Helper()
	if got := strings.Join(p.files(), " "); got != strings.Join(want, " ") {
		p.t.Errorf("the secrets are %s, want %s", got, strings.Join(want, " "))
	}
}

func (p *place) read(name string) string {
	p.t.Helper()
	content, err := os.ReadFile(filepath.Join(p.dir, name))
	if err != nil {
		p.t.Fatal(err)
	}
	return string(content)
}

// From nothing to a mirror on TEST, by the README's shortest way.
func TestFromNothingWithSelfSignedCertificate(t *testing.T) {
	t.Parallel()
	p := newSimulator(t, ksefsim.Options{}, nil)
	p.generate(6)
	p.want(0, []string{"wrote config.toml", "auth self-signed"}, "config", "init", "--name", "acme", "--environment", "test", "--context", "nip:"+company.Value, "--api-url", p.url, "--method", "certificate")
	p.want(2, []string{"acme.crt", "acme.key"}, "config", "check")
	p.want(0, []string{"acme.key", "acme.crt", "The configuration names them already"}, "auth", "self-signed")
	p.wantFiles("acme.crt", "acme.key")
	p.want(0, []string{"the holder of NIP " + company.Value}, "config", "check")
	p.want(0, []string{"logged in", "permissions: all, as the owner of the context", "a mirror needs InvoiceRead alone", "limits an hour: "}, "auth", "test")
	p.want(0, nil, "sync")
	p.want(0, []string{"(6 invoices"}, "status")

	// Nothing is overwritten, and nothing is made for another environment.
	before := p.read("secrets/acme.key")
	p.want(0, []string{"acme-ksef.key"}, "auth", "self-signed")
	p.want(2, []string{"exist", "left as they are"}, "auth", "self-signed")
	if p.read("secrets/acme.key") != before {
		t.Error("the key was overwritten")
	}
	for _, environment := range []string{"demo", "prod"} {
		p.put("config.toml", []byte(strings.ReplaceAll(strings.Replace(p.read("config.toml"), `environment = "test"`, `environment = "`+environment+`"`, 1), "acme", "other")))
		p.want(2, []string{"of the environment " + environment, "refuses self-signed"}, "auth", "self-signed")
		p.put("config.toml", []byte(strings.Replace(p.read("config.toml"), `environment = "`+environment+`"`, `environment = "test"`, 1)))
	}
}

// A company's permissions and sessions, as auth test and auth logout show them.
func TestAuthTestAndLogout(t *testing.T) {
	long(t)
	t.Parallel()
	p := newSimulator(t, ksefsim.Options{}, nil)
	const pesel = "90010112345"
	owner := ksefsim.Subject{Type: "Pesel", Value: pesel}
	p.putPair("person", person(t, pesel))
	p.put("secrets/acme.token", []byte(secretToken))
	p.put("config.toml", []byte(p.table("acme", company.Value, byCertificate("person"))))

	// Nothing is tied to a context that the login refuses.
	p.want(1, []string{"has no permissions in this context"}, "auth", "test")
	if _, err := os.Stat(filepath.Join(p.dir, "data", "acme")); !os.IsNotExist(err) {
		t.Errorf("a refused login has made the mirror: %v", err)
	}
	p.sim.Permit(company, owner)
	out := p.want(0, []string{"acme: test, nip:" + company.Value, "the person with PESEL " + pesel, "permissions: InvoiceRead\n"}, "auth", "test", "acme")
	if strings.Contains(out, "does not need") || strings.Contains(out, "missing") {
		t.Errorf("it warns of nothing:\n%s", out)
	}
	p.sim.Permit(company, owner, "InvoiceWrite", "CredentialsManage")
	p.want(0, []string{"permissions: CredentialsManage, InvoiceRead, InvoiceWrite", "! a mirror does not need CredentialsManage, InvoiceWrite"}, "auth", "test")
	p.sim.AddToken(company, secretToken, "Introspection")
	p.put("config.toml", []byte(p.table("acme", company.Value, `token = "file:secrets/acme.token"`)))
	p.want(0, []string{"logs in with a KSeF token", "! a mirror does not need Introspection"}, "auth", "test")

	// Each of these ended its own session; a daemon's lasts.
	p.generate(3)
	if n := p.sim.Stats().ByPath["DELETE /auth/sessions/current"]; n != 3 {
		t.Errorf("%d sessions ended, want 3", n)
	}
	p.want(0, []string{"0 sessions ended, and this command's own"}, "auth", "logout")
	d := p.daemon()
	d.until("cycle done", `"ok":true`)
	p.want(0, []string{"ended the session of", "by token.ksef", "1 sessions ended"}, "auth", "logout") // beside the daemon
	p.want(0, []string{"0 sessions ended"}, "auth", "logout")
	logins := p.sim.Stats().Logins
	p.sim.Fault(ksefsim.Answer("/invoices/query/metadata", 1, http.StatusUnauthorized, http.Header{"Content-Type": {"application/problem+json"}}, `{"title":"Unauthorized","status":401}`))
	for p.sim.Stats().Logins == logins {
		d.until("cycle done", `"ok":true`)
	}
	if log := d.stop(); strings.Contains(log, "trouble") {
		t.Errorf("the daemon did not go on:\n%s", log)
	}
}

var serialNumber = regexp.MustCompile(`The certificate ([0-9A-F]{16}) of`)

// A qualified seal applies for a KSeF certificate, which logs in, is renewed beside a
// daemon without a restart, and the old one is revoked.
func TestEnrollRenewAndRevoke(t *testing.T) {
	long(t)
	t.Parallel()
	p := newSimulator(t, ksefsim.Options{}, nil)
	p.generate(3)
	p.putPair("seal", seal(t, company.Value))
	p.put("config.toml", []byte(p.table("acme", company.Value, byCertificate("acme"))))
	out := p.want(0, []string{"Applied for the certificate", "acme.key", "acme.crt", "The configuration names them already"},
		"auth", "enroll", "acme", "--certificate", "secrets/seal.crt", "--private-key", "secrets/seal.key")
	p.wantFiles("acme.crt", "acme.key", "seal.crt", "seal.key")
	first := serialNumber.FindStringSubmatch(out)[1]
	p.want(0, []string{`issued by "Symulator CCK KSeF"`}, "config", "check")
	out = p.want(0, []string{first, "Authentication", "Active", "ksefmirror acme ", "99 of 100 certificates and 299 of 300 applications are left"}, "auth", "list")
	if strings.Contains(out, company.Value) {
		t.Errorf("the list names the company:\n%s", out)
	}

	p.want(0, []string{"nothing to do"}, "auth", "renew", "--within", "30d")
	d := p.daemon()
	d.until("cycle done", `"ok":true`)
	out = p.want(0, []string{"The configuration names them already", "auth revoke acme " + first + " --reason superseded"}, "auth", "renew")
	second := serialNumber.FindStringSubmatch(out)[1]
	p.wantFiles("acme.crt", "acme.crt.old-1", "acme.key", "acme.key.old-1", "seal.crt", "seal.key")
	p.forceLogin()
	d.until("logged in with the new certificate")
	p.want(2, []string{"logs in with this certificate"}, "auth", "revoke", second)
	p.want(0, []string{"is revoked"}, "auth", "revoke", "acme", first, "--reason", "superseded")
	p.want(0, []string{first + "  Authentication  Revoked", second + "  Authentication  Active"}, "auth", "list")
	p.forceLogin()
	logins := p.sim.Stats().Logins
	for p.sim.Stats().Logins == logins {
		d.until("cycle done", `"ok":true`)
	}
	if log := d.stop(); strings.Contains(log, "trouble") || strings.Contains(log, "refused") {
		t.Errorf("the daemon did not go on:\n%s", log)
	}
	p.want(1, []string{"25009"}, "auth", "revoke", first)

	// What it cannot do.
	p.put("secrets/acme.token", []byte(secretToken))
	p.put("config.toml", []byte(p.table("acme", company.Value, `token = "file:secrets/acme.token"`)))
	p.want(2, []string{"cannot apply"}, "auth", "enroll")
	p.want(2, []string{"auth enroll"}, "auth", "renew")
	p.want(2, []string{"want --certificate and --private-key"}, "auth", "enroll", "--certificate", "secrets/seal.crt")
}

// Whatever interrupts an application, the next command goes on with it, and KSeF's
// count of applications says that there was one.
func TestEnrollGoesOnAfterAnInterruption(t *testing.T) {
	long(t)
	t.Parallel()
	const one = "299 of 300 applications are left"
	enroll := []string{"auth", "enroll", "--certificate", "secrets/seal.crt", "--private-key", "secrets/seal.key"}
	for _, test := range []struct {
		name  string
		fault ksefsim.Fault
		left  []string // files, besides those of the seal
		says  string   // the second time
		torn  bool     // the crash also cut the certificate short
	}{
		{"before it was sent", ksefsim.ServerError("/certificates/enrollments/data", 1), []string{"acme.key.new"}, "Applied for", false},
		{"the answer was lost", ksefsim.LoseAnswer("/certificates/enrollments", 1), []string{"acme.key.new"}, "which may have been applied for", false},
		{"it cannot log in yet", ksefsim.Fault{Path: "/auth/challenge", Skip: 1, Times: 1, Do: ksefsim.ServerError("", 0).Do}, []string{"acme.crt.new", "acme.key.new"}, "valid until", false},
		{"the certificate was cut short", ksefsim.Fault{Path: "/auth/challenge", Skip: 1, Times: 1, Do: ksefsim.ServerError("", 0).Do}, []string{"acme.crt.new", "acme.key.new"}, "Going on with the application", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newSimulator(t, ksefsim.Options{}, nil)
			p.putPair("seal", seal(t, company.Value))
			p.put("config.toml", []byte(p.table("acme", company.Value, byCertificate("acme"))))
			p.want(0, nil, "auth", "self-signed") // so that the mirror has its database before the fault
			p.want(0, nil, "auth", "test")
			for _, name := range []string{"acme.crt", "acme.key"} {
				if err := os.Remove(filepath.Join(p.dir, "secrets", name)); err != nil {
					t.Fatal(err)
				}
			}
			p.sim.Fault(test.fault)
			p.want(1, nil, enroll...)
			p.sim.ClearFaults()
			p.wantFiles(append(test.left, "seal.crt", "seal.key")...)
			pending := p.read("secrets/acme.key.new")
			if test.torn {
				p.put("secrets/acme.crt.new", []byte(p.read("secrets/acme.crt.new")[:200]))
			}
			p.want(0, []string{test.says, "The configuration names them already"}, enroll...)
			p.wantFiles("acme.crt", "acme.key", "seal.crt", "seal.key")
			if key := p.read("secrets/acme.key"); !strings.HasPrefix(key, pending[:200]) {
				t.Error("it made another key")
			}
			p.want(0, []string{one}, "auth", "list")
			p.want(0, []string{"logged in"}, "auth", "test")
		})
	}
}

// The same when the process is killed, at any of its requests, before KSeF has worked
// on it or after.
func TestEnrollGoesOnAfterAKill(t *testing.T) {
	long(t)
	t.Parallel()
	enroll := []string{"auth", "enroll", "--certificate", "secrets/seal.crt", "--private-key", "secrets/seal.key"}
	for _, test := range []struct {
		path string
		done bool   // KSeF has worked on it
		says string // the second time
	}{
		{"/certificates/limits", false, "Applied for"},
		{"/certificates/enrollments/data", true, "Applied for"},
		{"/certificates/enrollments", true, "which may have been applied for"},
		{"/certificates/enrollments/*-*", true, "Going on with the application"},
		{"/certificates/retrieve", true, "Going on with the application"},
		{"/auth/sessions/current", false, "valid until"},
	} {
		t.Run(strings.ReplaceAll(strings.Trim(test.path, "/"), "/", " "), func(t *testing.T) {
			t.Parallel()
			p := newSimulator(t, ksefsim.Options{}, nil)
			p.putPair("seal", seal(t, company.Value))
			p.put("config.toml", []byte(p.table("acme", company.Value, byCertificate("acme"))))
			process := p.command(enroll...)
			p.sim.Fault(ksefsim.Fault{Path: test.path, Times: 1, Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if test.done {
					next.ServeHTTP(httptest.NewRecorder(), r)
				}
				if err := process.Process.Kill(); err != nil {
					t.Error(err)
				}
				panic(http.ErrAbortHandler)
			}})
			if out, err := process.CombinedOutput(); err == nil || process.ProcessState.ExitCode() != -1 {
				t.Fatalf("it was not killed: %v\n%s", err, out)
			}
			p.want(0, []string{test.says, "The configuration names them already"}, enroll...)
			p.wantFiles("acme.crt", "acme.key", "seal.crt", "seal.key")
			p.want(0, []string{"299 of 300 applications are left"}, "auth", "list")
		})
	}
}

// A renewal that stops between its two files leaves a pair that does not belong
// together; the same command ends it, without KSeF.
func TestRenewEndsWhatStoppedBetweenTheFiles(t *testing.T) {
	long(t)
	t.Parallel()
	p := newSimulator(t, ksefsim.Options{}, nil)
	p.putPair("seal", seal(t, company.Value))
	p.put("config.toml", []byte(p.table("acme", company.Value, byCertificate("acme"))))
	p.want(0, nil, "auth", "enroll", "--certificate", "secrets/seal.crt", "--private-key", "secrets/seal.key")
	oldCertificate := p.read("secrets/acme.crt")
	certificate := filepath.Join(p.dir, "secrets", "acme.crt")
	if err := os.Chmod(certificate, 0o644); err != nil { // as for a service that reads it under another user
		t.Fatal(err)
	}
	p.want(0, nil, "auth", "renew")
	if info, err := os.Stat(certificate); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o644 {
		t.Errorf("the new certificate has the mode %v, %v; want that of the old", info.Mode(), err)
	}
	if err := os.Chmod(certificate, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(p.dir, "secrets/acme.crt"), filepath.Join(p.dir, "secrets/acme.crt.new")); err != nil {
		t.Fatal(err)
	}
	p.put("secrets/acme.crt", []byte(oldCertificate))
	p.want(2, []string{"not the key of the certificate"}, "config", "check")
	p.want(0, []string{"valid until"}, "auth", "renew")
	p.wantFiles("acme.crt", "acme.crt.old-1", "acme.key", "acme.key.old-1", "seal.crt", "seal.key")
	p.want(0, []string{"298 of 300 applications are left"}, "auth", "list")
}

// What systemd hands to a service is got, tried and exchanged by root, in the folder
// from which it is handed over.
func TestCertificateOfAService(t *testing.T) {
	long(t)
	t.Parallel()
	p := newSimulator(t, ksefsim.Options{}, nil)
	p.putPair("seal", seal(t, company.Value))
	p.put("config.toml", []byte(p.table("acme", company.Value, "method = \"certificate\"\ncertificate = \"cred:acme.crt\"\nprivate_key = \"cred:acme.key\"\n")))
	out := p.want(0, []string{"names them already. systemd hands them", "service restart"}, "auth", "enroll", "--certificate", "secrets/seal.crt", "--private-key", "secrets/seal.key")
	p.wantFiles("acme.crt", "acme.key", "seal.crt", "seal.key")
	p.want(0, []string{"logged in"}, "auth", "test")
	p.want(2, []string{"logs in with this certificate"}, "auth", "revoke", serialNumber.FindStringSubmatch(out)[1])
	p.want(0, []string{"nothing to do"}, "auth", "renew", "--within", "30d")
	p.want(1, []string{"only in a systemd service"}, "sync")

	// The service itself has been given it.
	handed := filepath.Join(p.dir, "handed over")
	if err := os.Rename(filepath.Join(p.dir, "secrets"), handed); err != nil {
		t.Fatal(err)
	}
	cmd := p.command("sync")
	cmd.Env = append(cmd.Env, "CREDENTIALS_DIRECTORY="+handed)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if err := os.Rename(handed, filepath.Join(p.dir, "secrets")); err != nil {
		t.Fatal(err)
	}

	// One that is encrypted is the service's alone; decrypted beside it will do.
	key := filepath.Join(p.dir, "secrets", "acme.key")
	if err := os.Rename(key, key+".cred"); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"test", "enroll"} {
		p.want(1, []string{"read cred:acme.key: this process cannot see it", "unless systemd-creds has encrypted it"}, "auth", command)
	}
	p.want(2, []string{"a file each"}, "auth", "renew")
	p.put("secrets/acme.key", []byte(p.read("secrets/acme.key.cred")))
	p.want(0, []string{"hands over " + key + ".cred: encrypt " + key + " into it (systemd-creds encrypt --name=acme.key), and remove " + key}, "auth", "renew")
}

// What is not two files is not exchanged: daily, each time would make a certificate.
func TestRenewRefusesWhatItCannotExchange(t *testing.T) {
	t.Parallel()
	p := newSimulator(t, ksefsim.Options{}, nil)
	both := seal(t, company.Value)
	p.put("secrets/both.pem", append(both.certificatePEM(), both.keyPEM(t)...))
	p.put("config.toml", []byte(p.table("acme", company.Value, "method = \"certificate\"\ncertificate = \"file:secrets/both.pem\"\nprivate_key = \"file:secrets/both.pem\"\n")))
	p.want(2, []string{"a file each", "auth enroll"}, "auth", "renew")
	if n := p.sim.Stats().Requests; n != 0 {
		t.Errorf("%d requests", n)
	}
	p.want(0, []string{"private_key = ", "acme.key", "a daemon that runs notices"}, "auth", "enroll")
	p.wantFiles("acme.crt", "acme.key", "both.pem")
}

// No more certificates are asked for than KSeF gives, and the commands draw on the
// mirror's budget.
func TestEnrollKeepsToTheLimits(t *testing.T) {
	long(t)
	t.Parallel()
	p := newSimulator(t, ksefsim.Options{Limits: ksef.DefaultLimits()}, nil)
	p.putPair("seal", seal(t, company.Value))
	p.put("config.toml", []byte(p.table("acme", company.Value, byCertificate("acme"))))
	p.want(0, nil, "auth", "enroll", "--certificate", "secrets/seal.crt", "--private-key", "secrets/seal.key")
	for range 2 {
		p.want(0, nil, "auth", "test")
	}
	if n := p.sim.Stats().TooMany; n > 0 {
		t.Errorf("KSeF had to refuse %d requests", n)
	}
	p.sim.Fault(ksefsim.TooMany("/certificates/query", 1, "3600"))
	p.want(5, []string{"it can go on from"}, "auth", "list")
	asked := p.sim.Stats().ByGroup[ksef.GroupOther]
	p.want(5, []string{"it can go on from"}, "auth", "list")
	if n := p.sim.Stats().ByGroup[ksef.GroupOther] - asked; n != 0 {
		t.Errorf("%d requests in spite of Retry-After", n)
	}
}
