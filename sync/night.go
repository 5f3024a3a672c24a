package sync

import (
	"hash/fnv"
	"time"
)

const (
	// The nights begin in this hour in Poland and last so long. Each mirror has its
	// own moment in them, so that many do not march in step.
	nightHour = 1
	nightSpan = 4 * time.Hour
)

// lastNight is the latest moment, not after now, at which the mirror with that ID
// begins its night.
func lastNight(now time.Time, id string, warsaw *time.Location) time.Time {
	sum := fnv.New64a()
	_, _ = sum.Write([]byte(id)) // it never fails
	after := time.Duration(sum.Sum64() % uint64(nightSpan))
	now = now.In(warsaw)
	for days := 0; ; days-- {
		begin := time.Date(now.Year(), now.Month(), now.Day()+days, nightHour, 0, 0, 0, warsaw).Add(after)
		if !begin.After(now) {
			return begin
		}
	}
}
