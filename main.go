// Ksefmirror keeps a local, complete, byte-exact copy of a company's invoices
// from KSeF, Poland's national e-invoicing system: a folder tree that people
// browse and a SQLite database that accounting software reads.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // Windows has no time zones of its own, and dates on invoices are Polish

	"ksefmirror/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
