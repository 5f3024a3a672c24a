//go:build linux

package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/antchfx/xmlquery"

	"ksefmirror/internal/ksef"
	"ksefmirror/parse"
	ksefsync "ksefmirror/sync"
)

// sizes are how much is measured.
type sizes struct {
	Rounds  int
	Package int           // invoices of a package
	Naive   int           // invoices that are stored in the naive way: it is slow, and what counts is each
	Backlog int           // invoices that wait at KSeF for the hour
	Held    int           // how many times the invoices of a package the larger mirror holds
	Mirrors int           // in one process
	Rest    time.Duration // how long these are looked at with nothing new
	Cycles  int           // of each of a few mirrors, to see whether anything grows
}

// full are KSeF's own sizes: 10,000 invoices a package, of which it makes 20 an
// hour (open-api; limity-api.md).
func full() sizes {
	return sizes{Rounds: 3, Package: 10_000, Naive: 2_000, Backlog: 210_000, Held: 100, Mirrors: 300, Rest: 15 * time.Minute, Cycles: 7 * 24 * 4}
}

// bench is one run of everything.
type bench struct {
	sizes
	only     string // one part; "": all
	dir      string
	progress io.Writer
	folders  int
}

// folder gives the path of a folder that is not there yet.
func (b *bench) folder() string {
	b.folders++
	return filepath.Join(b.dir, strconv.Itoa(b.folders))
}

func (b *bench) say(format string, args ...any) {
	_, _ = fmt.Fprintf(b.progress, format+"\n", args...)
}

// measureAll gives the rows of the table, after an error those that are complete.
func (b *bench) measureAll(ctx context.Context) (rows []row, err error) {
	for _, part := range []struct {
		name    string
		measure func(context.Context) ([]row, error)
	}{
		{"compare", b.compare}, {"parse", b.parsing}, {"syncs", b.syncs}, {"memory", b.memory},
		{"readers", b.readers}, {"hour", b.hour}, {"growth", b.growth}, {"mirrors", b.mirrors},
	} {
		if b.only != "" && b.only != part.name {
			continue
		}
		more, err := part.measure(ctx)
		rows = append(rows, more...)
		if err != nil {
			return rows, err
		}
	}
	return rows, nil
}

// with runs work against a simulator of its own.
func (b *bench) with(ctx context.Context, s scenario, work func(*simulator) error) (err error) {
	sim, err := startSimulator(ctx, s)
	if err != nil {
		return err
	}
	defer func() {
		// It ended as it was told to, or else what was measured with it failed too.
		_ = sim.stop()
	}()
	return work(sim)
}

