package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"ksefmirror/daemon"
	"ksefmirror/internal/config"
	"ksefmirror/internal/delivery"
	ksefsync "ksefmirror/sync"
)

const (
	// deliveryTime is how long sync goes on telling receivers of what is new.
	deliveryTime = time.Minute
	// farewell is how long the end of a mirror waits for what tells its receivers.
	farewell = 10 * time.Second
)

// receivers gives those who are told of the new invoices of a mirror.
func receivers(m config.Mirror, log *slog.Logger) ([]delivery.Receiver, error) {
	var all []delivery.Receiver
	if m.Command != nil {
		all = append(all, &delivery.Command{
			Args: m.Command.Run, Timeout: m.Command.Timeout, Dir: m.Dir, Folder: ksefsync.InvoicesDir(m.Dir), Log: log,
		})
	}
	if m.Webhook != nil {
		all = append(all, delivery.NewWebhook(m.Webhook.URL, userAgent(), m.Webhook.Secret.Read))
	}
	if m.Digest != nil {
		warsaw, err := time.LoadLocation("Europe/Warsaw")
		if err != nil {
			return nil, fmt.Errorf("time zone of Poland: %w", err)
		}
		by := m.Digest.Mail
		all = append(all, &delivery.Digest{
			Server: by.Server, Security: delivery.SecurityOf(by.Server), From: by.From, To: m.Digest.To, User: by.User, Password: by.Password.ReadPassphrase,
			Hour: m.Digest.Hour, Minute: m.Digest.Minute, Zone: warsaw,
		})
	}
	return all, nil
}

// newSender gives what tells the receivers of an opened mirror.
func newSender(m config.Mirror, mirror *ksefsync.Mirror, log *slog.Logger) (*delivery.Sender, error) {
	all, err := receivers(m, log)
	if err != nil {
		return nil, err
	}
	source := delivery.Source{Mirror: m.Name, Environment: m.Environment, Context: m.Context.String()}
	return delivery.New(mirror.Database(), source, all, log, nil), nil
}

// telling is a mirror whose receivers are told of what its cycles store, beside
// them: no cycle waits for a receiver.
type telling struct {
	daemon.Mirror
	sender *delivery.Sender
	stop   context.CancelFunc
	ended  <-chan struct{}
}

// tell starts telling the receivers of a mirror, until it is closed or ctx ends.
func tell(ctx context.Context, opened daemon.Mirror, sender *delivery.Sender) telling {
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		sender.Run(ctx)
	}()
	return telling{opened, sender, stop, ended}
}

// Cycle runs the cycle, and has the receivers told of what it stored.
func (t telling) Cycle(ctx context.Context) (ksefsync.Report, error) {
	report, err := t.Mirror.Cycle(ctx)
	for _, stream := range report.Streams {
		if stream.Added > 0 {
			t.sender.Wake()
			break
		}
	}
	return report, err
}

// ReconcileDue does the same for what was missing.
func (t telling) ReconcileDue(ctx context.Context, until time.Time) (ksefsync.Reconciliation, error) {
	found, err := t.Mirror.ReconcileDue(ctx, until)
	for _, role := range found.Roles {
		if len(role.Late) > 0 {
			t.sender.Wake()
			break
		}
	}
	return found, err
}

// Close stops telling, which takes no longer than it takes to kill a command, and
// closes the mirror.
func (t telling) Close() error {
	t.stop()
	timer := time.NewTimer(farewell)
	defer timer.Stop()
	select {
	case <-t.ended:
	case <-timer.C: // it finds the database closed
	}
	return t.Mirror.Close()
}

// deliver tells the receivers of a mirror of what is new, for a minute, and says
// what came of it. What is left is told next time.
func (c *command) deliver(ctx context.Context, m config.Mirror, mirror *ksefsync.Mirror, log *slog.Logger) error {
	sender, err := newSender(m, mirror, log)
	if err != nil {
		return err
	}
	for _, r := range sender.Deliver(ctx, time.Now().Add(deliveryTime)) {
		if r.Delivered > 0 {
			c.say("%s: told the %s of %d new invoices", m.Name, r.Receiver, r.Delivered)
		}
		switch {
		case ctx.Err() != nil:
		case r.Err != nil:
			_, _ = fmt.Fprintf(c.stderr, "%s: the %s could not be told of new invoices, which is tried again: %v\n", m.Name, r.Receiver, r.Err)
		case r.Left:
			c.say("%s: the %s is told of the others next time", m.Name, r.Receiver)
		}
	}
	return nil
}

// printReceivers explains who is told of new invoices, without a secret. The error
// says what is wrong with it.
func (c *command) printReceivers(m config.Mirror) error {
	if m.Command != nil {
		c.say("  runs %s when there are new invoices", m.Command.Run[0])
	}
	if m.Webhook != nil {
		c.say("  posts new invoices to the webhook, signed with %s", m.Webhook.Secret)
		secret, err := m.Webhook.Secret.Read()
		if err == nil {
			_, err = delivery.ParseSecret(secret)
		}
		if err != nil && !errors.Is(err, config.ErrNotHere) {
			return config.Problems{{Key: "mirror." + m.Name + ".webhook.secret", Value: m.Webhook.Secret.String(), Want: err.Error()}}
		}
	}
	if m.Digest != nil {
		c.say("  mails new invoices at %02d:%02d (Polish time) to %s", m.Digest.Hour, m.Digest.Minute, strings.Join(m.Digest.To, ", "))
	}
	return nil
}
