package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ksefmirror/internal/ksefsim"
)

// asHook as the first argument makes this test binary a command that is told of
// new invoices: it adds what it gets to the file that follows, and its environment.
const asHook = "as-a-hook"

func hook(args []string) {
	out, err := os.OpenFile(args[0], os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		os.Exit(1)
	}
	_, _ = fmt.Fprintf(out, "# %q\n", os.Environ())
	if _, err := io.Copy(out, os.Stdin); err != nil {
		os.Exit(1)
	}
	fmt.Println("printed by the command", os.Environ())
	_ = out.Close()
	if len(args) > 1 { // it hangs
		<-time.After(time.Hour)
	}
	os.Exit(0)
}

// toldInvoice is what the tests read of what a receiver is told.
type toldInvoice struct {
	Mirror     string   `json:"mirror"`
	KSeFNumber string   `json:"ksef_number"`
	Roles      []string `json:"roles"`
	Path       string   `json:"path"`
	Gross      string   `json:"gross"`
}

// check says what does not hold for all invoices of a mirror that some receiver
// was told of: each file is there, and KSeF has no invoice but these.
func (p *place) check(receiver string, told []toldInvoice) {
	p.t.Helper()
	seen := map[string]bool{}
	for _, invoice := range told {
		seen[invoice.KSeFNumber] = true
		if _, err := os.Stat(filepath.Join(p.dir, "data", "acme", "invoices", filepath.FromSlash(invoice.Path))); err != nil || !strings.Contains(invoice.Path, invoice.KSeFNumber) {
			p.t.Errorf("%s: the file of %s: %v", receiver, invoice.KSeFNumber, err)
		}
		if invoice.Mirror != "acme" || len(invoice.Roles) == 0 || invoice.Gross == "" {
			p.t.Errorf("%s: got %+v", receiver, invoice)
		}
	}
	files, err := filepath.Glob(filepath.Join(p.dir, "data", "acme", "invoices", "*", "*", "*", "*.xml"))
	if err != nil || len(files) == 0 || len(files) != len(seen) {
		p.t.Errorf("%s: told of %d invoices of %d (%v)", receiver, len(seen), len(files), err)
	}
}

// recorded gives what the command was told.
func (p *place) recorded(c *canaries) (told []toldInvoice) {
	p.t.Helper()
	content, err := os.ReadFile(filepath.Join(p.dir, "record"))
	if err != nil {
		p.t.Fatal(err)
	}
	c.look(p.t, "what the command gets", content)
	for line := range strings.Lines(string(content)) {
		var invoice toldInvoice
		if strings.HasPrefix(line, "#") {
			continue
		}
		if err := json.Unmarshal([]byte(line), &invoice); err != nil {
			p.t.Fatalf("%v: %s", err, line)
		}
		told = append(told, invoice)
	}
	return told
}

