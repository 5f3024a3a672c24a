package cli

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"ksefmirror/daemon"
	"ksefmirror/db"
	"ksefmirror/internal/config"
	"ksefmirror/internal/ksefsim"
	ksefsync "ksefmirror/sync"
)

const (
	demoInvoices = 1000
	demoLater    = 20
	demoContext  = "nip:5265877635"
)

func (c *command) demo() *cobra.Command {
	var dir string
	var keep bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "See it work, against a simulated KSeF on this machine",
		Long: `Starts a simulated KSeF, mirrors 1,000 generated invoices from it, lets 20
more arrive, mirrors those too, and shows where everything lies. Nothing leaves this
machine. The simulator's limits are off, for the demo asks twice a second.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithCancel(cmd.Context())
			defer cancel()
			return c.runDemo(ctx, dir, keep)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "work in this `folder` (default: a new temporary one, which stays)")
	cmd.Flags().BoolVar(&keep, "keep", false, "go on mirroring until Ctrl-C")
	return cmd
}

func (c *command) runDemo(ctx context.Context, dir string, keep bool) error {
	if dir == "" {
		temporary, err := os.MkdirTemp("", "ksefmirror-demo-")
		if err != nil {
			return err
		}
		dir = temporary
	}
	owner, err := parseContext(demoContext)
	if err != nil {
		return err
	}
	simulator := simulated{listen: "127.0.0.1:0", context: demoContext, token: "demo-token", generate: demoInvoices, span: "30d", seed: 1, limits: "off"}
	sim, address, stopped, err := simulator.start(ctx)
	if err != nil {
		return err
	}
	c.say("A simulated KSeF with %d invoices listens on %s.", demoInvoices, address)

	configuration := filepath.Join(dir, "config.toml")
	if _, err := config.Write(configuration, config.InitOptions{Name: "demo", Environment: "test", APIURL: address, Context: demoContext, Token: simulator.token}); err != nil {
		return err
	}
	loaded, err := config.Load(configuration, checkLayout)
	if err != nil {
		return err
	}
	mirror := loaded.Mirrors[0]
	c.say("The configuration is %s. Mirroring…", configuration)

	work, endWork := context.WithCancel(ctx)
	bar := newProgress(c.stderr, "demo")
	var stored atomic.Int64
	reached := make(chan struct{}, 1)
	counted := func(report ksefsync.Report) {
		bar.end()
		for _, s := range report.Streams {
			stored.Add(int64(s.Added))
		}
		select {
		case reached <- struct{}{}:
		default:
		}
	}
	log := c.logger(config.Log{Level: loaded.Log.Level + 4, Format: "text"}) // warnings: the demo tells the rest itself
	keeping := &daemon.Daemon{Log: log}
	keeping.Keep(work, []daemon.Job{{Name: mirror.Name, Interval: time.Second / 2, Open: func(ctx context.Context) (daemon.Mirror, error) {
		opened, err := open(ctx, mirror, log, bar.show)
		if err != nil {
			return nil, err
		}
		return observed{opened, counted}, nil
	}}})
	stop := func() error {
		endWork()
		keeping.Wait()
		return ctx.Err()
	}
	until := func(n int64) bool {
		for stored.Load() < n {
			select {
			case <-reached:
			case <-ctx.Done():
				return false
			}
		}
		return true
	}

	started := time.Now()
	if !until(demoInvoices) {
		return stop()
	}
	before := sim.Stats()
	c.say("Mirrored %d invoices in %.1f s: %s. Now %d more arrive in KSeF…",
		demoInvoices, time.Since(started).Seconds(), roads(demoInvoices, ksefsim.Stats{}, before), demoLater)
	now := time.Now()
	later := ksefsim.Generate(ksefsim.GenerateOptions{Count: demoLater, Context: owner, From: now.Add(-time.Millisecond * demoLater), To: now, Seed: 2})
	for i := range later {
		later[i].Stored = time.Time{} // now: KSeF stores nothing below a high water mark that it has told
	}
	if _, err := sim.Add(later...); err != nil {
		return err
	}
	if !until(demoInvoices + demoLater) {
		return stop()
	}
	c.say("Mirrored those too: %s. Here is what you have now:\n", roads(demoLater, before, sim.Stats()))
	if err := c.showMirror(ctx, mirror); err != nil {
		return err
	}
	if keep {
		c.say("\nStill mirroring from %s. Ctrl-C ends it.", address)
		<-ctx.Done()
		_ = stop()
		return <-stopped
	}
	if err := stop(); err != nil {
		return err
	}
	c.say("\nEverything stays in %s.\nLook around, then try:  ksefmirror --config %s status", dir, configuration)
	return nil
}

// roads says in which way n invoices came between two states of the simulator. A
// package without invoices has no part, and none of the demo has more than one.
func roads(n int, before, after ksefsim.Stats) string {
	packages, singly := len(after.Parts)-len(before.Parts), len(after.Downloads)-len(before.Downloads)
	var ways []string
	switch packages {
	case 0:
	case 1:
		ways = append(ways, fmt.Sprintf("%d in one package", n-singly))
	default:
		ways = append(ways, fmt.Sprintf("%d in %d packages", n-singly, packages))
	}
	if singly > 0 {
		ways = append(ways, fmt.Sprintf("%d one by one", singly))
	}
	return strings.Join(ways, ", ")
}

func (c *command) say(format string, args ...any) { _, _ = fmt.Fprintf(c.stdout, format+"\n", args...) }

// observed tells of every cycle that was run.
type observed struct {
	daemon.Mirror
	report func(ksefsync.Report)
}

func (o observed) Cycle(ctx context.Context) (ksefsync.Report, error) {
	report, err := o.Mirror.Cycle(ctx)
	o.report(report)
	return report, err
}

// demoQuery is what accounting software might ask. It uses the public view and
// read-only access, as any other program would.
const demoQuery = `SELECT issue_date, invoice_type, invoice_number, seller_name, buyer_name, gross, currency
FROM v_invoices ORDER BY stored_at DESC LIMIT 5`

// showMirror prints a few of the files and rows.
func (c *command) showMirror(ctx context.Context, m config.Mirror) error {
	invoices := filepath.Join(m.Dir, "invoices")
	c.say("Folder   %s", invoices)
	files := 0
	err := filepath.WalkDir(invoices, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".xml") {
			return err
		}
		if files++; files <= 5 {
			relative, err := filepath.Rel(invoices, path)
			if err != nil {
				return err
			}
			c.say("         %s", relative)
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.say("         … %d files in all", files)

	path := ksefsync.DatabasePath(m.Dir)
	c.say("\nDatabase %s", path)
	for line := range strings.Lines(demoQuery) {
		c.say("         %s", strings.TrimSuffix(line, "\n"))
	}
	dsn, err := db.ReaderDSN(path)
	if err != nil {
		return err
	}
	reader, err := sql.Open("sqlite", dsn)
	if err != nil {
		return err
	}
	defer func() { _ = reader.Close() }() // it only read
	rows, err := reader.QueryContext(ctx, demoQuery)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var date, kind, number, seller, buyer, gross, currency sql.NullString
		if err := rows.Scan(&date, &kind, &number, &seller, &buyer, &gross, &currency); err != nil {
			return err
		}
		c.say("         %s  %-7s  %-22s  %-28.28s  %-28.28s  %12s %s", date.String, kind.String, number.String, seller.String, buyer.String, gross.String, currency.String)
	}
	return rows.Err()
}
