package delivery

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/wneessen/go-mail"

	"ksefmirror/db"
)

const mailTimeout = 2 * time.Minute

// Security is how a connection to a mail server is encrypted.
type Security int

const (
	// StartTLS begins TLS before anything that matters, or sends nothing.
	StartTLS Security = iota
	// TLSFirst begins TLS before all.
	TLSFirst
	// Opportunistic begins TLS if the server offers it.
	Opportunistic
)

// SecurityOf gives the security for a server, host:port: TLSFirst at port 465
// (RFC 8314), Opportunistic on this machine, StartTLS elsewhere.
func SecurityOf(server string) Security {
	host, port, _ := net.SplitHostPort(server) // a wrong one is elsewhere
	switch {
	case port == "465":
		return TLSFirst
	case host == "localhost" || net.ParseIP(host).IsLoopback():
		return Opportunistic
	}
	return StartTLS
}

// DigestName is the name of the digest among the receivers.
const DigestName = "digest"

// Digest is a receiver that gets one mail a day with a list of what is new, on days
// on which there is something.
type Digest struct {
	Server   string // host:port
	Security Security
	From     string // plain addresses
	To       []string
	// User and Password log in to the server; User is "" when it asks for nothing.
	// Password is asked before every attempt.
	User     string
	Password func() (string, error)
	// Hour and Minute say, in Zone, until when an invoice must have been stored to be
	// in the mail of the day, which is sent then.
	Hour, Minute int
	Zone         *time.Location
	TLS          *tls.Config // nil: the server's certificate is from an authority that the system knows
}

// Name gives [DigestName].
func (d *Digest) Name() string { return DigestName }

// Limit is none: everything is in one mail.
func (d *Digest) Limit() int { return unlimited }

// Due gives today's time, or yesterday's before that.
func (d *Digest) Due(now time.Time) (before, changes time.Time) {
	now = now.In(d.Zone)
	on := func(day int) time.Time {
		return time.Date(now.Year(), now.Month(), now.Day()+day, d.Hour, d.Minute, 0, 0, d.Zone)
	}
	if today := on(0); now.Before(today) {
		return on(-1), today
	}
	return on(0), on(1)
}

// Take sends the mail. It was taken if the server has accepted it for everybody.
func (d *Digest) Take(ctx context.Context, b Batch) error {
	message, err := d.message(b)
	if err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(d.Server)
	if err != nil {
		return fmt.Errorf("mail server: %w", err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return fmt.Errorf("mail server: port: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, mailTimeout)
	defer cancel()
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if d.TLS != nil {
		config = d.TLS
	}
	policy := mail.TLSMandatory
	if d.Security != StartTLS {
		policy = mail.TLSOpportunistic // the connection has it already, or needs none
	}
	options := []mail.Option{
		mail.WithPort(number), mail.WithTimeout(mailTimeout), mail.WithTLSConfig(config), mail.WithTLSPolicy(policy),
		mail.WithoutRset(), // what follows an accepted mail must not make it a failure
		mail.WithDialContextFunc(func(dialing context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(dialing, network, address, config, d.Security)
			if err == nil {
				// Once it is connected the library looks at no context.
				context.AfterFunc(ctx, func() { _ = conn.Close() }) // what waits for it fails
			}
			return conn, err
		}),
	}
	password := ""
	if d.User != "" {
		if password, err = d.Password(); err != nil {
			return err
		}
		options = append(options, mail.WithSMTPAuth(mail.SMTPAuthAutoDiscover), mail.WithUsername(d.User), mail.WithPassword(password))
	}
	client, err := mail.NewClient(host, options...)
	if err != nil {
		return err
	}
	connection, err := client.DialToSMTPClientWithContext(ctx)
	if err == nil {
		err = client.SendWithSMTPClient(connection, message)
		// Accepted is accepted, however they part.
		_ = client.CloseWithSMTPClient(connection)
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("the mail server took longer than %s", mailTimeout)
	case shows(err.Error(), d.User, password):
		return errors.New("the mail server did not accept user and password; its answer repeats them and is not shown")
	}
	return err
}

// dial connects to a mail server, and begins TLS if it comes first.
func dial(ctx context.Context, network, address string, config *tls.Config, security Security) (net.Conn, error) {
	if security == TLSFirst {
		return (&tls.Dialer{Config: config}).DialContext(ctx, network, address)
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}

// shows tells whether a text holds a password, as it is or as SMTP sends it.
func shows(text, user, password string) bool {
	if password == "" {
		return false
	}
	for _, form := range []string{password, base64.StdEncoding.EncodeToString([]byte(password)), base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password))} {
		if strings.Contains(text, form) {
			return true
		}
	}
	return false
}

// message writes the mail. What comes from invoices stands only in its body, which
// is encoded.
func (d *Digest) message(b Batch) (*mail.Msg, error) {
	m := mail.NewMsg()
	if err := m.From(d.From); err != nil {
		return nil, err
	}
	if err := m.To(d.To...); err != nil {
		return nil, err
	}
	_, domain, _ := strings.Cut(d.From, "@")
	m.SetMessageIDWithValue(b.ID + "@" + domain) // the same at every attempt
	m.SetDate()
	m.SetGenHeader("Auto-Submitted", "auto-generated") // no answer from who is on holiday (RFC 3834)
	m.Subject(subject(b))
	m.SetBodyString(mail.TypeTextPlain, digestText(b))
	return m, nil
}

func subject(b Batch) string {
	noun := "invoices"
	if b.Count == 1 {
		noun = "invoice"
	}
	text := fmt.Sprintf("%s: %d new %s in KSeF", b.Mirror, b.Count, noun)
	if b.Environment != "prod" {
		text += " (" + b.Environment + ")"
	}
	return text
}

// digestText is the body of the mail.
func digestText(b Batch) string {
	var text strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&text, format+"\n", args...) }
	line("%s", subject(b))
	line("")
	for _, role := range slices.Sorted(maps.Keys(b.ByRole)) {
		line("  as %-12s %6d", role, b.ByRole[role])
	}
	for _, in := range b.Invoices {
		line("")
		line("%s  %s  %s %s  %s", in.IssueDate, in.Type, orDash(in.Gross), in.Currency, printable(in.InvoiceNumber))
		line("  %s", otherParty(in))
		line("  %s", printable(in.Path))
	}
	if rest := b.Count - len(b.Invoices); rest > 0 {
		line("")
		line("… and %d more, which are in the folder too.", rest)
	}
	return text.String()
}

// otherParty says who the invoice is from or to, seen from the mirrored company.
func otherParty(in db.NewInvoice) string {
	if slices.Contains(in.Roles, "seller") {
		return "to " + orDash(printable(in.BuyerName))
	}
	return "from " + orDash(printable(in.SellerName))
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
