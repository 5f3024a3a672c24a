package delivery

import (
	"context"
	"encoding/base64"
	"mime"
	"strings"
	"testing"
	"time"

	"ksefmirror/internal/delivery/mailsim"
)

// mailServer is a mail server that a digest is sent to.
type mailServer struct {
	t *testing.T
	*mailsim.Server
}

func newMailServer(t *testing.T, change func(*mailsim.Server)) mailServer {
	t.Helper()
	return mailServer{t, mailsim.New(t, change)}
}

func (s mailServer) digest() *Digest {
	warsaw, err := time.LoadLocation("Europe/Warsaw")
	if err != nil {
		s.t.Fatal(err)
	}
	return &Digest{
		Server: s.Address, From: "ksefmirror@example.com", To: []string{"anna@example.com", "jan@example.com"}, User: mailsim.User,
		Password: func() (string, error) { return mailsim.Password, nil }, Hour: 7, Zone: warsaw, TLS: s.Client(),
	}
}

// One mail a day tells of what was stored before its time, and none on a day
// without anything.
func TestDigest(t *testing.T) {
	server := newMailServer(t, func(s *mailsim.Server) { s.HangUp = true }) // which is no failure
	s := newStore(t, DigestName)
	digest := server.digest()
	at := &clock{now: time.Now()} // the database stamps invoices by the real clock
	sender := New(s, testSource, []Receiver{digest}, discard(), at.Now)
	_, tomorrow := digest.Due(at.Now())
	send := func(want int) {
		t.Helper()
		if result := sender.tell(t.Context(), digest, false, time.Time{}); result.Err != nil || !result.next.After(at.Now()) {
			t.Fatalf("got %+v", result)
		}
		if len(server.Mails()) != want {
			t.Fatalf("%d mails, want %d", len(server.Mails()), want)
		}
	}
	send(0)
	store(t, s, 1, 2)
	addRole(t, s, 2, "seller")
	send(0) // not before its time
	at.advance(tomorrow.Sub(at.Now()) - time.Second)
	send(0)
	at.advance(time.Second)
	send(1)
	at.advance(time.Hour)
	send(1)
	at.advance(24 * time.Hour)
	send(1)
	mail := server.Mails()[0]
	header, text := mail.Header, mail.Body
	if got := header.Get("Subject"); got != "acme: 2 new invoices in KSeF (test)" {
		t.Errorf("subject %q", got)
	}
	if to := header.Get("To"); to != "<anna@example.com>, <jan@example.com>" || header.Get("Auto-Submitted") != "auto-generated" {
		t.Errorf("header %v", header)
	}
	const want = `acme: 2 new invoices in KSeF (test)

  as buyer             2
  as seller            1

2026-11-05  Vat  - PLN  FV/1
  from Żaba "Hop" sp. z o.o.
  purchases/2026/11/1.xml

2026-11-05  Vat  - PLN  FV/2
  to Firma
  purchases/2026/11/2.xml
`
	if text != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
	if server.Logins() != 1 || !mail.Encrypted {
		t.Errorf("%d logins, encrypted %v", server.Logins(), mail.Encrypted)
	}
}

