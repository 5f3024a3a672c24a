//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"ksefmirror/internal/ksef"
	"ksefmirror/internal/ksefsim"
)

const token = "a-simulated-token"

// scenario is what a simulator holds.
type scenario struct {
	Invoices   int
	Shape      shape
	Production bool // its limits hold, in virtual time
	Companies  int  // besides, each with a token of its own and a few invoices
}

// serveSimulator is a process that serves a simulated KSeF until its standard
// input ends, so that neither its work nor its memory is taken for the mirror's.
func serveSimulator(ctx context.Context, s scenario) error {
	c := &clock{virtual: s.Production}
	options := ksefsim.Options{Now: c.Now}
	if s.Production {
		options.Limits = ksef.DefaultLimits()
	}
	sim := ksefsim.New(options)
	sim.AddToken(company, token)
	if _, err := sim.Add(invoices(s.Invoices, s.Shape, c.Now())...); err != nil {
		return err
	}
	for i := range s.Companies {
		whose := ksef.Context{Type: ksef.ContextNIP, Value: nip(i)}
		sim.AddToken(whose, token+whose.Value)
		some := ksefsim.Generate(ksefsim.GenerateOptions{Count: 10, Context: whose, From: c.Now().Add(-span), To: c.Now(), Seed: uint64(i)})
		if _, err := sim.Add(some...); err != nil {
			return err
		}
	}
	mux := http.NewServeMux()
	mux.Handle("/", sim)
	mux.Handle("POST /bench/clock", c)
	mux.HandleFunc("GET /bench/stats", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(sim.Stats()) // whoever asked will notice
	})
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = server.Close() // Serve tells
	}()
	if err := json.NewEncoder(os.Stdout).Encode("http://" + listener.Addr().String()); err != nil {
		return err
	}
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// simulator is a simulator in another process.
type simulator struct {
	url  string
	stop func() error
}

// startSimulator starts a simulator and waits until it serves.
func startSimulator(ctx context.Context, s scenario) (*simulator, error) {
	child, err := command(ctx, "simulator", s)
	if err != nil {
		return nil, err
	}
	input, err := child.StdinPipe()
	if err != nil {
		return nil, err
	}
	output, err := child.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := child.Start(); err != nil {
		return nil, err
	}
	sim := &simulator{stop: func() error {
		_ = input.Close() // it ends then
		return child.Wait()
	}}
	if err := json.NewDecoder(output).Decode(&sim.url); err != nil {
		return nil, fmt.Errorf("the simulator did not start: %w", sim.stop())
	}
	return sim, nil
}

// stats is what the simulator has counted.
func (s *simulator) stats(ctx context.Context) (stats ksefsim.Stats, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/bench/stats", nil)
	if err != nil {
		return stats, err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return stats, err
	}
	defer answer.Body.Close()
	return stats, json.NewDecoder(answer.Body).Decode(&stats)
}
