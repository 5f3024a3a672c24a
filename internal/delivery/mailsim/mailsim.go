// Package mailsim is a small mail server for tests (SMTP, RFC 5321), with STARTTLS
// and AUTH PLAIN. It takes every mail, and delivers none.
package mailsim

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
	"encoding/pem"
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

// User and Password are what the server lets in.
const (
	User     = "robot"
	Password = "canary in the password of mail"
)

// Server is a mail server. What it does differently is said before it starts, in
// [New].
type Server struct {
	Address     string // where it listens; as given to New: where it is to listen
	NoTLS       bool   // it offers no TLS
	TLSFirst    bool   // TLS begins before all
	NoLogin     bool   // it asks for nothing
	RefuseLogin string // the answer to a login, LINE being what came; "": the login is checked
	HangUp      bool   // after a mail is accepted, without a word

	config *tls.Config
	der    []byte // the certificate

	mu     sync.Mutex
	mails  []Mail
	logins int
}

// Mail is a mail that was taken.
type Mail struct {
	Header    mail.Header
	Body      string // decoded, with a line feed at the end of a line
	Encrypted bool   // it came over TLS
}

// New starts a server, which stops with the test. change says what it does
// differently; nil: nothing. Without an Address it listens at a free port of
// 127.0.0.1.
func New(t testing.TB, change func(*Server)) *Server {
	t.Helper()
	s := &Server{Address: "127.0.0.1:0"}
	if change != nil {
		change(s)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mail"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	if s.der, err = x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key); err != nil {
		t.Fatal(err)
	}
	s.config = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{s.der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", s.Address)
	if err != nil {
		t.Fatal(err)
	}
	s.Address = listener.Addr().String()
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait)
	t.Cleanup(func() { _ = listener.Close() }) // nothing was written
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { s.serve(t, conn) })
		}
	})
	return s
}

// Certificate gives the server's certificate, which it has signed itself, as PEM.
func (s *Server) Certificate() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.der})
}

// Client gives the configuration of a client that trusts the server.
func (s *Server) Client() *tls.Config {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.Certificate())
	return &tls.Config{RootCAs: roots, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12}
}

// Mails gives what was taken, in its order.
func (s *Server) Mails() []Mail {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Mail(nil), s.mails...)
}

// Logins counts the logins that it has let in.
func (s *Server) Logins() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logins
}

func (s *Server) serve(t testing.TB, conn net.Conn) {
	defer func() { _ = conn.Close() }() // whoever is there has gone
	encrypted := s.TLSFirst
	if encrypted {
		conn = tls.Server(conn, s.config)
	}
	in := textproto.NewReader(bufio.NewReader(conn))
	say := func(lines ...string) { _, _ = fmt.Fprint(conn, strings.Join(lines, "\r\n")+"\r\n") } // or the next read fails
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
			if !s.NoTLS && !encrypted {
				lines = append(lines, "250-STARTTLS")
			}
			if encrypted && !s.NoLogin {
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
			switch {
			case s.RefuseLogin != "":
				say(strings.ReplaceAll(s.RefuseLogin, "LINE", line))
			case code != base64.StdEncoding.EncodeToString([]byte("\x00"+User+"\x00"+Password)):
				say("535 5.7.8 wrong")
			default:
				s.mu.Lock()
				s.logins++
				s.mu.Unlock()
				say("235 welcome")
			}
		case "DATA":
			say("354 go on")
			if !s.take(t, in.DotReader(), encrypted) {
				return
			}
			say("250 accepted")
			if s.HangUp {
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

// take reads a mail, and reports false if it is cut off.
func (s *Server) take(t testing.TB, from io.Reader, encrypted bool) bool {
	message, err := mail.ReadMessage(from)
	if err != nil {
		t.Errorf("a mail that nobody can read: %v", err)
		return false
	}
	// What comes from invoices may stand in no line of SMTP as it is.
	if encoding := message.Header.Get("Content-Transfer-Encoding"); encoding != "quoted-printable" {
		t.Errorf("encoded as %q", encoding)
	}
	if kind, values, err := mime.ParseMediaType(message.Header.Get("Content-Type")); err != nil || kind != "text/plain" || !strings.EqualFold(values["charset"], "UTF-8") {
		t.Errorf("it is %s of %v, %v", kind, values, err)
	}
	body, err := io.ReadAll(quotedprintable.NewReader(message.Body))
	if err != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mails = append(s.mails, Mail{message.Header, strings.ReplaceAll(string(body), "\r\n", "\n"), encrypted})
	return true
}
