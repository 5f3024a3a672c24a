//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"ksefmirror/internal/ksef"
	"ksefmirror/internal/tree"
	ksefsync "ksefmirror/sync"
)

// mirrorJob says what a process mirrors.
type mirrorJob struct {
	URL   string // of the simulator
	Dir   string // a new folder, or that of a mirror
	Hour  bool   // only the first hour, of virtual time, under KSeF's limits; else all, without limits
	Count int    // how many invoices are expected; 0: any
}

// measured is what a process used to mirror invoices.
type measured struct {
	Invoices   int
	CPU        time.Duration
	Wall       time.Duration // without that in which KSeF makes packages
	Mallocs    uint64
	PeakMemory int64 // bytes
	Database   int64 // bytes
}

// mirror mirrors everything, or what comes in an hour, with the real program's
// packages and into real files.
func mirror(ctx context.Context, j mirrorJob) (measured, error) {
	began := time.Now()
	before, err := used()
	if err != nil {
		return measured{}, err
	}
	remote := &timedRemote{}
	m, c, err := openMirror(ctx, j, remote)
	if err != nil {
		return measured{}, err
	}
	stored, err := cycles(ctx, m, c, j.Hour)
	if err := errors.Join(err, m.Close()); err != nil {
		return measured{}, err
	}
	if j.Count != 0 && stored != j.Count {
		return measured{}, fmt.Errorf("%d invoices were mirrored, not %d", stored, j.Count)
	}
	return since(began, before, remote.waited, stored, ksefsync.DatabasePath(j.Dir))
}

// since sums up a process that mirrored invoices.
func since(began time.Time, before usage, waited time.Duration, invoices int, database string) (measured, error) {
	wall := time.Since(began) - waited
	after, err := used()
	if err != nil {
		return measured{}, err
	}
	peak, err := peakMemory()
	if err != nil {
		return measured{}, err
	}
	file, err := os.Stat(database)
	if err != nil {
		return measured{}, err
	}
	return measured{
		Invoices: invoices, CPU: after.cpu - before.cpu, Wall: wall,
		Mallocs: after.mallocs - before.mallocs, PeakMemory: peak, Database: file.Size(),
	}, nil
}

func openMirror(ctx context.Context, j mirrorJob, remote *timedRemote) (*ksefsync.Mirror, *clock, error) {
	layout, err := tree.ParseLayout(tree.DefaultLayout)
	if err != nil {
		return nil, nil, err
	}
	c := &clock{virtual: j.Hour, url: j.URL}
	m, err := ksefsync.Open(ctx, ksefsync.Options{
		Dir: j.Dir, Environment: "test", Context: company, Roles: []string{"buyer"},
		Since: c.Now().Add(-span - 24*time.Hour), Layout: layout, Now: c.Now, Sleep: c.Sleep,
		Remote: func(log ksef.RequestLog) ksefsync.Remote {
			remote.Client = client(j.URL, c, log)
			return remote
		},
	})
	return m, c, err
}

// client is the real client. Without limits in force at the simulator it keeps to
// none.
func client(url string, c *clock, log ksef.RequestLog) *ksef.Client {
	limiter := ksef.NewLimiter(log, nil)
	limiter.Now, limiter.Sleep = c.Now, c.Sleep
	return &ksef.Client{
		BaseURL: url + "/v2", Context: company,
		Token:   func() (ksef.Secret, error) { return ksef.NewSecret(token), nil },
		Limiter: limiter, Now: c.Now, Sleep: c.Sleep,
	}
}

// cycles runs cycles until nothing is left or the hour is over, and counts what
// was stored. When the limits allow no more it waits, as the program would.
func cycles(ctx context.Context, m *ksefsync.Mirror, c *clock, hour bool) (stored int, err error) {
	end := c.Now().Add(time.Hour)
	for {
		report, err := m.Cycle(ctx)
		for _, s := range report.Streams {
			stored += s.Added
		}
		limit := ksefsync.Limited(err)
		if limit == nil || !hour {
			return stored, err
		}
		if !limit.Until.Before(end) {
			return stored, nil
		}
		if err := c.Sleep(ctx, limit.Until.Sub(c.Now())); err != nil {
			return stored, err
		}
	}
}

// timedRemote notes how long KSeF takes to make packages: the simulator does it
// while it is asked, on the same machine, and that is no part of mirroring.
type timedRemote struct {
	*ksef.Client
	waited time.Duration
}

func (r *timedRemote) ExportStatus(ctx context.Context, reference string) (ksef.ExportStatus, error) {
	began := time.Now()
	defer func() { r.waited += time.Since(began) }()
	return r.Client.ExportStatus(ctx, reference)
}
