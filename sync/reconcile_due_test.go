package sync

import (
	"fmt"
	"testing"
	"time"

	"ksefmirror/db"
)

func TestDueSpan(t *testing.T) {
	night := time.Date(2026, 11, 22, 1, 30, 0, 0, time.UTC)
	long := night.AddDate(0, -3, 0)
	ended := func(span time.Duration, daysAgo int, err string) db.Reconciliation {
		at := night.AddDate(0, 0, -daysAgo).Add(5 * time.Minute)
		return db.Reconciliation{Span: span, Started: at, Finished: at.Add(time.Minute), Err: err}
	}
	const week, month, three = 35 * oneDay, windowLength, 72 * time.Hour
	for name, test := range map[string]struct {
		first time.Time
		after time.Duration // after the beginning of the night
		past  []db.Reconciliation
		want  time.Duration
	}{
		"never ran":                          {time.Time{}, time.Minute, nil, 0},
		"first ran today":                    {night.Add(time.Hour), 2 * time.Hour, nil, 0},
		"the first night":                    {night.Add(-time.Hour), time.Minute, nil, month},
		"done this night":                    {long, time.Hour, []db.Reconciliation{ended(three, 0, ""), ended(week, 3, ""), ended(month, 9, "")}, 0},
		"the next night":                     {long, time.Minute, []db.Reconciliation{ended(three, 1, ""), ended(week, 3, ""), ended(month, 9, "")}, three},
		"by day, after a night off":          {long, 9 * time.Hour, []db.Reconciliation{ended(three, 1, ""), ended(week, 3, ""), ended(month, 9, "")}, three},
		"the seventh night":                  {long, time.Minute, []db.Reconciliation{ended(three, 1, ""), ended(week, 7, ""), ended(month, 9, "")}, week},
		"the thirtieth night":                {long, time.Minute, []db.Reconciliation{ended(three, 1, ""), ended(week, 7, ""), ended(month, 30, "")}, month},
		"a longer one does":                  {long, time.Minute, []db.Reconciliation{ended(month, 6, "")}, three},
		"a person's of this day does":        {long, 12 * time.Hour, []db.Reconciliation{{Span: 200 * oneDay, Started: night.Add(time.Hour), Finished: night.Add(2 * time.Hour)}}, 0},
		"a person's that was cut short":      {long, 12 * time.Hour, []db.Reconciliation{{Span: 200 * oneDay, Started: night.Add(time.Hour)}, ended(month, 0, "")}, 0},
		"failed just now":                    {long, time.Hour, []db.Reconciliation{ended(three, 0, "HTTP 503"), ended(month, 1, "")}, 0},
		"failed some hours ago":              {long, 5 * time.Hour, []db.Reconciliation{ended(three, 0, "HTTP 503"), ended(month, 1, "")}, three},
		"failed by a clock that was ahead":   {long, time.Hour, []db.Reconciliation{ended(three, -1, "HTTP 503"), ended(month, 1, "")}, three},
		"done by a clock that was ahead":     {long, time.Minute, []db.Reconciliation{ended(month, -300, ""), ended(three, 1, ""), ended(week, 3, ""), ended(month, 9, "")}, three},
		"the long one failed the day before": {long, time.Minute, []db.Reconciliation{ended(month, 1, "HTTP 503"), ended(three, 2, "")}, month},
	} {
		if got := dueSpan(night.Add(test.after), night, test.first, test.past); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}

// The nights of many mirrors are spread over some hours of the night in Poland,
// and each mirror's stay where they are.
func TestLastNight(t *testing.T) {
	warsaw, err := time.LoadLocation("Europe/Warsaw")
	if err != nil {
		t.Fatal(err)
	}
	minutes := map[int]int{}
	for i := range 300 {
		id := fmt.Sprintf("mirror %d", i)
		now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
		night := lastNight(now, id, warsaw)
		local := night.In(warsaw)
		if local.Day() != 22 || local.Hour() < 1 || local.Hour() >= 5 {
			t.Errorf("the night begins at %s", local)
		}
		if again := lastNight(now.Add(time.Hour), id, warsaw); !again.Equal(night) {
			t.Errorf("%s became %s", night, again)
		}
		if before := lastNight(night.Add(-time.Second), id, warsaw); !before.Equal(night.In(warsaw).AddDate(0, 0, -1)) {
			t.Errorf("before %s it was %s", night, before)
		}
		if at := lastNight(night, id, warsaw); !at.Equal(night) {
			t.Errorf("at %s it was %s", night, at)
		}
		minutes[local.Hour()*60+local.Minute()]++
	}
	for minute, n := range minutes {
		if n > 8 {
			t.Errorf("%d of 300 mirrors begin in minute %d", n, minute)
		}
	}
}
