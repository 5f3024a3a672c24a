package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"ksefmirror/internal/event"
)

// pingTimeout bounds one ping. It is not tried again: the next cycle sends another.
const pingTimeout = 10 * time.Second

// pinger tells a service such as healthchecks.io that a mirror is alive; whoever
// waits for its ping raises an alarm when none comes, also when this machine is
// dead. A nil pinger tells nobody.
type pinger struct {
	url     func() (string, error) // read anew each time, so that it can be exchanged
	log     *slog.Logger
	failing bool // the last ping failed, and that was logged

	transport http.RoundTripper // nil: real
}

// send sends a ping: what is "/start", "" for success, or "/fail", by the
// convention of healthchecks.io.
func (p *pinger) send(ctx context.Context, what string) {
	if p == nil {
		return
	}
	err := p.try(ctx, what)
	switch {
	case ctx.Err() != nil:
	case err != nil && !p.failing:
		event.Log(p.log, event.PingFailed, "err", err)
		p.failing = true
	case err == nil:
		p.failing = false
	}
}

// try sends a ping once. Neither the address nor a part of it is in the error.
func (p *pinger) try(ctx context.Context, what string) error {
	address, err := p.url()
	if err != nil {
		return err
	}
	base, err := url.Parse(address)
	if err != nil || base.Host == "" || base.Scheme != "https" && base.Scheme != "http" {
		return errors.New("ping_url: want an address that begins with https://")
	}
	base.Path = strings.TrimRight(base.Path, "/") + what
	base.RawPath = ""
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base.String(), nil)
	if err != nil {
		return errors.New("ping_url: it is not an address")
	}
	request.Header.Set("User-Agent", "ksefmirror")
	transport := p.transport
	if transport == nil {
		transport = &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}
	}
	client := http.Client{
		Transport: transport,
		// To follow would tell the address to whoever is at the other one.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	answer, err := client.Do(request)
	if err != nil {
		// net/http repeats the address in its error, and a proxy or a name server may in
		// theirs, so only what kind of error it is is told.
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("no answer within %s", pingTimeout)
		}
		return errors.New("it could not be reached; see that this machine reaches the address in ping_url, and that there is no mistake in it")
	}
	defer answer.Body.Close()
	_, _ = io.CopyN(io.Discard, answer.Body, 1<<10) // the answer says no more than its status
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return fmt.Errorf("it answers with HTTP %d; see that the address in ping_url is still right", answer.StatusCode)
	}
	return nil
}
