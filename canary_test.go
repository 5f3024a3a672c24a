package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"database/sql"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"software.sslmate.com/src/go-pkcs12"

	"ksefmirror/db"
	"ksefmirror/internal/health"
	"ksefmirror/internal/ksefsim"
)

// canaries are the secrets of a test, in every form in which they could show.
type canaries struct {
	mu    sync.Mutex
	forms map[string]int // how many of each kind of secret
	// byStart finds the forms that may begin at a byte by the eight from there on,
	// and begins, by a hash of the eight, whether any does: thousands of files are
	// searched for thousands of forms, in one pass each.
	byStart map[uint64][]canary
	begins  [1 << 20 / 64]uint64
}

// canary is one form of a secret.
type canary struct {
	what string
	form []byte
}

// startOf gives the first eight bytes of text as a number, and their bit in
// [canaries.begins].
func startOf(text []byte) (start uint64, word, bit uint64) {
	start = binary.LittleEndian.Uint64(text)
	hash := start * 0x9E3779B97F4A7C15 >> 44 // 20 bits
	return start, hash / 64, 1 << (hash % 64)
}

// plant adds a secret. One shorter than 16 bytes would be found by chance.
func (c *canaries) plant(what string, secret []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.forms == nil {
		c.forms, c.byStart = map[string]int{}, map[uint64][]canary{}
	}
	if len(secret) < 16 {
		panic("a canary that short would be found by chance")
	}
	escaped, _ := json.Marshal(string(secret)) // a string always encodes
	add := func(forms ...[]byte) {
		for _, form := range forms {
			start, word, bit := startOf(form)
			if slices.ContainsFunc(c.byStart[start], func(each canary) bool { return bytes.Equal(each.form, form) }) {
				continue
			}
			c.forms[what]++
			c.byStart[start] = append(c.byStart[start], canary{what, form})
			c.begins[word] |= bit
		}
	}
	add(secret, bytes.Trim(escaped, `"`),
		[]byte(hex.EncodeToString(secret)), []byte(strings.ToUpper(hex.EncodeToString(secret))),
		bytes.Trim(fmt.Append(nil, secret), "[]"),      // as fmt prints bytes
		[]byte(new(big.Int).SetBytes(secret).String()), // and numbers
		[]byte(url.QueryEscape(string(secret))), []byte(url.PathEscape(string(secret))))
	// In base64 it looks differently by where it begins within three bytes; the
	// characters that also depend on its neighbours are cut off.
	for before := range 3 {
		whole := append(make([]byte, before), secret...)
		for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			text := encoding.EncodeToString(whole)
			add([]byte(text[(before*8+5)/6 : len(whole)*8/6]))
		}
	}
}

// plantKey adds a private key: its number and its file.
func (c *canaries) plantKey(t testing.TB, what string, p pair) {
	t.Helper()
	switch key := p.key.(type) {
	case *ecdsa.PrivateKey:
		number, err := key.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		c.plant(what, number)
	case *rsa.PrivateKey:
		c.plant(what, key.D.Bytes())
		for _, prime := range key.Primes {
			c.plant(what, prime.Bytes())
		}
	}
	for line := range bytes.Lines(p.keyPEM(t)) {
		if len(line) > 20 && !bytes.HasPrefix(line, []byte("-----")) {
			c.plant(what, bytes.TrimSpace(line))
		}
	}
}

// look reports every secret that shows in text.
func (c *canaries) look(t testing.TB, where string, text []byte) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	found := map[string]bool{}
	for at := range max(0, len(text)-7) {
		start, word, bit := startOf(text[at:])
		if c.begins[word]&bit == 0 {
			continue
		}
		for _, each := range c.byStart[start] {
			if !found[each.what] && bytes.HasPrefix(text[at:], each.form) {
				found[each.what] = true
				t.Errorf("%s: %s shows, as %.12q…, after %q", where, each.what, each.form, text[max(0, at-80):at])
			}
		}
	}
}