// compare measures the pipeline, the naive way and the pipeline's stages in turns.
func (b *bench) compare(ctx context.Context) ([]row, error) {
	var pipeline, naive []measured
	var alone []time.Duration
	err := b.with(ctx, scenario{Invoices: b.Package, Shape: shape6K}, func(whole *simulator) error {
		return b.with(ctx, scenario{Invoices: b.Naive, Shape: shape6K}, func(some *simulator) error {
			for round := range b.Rounds {
				b.say("round %d: pipeline, naive way, stages", round+1)
				p, err := measure[measured](ctx, "mirror", mirrorJob{URL: whole.url, Dir: b.folder(), Count: b.Package})
				if err != nil {
					return err
				}
				n, err := measure[measured](ctx, "naive", mirrorJob{URL: some.url, Dir: b.folder(), Count: b.Naive})
				if err != nil {
					return err
				}
				s, err := measure[stages](ctx, "stages", mirrorJob{URL: whole.url, Dir: b.folder()})
				if err != nil {
					return err
				}
				pipeline, naive, alone = append(pipeline, p), append(naive, n), append(alone, s.sum())
				b.say("  %v, %v; download %.0f, unpack %.0f, parse %.0f, files %.0f, database %.0f µs", p, n,
					perInvoice(s.Download, b.Package), perInvoice(s.Unpack, b.Package), perInvoice(s.Parse, b.Package), perInvoice(s.Files, b.Package), perInvoice(s.Database, b.Package))
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	cpu, naiveCPU := median(pipeline, measured.cpuEach), median(naive, measured.cpuEach)
	speed, naiveSpeed := median(pipeline, measured.speed), median(naive, measured.speed)
	stagesCPU := median(alone, func(d time.Duration) float64 { return perInvoice(d, b.Package) })
	mallocs := median(pipeline, func(m measured) float64 { return float64(m.Mallocs) / float64(m.Invoices) })
	size := median(pipeline, func(m measured) float64 { return float64(m.Database) / float64(m.Invoices) })
	return []row{
		{
			what: "CPU per invoice: the naive way / the pipeline", bound: "at least 2.5",
			found: fmt.Sprintf("%.1f (%.0f / %.0f µs)", naiveCPU/cpu, naiveCPU, cpu), kept: naiveCPU/cpu >= 2.5,
		},
		{
			what: "invoices a second: the pipeline / the naive way", bound: "at least 3",
			found: fmt.Sprintf("%.1f (%.0f / %.0f)", speed/naiveSpeed, speed, naiveSpeed), kept: speed/naiveSpeed >= 3,
		},
		{
			what: "CPU: the pipeline's stages alone / the pipeline", bound: "at least 70 %",
			found: fmt.Sprintf("%.0f %% (%.0f / %.0f µs)", 100*stagesCPU/cpu, stagesCPU, cpu), kept: stagesCPU/cpu >= 0.7,
		},
		{what: "allocations per invoice, pipeline", bound: "at most 4,200", found: fmt.Sprintf("%.0f", mallocs), kept: mallocs <= 4200},
		{what: "database per invoice, its XML included", bound: "at most 4,096 bytes", found: fmt.Sprintf("%.0f bytes", size), kept: size <= 4096},
	}, nil
}

// parsing counts allocations, which do not vary.
func (b *bench) parsing(context.Context) ([]row, error) {
	xml := invoice(identify(1, time.Now()), shape6K)
	var err error
	whole := testing.AllocsPerRun(100, func() { _, err = parse.Parse(xml) })
	if err != nil {
		return nil, err
	}
	tree := testing.AllocsPerRun(100, func() { _, err = xmlquery.Parse(bytes.NewReader(xml)) })
	return []row{
		{what: "allocations to read an invoice", bound: "at most 3,700", found: fmt.Sprintf("%.0f", whole), kept: whole <= 3700},
		{
			what: "the same / xmlquery.Parse alone", bound: "at most 1.12",
			found: fmt.Sprintf("%.2f", whole/tree), kept: whole <= 1.12*tree,
		},
	}, err
}

// syncs counts the system calls that wait for the disk, by strace.
func (b *bench) syncs(ctx context.Context) ([]row, error) {
	r := row{what: fmt.Sprintf("system calls that wait for the disk, %s invoices", thousands(b.Package)), bound: "at most 100"}
	strace, err := exec.LookPath("strace")
	if err != nil {
		r.found, r.kept = "not measured: strace is not installed", true
		return []row{r}, nil
	}
	b.say("system calls")
	summary := b.folder()
	err = b.with(ctx, scenario{Invoices: b.Package, Shape: shape6K}, func(sim *simulator) error {
		_, err := measure[measured](ctx, "mirror", mirrorJob{URL: sim.url, Dir: b.folder(), Count: b.Package},
			strace, "-f", "--seccomp-bpf", "-c", "-U", "calls,name", "-e", "trace=fsync,fdatasync,syncfs,sync,sync_file_range,msync", "-o", summary)
		return err
	})
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(summary)
	if err != nil {
		return nil, err
	}
	total := 0
	var each []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) != 2 || fields[1] == "total" {
			continue
		}
		if calls, err := strconv.Atoi(fields[0]); err == nil {
			total += calls
			each = append(each, fmt.Sprintf("%d %s", calls, fields[1]))
		}
	}
	r.found, r.kept = fmt.Sprintf("%d (%s)", total, strings.Join(each, ", ")), total > 0 && total <= 100
	return []row{r}, nil
}

// memory measures peaks with packages of several sizes: the large ones once, for
// they take minutes.
func (b *bench) memory(ctx context.Context) ([]row, error) {
	var peaks []float64
	for _, s := range []shape{shape6K, shape60K, shape130K} {
		rounds := 1
		if s == shape6K {
			rounds = b.Rounds
		}
		var runs []measured
		err := b.with(ctx, scenario{Invoices: b.Package, Shape: s}, func(sim *simulator) error {
			for round := range rounds {
				b.say("memory, %d lines and an attachment of %d bytes, round %d", s.Lines, s.Attachment, round+1)
				m, err := measure[measured](ctx, "mirror", mirrorJob{URL: sim.url, Dir: b.folder(), Count: b.Package})
				if err != nil {
					return err
				}
				b.say("  %v", m)
				runs = append(runs, m)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		peaks = append(peaks, median(runs, func(m measured) float64 { return float64(m.PeakMemory) / (1 << 20) }))
	}
	of := func(kilobytes string) string {
		return fmt.Sprintf("peak memory, %s invoices of %s", thousands(b.Package), kilobytes)
	}
	return []row{
		{what: of("6 KB"), bound: "at most 128 MiB", found: fmt.Sprintf("%.0f MiB", peaks[0]), kept: peaks[0] <= 128},
		{
			what: of("60 KB"), bound: "at most 150 MiB and twice that", found: fmt.Sprintf("%.0f MiB, %.1f times", peaks[1], peaks[1]/peaks[0]),
			kept: peaks[1] <= 150 && peaks[1] <= 2*peaks[0],
		},
		{what: of("130 KB: a package of 1 GB"), bound: "at most 192 MiB", found: fmt.Sprintf("%.0f MiB", peaks[2]), kept: peaks[2] <= 192},
	}, nil
}

// readers lets another program read while the mirror writes.
func (b *bench) readers(ctx context.Context) ([]row, error) {
	b.say("a reader meanwhile")
	var r reading
	err := b.with(ctx, scenario{Invoices: b.Package, Shape: shape6K}, func(sim *simulator) (err error) {
		dir := b.folder()
		r, err = readersMeanwhile(ctx, mirrorJob{URL: sim.url, Dir: dir, Count: b.Package}, ksefsync.DatabasePath(dir))
		return err
	})
	return []row{{
		what: "queries meanwhile that find the database locked", bound: "none",
		found: fmt.Sprintf("%d of %s", r.Busy, thousands(r.Queries)), kept: r.Busy == 0 && r.Queries > 0,
	}}, err
}

// hour mirrors for an hour of virtual time under KSeF's limits.
func (b *bench) hour(ctx context.Context) ([]row, error) {
	b.say("an hour under KSeF's limits")
	const exportsPerHour = 20 // limity-api.md
	var m measured
	tooMany := 0
	err := b.with(ctx, scenario{Invoices: b.Backlog, Shape: shape6K, Production: true}, func(sim *simulator) (err error) {
		if m, err = measure[measured](ctx, "mirror", mirrorJob{URL: sim.url, Dir: b.folder(), Hour: true}); err != nil {
			return err
		}
		b.say("  %v", m)
		stats, err := sim.stats(ctx)
		tooMany = stats.TooMany
		b.say("  %d exports, %d metadata queries, %d downloads", stats.ByGroup[ksef.GroupExport], stats.ByGroup[ksef.GroupMetadata], stats.ByGroup[ksef.GroupDownload])
		return err
	})
	if err != nil {
		return nil, err
	}
	share := float64(m.Invoices) / float64(min(exportsPerHour*10_000, b.Backlog))
	cpu := m.CPU.Seconds() / float64(m.Invoices) * 200_000
	return []row{
		{
			what: "invoices in an hour of KSeF's limits", bound: "at least 95 % of 200,000", found: fmt.Sprintf("%s: %.1f %%", thousands(m.Invoices), 100*share),
			kept: share >= 0.95,
		},
		{what: "answers 429 in that hour", bound: "none", found: strconv.Itoa(tooMany), kept: tooMany == 0},
		{what: "CPU for 200,000 invoices", bound: "at most 360 s", found: fmt.Sprintf("%.0f s", cpu), kept: cpu <= 360},
	}, nil
}

// growth compares a mirror of a package with one that holds many times as much.
func (b *bench) growth(ctx context.Context) ([]row, error) {
	small, large := b.folder(), b.folder()
	var few, many []idleness
	var views []monthly
	err := b.with(ctx, scenario{Invoices: b.Package, Shape: shapeRelated}, func(sim *simulator) error {
		b.say("a mirror of %s invoices and one of %s", thousands(b.Package), thousands(b.Package*b.Held))
		if _, err := measure[measured](ctx, "mirror", mirrorJob{URL: sim.url, Dir: small, Count: b.Package}); err != nil {
			return err
		}
		multiplying, err := command(ctx, "multiply", multiplication{From: small, To: large, Times: b.Held})
		if err != nil {
			return err
		}
		if err := multiplying.Run(); err != nil {
			return err
		}
		for range b.Rounds {
			little, err := measure[idleness](ctx, "idle", mirrorJob{URL: sim.url, Dir: small})
			if err != nil {
				return err
			}
			much, err := measure[idleness](ctx, "idle", mirrorJob{URL: sim.url, Dir: large})
			if err != nil {
				return err
			}
			few, many = append(few, little), append(many, much)
		}
		views, err = measure[[]monthly](ctx, "months", monthJob{Path: ksefsync.DatabasePath(large), Month: time.Now().AddDate(0, -b.Held/2, 0)})
		return err
	})
	if err != nil {
		return nil, err
	}
	milliseconds := func(of []idleness, which func(idleness) time.Duration) float64 {
		return median(of, func(i idleness) float64 { return inMilliseconds(which(i)) })
	}
	open := func(i idleness) time.Duration { return i.Open }
	cycle := func(i idleness) time.Duration { return i.Cycle }
	compared := func(what, bound string, most float64, which func(idleness) time.Duration) row {
		little, much := milliseconds(few, which), milliseconds(many, which)
		return row{
			what: fmt.Sprintf("%s, %s / %s invoices held", what, thousands(b.Package), thousands(b.Package*b.Held)), bound: bound,
			// Twice and 10 ms: what does not grow still varies.
			found: fmt.Sprintf("%.1f / %.1f ms", little, much), kept: much < most && much < 2*little+10,
		}
	}
	rows := []row{
		compared("CPU of a cycle with nothing new", "under 50 ms, and the same", 50, cycle),
		compared("start-up", "under 2 s, and the same", 2000, open),
	}
	const most = 100 * time.Millisecond
	for _, v := range views {
		rows = append(rows, row{
			what: fmt.Sprintf("CPU to answer a month, %s held: %s", thousands(b.Package*b.Held), v.View), bound: "under 100 ms",
			found: fmt.Sprintf("%.0f ms its sums; %.0f ms %d columns of %s rows", inMilliseconds(v.Sums), inMilliseconds(v.Whole), v.Columns, thousands(v.Rows)),
			kept:  max(v.Sums, v.Whole) < most,
		})
	}
	for _, v := range views {
		r := row{
			what: fmt.Sprintf("the same, and to hand the rows over: %s", v.View), bound: "under 500 ms",
			found: fmt.Sprintf("%.0f ms", inMilliseconds(v.Read)), kept: max(v.Read, v.Shell) < 5*most,
		}
		if v.Shell > 0 {
			r.found += fmt.Sprintf("; by SQLite's shell %.0f ms", inMilliseconds(v.Shell))
		}
		rows = append(rows, r)
	}
	return rows, nil
}

func (m measured) cpuEach() float64 { return perInvoice(m.CPU, m.Invoices) }
func (m measured) speed() float64   { return float64(m.Invoices) / m.Wall.Seconds() }

// String tells the progress.
func (m measured) String() string {
	return fmt.Sprintf("%.0f µs, %.0f/s, %.0f allocations, %d MiB", m.cpuEach(), m.speed(), float64(m.Mallocs)/float64(m.Invoices), m.PeakMemory>>20)
}

// perInvoice is in microseconds.
func perInvoice(d time.Duration, invoices int) float64 {
	return float64(d.Microseconds()) / float64(invoices)
}

func inMilliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// median of what each gives; the lower middle one of an even number.
func median[T any](all []T, each func(T) float64) float64 {
	values := make([]float64, len(all))
	for i, one := range all {
		values[i] = each(one)
	}
	slices.Sort(values)
	if len(values) == 0 {
		return math.NaN()
	}
	return values[(len(values)-1)/2]
}

// row is a line of the table.
type row struct {
	what, bound, found string
	kept               bool
}

// printTable prints a table that is read as Markdown too.
func printTable(w io.Writer, rows []row) {
	widths := [3]int{}
	length := func(s string) int { return len([]rune(s)) }
	all := append([]row{{what: "what", bound: "bound", found: "measured", kept: true}}, rows...)
	for _, r := range all {
		for i, s := range []string{r.what, r.bound, r.found} {
			widths[i] = max(widths[i], length(s))
		}
	}
	for i, r := range all {
		kept := map[bool]string{true: "", false: "NOT KEPT"}[r.kept]
		line := "|"
		for i, s := range []string{r.what, r.bound, r.found} {
			line += " " + s + strings.Repeat(" ", widths[i]-length(s)) + " |"
		}
		_, _ = fmt.Fprintln(w, strings.TrimRight(line+" "+kept, " "))
		if i == 0 {
			_, _ = fmt.Fprintln(w, "| --- | --- | --- |")
		}
	}
}

// thousands writes 10000 as 10,000.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return cmp.Or(s, "0")
}
