// Command bench measures what ksefmirror promises of speed, memory and disk, and
// prints it beside the bounds that it must keep:
//
//	go run ./internal/bench
//
// It mirrors packages from a simulated KSeF in another process, with the real
// packages of the program and into real files, and does the same in a naive way.
// What is compared is measured side by side, in turns; what counts are ratios and
// counts, for the speed of a machine says little. It takes about a quarter of an
// hour and 25 GB of disk, and ends with 1 when a bound is not kept.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if len(os.Args) == 4 && os.Args[1] == childArgument {
		if err := runChild(ctx, os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1) //nolint:gocritic // nothing is left to stop
		}
		return
	}
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// errMissed says that a bound was not kept.
var errMissed = errors.New("not every bound is kept")

func run(ctx context.Context) (err error) {
	full := full()
	dir := flag.String("dir", "", "work in a new folder below this `folder` (default: that for temporary files)")
	flag.IntVar(&full.Rounds, "rounds", full.Rounds, "how `often` everything is measured; the table shows the medians")
	only := flag.String("only", "", "measure one `part`: compare, parse, syncs, memory, readers, hour or growth")
	flag.Parse()
	if err := supported(); err != nil {
		return err
	}
	// Always a new folder, and nothing is deleted before the end: just after a
	// deletion ext4 makes files several times slower.
	work, err := os.MkdirTemp(*dir, "ksefmirror-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	b := &bench{sizes: full, only: *only, dir: work, progress: os.Stderr}
	rows, err := b.measureAll(ctx)
	printTable(os.Stdout, rows)
	if err != nil {
		return err
	}
	for _, r := range rows {
		if !r.kept {
			return errMissed
		}
	}
	return nil
}