// overhear plants what KSeF hands out: the tokens of sessions and the addresses
// of parts.
func (c *canaries) overhear(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		exports := strings.HasPrefix(r.URL.Path, "/v2/invoices/exports/")
		if !exports && !strings.HasPrefix(r.URL.Path, "/v2/auth/") {
			next.ServeHTTP(w, r)
			return
		}
		answer := httptest.NewRecorder()
		next.ServeHTTP(answer, r)
		var visit func(value any)
		visit = func(value any) {
			switch value := value.(type) {
			case []any:
				for _, each := range value {
					visit(each)
				}
			case map[string]any:
				for name, each := range value {
					if text, ok := each.(string); ok && name == "token" {
						c.plant("a session's token", []byte(text))
					} else if ok && name == "url" {
						address, _ := url.Parse(text)
						c.plant("the address of a part", []byte(text))
						c.plant("the signature of a part's address", []byte(address.Query().Get("sig")))
					}
					visit(each)
				}
			}
		}
		var body any
		if json.Unmarshal(answer.Body.Bytes(), &body) == nil {
			visit(body)
		}
		for name, values := range answer.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes())
	})
}

// echo answers as a gateway might that repeats the request in its error, in every
// field that the program reads.
func echo(path string, status int, kind string) ksefsim.Fault {
	return ksefsim.Fault{Path: path, Do: func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		body, _ := io.ReadAll(r.Body)
		said := strconv.Quote(fmt.Sprintf("%s %s %s", r.URL, r.Header.Get("Authorization"), body))
		w.Header().Set("Content-Type", kind)
		w.Header().Set("X-System-Warning", r.Header.Get("Authorization"))
		w.WriteHeader(status)
		if kind == "text/html" {
			_, _ = fmt.Fprintf(w, "<html><title>%s</title></html>", said)
			return
		}
		_, _ = fmt.Fprintf(w, `{"title":%s,"detail":%[1]s,"reasonCode":%[1]s,"traceId":%[1]s,"errors":[{"code":21405,"description":%[1]s,"details":[%[1]s]}]}`, said)
	}}
}

// rows gives every value of every table of a database.
func rows(t *testing.T, path string) []byte {
	t.Helper()
	dsn, err := db.ReaderDSN(path)
	if err != nil {
		t.Fatal(err)
	}
	reader, err := sql.Open("sqlite", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }() // it only read
	var all bytes.Buffer
	query := func(text string, row func(values []any)) {
		found, err := reader.QueryContext(t.Context(), text)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = found.Close() }()
		columns, err := found.Columns()
		if err != nil {
			t.Fatal(err)
		}
		for found.Next() {
			values := make([]any, len(columns))
			pointers := make([]any, len(columns))
			for i := range values {
				pointers[i] = &values[i]
			}
			if err := found.Scan(pointers...); err != nil {
				t.Fatal(err)
			}
			row(values)
		}
		if err := found.Err(); err != nil {
			t.Fatal(err)
		}
	}
	var tables []string
	query(`SELECT name FROM sqlite_schema WHERE type = 'table'`, func(values []any) { tables = append(tables, values[0].(string)) })
	if !slices.Contains(tables, "exports") || !slices.Contains(tables, "invoices") {
		t.Fatalf("the tables are %q", tables)
	}
	for _, table := range tables {
		query("SELECT * FROM "+table, func(values []any) {
			for _, value := range values {
				if blob, ok := value.([]byte); ok {
					all.Write(blob)
				} else {
					fmt.Fprint(&all, value)
				}
				all.WriteByte('\n')
			}
		})
	}
	return all.Bytes()
}

// lookAround searches the folder, but for the files that hold the secrets
// themselves: the configuration, and everything a mirror wrote, byte for byte.
func (p *place) lookAround(c *canaries, when string) {
	p.t.Helper()
	files := 0
	err := filepath.WalkDir(p.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if entry.Name() == "secrets" {
				return fs.SkipDir
			}
			return nil
		}
		c.look(p.t, when+": "+path, []byte(path))
		if !entry.Type().IsRegular() {
			return nil // the daemon's socket
		}
		content, err := os.ReadFile(path) // #nosec G304 -- a file of the test's own folder
		if err != nil {
			return err
		}
		files++
		c.look(p.t, when+": "+path, content)
		return nil
	})
	if err != nil {
		p.t.Fatal(err)
	}
	if files < 3 {
		p.t.Errorf("%s: only %d files were searched", when, files)
	}
}

// saying runs the program and searches all that it prints.
func (p *place) saying(c *canaries, code int, args ...string) {
	p.t.Helper()
	cmd := p.command(args...)
	out, _ := cmd.CombinedOutput() // the exit code says it
	if got := cmd.ProcessState.ExitCode(); got != code {
		p.t.Errorf("%q: exit %d, want %d\n%s", args, got, code, out)
	}
	c.look(p.t, strings.Join(args, " "), out)
}

const debugLog = "[log]\nlevel = \"debug\"\n"

