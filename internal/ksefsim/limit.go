package ksefsim

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"ksefmirror/internal/ksef"
)

// groupPublic stands for operations with a limit of their own, 60 per second
// and IP address (open-api, x-rate-limits), that GET /rate-limits does not name.
const groupPublic ksef.Group = ""

// unlimited is what GET /rate-limits says where nothing is limited.
const unlimited = 1_000_000

// maxBlock is where a growing block stops growing.
const maxBlock = 24 * time.Hour

// windowKey says which requests are counted together: those of one operation
// for one context from one address (limity-api.md).
type windowKey struct {
	pattern string
	context ksef.Context
	ip      string
}

// window is the record of one key.
type window struct {
	arrivals   []time.Time // admitted in the last hour, oldest first
	lastExcess time.Time
	block      time.Duration // from lastExcess; whole seconds
	limit      int           // that was exceeded last,
	unit       string        // and in what
}

// admit decides on a request that arrives now. Where it refuses, it says after
// how long the client may come again: at first when the exceeded windows have
// room again, and at each excess within an hour of another after at least twice
// as long as before (limity-api.md: repeated excess lengthens the block
// considerably). Refused requests take no room in the windows.
func (w *window) admit(now time.Time, limit ksef.Limit) (wait time.Duration, ok bool) {
	w.arrivals = slices.DeleteFunc(w.arrivals, func(t time.Time) bool { return !t.After(now.Add(-time.Hour)) })
	for _, each := range []struct {
		limit int
		over  time.Duration
		unit  string
	}{{limit.PerSecond, time.Second, "sekundę"}, {limit.PerMinute, time.Minute, "minutę"}, {limit.PerHour, time.Hour, "godzinę"}} {
		if each.limit <= 0 || len(w.arrivals) < each.limit {
			continue
		}
		// Room comes when the each.limit-th latest arrival leaves the window.
		if room := w.arrivals[len(w.arrivals)-each.limit].Add(each.over).Sub(now); room > wait {
			wait, w.limit, w.unit = room, each.limit, each.unit
		}
	}
	if wait <= 0 && !now.Before(w.lastExcess.Add(w.block)) {
		w.arrivals = append(w.arrivals, now)
		return 0, true
	}
	if now.Sub(w.lastExcess) < max(time.Hour, w.block) {
		wait = max(wait, min(2*w.block, maxBlock))
	}
	w.lastExcess, w.block = now, (wait + time.Second - 1).Truncate(time.Second)
	return w.block, false
}

// admit holds a request against the limits; a nil refusal admits it. Without a
// valid token there is no context to count for, and the request will end 401.
func (s *Server) admit(pattern string, group ksef.Group, held *bearer, r *http.Request) *refusal {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.limits == nil {
		return nil
	}
	key := windowKey{pattern: pattern, ip: clientIP(r)}
	limit := ksef.Limit{PerSecond: 60}
	if group != groupPublic {
		if held == nil {
			return nil
		}
		key.context = held.login.context
		limit = s.limits[group]
	}
	record := s.windows[key]
	if record == nil {
		record = new(window)
		s.windows[key] = record
	}
	wait, ok := record.admit(s.now(), limit)
	if ok {
		return nil
	}
	s.stats.TooMany++
	seconds := int(wait / time.Second)
	return &refusal{
		status:     http.StatusTooManyRequests,
		detail:     fmt.Sprintf("Przekroczono limit %d żądań na %s. Spróbuj ponownie po %d sekundach.", record.limit, record.unit, seconds),
		retryAfter: seconds,
	}
}

// SetLimits changes the limits from the next request on; nil lifts them. What
// was counted before still counts.
func (s *Server) SetLimits(limits ksef.Limits) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.limits = maps.Clone(limits)
}

// rateLimits answers GET /rate-limits. Groups that are not simulated have
// production's values (limity-api.md, 14.09.2026).
func (s *Server) rateLimits(r *http.Request, _ *login) (any, *refusal) {
	s.noBody(r)
	limits := ksef.Limits{
		"onlineSession":        {PerSecond: 10, PerMinute: 30, PerHour: 120},
		"onlineSessionClose":   {PerSecond: 20, PerMinute: 60, PerHour: 240},
		"batchSession":         {PerSecond: 10, PerMinute: 20, PerHour: 60},
		"batchSessionClose":    {PerSecond: 20, PerMinute: 40, PerHour: 120},
		"invoiceSend":          {PerSecond: 10, PerMinute: 30, PerHour: 180},
		"invoiceStatus":        {PerSecond: 30, PerMinute: 120, PerHour: 1200},
		"sessionList":          {PerSecond: 5, PerMinute: 10, PerHour: 60},
		"sessionInvoiceList":   {PerSecond: 10, PerMinute: 20, PerHour: 200},
		"sessionMisc":          {PerSecond: 10, PerMinute: 120, PerHour: 1200},
		"collectiveIdentifier": {PerSecond: 10, PerMinute: 60, PerHour: 120},
	}
	s.mutex.Lock()
	for group := range ksef.DefaultLimits() {
		limits[group] = s.limits[group]
	}
	maps.Copy(limits, s.limits)
	s.mutex.Unlock()
	for group, limit := range limits {
		for _, value := range []*int{&limit.PerSecond, &limit.PerMinute, &limit.PerHour} {
			if *value <= 0 {
				*value = unlimited
			}
		}
		limits[group] = limit
	}
	return limits, nil
}
