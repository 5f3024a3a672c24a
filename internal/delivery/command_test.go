package delivery

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"ksefmirror/db"
)

// asHook as the first argument makes this test binary a command that is told of
// new invoices; the next says how it behaves.
const asHook = "as-a-hook"

func hook(args []string) {
	switch args[0] {
	case "record": // what it gets
		out, err := os.OpenFile(args[1], os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			os.Exit(1)
		}
		folder, _ := os.Getwd()
		_, _ = fmt.Fprintln(out, folder)
		_, _ = fmt.Fprintln(out, strings.Join(os.Environ(), "\x00"))
		_, _ = io.Copy(out, os.Stdin)
		_ = out.Close()
	case "fail":
		fmt.Println("first line")
		fmt.Print("the ERP is closed\x1b[31m\n\n")
		os.Exit(7)
	case "deaf": // reads nothing
	case "noisy":
		for range 1 << 10 {
			fmt.Println(strings.Repeat("noise ", 1<<10))
		}
		fmt.Println("the end")
	case "leave": // something that goes on, with the output open
		child := exec.Command(os.Args[0], asHook, "connect", args[1])
		child.Stdout = os.Stdout
		if err := child.Start(); err != nil {
			os.Exit(1)
		}
	case "hang": // and what it has started too
		child := exec.Command(os.Args[0], asHook, "connect", args[1])
		child.Stdout = os.Stdout
		if err := child.Start(); err != nil {
			os.Exit(1)
		}
		fmt.Println("working")
		connect(args[1])
	case "connect":
		connect(args[1])
	}
	os.Exit(0)
}

// connect holds a connection open until its other end closes it.
func connect(address string) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		os.Exit(1)
	}
	_, _ = io.Copy(io.Discard, conn)
}

func newCommand(t *testing.T, args ...string) *Command {
	t.Helper()
	return &Command{Args: append([]string{os.Args[0], asHook}, args...), Dir: t.TempDir(), Folder: "/invoices", Timeout: time.Minute, Log: discard()}
}

func oneInvoice() Batch {
	return Batch{Source: testSource, ID: "0123", Count: 1, ByRole: map[string]int{"buyer": 1}, Invoices: []db.NewInvoice{
		{KSeFNumber: number(1), Roles: []string{"buyer"}, Path: "purchases/2026/11/1.xml", SellerName: "Żaba", Currency: "PLN"},
	}}
}

// The command gets a line of JSON for each invoice, and nothing of the service's
// environment that could be a secret.
func TestCommand(t *testing.T) {
	t.Setenv("ACME_TOKEN", "canary")
	t.Setenv("CREDENTIALS_DIRECTORY", "/run/canary")
	t.Setenv("NOTIFY_SOCKET", "/run/canary")
	s := newStore(t, CommandName)
	store(t, s, 1, 3)
	record := filepath.Join(t.TempDir(), "record")
	command := newCommand(t, "record", record)
	if result := New(s, testSource, []Receiver{command}, discard(), nil).Deliver(t.Context(), time.Time{}); result[0].Err != nil || result[0].Delivered != 3 {
		t.Fatalf("got %+v", result)
	}
	content, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	if len(lines) != 5 {
		t.Fatalf("it got\n%s", content)
	}
	want, _ := filepath.EvalSymlinks(command.Dir)
	if got, _ := filepath.EvalSymlinks(lines[0]); got != want {
		t.Errorf("it ran in %s, not in %s", lines[0], command.Dir)
	}
	if strings.Contains(lines[1], "canary") {
		t.Errorf("its environment is %q", lines[1])
	}
	environment := strings.Split(lines[1], "\x00")
	for _, want := range []string{"KSEFMIRROR_MIRROR=acme", "KSEFMIRROR_ENVIRONMENT=test", "KSEFMIRROR_CONTEXT=nip:5265877635", "KSEFMIRROR_INVOICES=/invoices"} {
		if !slices.Contains(environment, want) {
			t.Errorf("no %s in its environment", want)
		}
	}
	for i, line := range lines[2:] {
		var invoice invoiceMessage
		if err := json.Unmarshal([]byte(line), &invoice); err != nil || invoice.KSeFNumber != number(i+1) || invoice.Mirror != "acme" {
			t.Errorf("line %d: %v: %s", i, err, line)
		}
	}
}