// newCanaryPlace is a place with a simulator whose secrets are planted as KSeF hands
// them out, and the keys of exports as they are made. The token is at hand; there is
// no configuration yet. exporting, if not nil, is called whenever an export is asked
// after.
func newCanaryPlace(t *testing.T, exporting func(*http.Request)) (*place, *canaries) {
	t.Helper()
	c := new(canaries)
	c.plant("the KSeF token", []byte(secretToken))
	var p *place
	p = newSimulator(t, ksefsim.Options{}, func(next http.Handler) http.Handler {
		overheard := c.overhear(next)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/v2/invoices/exports/") {
				for _, key := range exportKeys(t, p.database()) {
					c.plant("the key of an export", key)
				}
				if exporting != nil {
					exporting(r)
				}
			}
			overheard.ServeHTTP(w, r)
		})
	})
	p.sim.AddToken(company, secretToken)
	p.put("secrets/acme.token", []byte(secretToken))
	return p, c
}

func (p *place) database() string {
	return filepath.Join(p.dir, "data", "acme", "database", "invoices.db")
}

// quit ends the daemon by SIGQUIT, at which Go prints every goroutine, as it does at a
// panic, and gives all that it has said.
func (d *daemon) quit() string {
	d.t.Helper()
	if err := d.process.Process.Signal(syscall.SIGQUIT); err != nil {
		d.t.Fatal(err)
	}
	for d.lines.Scan() {
		d.log.WriteString(d.lines.Text() + "\n")
	}
	_ = d.process.Wait() // it was killed
	if !strings.Contains(d.log.String(), "goroutine ") {
		d.t.Errorf("no goroutines in\n%s", d.log.String())
	}
	return d.log.String()
}

// wantPlanted fails for what was never planted, and so cannot have been found.
func (c *canaries) wantPlanted(t *testing.T, what ...string) {
	t.Helper()
	for _, each := range what {
		if c.forms[each] == 0 {
			t.Errorf("%s was never planted", each)
		}
	}
}

// pingSecret is in the address that a service such as healthchecks.io has given.
const pingSecret = "canary-in-the-address-of-pings"

const byToken = `token = "file:secrets/acme.token"`

