package delivery

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"io"
	"math/big"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"
)

const mailPassword = "canary in the password of mail"

// mailServer is a small SMTP server (RFC 5321) with STARTTLS and AUTH PLAIN.
type mailServer struct {
	t         *testing.T
	address   string
	config    *tls.Config // of the server; nil: it offers no TLS
	client    *tls.Config
	tlsFirst  bool
	noLogin   bool
	refuse    string // the answer to a login; "": it is checked
	hangUp    bool   // after a mail is accepted, without a word
	mu        sync.Mutex
	mails     []string
	encrypted []bool
	logins    int
}

func newMailServer(t *testing.T, change func(*mailServer)) *mailServer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mail"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(certificate)
	s := &mailServer{
		t: t, config: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
		client: &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"},
	}
	if change != nil {
		change(s)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = listener.Addr().String()
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait)
	t.Cleanup(func() { listener.Close() })
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { s.serve(conn) })
		}
	})
	return s
}

func (s *mailServer) serve(conn net.Conn) {
	defer func() { conn.Close() }()
	encrypted := s.tlsFirst
	if encrypted {
		conn = tls.Server(conn, s.config)
	}
	in := textproto.NewReader(bufio.NewReader(conn))
	say := func(lines ...string) { _, _ = fmt.Fprint(conn, strings.Join(lines, "\r\n")+"\r\n") }
	say("220 mail.example.com")
	for {
		line, err := in.ReadLine()
		if err != nil {
			return
		}
		verb, rest, _ := strings.Cut(line, " ")
		switch strings.ToUpper(verb) {
		case "EHLO":
			lines := []string{"250-mail.example.com"}
			if s.config != nil && !encrypted {
				lines = append(lines, "250-STARTTLS")
			}
			if encrypted && !s.noLogin {
				lines = append(lines, "250-AUTH PLAIN LOGIN")
			}
			say(append(lines, "250 8BITMIME")...)
		case "STARTTLS":
			say("220 go on")
			secure := tls.Server(conn, s.config)
			if secure.HandshakeContext(context.Background()) != nil {
				return
			}
			conn, encrypted, in = secure, true, textproto.NewReader(bufio.NewReader(secure))
		case "AUTH":
			_, code, _ := strings.Cut(rest, " ")
			want := base64.StdEncoding.EncodeToString([]byte("\x00robot\x00" + mailPassword))
			switch {
			case s.refuse != "":
				say(strings.ReplaceAll(s.refuse, "LINE", line))
			case code != want:
				say("535 5.7.8 wrong")
			default:
				s.mu.Lock()
				s.logins++
				s.mu.Unlock()
				say("235 welcome")
			}
		case "DATA":
			say("354 go on")
			text, err := io.ReadAll(in.DotReader())
			if err != nil {
				return
			}
			s.mu.Lock()
			s.mails, s.encrypted = append(s.mails, string(text)), append(s.encrypted, encrypted)
			s.mu.Unlock()
			say("250 accepted")
			if s.hangUp {
				return
			}
		case "QUIT":
			say("221 bye")
			return
		default:
			say("250 fine")
		}
	}
}

func (s *mailServer) digest() *Digest {
	warsaw, err := time.LoadLocation("Europe/Warsaw")
	if err != nil {
		s.t.Fatal(err)
	}
	return &Digest{
		Server: s.address, From: "ksefmirror@example.com", To: []string{"anna@example.com", "jan@example.com"}, User: "robot",
		Password: func() (string, error) { return mailPassword, nil }, Hour: 7, Zone: warsaw, TLS: s.client,
	}
}

// body gives the headers and the decoded body of a mail.
func body(t *testing.T, text string) (mail.Header, string) {
	t.Helper()
	message, err := mail.ReadMessage(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	if encoding := message.Header.Get("Content-Transfer-Encoding"); encoding != "quoted-printable" {
		t.Errorf("encoded as %q", encoding)
	}
	decoded, err := io.ReadAll(quotedprintable.NewReader(message.Body))
	if err != nil {
		t.Fatal(err)
	}
	return message.Header, strings.ReplaceAll(string(decoded), "\r\n", "\n")
}

// One mail a day tells of what was stored before its time, and none on a day
// without anything.
func TestDigest(t *testing.T) {
	server := newMailServer(t, func(s *mailServer) { s.hangUp = true }) // which is no failure
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
		if len(server.mails) != want {
			t.Fatalf("%d mails, want %d", len(server.mails), want)
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
	header, text := body(t, server.mails[0])
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
	if server.logins != 1 || !server.encrypted[0] {
		t.Errorf("%d logins, encrypted %v", server.logins, server.encrypted)
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
	if len(server.mails) != 2 {
		t.Fatalf("%d mails", len(server.mails))
	}
	first, text := body(t, server.mails[0])
	second, _ := body(t, server.mails[1])
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
		server func(*mailServer)
		digest func(*Digest)
		want   string
	}{
		"wrong password":      {nil, func(d *Digest) { d.Password = func() (string, error) { return "another canary", nil } }, "535"},
		"answer repeats it":   {func(s *mailServer) { s.refuse = "535 what is LINE" }, nil, "did not accept user and password"},
		"unknown certificate": {nil, func(d *Digest) { d.TLS = nil }, "certificate"},
		"no TLS":              {func(s *mailServer) { s.config = nil }, nil, "does not support STARTTLS"},
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
			if text := err.Error(); strings.Contains(text, "canary") || strings.Contains(text, base64.StdEncoding.EncodeToString([]byte(mailPassword))[:20]) {
				t.Errorf("it shows the password: %s", text)
			}
			if len(server.mails) != 0 {
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
	plain := newMailServer(t, func(s *mailServer) { s.config, s.noLogin = nil, true })
	digest := plain.digest()
	digest.User = ""
	if err := digest.Take(t.Context(), oneInvoice()); err == nil || len(plain.mails) != 0 {
		t.Errorf("it was sent without TLS: %v", err)
	}
	digest.Security = Opportunistic
	if err := digest.Take(t.Context(), oneInvoice()); err != nil || len(plain.mails) != 1 {
		t.Errorf("%d mails, %v", len(plain.mails), err)
	}
	first := newMailServer(t, func(s *mailServer) { s.tlsFirst = true })
	digest = first.digest()
	digest.Security = TLSFirst
	if err := digest.Take(t.Context(), oneInvoice()); err != nil || len(first.mails) != 1 || !first.encrypted[0] || first.logins != 1 {
		t.Errorf("%d mails, %v", len(first.mails), err)
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
