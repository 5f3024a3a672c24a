package main

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ksefmirror/internal/delivery/mailsim"
	"ksefmirror/internal/ksefsim"
)

// change changes the mirror's database from outside, where a test would wait for days
// otherwise.
func (p *place) change(statement string, values ...any) {
	p.t.Helper()
	pool, err := sql.Open("sqlite", p.database()+"?_pragma=busy_timeout(10000)")
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = pool.Close() }() // what it did is committed
	if _, err := pool.ExecContext(p.t.Context(), statement, values...); err != nil {
		p.t.Fatal(err)
	}
}

// The digest, as users have it: one mail for a day, over TLS and with a login, with
// what README.md promises; also when the mail server hangs or is down for a while,
// which holds up neither the mirror nor the webhook; and no password anywhere.
func TestDailyMail(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only on Linux can a program be told which certificates to trust")
	}
	long(t)
	var c canaries
	c.plant("the password of mail", []byte(mailsim.Password))
	c.plant("the KSeF token", []byte(secretToken))
	var posted atomic.Int64
	webhook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var message struct {
			Data struct {
				Invoices []toldInvoice `json:"invoices"`
			} `json:"data"`
		}
		if err := json.NewDecoder(r.Body).Decode(&message); err != nil {
			t.Error(err)
		}
		posted.Add(int64(len(message.Data.Invoices)))
	}))
	defer webhook.Close()

	p := newSimulator(t, ksefsim.Options{}, nil)
	p.sim.AddToken(company, secretToken)
	p.put("secrets/acme.token", []byte(secretToken))
	p.put("secrets/acme.webhook", []byte("whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n"))
	p.put("secrets/mail.password", []byte(mailsim.Password+"\n"))
	warsaw, err := time.LoadLocation("Europe/Warsaw")
	if err != nil {
		t.Fatal(err)
	}
	address := freeAddress(t)
	p.put("config.toml", []byte(debugLog+p.table("acme", company.Value, `token = "file:secrets/acme.token"`)+fmt.Sprintf(`
[mirror.acme.webhook]
url = %q
secret = "file:secrets/acme.webhook"
[mirror.acme.digest]
to = ["anna@example.com", "jan@example.com"]
at = %q
[mail]
server = %q
from = "ksefmirror@example.com"
user = %q
password = "file:secrets/mail.password"
`, webhook.URL, time.Now().In(warsaw).Add(-2*time.Hour).Format("15:04"), address, mailsim.User)))
	// The daemon first looks whom to trust when somebody shows a certificate.
	p.env = []string{"SSL_CERT_FILE=" + filepath.Join(p.dir, "secrets", "mail.pem")}
	p.saying(&c, 0, "config", "check")
	moment := func(at time.Time) string { return at.UTC().Format("2006-01-02T15:04:05.0000000Z07:00") }
	aDayLater := func() {
		t.Helper()
		p.change(`UPDATE invoices SET first_seen_at = min(first_seen_at, ?)`, moment(time.Now().AddDate(0, 0, -1)))
	}

	// 1. What was stored today is for tomorrow.
	p.add(ksefsim.GenerateOptions{Count: 10, Context: company, Seed: 1})
	out := p.want(0, []string{"told the webhook of 10 new invoices"}, "sync")
	if strings.Contains(out, "digest") {
		t.Fatalf("the digest before its time:\n%s", out)
	}
	aDayLater()
	var paths []string
	invoices := filepath.Join(p.dir, "data", "acme", "invoices")
	if err := filepath.WalkDir(invoices, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".xml") {
			paths = append(paths, filepath.ToSlash(strings.TrimPrefix(path, invoices+string(filepath.Separator))))
		}
		return err
	}); err != nil || len(paths) != 10 {
		t.Fatalf("%d files, %v", len(paths), err)
	}

	// 2. The mail server takes the call and says nothing.
	silent, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	giveUp := time.AfterFunc(20*time.Second, func() { _ = silent.Close() }) // which the next line notices
	d := p.daemon()
	caller, err := silent.Accept()
	if err != nil {
		t.Fatalf("the digest is not sent: %v\n%s", err, d.stop())
	}
	giveUp.Stop()
	p.add(ksefsim.GenerateOptions{Count: 3, Context: company, Seed: 2})
	d.until(`"msg":"told of new invoices"`, `"receiver":"webhook"`, `"invoices":3`)
	began := time.Now()
	c.look(t, "daemon", []byte(d.stop()))
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s to stop", took)
	}
	_, _ = caller.Close(), silent.Close() // nothing was written

	// 3. Nobody is there; then somebody is.
	d = p.daemon()
	d.until(`"msg":"a receiver could not be told of new invoices; nothing is lost"`, `"receiver":"digest"`)
	p.add(ksefsim.GenerateOptions{Count: 2, Context: company, Seed: 3})
	d.until(`"msg":"told of new invoices"`, `"receiver":"webhook"`, `"invoices":2`)
	p.want(1, []string{"the digest is behind by 15 invoices", "connection refused"}, "status")
	server := mailsim.New(t, func(s *mailsim.Server) { s.Address = address })
	p.put("secrets/mail.pem", server.Certificate())
	p.change(`UPDATE deliveries SET next_attempt_at = ? WHERE receiver = 'digest'`, moment(time.Now())) // half a minute later
	p.add(ksefsim.GenerateOptions{Count: 1, Context: company, Seed: 4})
	d.until(`"msg":"receiver of new invoices recovered"`, `"receiver":"digest"`)
	d.until(`"msg":"told of new invoices"`, `"receiver":"digest"`, `"invoices":10`)
	mails := server.Mails()
	if len(mails) != 1 {
		t.Fatalf("%d mails", len(mails))
	}
	first := mails[0]
	if subject, to := first.Header.Get("Subject"), first.Header.Get("To"); subject != "acme: 10 new invoices in KSeF (test)" ||
		to != "<anna@example.com>, <jan@example.com>" || first.Header.Get("From") != "<ksefmirror@example.com>" {
		t.Errorf("got %v", first.Header)
	}
	if !first.Encrypted || server.Logins() != 1 {
		t.Errorf("encrypted %v, %d logins", first.Encrypted, server.Logins())
	}
	for _, path := range paths {
		if strings.Count(first.Body, "\n  "+path+"\n") != 1 {
			t.Errorf("no %s in\n%s", path, first.Body)
		}
	}
	for _, text := range []string{"  as seller ", "  as buyer ", " PLN  F", "\n  from ", "\n  to ", time.Now().In(warsaw).Format("2006-01")} {
		if !strings.Contains(first.Body, text) {
			t.Errorf("no %q in\n%s", text, first.Body)
		}
	}
	c.look(t, "mail", []byte(fmt.Sprint(first)))

	// 4. Once is once; what came meanwhile is in the mail of the next day, and when
	// nothing comes there is none.
	p.add(ksefsim.GenerateOptions{Count: 1, Context: company, Seed: 5})
	d.until(`"msg":"told of new invoices"`, `"receiver":"webhook"`, `"invoices":1`)
	c.look(t, "daemon", []byte(d.stop()))
	p.want(0, nil, "sync")
	if n := len(server.Mails()); n != 1 {
		t.Errorf("%d mails on one day", n)
	}
	aDayLater()
	p.want(0, []string{"acme: told the digest of 7 new invoices"}, "sync")
	aDayLater()
	p.want(0, nil, "sync")
	mails = server.Mails()
	if len(mails) != 2 || mails[1].Header.Get("Message-Id") == first.Header.Get("Message-Id") {
		t.Fatalf("%d mails in three days", len(mails))
	}
	for _, path := range paths {
		if strings.Contains(mails[1].Body, path) {
			t.Errorf("%s is mailed twice", path)
		}
	}
	if posted.Load() != 17 {
		t.Errorf("the webhook was told of %d", posted.Load())
	}
	p.want(0, []string{"acme: in order (17 invoices"}, "status")
	p.lookAround(&c, "at the end")
	c.look(t, "tables", rows(t, p.database()))
}