// What invoices hold can neither add a header nor another mail, and the same batch
// is the same mail at every attempt.
func TestDigestOfHostileInvoices(t *testing.T) {
	server := newMailServer(t, nil)
	batch := oneInvoice()
	batch.Mirror = "żaba\r\nBcc: evil@example.com" // no configuration has such a name
	batch.Invoices[0].SellerName = "a\r\n.\r\nMAIL FROM:<evil@example.com>\r\nBcc: b\x00\u202e"
	batch.Invoices[0].InvoiceNumber = "1\n\nQUIT"
	batch.Count = 1000
	for range 2 {
		if err := server.digest().Take(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	if len(server.Mails()) != 2 {
		t.Fatalf("%d mails", len(server.Mails()))
	}
	mails := server.Mails()
	first, text, second := mails[0].Header, mails[0].Body, mails[1].Header
	if id := first.Get("Message-Id"); id != "<0123@example.com>" || second.Get("Message-Id") != id {
		t.Errorf("IDs %q and %q", id, second.Get("Message-Id"))
	}
	if first.Get("Bcc") != "" || !strings.Contains(text, "from a  .  MAIL FROM:<evil@example.com>  Bcc: b") || !strings.Contains(text, "… and 999 more") {
		t.Errorf("header %v\n%s", first, text)
	}
	if got, err := new(mime.WordDecoder).DecodeHeader(first.Get("Subject")); err != nil || !strings.Contains(got, "żaba") {
		t.Errorf("subject %q, %v", got, err)
	}
}

func TestDigestInTrouble(t *testing.T) {
	for name, test := range map[string]struct {
		server func(*mailsim.Server)
		digest func(*Digest)
		want   string
	}{
		"wrong password":      {nil, func(d *Digest) { d.Password = func() (string, error) { return "another canary", nil } }, "535"},
		"answer repeats it":   {func(s *mailsim.Server) { s.RefuseLogin = "535 what is LINE" }, nil, "did not accept user and password"},
		"unknown certificate": {nil, func(d *Digest) { d.TLS = nil }, "certificate"},
		"no TLS":              {func(s *mailsim.Server) { s.NoTLS = true }, nil, "does not support STARTTLS"},
		"nobody there":        {nil, func(d *Digest) { d.Server = "127.0.0.1:1" }, "127.0.0.1:1"},
	} {
		t.Run(name, func(t *testing.T) {
			server := newMailServer(t, test.server)
			digest := server.digest()
			if test.digest != nil {
				test.digest(digest)
			}
			err := digest.Take(t.Context(), oneInvoice())
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want %s", err, test.want)
			}
			if text := err.Error(); strings.Contains(text, "canary") || strings.Contains(text, base64.StdEncoding.EncodeToString([]byte(mailsim.Password))[:20]) {
				t.Errorf("it shows the password: %s", text)
			}
			if len(server.Mails()) != 0 {
				t.Error("a mail was sent")
			}
		})
	}
}

// A server of this machine may have no TLS, and ask for nothing; another must have
// it, from the start at port 465.
func TestDigestSecurity(t *testing.T) {
	for server, want := range map[string]Security{
		"smtp.example.com:587": StartTLS, "smtp.example.com:25": StartTLS, "smtp.example.com:465": TLSFirst,
		"localhost:25": Opportunistic, "127.0.0.1:25": Opportunistic, "[::1]:25": Opportunistic, "localhost:465": TLSFirst, "192.0.2.1:25": StartTLS,
	} {
		if got := SecurityOf(server); got != want {
			t.Errorf("%s: %d, want %d", server, got, want)
		}
	}
	plain := newMailServer(t, func(s *mailsim.Server) { s.NoTLS, s.NoLogin = true, true })
	digest := plain.digest()
	digest.User = ""
	if err := digest.Take(t.Context(), oneInvoice()); err == nil || len(plain.Mails()) != 0 {
		t.Errorf("it was sent without TLS: %v", err)
	}
	digest.Security = Opportunistic
	if err := digest.Take(t.Context(), oneInvoice()); err != nil || len(plain.Mails()) != 1 {
		t.Errorf("%d mails, %v", len(plain.Mails()), err)
	}
	first := newMailServer(t, func(s *mailsim.Server) { s.TLSFirst = true })
	digest = first.digest()
	digest.Security = TLSFirst
	if err := digest.Take(t.Context(), oneInvoice()); err != nil || len(first.Mails()) != 1 || !first.Mails()[0].Encrypted || first.Logins() != 1 {
		t.Errorf("%d mails, %v", len(first.Mails()), err)
	}
}

// When the mirror is closed, a mail server that hangs is left at once.
func TestDigestIsStopped(t *testing.T) {
	address, accept := listen(t)
	server := newMailServer(t, nil)
	digest := server.digest()
	digest.Server = address
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	batch := oneInvoice()
	go func() { ended <- digest.Take(ctx, batch) }()
	accept() // and not a word
	cancel()
	if err := <-ended; err == nil {
		t.Error("no error")
	}
}

func TestDigestDue(t *testing.T) {
	warsaw, err := time.LoadLocation("Europe/Warsaw")
	if err != nil {
		t.Fatal(err)
	}
	digest := &Digest{Hour: 2, Minute: 30, Zone: warsaw}
	for now, want := range map[string][2]string{
		"2026-11-22T00:00:00Z": {"2026-11-21T02:30:00+01:00", "2026-11-22T02:30:00+01:00"},
		"2026-11-22T01:30:00Z": {"2026-11-22T02:30:00+01:00", "2026-11-23T02:30:00+01:00"},
		// That hour is left out in spring and comes twice in autumn.
		"2026-03-29T05:00:00Z": {"2026-03-29T03:30:00+02:00", "2026-03-30T02:30:00+02:00"},
		"2026-10-25T05:00:00Z": {"2026-10-25T02:30:00+01:00", "2026-10-26T02:30:00+01:00"},
	} {
		at, err := time.Parse(time.RFC3339, now)
		if err != nil {
			t.Fatal(err)
		}
		before, changes := digest.Due(at)
		if got := [2]string{before.Format(time.RFC3339), changes.Format(time.RFC3339)}; got != want {
			t.Errorf("%s: got %v, want %v", now, got, want)
		}
	}
}