func TestCommandInTrouble(t *testing.T) {
	for name, test := range map[string]struct {
		change func(c *Command)
		want   string // "": it has taken them
	}{
		"fails":     {func(c *Command) { c.Args = append(c.Args, "fail") }, "exit status 7: the ERP is closed [31m"},
		"deaf":      {func(c *Command) { c.Args = append(c.Args, "deaf") }, ""},
		"noisy":     {func(c *Command) { c.Args = append(c.Args, "noisy") }, ""},
		"not there": {func(c *Command) { c.Args[0] = filepath.Join(c.Dir, "none") }, "none"},
	} {
		t.Run(name, func(t *testing.T) {
			command := newCommand(t)
			test.change(command)
			batch := oneInvoice()
			// Far more than a pipe holds.
			batch.Invoices = slices.Repeat(batch.Invoices, 1000)
			err := command.Take(t.Context(), batch)
			switch {
			case test.want == "" && err != nil:
				t.Error(err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

// listen gives the address of a listener, and a function that accepts.
func listen(t *testing.T) (address string, accept func() net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener.Addr().String(), func() net.Conn {
		conn, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
}

// When a command takes too long, or the mirror is closed, it is killed with what
// it has started.
func TestCommandIsKilled(t *testing.T) {
	t.Parallel()
	address, accept := listen(t)
	command := newCommand(t, "hang", address)
	batch := oneInvoice()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- command.Take(ctx, batch) }()
	conns := []net.Conn{accept(), accept()}
	cancel()
	if err := <-ended; err == nil {
		t.Error("no error")
	}
	for _, conn := range conns {
		// A process that lives holds its end open.
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := conn.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
			t.Errorf("a process was left: %v", err)
		}
	}
	command = newCommand(t, "connect", address)
	command.Timeout = time.Second
	if err := command.Take(t.Context(), batch); err == nil || err.Error() != "it was killed as it had not ended within 1s" {
		t.Errorf("got %v", err)
	}
}

// What the command leaves behind, with its output open, is not waited for.
func TestCommandLeavesSomething(t *testing.T) {
	t.Parallel()
	address, accept := listen(t)
	if err := newCommand(t, "leave", address).Take(t.Context(), oneInvoice()); err != nil {
		t.Error(err)
	}
	accept().Close() // and it ends
}

func TestEnvironment(t *testing.T) {
	all := []string{"PATH=/bin", "LC_ALL=pl_PL.UTF-8", "HOME=/x", "ACME_TOKEN=1", "HTTPS_PROXY=http://u:p@h", "PATHS=1", "=C:=C:\\", "SystemRoot=C:\\Windows"}
	want := []string{"PATH=/bin", "LC_ALL=pl_PL.UTF-8", "HOME=/x"}
	if runtime.GOOS == "windows" {
		want = []string{"PATH=/bin", "HOME=/x", "SystemRoot=C:\\Windows"}
	}
	if got := environment(all); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestLastLine(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "\n\n": "", "one": "one", "one\ntwo\r\n": "two", strings.Repeat("x", 10<<10): strings.Repeat("x", maxReason),
	} {
		var end tail
		for _, part := range slices.Collect(slices.Chunk([]byte(text), 3000)) {
			if n, err := end.Write(part); n != len(part) || err != nil {
				t.Fatal(n, err)
			}
		}
		if got := end.lastLine(); got != want {
			t.Errorf("%.20q: got %.20q", text, got)
		}
		if len(end.kept) > lastWords {
			t.Errorf("%d bytes are kept", len(end.kept))
		}
	}
}

// addRole has an invoice listed in another role too.
func addRole(t testing.TB, s *db.DB, n int, role string) {
	t.Helper()
	if err := s.Commit(t.Context(), db.Batch{Role: role, Seen: []string{number(n)}}); err != nil {
		t.Fatal(err)
	}
}
