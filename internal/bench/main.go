//go:build linux

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
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// errMissed says that a bound was not kept.
var errMissed = errors.New("not every bound is kept")

func run(ctx context.Context) (err error) {
	if len(os.Args) == 4 && os.Args[1] == childArgument {
		return runChild(ctx, os.Args[2], os.Args[3])
	}
	full := full()
	dir := flag.String("dir", "", "work in a new folder below this `folder` (default: that for temporary files)")
	flag.IntVar(&full.Rounds, "rounds", full.Rounds, "how `often` everything is measured; the table shows the medians")
	only := flag.String("only", "", "measure one `part`: compare, parse, syncs, memory, readers, hour, growth or mirrors")
	flag.Parse()
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
