package cli

import (
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ksefmirror/internal/config"
	"ksefmirror/internal/delivery"
)

// What the configuration says of the receivers is what they do, and the database
// is told of just these.
func TestReceiversOfAMirror(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	m := config.Mirror{
		Name: "acme", Dir: "/data/acme", Layout: "{date}",
		Command: &config.Command{Run: []string{"/bin/tell", "x"}, Timeout: time.Minute},
		Webhook: &config.Webhook{URL: "https://example.test/in"},
		Digest: &config.Digest{To: []string{"anna@example.test"}, Hour: 6, Minute: 5, Mail: &config.Mail{
			Server: "smtp.example.test:465", User: "robot", From: "robot@example.test",
		}},
	}
	all, err := receivers(m, log)
	if err != nil || len(all) != 3 {
		t.Fatalf("got %v, %v", all, err)
	}
	command, webhook, digest := all[0].(*delivery.Command), all[1].(*delivery.Webhook), all[2].(*delivery.Digest)
	if diff := cmp.Diff([]string{"/bin/tell", "x"}, command.Args); diff != "" || command.Timeout != time.Minute || command.Dir != m.Dir {
		t.Errorf("got %+v", command)
	}
	if webhook.URL != m.Webhook.URL || webhook.UserAgent != userAgent() {
		t.Errorf("got %+v", webhook)
	}
	if digest.Server != "smtp.example.test:465" || digest.Security != delivery.TLSFirst || digest.From != "robot@example.test" || digest.User != "robot" ||
		digest.Hour != 6 || digest.Minute != 5 || digest.Zone.String() != "Europe/Warsaw" || len(digest.To) != 1 {
		t.Errorf("got %+v", digest)
	}
	o, err := options(m, log)
	if diff := cmp.Diff([]string{"command", "webhook", "digest"}, o.Receivers); err != nil || diff != "" {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}
	if o, err := options(config.Mirror{Layout: "{date}"}, log); err != nil || o.Receivers == nil || len(o.Receivers) != 0 {
		t.Errorf("without any: %v, %v", o.Receivers, err)
	}
}
