package config

import (
	"errors"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// defaultCommandTimeout is how long a command may take where nothing is said.
const defaultCommandTimeout = 5 * time.Minute

// command reads the table at key.
func (c *checker) command(key toml.Key, table commandTable) *Command {
	command := &Command{Timeout: defaultCommandTimeout}
	command.Run = c.texts(below(key, "run"), table.Run, "want the program, by its absolute path, and its arguments, each in quotation marks: [\"/usr/local/bin/program\", \"argument\"]")
	// A service has neither the folder nor the search path of whoever wrote this. On
	// Windows a path from the root of the drive will do.
	if len(command.Run) > 0 && !filepath.IsAbs(command.Run[0]) && !strings.HasPrefix(command.Run[0], "/") {
		c.report(below(key, "run"), command.Run[0], "want the program's absolute path; a command line for a shell must name the shell")
	}
	if text, ok := c.text(below(key, "timeout"), table.Timeout, command.Timeout.String()); ok {
		timeout, err := time.ParseDuration(text)
		if err != nil || timeout < time.Second {
			c.report(below(key, "timeout"), text, `want a duration with its unit, such as "5m"`)
		}
		command.Timeout = timeout
	}
	return command
}

// webhook reads the table at key.
func (c *checker) webhook(key toml.Key, table webhookTable) *Webhook {
	webhook := &Webhook{Secret: c.reference(below(key, "secret"), table.Secret, "signing secret")}
	if table.Secret == nil {
		c.report(below(key, "secret"), nil, wantReference("signing secret"))
	}
	text, ok := c.text(below(key, "url"), table.URL, "")
	switch {
	case table.URL == nil:
		c.report(below(key, "url"), nil, `want an address such as "https://HOST/PATH"`)
	case ok:
		if err := checkWebhookURL(text); err != nil {
			c.report(below(key, "url"), text, err.Error())
		}
	}
	webhook.URL = text
	return webhook
}

// checkWebhookURL says what is wrong with an address that invoices are posted to.
func checkWebhookURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.User != nil || u.Fragment != "" || u.Scheme != "http" && u.Scheme != "https" {
		return errors.New(`want an address such as "https://HOST/PATH", without a user and a fragment`)
	}
	if u.Scheme == "http" && !isLoopback(u.Hostname()) {
		return errors.New("want https: plain http is only for this machine (localhost, 127.0.0.1)")
	}
	return nil
}

// digest reads the table at key.
func (c *checker) digest(key toml.Key, table digestTable) *Digest {
	digest := &Digest{To: c.texts(below(key, "to"), table.To, `want a list of addresses: ["name@example.com"]`)}
	for _, address := range digest.To {
		if !isAddress(address) {
			c.report(below(key, "to"), address, `want addresses such as "name@example.com"`)
		}
	}
	if text, ok := c.text(below(key, "at"), table.At, "07:00"); ok {
		at, err := time.Parse("15:04", text)
		if err != nil {
			c.report(below(key, "at"), text, `want a time of day in Poland, such as "07:00"`)
		}
		digest.Hour, digest.Minute = at.Hour(), at.Minute()
	}
	return digest
}

// mail reads the table mail.
func (c *checker) mail(table mailTable) *Mail {
	key := func(name string) toml.Key { return toml.Key{"mail", name} }
	m := &Mail{Password: c.reference(key("password"), table.Password, "password")}
	m.Server, _ = c.text(key("server"), table.Server, "")
	m.User, _ = c.text(key("user"), table.User, "")
	m.From, _ = c.text(key("from"), table.From, "")
	host, port, err := net.SplitHostPort(m.Server)
	number, numberErr := strconv.ParseUint(port, 10, 16)
	if err != nil || host == "" || numberErr != nil || number == 0 {
		c.report(key("server"), table.Server, `want the mail server and its port, such as "smtp.example.com:587"; port 465 is for TLS from the start`)
	}
	if !isAddress(m.From) {
		c.report(key("from"), table.From, `want the sender's address, such as "ksefmirror@example.com"`)
	}
	if (table.User == nil) != (table.Password == nil) {
		c.report(toml.Key{"mail"}, "", "want user and password, or neither for a server that asks for none")
	}
	return m
}

// texts gives value as a list of at least one text, and reports anything else.
func (c *checker) texts(key toml.Key, value any, want string) []string {
	list, ok := value.([]any)
	if !ok || len(list) == 0 {
		c.report(key, value, want)
		return nil
	}
	var texts []string
	for _, item := range list {
		text, ok := item.(string)
		if !ok || text == "" {
			c.report(key, item, want)
			return nil
		}
		texts = append(texts, text)
	}
	return texts
}

// isAddress tells whether text is nothing but a mail address.
func isAddress(text string) bool {
	address, err := mail.ParseAddress(text)
	return err == nil && address.Address == text
}

// isLoopback tells whether a host is this machine.
func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
