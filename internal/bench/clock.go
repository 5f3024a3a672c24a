//go:build linux

package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"
)

// clock is the time of a simulator and of the mirror that asks it. It is the
// machine's; or virtual: then it stands still while both work, and moves by what
// the mirror waits, so that an hour under KSeF's limits takes as long as the work
// in it.
type clock struct {
	virtual bool
	moved   atomic.Int64 // nanoseconds of virtual time since its beginning
	url     string       // of the simulator, which is told of every move; "" in the simulator itself
}

// Now is the time, in UTC.
func (c *clock) Now() time.Time {
	if !c.virtual {
		return time.Now().UTC()
	}
	return time.Date(2026, time.November, 20, 12, 0, 0, 0, time.UTC).Add(time.Duration(c.moved.Load()))
}

// Sleep waits for d, or lets virtual time pass.
func (c *clock) Sleep(ctx context.Context, d time.Duration) error {
	if !c.virtual {
		waiting, end := context.WithTimeout(ctx, d)
		defer end()
		<-waiting.Done()
		return ctx.Err()
	}
	if d <= 0 {
		return ctx.Err()
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+"/bench/clock?"+url.Values{"move": {d.String()}}.Encode(), nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("move the simulator's clock: %w", err)
	}
	if err := answer.Body.Close(); err != nil {
		return err
	}
	c.moved.Add(int64(d))
	return nil
}

// ServeHTTP moves the clock as a mirror asks.
func (c *clock) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d, err := time.ParseDuration(r.FormValue("move"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.moved.Add(int64(d))
}