// The receivers of new invoices, as users have them: told by sync and by the
// daemon; a receiver that fails or hangs holds up neither the mirror nor the other,
// and is told of everything once it is well; no secret of theirs shows anywhere.
func TestReceivers(t *testing.T) {
	var c canaries
	key := []byte("canary in the secret of a webhook")
	secret := "whsec_" + base64.StdEncoding.EncodeToString(key)
	const hidden = "canary-in-the-address-of-a-webhook"
	c.plant("the secret of the webhook", key)
	c.plant("the secret of the webhook as it is written", []byte(secret))
	c.plant("the address of the webhook", []byte(hidden))
	c.plant("the KSeF token", []byte(secretToken))

	var mu sync.Mutex
	var told []toldInvoice
	status, hang, asked := http.StatusOK, make(chan struct{}), make(chan struct{}, 100)
	close(hang)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mac := hmac.New(sha256.New, key)
		_, _ = fmt.Fprintf(mac, "%s.%s.%s", r.Header.Get("Webhook-Id"), r.Header.Get("Webhook-Timestamp"), body)
		if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); r.Header.Get("Webhook-Signature") != want {
			t.Errorf("signed with %s, want %s", r.Header.Get("Webhook-Signature"), want)
		}
		var message struct {
			Data struct {
				Invoices []toldInvoice `json:"invoices"`
			} `json:"data"`
		}
		if err := json.Unmarshal(body, &message); err != nil {
			t.Error(err)
		}
		mu.Lock()
		code, wait := status, hang
		mu.Unlock()
		asked <- struct{}{}
		select {
		case <-wait:
		case <-r.Context().Done():
			return
		}
		if code == http.StatusOK {
			mu.Lock()
			told = append(told, message.Data.Invoices...)
			mu.Unlock()
		}
		w.Header().Set("X-Echo", r.URL.String())
		w.WriteHeader(code)
		_, _ = fmt.Fprint(w, r.URL, r.Header, code)
	}))
	defer receiver.Close()
	answer := func(code int, until chan struct{}) {
		mu.Lock()
		defer mu.Unlock()
		status, hang = code, until
	}

	p := newSimulator(t, ksefsim.Options{}, nil)
	p.sim.AddToken(company, secretToken)
	p.put("secrets/acme.token", []byte(secretToken))
	p.put("secrets/acme.webhook", []byte(secret+"\n"))
	t.Setenv("ACME_TOKEN", secretToken) // as for env:
	configure := func(webhook string, command ...string) {
		t.Helper()
		text := debugLog + p.table("acme", company.Value, `token = "file:secrets/acme.token"`) + "[mirror.acme.webhook]\n" + webhook
		if len(command) > 0 {
			run, _ := json.Marshal(append([]string{os.Args[0], asHook}, command...)) // TOML writes it alike
			text += fmt.Sprintf("[mirror.acme.command]\nrun = %s\n", run)
		}
		p.put("config.toml", []byte(text))
	}
	record := filepath.Join(p.dir, "record")
	webhook := fmt.Sprintf("url = %q\nsecret = \"file:secrets/acme.webhook\"\n", receiver.URL+"/in?key="+hidden)

	// 1. By hand.
	configure(webhook, record)
	p.saying(&c, 0, "config", "check")
	p.add(ksefsim.GenerateOptions{Count: 10, Context: company, Seed: 1})
	out := p.want(0, []string{"acme: told the webhook of 10 new invoices", "acme: told the command of 10 new invoices"}, "sync")
	c.look(t, "sync", []byte(out))
	p.check("webhook", told)
	p.check("command", p.recorded(&c))
	if out := p.want(0, nil, "sync"); strings.Contains(out, "told the") {
		t.Errorf("told again:\n%s", out)
	}
	answer(http.StatusInternalServerError, hang)
	p.add(ksefsim.GenerateOptions{Count: 2, Context: company, Seed: 2})
	out = p.want(0, []string{"told the command of 2", "acme: the webhook could not be told of new invoices, which is tried again: it answered 500"}, "sync")
	c.look(t, "sync", []byte(out))
	p.want(1, []string{"the webhook is behind by 2 invoices: it answered 500"}, "status")

	// 2. Mistakes.
	for name, wrong := range map[string]string{
		"secret itself":        fmt.Sprintf("url = %q\nsecret = %q\n", receiver.URL, secret),
		"secret as address":    fmt.Sprintf("url = %q\nsecret = \"file:secrets/acme.webhook\"\n", secret),
		"no TLS":               fmt.Sprintf("url = \"http://example.com/?key=%s\"\nsecret = \"file:secrets/acme.webhook\"\n", hidden),
		"a user":               fmt.Sprintf("url = \"https://user:%s@example.com/\"\nsecret = \"file:secrets/acme.webhook\"\n", hidden),
		"not a signing secret": strings.Replace(webhook, "acme.webhook", "acme.token", 1),
		"nothing there":        strings.Replace(webhook, "acme.webhook", "none", 1),
	} {
		configure(wrong)
		t.Log(name)
		p.saying(&c, 2, "config", "check")
	}

	// 3. The daemon, whose receivers both hang.
	if testing.Short() {
		return
	}
	never := make(chan struct{})
	answer(http.StatusOK, never)
	configure(webhook, record, "hang")
	for len(asked) > 0 {
		<-asked
	}
	d := p.daemon()
	<-asked
	p.add(ksefsim.GenerateOptions{Count: 3, Context: company, Seed: 3})
	for mirrored := 0; mirrored < 15; _, mirrored = p.watermarks() {
		d.until(`"msg":"cycle done"`) // and the next, unless a receiver holds the mirror up
	}
	began := time.Now()
	c.look(t, "daemon", []byte(d.stop()))
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s to stop", took)
	}
	if len(told) != 10 {
		t.Errorf("the webhook has taken %d", len(told))
	}

	// 4. They are well again.
	close(never)
	configure(webhook, record)
	d = p.daemon()
	d.until(`"msg":"told of new invoices"`, `"receiver":"webhook"`)
	p.add(ksefsim.GenerateOptions{Count: 1, Context: company, Seed: 9})
	d.until(`"msg":"told of new invoices"`, `"receiver":"webhook"`)
	c.look(t, "daemon", []byte(d.stop()))
	p.want(0, nil, "sync") // the daemon need not have told the command yet
	mu.Lock()
	defer mu.Unlock()
	p.check("webhook", told)
	p.check("command", p.recorded(&c))
	// Nothing was told twice to the one that did not take it before it answered.
	numbers := map[string]int{}
	for _, invoice := range told {
		numbers[invoice.KSeFNumber]++
	}
	if len(numbers) != len(told) {
		t.Errorf("told of %d invoices %d times", len(numbers), len(told))
	}
	p.want(0, []string{"acme: in order"}, "status")
	p.put("config.toml", nil) // where the address is
	p.lookAround(&c, "at the end")
	c.look(t, "tables", rows(t, filepath.Join(p.dir, "data", "acme", "database", "invoices.db")))
	if !slices.ContainsFunc(told, func(i toldInvoice) bool { return slices.Contains(i.Roles, "seller") }) {
		t.Error("no sale among them")
	}
}