// No secret shows anywhere but in its own file, in whatever form: not in what the
// program prints and logs, at any level and whatever goes wrong, not in the
// database, of which also the raw bytes count, not in the tree, not in the list
// of processes. Here it works as it should, until it is killed; the tests after this
// one are about errors, mistakes and keys.
//
// The key of an export is in the database while the export is in flight: without
// it a process that finds the export after a crash could not open its package.
// Then it is gone from the file too.
func TestCanary(t *testing.T) {
	t.Parallel()
	inFlight, goOn := make(chan struct{}, 1), make(chan struct{})
	var hold sync.Once
	p, c := newCanaryPlace(t, func(r *http.Request) {
		hold.Do(func() {
			inFlight <- struct{}{}
			select {
			case <-goOn:
			case <-r.Context().Done():
			}
		})
	})
	p.generate(400) // a package for each role
	c.plant("the address of pings", []byte(pingSecret))
	// It repeats the address to whoever asks, and accepts nothing.
	pings := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", r.URL.Path)
		w.WriteHeader(http.StatusFound)
	}))
	defer pings.Close()
	address := freeAddress(t)

	// The configuration that it writes, and a daemon with the token, killed by SIGQUIT
	// in the middle of an export: Go prints every goroutine then, as it does at a panic.
	init := p.command("config", "init", "--name", "acme", "--environment", "test", "--context", "nip:"+company.Value, "--api-url", p.url, "--token-file", "-")
	init.Stdin = strings.NewReader(secretToken + "\n")
	if err := os.Remove(filepath.Join(p.dir, "secrets", "acme.token")); err != nil {
		t.Fatal(err)
	}
	out, err := init.CombinedOutput()
	if err != nil {
		t.Fatalf("config init: %v\n%s", err, out)
	}
	c.look(t, "config init", out)
	p.lookAroundFile(c, "config.toml")
	p.put("secrets/acme.ping", []byte(pings.URL+"/"+pingSecret))
	table := strings.Replace(p.table("acme", company.Value, byToken), "interval", "ping_url = \"file:secrets/acme.ping\"\ninterval", 1)
	p.put("config.toml", []byte(fmt.Sprintf("metrics = %q\n", address)+debugLog+table))

	if runtime.GOOS != "windows" {
		d := p.daemon()
		d.until(`"op":"start an export"`) // or it has ended
		<-inFlight
		if runtime.GOOS == "linux" {
			for _, name := range []string{"cmdline", "environ"} {
				about, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", d.process.Process.Pid, name))
				if err != nil || len(about) == 0 {
					t.Errorf("%s: %q, %v", name, about, err)
				}
				c.look(t, name, about)
			}
			children, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", d.process.Process.Pid))
			if err != nil || len(children) == 0 {
				t.Errorf("children: %q, %v", children, err)
			}
			for _, path := range children {
				if list, err := os.ReadFile(path); err == nil && len(list) > 0 { // #nosec G304 -- of /proc
					t.Errorf("the program has started other processes: %s", list)
				}
			}
		}
		c.look(t, "log and goroutines", []byte(d.quit()))
		close(goOn)

		// The next daemon takes the export up. It is still running when its files are
		// searched: nothing may wait for a restart to be gone.
		d = p.daemon()
		for range 2 {
			for _, role := range []string{"seller", "buyer", "third_party", "authorized"} {
				d.until("cycle done", `"ok":true`, role)
			}
		}
		if keys := exportKeys(t, p.database()); len(keys) > 0 {
			t.Errorf("%d exports are still in flight", len(keys))
		}
		p.eventually("STATUS file", func() bool {
			_, err := os.Stat(filepath.Join(p.dir, "data", "acme", health.FileName))
			return err == nil
		})
		p.lookAround(c, "while the daemon runs")
		metrics := p.get("http://" + address + "/metrics")
		if !strings.Contains(metrics, "ksefmirror_invoices") {
			t.Errorf("the metrics are\n%s", metrics)
		}
		c.look(t, "metrics", []byte(metrics))
		said := d.stop()
		if !strings.Contains(said, `"event":123`) {
			t.Errorf("no ping was refused:\n%s", said)
		}
		c.look(t, "log", []byte(said))
		p.lookAround(c, "after the daemon")
	}

	// What shows it to people. Tokens end soon, which is said; on test nobody has to
	// look.
	p.saying(c, 0, "sync")
	p.saying(c, 0, "status")
	p.saying(c, 0, "status", "--json")
	p.saying(c, 0, "verify")
	p.saying(c, 0, "config", "check")
	p.saying(c, 0, "doctor", "--login")
	c.look(t, "tables", rows(t, p.database()))
	c.wantPlanted(t, "the KSeF token", "a session's token", "the address of a part", "the signature of a part's address")
	if runtime.GOOS != "windows" {
		c.wantPlanted(t, "the key of an export")
	}
}

// Errors that repeat what was sent.
func TestCanaryInErrors(t *testing.T) {
	long(t)
	t.Parallel()
	for name, fault := range map[string]ksefsim.Fault{
		"all bad request": echo("", http.StatusBadRequest, "application/problem+json"), "all forbidden": echo("", http.StatusForbidden, "application/problem+json"),
		"forbidden": echo("/invoices/*/*", http.StatusForbidden, "application/problem+json"), "server error": echo("/invoices/*/*", http.StatusInternalServerError, "application/json"),
		"unauthorized": echo("/invoices/*/*", http.StatusUnauthorized, "application/problem+json"), "wrong answer": echo("/invoices/*/*", http.StatusOK, "application/json"),
		"gateway": echo("/invoices/*/*", http.StatusBadGateway, "text/html"),
		"redeem":  echo("/auth/token/redeem", http.StatusBadRequest, "application/problem+json"),
		"token where its end should be": ksefsim.RewriteJSON("/auth/token/redeem", 0, func(answer map[string]any) {
			pair, _ := answer["accessToken"].(map[string]any)
			pair["validUntil"] = pair["token"]
		}),
		"part cut off": ksefsim.Reset(ksefsim.PartPath, 0), "part forbidden": echo(ksefsim.PartPath, http.StatusForbidden, "text/html"),
		"part gateway": echo(ksefsim.PartPath, http.StatusBadGateway, "application/json"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, c := newCanaryPlace(t, nil)
			p.put("config.toml", []byte(debugLog+p.table("acme", company.Value, byToken)))
			p.generate(1)
			p.saying(c, 0, "sync")
			p.add(ksefsim.GenerateOptions{Count: 100, Context: company, Seed: 1000}) // packages for some roles
			p.sim.Fault(fault)
			cmd := p.command("sync")
			out, _ := cmd.CombinedOutput() // whatever it ends with
			c.look(t, "sync", out)
			p.sim.ClearFaults()
			if code := cmd.ProcessState.ExitCode(); code == 0 && fault.Path != ksefsim.PartPath { // those come one by one then
				t.Error("the fault went unnoticed")
			}
			out, _ = p.command("status", "--json").CombinedOutput() // by its exit code someone should look
			c.look(t, "status", out)
			c.look(t, "tables", rows(t, p.database()))
			c.wantPlanted(t, "a session's token")
			if fault.Path == ksefsim.PartPath {
				c.wantPlanted(t, "the address of a part", "the signature of a part's address", "the key of an export")
			}
		})
	}
}

