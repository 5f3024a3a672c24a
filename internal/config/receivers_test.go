package config

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// told is what a file says about those who are told of new invoices.
const told = `
[mirror.acme.command]
run = ["/usr/bin/env", "a b"]
timeout = "1m30s"
[mirror.acme.webhook]
url = "https://example.test/in?key=1"
secret = "cred:acme.webhook"
[mirror.acme.digest]
to = ["anna@example.test"]
at = "18:05"
[mail]
server = "smtp.example.test:587"
user = "robot"
password = "file:mail.password"
from = "robot@example.test"
`

func TestReceivers(t *testing.T) {
	got, problems, err := decode("config.toml", home(t), []byte(good+told), today, nil)
	if err != nil || len(problems) > 0 {
		t.Fatal(err, problems)
	}
	mail := &Mail{
		Server: "smtp.example.test:587", User: "robot", From: "robot@example.test",
		Password: Reference{"file", filepath.Join(home(t), "mail.password")},
	}
	acme := got.Mirrors[1]
	for what, diff := range map[string]string{
		"command": cmp.Diff(&Command{Run: []string{"/usr/bin/env", "a b"}, Timeout: 90 * time.Second}, acme.Command),
		"webhook": cmp.Diff(&Webhook{URL: "https://example.test/in?key=1", Secret: Reference{"cred", "acme.webhook"}}, acme.Webhook),
		"digest":  cmp.Diff(&Digest{To: []string{"anna@example.test"}, Hour: 18, Minute: 5, Mail: mail}, acme.Digest),
		"mail":    cmp.Diff(mail, got.Mail),
		// They are looked at, warned of and given to the service as those of auth.
		"references": cmp.Diff([]Reference{{"cred", "unit.token"}, {"env", "ACME_TOKEN"}, {"cred", "acme.webhook"}, mail.Password}, got.References()),
	} {
		if diff != "" {
			t.Errorf("%s: (-want +got)\n%s", what, diff)
		}
	}
	if unit := got.Mirrors[0]; unit.Command != nil || unit.Webhook != nil || unit.Digest != nil {
		t.Errorf("the other mirror has %+v", unit)
	}
	short := replace(t, replace(t, good+told, "timeout = \"1m30s\"\n", ""), "at = \"18:05\"\n", "")
	got, problems, err = decode("config.toml", home(t), []byte(short), today, nil)
	if err != nil || len(problems) > 0 || got.Mirrors[1].Command.Timeout != 5*time.Minute || got.Mirrors[1].Digest.Hour != 7 || got.Mirrors[1].Digest.Minute != 0 {
		t.Errorf("defaults: %v, %v, %+v", err, problems, got.Mirrors[1])
	}
}

func TestReceiversProblems(t *testing.T) {
	for _, test := range []struct{ name, old, new, key, value, want string }{
		{"program by its name", `"/usr/bin/env"`, `"env"`, "mirror.acme.command.run", "env", "absolute path"},
		{"command line", `["/usr/bin/env", "a b"]`, `"/usr/bin/env a"`, "mirror.acme.command.run", "/usr/bin/env a", "each in quotation marks"},
		{"empty argument list", `["/usr/bin/env", "a b"]`, `[]`, "mirror.acme.command.run", "[]", "want the program"},
		{"no program", "run = [\"/usr/bin/env\", \"a b\"]\n", "", "mirror.acme.command.run", "", "missing; want the program"},
		{"timeout", `"1m30s"`, `"90"`, "mirror.acme.command.timeout", "90", "with its unit"},
		{"plain http", `https://example.test/in?key=1`, `http://example.test/in?key=1`, "mirror.acme.webhook.url", redacted, "want https"},
		{"user in the address", `https://example.test`, `https://u:p@example.test`, "mirror.acme.webhook.url", redacted, "without a user"},
		{"no address", "url = \"https://example.test/in?key=1\"\n", "", "mirror.acme.webhook.url", "", "missing; want an address"},
		{"inline secret", `cred:acme.webhook`, `whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw`, "mirror.acme.webhook.secret", redacted, "never the signing secret itself"},
		{"no secret", "secret = \"cred:acme.webhook\"\n", "", "mirror.acme.webhook.secret", "", "missing; want where the signing secret is kept"},
		{"no address to mail to", `["anna@example.test"]`, `[]`, "mirror.acme.digest.to", "[]", "want a list of addresses"},
		{"name beside the address", `"anna@example.test"`, `"Anna <anna@example.test>"`, "mirror.acme.digest.to", "Anna <anna@example.test>", "want addresses"},
		{"header in the address", `"anna@example.test"`, `"anna@example.test\r\nBcc: x@example.test"`, "mirror.acme.digest.to", "anna@example.test\r\nBcc: x@example.test", "want addresses"},
		{"time", `"18:05"`, `"6 pm"`, "mirror.acme.digest.at", "6 pm", "time of day in Poland"},
		{"no mail server", `[mail]`, `[nowhere]`, "", "", ""},
		{"server without a port", `smtp.example.test:587`, `smtp.example.test`, "mail.server", redacted, "and its port"},
		{"sender", `"robot@example.test"`, `"robot"`, "mail.from", redacted, "sender's address"},
		{"user without password", "password = \"file:mail.password\"\n", "", "mail", redacted, "user and password"},
		{"inline password", `file:mail.password`, `hunter2`, "mail.password", redacted, "never the password itself"},
		{"misspelt", `timeout =`, `time_out =`, "mirror.acme.command.time_out", redacted, "did you mean timeout?"},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := good + replace(t, told, test.old, test.new)
			_, problems, err := decode("config.toml", home(t), []byte(text), today, nil)
			if err != nil {
				t.Fatal(err)
			}
			if test.key == "" { // the digest has nobody who sends it, and the table is unknown
				if len(problems) < 2 || !strings.Contains(problems.Error(), "want a table [mail]") {
					t.Errorf("got %v", problems)
				}
				return
			}
			if len(problems) != 1 {
				t.Fatalf("%d problems, want 1:\n%v", len(problems), problems)
			}
			if got := problems[0]; got.Key != test.key || got.Value != test.value || !strings.Contains(got.Want, test.want) {
				t.Errorf("got  %+v\nwant key %s, value %q, and in the text: %s", got, test.key, test.value, test.want)
			}
		})
	}
}
