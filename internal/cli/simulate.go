package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ksefmirror/internal/config"
	"ksefmirror/internal/ksef"
	"ksefmirror/internal/ksefsim"
)

// simulated says what a simulator holds.
type simulated struct {
	listen      string
	context     string
	token       string
	invoices    string
	generate    int
	span        string
	seed        uint64
	limits      string
	lag         time.Duration
	partSize    int
	adminFaults bool
}

func (c *command) simulate() *cobra.Command {
	var s simulated
	cmd := &cobra.Command{
		Use:   "simulate",
		Short: "Serve a KSeF of your own, to try the program without the real one",
		Long: `Serves a simulated KSeF on this machine, with invoices from a folder or generated
ones, and prints a configuration that mirrors them. Nothing is sent anywhere.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.serveSimulator(cmd.Context(), s) },
	}
	flags := cmd.Flags()
	flags.StringVar(&s.listen, "listen", "127.0.0.1:8089", "`address` to listen on")
	flags.StringVar(&s.context, "context", "nip:5265877635", "whose invoices they are")
	flags.StringVar(&s.token, "token", "simulated-token", "the KSeF token that logs in")
	flags.StringVar(&s.invoices, "invoices", "", "serve every XML file below this `folder`")
	flags.IntVar(&s.generate, "generate", 0, "serve this many generated invoices")
	flags.StringVar(&s.span, "span", "30d", "spread the invoices over this time before now, such as 30d or 12h")
	flags.Uint64Var(&s.seed, "seed", 1, "the same seed generates the same invoices")
	flags.StringVar(&s.limits, "limits", "production", "production or off")
	flags.DurationVar(&s.lag, "hwm-lag", 2*time.Second, "how far the high water mark lags behind now")
	flags.IntVar(&s.partSize, "part-size", 0, "split packages into parts of at most this many `bytes` (default: as KSeF, 50 MB)")
	flags.BoolVar(&s.adminFaults, "admin-faults", false, "let POST /admin/faults switch faults on")
	return cmd
}

// start fills and starts a simulator; stop it by cancelling ctx and waiting on
// the channel.
func (s simulated) start(ctx context.Context) (sim *ksefsim.Server, address string, stopped <-chan error, err error) {
	owner, err := parseContext(s.context)
	if err != nil {
		return nil, "", nil, err
	}
	if s.partSize < 0 {
		return nil, "", nil, fmt.Errorf("--part-size %d: want a number of bytes", s.partSize)
	}
	options := ksefsim.Options{HWMLag: s.lag, PartSize: s.partSize, AdminFaults: s.adminFaults, Everyone: owner}
	switch s.limits {
	case "production":
		options.Limits = ksef.DefaultLimits()
	case "off":
	default:
		return nil, "", nil, fmt.Errorf("--limits %q: want production or off", s.limits)
	}
	sim = ksefsim.New(options)
	sim.AddToken(owner, s.token)
	// A certificate with the company's NIP is let in by itself, to a unit of it not.
	if nip, _, unit := strings.Cut(owner.Value, "-"); unit {
		sim.Permit(owner, ksefsim.Subject{Type: "Nip", Value: nip})
	}
	span, err := parseSpan(s.span)
	if err != nil {
		return nil, "", nil, err
	}
	// All of them are below the high water mark from the start, so that the first
	// sync has them.
	to := time.Now().Add(-s.lag)
	from := to.Add(-span)
	invoices := ksefsim.Generate(ksefsim.GenerateOptions{Count: s.generate, Context: owner, From: from, To: to, Seed: s.seed})
	if s.invoices != "" {
		found, err := ksefsim.LoadFolder(s.invoices)
		if err != nil {
			return nil, "", nil, err
		}
		for i := range found {
			found[i].Stored = from.Add(span / time.Duration(len(found)) * time.Duration(i))
		}
		invoices = append(invoices, found...)
	}
	if _, err := sim.Add(invoices...); err != nil {
		return nil, "", nil, err
	}

	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.listen)
	if err != nil {
		return nil, "", nil, err
	}
	server := &http.Server{Handler: sim, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan error, 1)
	go func() {
		err := server.Serve(listener)
		if errors.Is(err, http.ErrServerClosed) {
			err = nil
		}
		done <- err
	}()
	context.AfterFunc(ctx, func() { _ = server.Close() }) // Serve returns then, and tells
	return sim, "http://" + listener.Addr().String() + "/v2", done, nil
}

func (c *command) serveSimulator(ctx context.Context, s simulated) error {
	sim, address, stopped, err := s.start(ctx)
	if err != nil {
		return usageError(err)
	}
	owner, _ := parseContext(s.context)
	total := 0
	for _, role := range []ksef.SubjectType{ksef.Seller, ksef.Buyer, ksef.ThirdParty, ksef.Authorized} {
		n := len(sim.Listed(owner, role))
		total += n
		_, _ = fmt.Fprintf(c.stdout, "%-17s %d invoices\n", role, n)
	}
	_, _ = fmt.Fprintf(c.stdout, `Serving a simulated KSeF on %s, limits %s (an invoice counts once for each role).
Mirror it with this config.toml and KSEF_TOKEN=%s in the environment:

[mirror.simulated]
environment = "test"
api_url = "%s"
context = "%s"
[mirror.simulated.auth]
token = "env:KSEF_TOKEN"

Ctrl-C stops it.
`, address, s.limits, s.token, address, s.context)
	if err := <-stopped; err != nil {
		return err
	}
	stats := sim.Stats()
	_, _ = fmt.Fprintf(c.stdout, "Served %d requests, refused %d for limits, %d broke the specification.\n", stats.Requests, stats.TooMany, len(stats.Violations))
	return nil
}

// parseContext reads a context as the configuration writes it.
func parseContext(text string) (ksef.Context, error) {
	parsed, err := config.ParseContext(text)
	if err != nil {
		return ksef.Context{}, fmt.Errorf("context %q: %w", text, err)
	}
	return ksefContext(parsed), nil
}

// ksefContext gives a configured context in KSeF's own words.
func ksefContext(c config.Context) ksef.Context {
	types := map[string]string{
		"nip": ksef.ContextNIP, "internalId": ksef.ContextInternalID,
		"nipVatUe": ksef.ContextNIPVATEU, "peppolId": ksef.ContextPeppolID,
	}
	return ksef.Context{Type: types[c.Type], Value: c.Value}
}

// parseSpan reads a duration that may be in days.
func parseSpan(text string) (time.Duration, error) {
	if days, found := strings.CutSuffix(text, "d"); found {
		n, err := strconv.Atoi(days)
		if err != nil || n < 0 {
			return 0, fmt.Errorf("--span %q: want a time such as 30d or 12h", text)
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	span, err := time.ParseDuration(text)
	if err != nil || span < 0 {
		return 0, fmt.Errorf("--span %q: want a time such as 30d or 12h", text)
	}
	return span, nil
}