// A certificate in every form, and every mistake with it.
func TestCanaryInCredentials(t *testing.T) {
	long(t)
	t.Parallel()
	const passphrase = "canary in the passphrase, żółta"
	p, c := newCanaryPlace(t, nil)
	c.plant("the passphrase", []byte(passphrase))
	c.plant("the address of pings", []byte(pingSecret))
	p.generate(3)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaPair := certify(t, key, pkix.Name{
		Country: []string{"PL"}, Organization: []string{"Firma"}, CommonName: "Firma",
		ExtraNames: []pkix.AttributeTypeAndValue{{Type: []int{2, 5, 4, 97}, Value: "VATPL-" + company.Value}},
	})
	ecPair := seal(t, company.Value)
	c.plantKey(t, "the EC key", ecPair)
	c.plantKey(t, "the RSA key", rsaPair)
	p.putPair("ec", ecPair)
	p12, err := pkcs12.Modern.Encode(rsaPair.key, rsaPair.certificate, nil, passphrase)
	if err != nil {
		t.Fatal(err)
	}
	p.put("secrets/rsa.p12", p12)
	p.put("secrets/passphrase", []byte(passphrase+"\n"))
	p.put("secrets/wrong-passphrase", []byte("another canary in a passphrase"))
	c.plant("the wrong passphrase", []byte("another canary in a passphrase"))
	damaged := bytes.Replace(ecPair.keyPEM(t), []byte("M"), []byte("!"), 1)
	p.put("secrets/damaged.key", damaged)
	sealed := "method = \"certificate\"\npkcs12 = \"file:secrets/rsa.p12\"\n"
	for _, test := range []struct {
		name, auth string
		code       int
	}{
		{"pair", byCertificate("ec"), 0},
		{"PKCS#12", sealed + `passphrase = "file:secrets/passphrase"`, 0},
		{"wrong passphrase", sealed + `passphrase = "file:secrets/wrong-passphrase"`, 2},
		{"passphrase itself", sealed + fmt.Sprintf("passphrase = %q", passphrase), 2},
		{"passphrase without quotes", sealed + "passphrase = " + passphrase, 2},
		{"passphrase of another type", sealed + fmt.Sprintf("passphrase = [%q]", passphrase), 2},
		{"key itself", "method = \"certificate\"\ncertificate = \"file:secrets/ec.crt\"\nprivate_key = \"\"\"\n" + string(ecPair.keyPEM(t)) + "\"\"\"", 2},
		{"damaged key", strings.Replace(byCertificate("ec"), "ec.key", "damaged.key", 1), 2},
		{"key as certificate", strings.Replace(byCertificate("ec"), "ec.crt", "ec.key", 1), 2},
		{"key as passphrase", sealed + `passphrase = "file:secrets/ec.key"`, 2},
		{"key as token", `token = "file:secrets/ec.key"`, 2},
		{"token itself", fmt.Sprintf("token = %q", secretToken), 2},
		{"token without quotes", "token = " + secretToken, 2},
		{"token as a method", fmt.Sprintf("method = %q", secretToken), 2},
		{"address of pings itself", byCertificate("ec") + fmt.Sprintf("[mirror.other]\nping_url = \"https://example.test/%s\"", pingSecret), 2},
	} {
		p.put("config.toml", []byte(debugLog+p.table("acme", company.Value, test.auth)))
		t.Log(test.name)
		p.saying(c, test.code, "config", "check")
		out, _ := p.command("sync").CombinedOutput() // it ends as config check or as the login
		c.look(t, test.name+": sync", out)
	}
	if runtime.GOOS != "windows" {
		address := freeAddress(t)
		p.put("config.toml", []byte(fmt.Sprintf("metrics = %q\n", address)+debugLog+p.table("acme", company.Value, sealed+`passphrase = "file:secrets/passphrase"`)))
		d := p.daemon()
		d.until("cycle done", `"ok":true`, `"authorized"`)
		metrics := ""
		p.eventually("metrics", func() bool {
			metrics = p.get("http://" + address + "/metrics")
			return strings.Contains(metrics, `ksefmirror_credential_end_timestamp_seconds{mirror="acme"}`)
		})
		c.look(t, "metrics", []byte(metrics))
		p.saying(c, 0, "status", "--json")
		c.look(t, "log and goroutines", []byte(d.quit()))
		c.look(t, "tables", rows(t, p.database()))
	}
	p.put("config.toml", []byte(p.table("acme", company.Value, byToken))) // not one that holds a secret by mistake
	p.lookAround(c, "at the end")
	c.wantPlanted(t, "the EC key", "the RSA key", "the passphrase", "a session's token")
}

