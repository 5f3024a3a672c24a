package cli

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"ksefmirror/db"
	"ksefmirror/internal/config"
	"ksefmirror/internal/health"
	ksefsync "ksefmirror/sync"
)

// Receivers are told for as long as the mirror is open: also once the cycle or the
// command is over for which it was opened.
func TestReceiversOutliveWhatOpenedTheMirror(t *testing.T) {
	told := make(chan struct{}, 10)
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { told <- struct{}{} }))
	defer receiver.Close()
	t.Setenv("SIGNING_SECRET", "whsec_"+base64.StdEncoding.EncodeToString(make([]byte, 32)))
	m := config.Mirror{
		Name: "acme", Dir: t.TempDir(), Environment: "test", Context: config.Context{Type: "nip", Value: "5265877635"},
		Layout: "{date}", Roles: []string{"buyer"},
		Webhook: &config.Webhook{URL: receiver.URL, Secret: config.Reference{Scheme: "env", Name: "SIGNING_SECRET"}},
	}
	k := &keeper{log: slog.New(slog.DiscardHandler), ctx: t.Context(), loaded: &config.Config{}}
	ctx, end := context.WithCancel(t.Context())
	opened, err := k.opener(config.Backup{}, m, k.watcher(m))(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := opened.Close(); err != nil {
			t.Error(err)
		}
	}()
	end()
	mirror := opened.(telling)
	xml := []byte("<Faktura/>")
	sum := sha256.Sum256(xml)
	err = mirror.Mirror.(watched).Database().Commit(t.Context(), db.Batch{Role: "buyer", Invoices: []db.Invoice{{
		KSeFNumber: "7123306158-20261105-01638BEF74B6-AC", APIType: "Vat", StoredAt: time.Date(2026, 11, 5, 10, 0, 0, 0, time.UTC),
		ReceivedDate: "2026-11-05", Hash: base64.StdEncoding.EncodeToString(sum[:]), MetadataJSON: []byte("{}"), SellerNIP: "7123306158",
		IssueDate: "2026-11-05", Currency: "PLN", ParseStatus: "unsupported", Path: "x.xml", XML: xml, Role: "buyer",
	}}})
	if err != nil {
		t.Fatal(err)
	}
	mirror.sender.Wake()
	select {
	case <-told:
	case <-time.After(10 * time.Second):
		t.Error("nobody was told")
	}
}

// A mirror whose folder is gone is not made anew, also when its configuration has
// changed meanwhile.
func TestChangedMirrorIsNotMadeAnew(t *testing.T) {
	m := config.Mirror{
		Name: "acme", Dir: filepath.Join(t.TempDir(), "acme"), Environment: "test", Context: config.Context{Type: "nip", Value: "5265877635"},
		Layout: "{date}", Roles: []string{"buyer"},
	}
	k := &keeper{log: slog.New(slog.DiscardHandler), ctx: t.Context(), loaded: &config.Config{}}
	opened, err := k.opener(config.Backup{}, m, k.watcher(m))(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := opened.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(m.Dir, m.Dir+"-renamed"); err != nil {
		t.Fatal(err)
	}
	m.Interval = time.Hour
	if opened, err := k.opener(config.Backup{}, m, k.watcher(m))(t.Context()); err == nil {
		t.Error("it was made anew")
		_ = opened.Close()
	}
}

// Whoever was told that a cycle begins is told of its end also when quiet hours end it;
// not when the mirror is stopped, as what comes then is another's to tell. A cycle is not
// all that can fail.
func TestPings(t *testing.T) {
	pings := make(chan string, 10)
	waits := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { pings <- r.URL.Path }))
	defer waits.Close()
	t.Setenv("PING_URL", waits.URL+"/mirror")
	m := config.Mirror{
		Name: "acme", Dir: t.TempDir(), Environment: "test", Context: config.Context{Type: "nip", Value: "5265877635"},
		Layout: "{date}", Roles: []string{"buyer"}, PingURL: config.Reference{Scheme: "env", Name: "PING_URL"},
	}
	k := &keeper{log: slog.New(slog.DiscardHandler), ctx: t.Context(), loaded: &config.Config{}, looks: health.NewTurns()}
	watcher := k.watcher(m)
	opened, err := k.opener(config.Backup{}, m, watcher)(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := opened.Close(); err != nil {
			t.Error(err)
		}
	}()
	ctx, end := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() { watcher.Run(ctx) })
	defer watching.Wait()
	defer end()
	stopped, stop := context.WithCancel(t.Context())
	stop()
	quiet, begin := context.WithTimeout(t.Context(), 0)
	defer begin()
	for _, ctx := range []context.Context{stopped, quiet} {
		if _, err := opened.Cycle(ctx); err == nil {
			t.Error("it was not stopped")
		}
	}
	if err := os.Rename(ksefsync.InvoicesDir(m.Dir), filepath.Join(m.Dir, "unmounted")); err != nil {
		t.Fatal(err)
	}
	if err := opened.AuditDue(t.Context(), time.Now()); err == nil {
		t.Error("a folder that is gone was audited")
	}
	for _, want := range []string{"/mirror/start", "/mirror/start", "/mirror", "/mirror/fail"} {
		select {
		case got := <-pings:
			if got != want {
				t.Errorf("ping %s, want %s", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no ping %s", want)
		}
	}
}