// The commands that make keys, and those that ask KSeF about them.
func TestCanaryInCommands(t *testing.T) {
	long(t)
	t.Parallel()
	p, c := newCanaryPlace(t, nil)
	ecPair := seal(t, company.Value)
	c.plantKey(t, "the EC key", ecPair)
	p.putPair("ec", ecPair)
	p.put("config.toml", []byte(debugLog+p.table("acme", company.Value, byCertificate("ec"))))
	var said bytes.Buffer
	for _, args := range [][]string{{"enroll"}, {"test"}, {"list"}, {"logout"}, {"renew"}, {"self-signed"}} {
		cmd := p.command(append([]string{"auth"}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("auth %s: %v\n%s", args, err, out)
		}
		said.Write(out)
	}
	for _, name := range []string{"acme.key", "ec.key", "acme-ksef.key"} {
		content, err := os.ReadFile(filepath.Join(p.dir, "secrets", name))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(content)
		made, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		c.plantKey(t, "a key that was made", pair{key: made.(*ecdsa.PrivateKey)})
	}
	c.look(t, "the commands of auth", said.Bytes())
	p.lookAround(c, "at the end")
	c.look(t, "tables", rows(t, p.database()))
	c.wantPlanted(t, "the EC key", "a key that was made", "a session's token")
}

// lookAroundFile searches one file.
func (p *place) lookAroundFile(c *canaries, name string) {
	p.t.Helper()
	content, err := os.ReadFile(filepath.Join(p.dir, name))
	if err != nil {
		p.t.Fatal(err)
	}
	c.look(p.t, name, content)
}

// exportKeys gives the keys of the exports in flight.
func exportKeys(t *testing.T, database string) (keys [][]byte) {
	t.Helper()
	dsn, err := db.ReaderDSN(database)
	if err != nil {
		t.Fatal(err)
	}
	reader, err := sql.Open("sqlite", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }() // it only read
	found, err := reader.QueryContext(t.Context(), "SELECT key FROM exports")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = found.Close() }()
	for found.Next() {
		var key []byte
		if err := found.Scan(&key); err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	if err := found.Err(); err != nil {
		t.Fatal(err)
	}
	return keys
}

// The search finds a secret in every form; else the test above could not fail.
func TestCanaryIsFound(t *testing.T) {
	secret := []byte("20260101-EC-a-secret/with?odd+signs\x01\xfb\xff\xfe")
	var c canaries
	c.plant("it", secret)
	for name, text := range map[string]string{
		"as it is":             "before" + string(secret) + "after",
		"hexadecimal":          fmt.Sprintf("%x", secret),
		"capitals":             fmt.Sprintf("%X", secret),
		"bytes":                fmt.Sprintf("%v", secret),
		"number":               new(big.Int).SetBytes(secret).String(),
		"query":                url.Values{"a": {string(secret)}}.Encode(),
		"base64":               base64.StdEncoding.EncodeToString(secret),
		"base64 of more":       base64.StdEncoding.EncodeToString(append([]byte("1"), append(secret, "2"...)...)),
		"base64 of still more": base64.URLEncoding.EncodeToString(append([]byte("12"), append(secret, "34"...)...)),
	} {
		found := &counter{TB: t}
		c.look(found, name, []byte(text))
		if found.errors != 1 {
			t.Errorf("%s: it is not found in %q", name, text)
		}
	}
	found := &counter{TB: t}
	c.look(found, "nothing", []byte("20260101-EC-b"))
	if found.errors != 0 {
		t.Error("it is found where it is not")
	}
}

// counter counts what a test reports instead of failing.
type counter struct {
	testing.TB
	errors int
}

// Errorf counts.
func (c *counter) Errorf(string, ...any) { c.errors++ }
