package ksef

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ksefmirror/db"
)

// memoryLog is a RequestLog that keeps milliseconds, as a database would. It
// survives the limiters that write to it.
type memoryLog struct {
	mu     sync.Mutex
	nextID int64
	rows   map[int64]*LoggedRequest
	blocks map[string]time.Time
	err    error // what every method returns
}

func newMemoryLog() *memoryLog {
	return &memoryLog{rows: map[int64]*LoggedRequest{}, blocks: map[string]time.Time{}}
}

func (m *memoryLog) StartRequest(_ context.Context, group string, after int64, open []int64, admit Admit) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var news []LoggedRequest
	for id := after + 1; id <= m.nextID; id++ {
		open = append(open, id)
	}
	for _, id := range open {
		if row := m.rows[id]; row != nil {
			news = append(news, *row)
		}
	}
	at := admit(news, maps.Clone(m.blocks))
	if at.IsZero() {
		return 0, m.err
	}
	m.nextID++
	m.rows[m.nextID] = &LoggedRequest{ID: m.nextID, Group: group, Start: at.Truncate(time.Millisecond)}
	return m.nextID, m.err
}

func (m *memoryLog) EndRequest(ctx context.Context, id int64, at time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := cmp.Or(m.err, ctx.Err()); err != nil { // as a database does
		return err
	}
	if m.rows[id] != nil {
		m.rows[id].End = at.Truncate(time.Millisecond)
	}
	return nil
}

func (m *memoryLog) BlockGroup(ctx context.Context, group string, until time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := cmp.Or(m.err, ctx.Err()); err != nil {
		return err
	}
	if until = until.Truncate(time.Millisecond); until.After(m.blocks[group]) {
		m.blocks[group] = until
	}
	return nil
}

func (m *memoryLog) Requests(_ context.Context, since time.Time) ([]LoggedRequest, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var rows []LoggedRequest
	for id, row := range m.rows {
		if row.Start.Before(since) && row.End.Before(since) {
			delete(m.rows, id)
			continue
		}
		rows = append(rows, *row)
	}
	return rows, m.err
}

func (m *memoryLog) Blocks(context.Context) (map[string]time.Time, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	blocks := map[string]time.Time{}
	for group, until := range m.blocks {
		blocks[group] = until
	}
	return blocks, m.err
}

func (m *memoryLog) all() []LoggedRequest {
	rows, _ := m.Requests(context.Background(), time.Time{})
	slices.SortFunc(rows, func(a, b LoggedRequest) int { return cmp.Compare(a.ID, b.ID) })
	return rows
}

// slidingWindows is KSeF's side of the limits: exact, and closed at both ends,
// which is stricter than half open.
type slidingWindows struct {
	limits   Limits
	received map[Group][]time.Duration
	total    map[Group]int
}

func (s *slidingWindows) receive(group Group, now time.Duration) error {
	limit := s.limits[group]
	received := append(s.received[group], now)
	for len(received) > 0 && received[0] < now-time.Hour {
		received = received[1:]
	}
	s.received[group] = received
	s.total[group]++
	for _, w := range []struct {
		requests int
		length   time.Duration
	}{{limit.PerSecond, time.Second}, {limit.PerMinute, time.Minute}, {limit.PerHour, time.Hour}} {
		first, _ := slices.BinarySearch(received, now-w.length)
		if got := len(received) - first; got > w.requests {
			return fmt.Errorf("429: %d requests of group %s within %s, %d are allowed", got, group, w.length, w.requests)
		}
	}
	return nil
}

// world simulates KSeF, a machine, and processes on it that send as much as their
// limiters let them. Nothing waits in reality; time is the true time since the
// start.
type world struct {
	t        *testing.T
	random   *rand.Rand
	now      time.Duration
	events   eventHeap
	server   slidingWindows
	log      func() RequestLog // as a process that starts opens it
	scenario scenario

	processes int          // that ever were
	alive     map[int]bool // events of a process that died are void
	slept     time.Duration
	speed     float64 // of this machine's clock
	wallJump  time.Duration
}

// process is one on the machine, from its start to its crash.
type process struct {
	*world
	id      int
	limiter *Limiter
	epoch   time.Time     // what its clock showed at the start of the world
	awake   time.Duration // how long the machine had slept when it began
}

type scenario struct {
	name             string
	processes        int           // at the same time
	uptime           time.Duration // mean; 0: no crashes
	suspendEvery     time.Duration // mean; 0: never
	jumpEvery        time.Duration // mean; 0: never
	requests         int
	leastUtilisation float64
}

type event struct {
	at      time.Duration
	process int // -1: holds for every process
	do      func()
}

type eventHeap []event

func (h eventHeap) Len() int           { return len(h) }
func (h eventHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h eventHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)        { *h = append(*h, x.(event)) }
func (h *eventHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

func (p *process) after(d time.Duration, do func()) {
	heap.Push(&p.events, event{p.now + d, p.id, do})
}

func (w *world) inAnyProcess(d time.Duration, do func()) {
	heap.Push(&w.events, event{w.now + d, -1, do})
}

func (w *world) upTo(d time.Duration) time.Duration {
	return time.Duration(w.random.Int64N(int64(d) + 1))
}

// about is exponentially distributed, as accidents are.
func (w *world) about(mean time.Duration) time.Duration {
	return time.Duration(w.random.ExpFloat64() * float64(mean))
}

// latency is mostly short, and now and then up to the timeout.
func (w *world) latency() time.Duration {
	if w.random.IntN(50) == 0 {
		return w.upTo(requestTimeout)
	}
	return 5*time.Millisecond + w.upTo(3*time.Second)
}

// local is this machine's monotonic clock, as one process shows it.
func (p *process) local() time.Time {
	return p.epoch.Add(time.Duration(float64(p.now-p.slept) * p.speed))
}

// anchor is what a challenge does. The answer comes from a node of KSeF whose
// clock is up to 2 s wrong.
func (p *process) anchor() {
	trueStart := time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)
	roundTrip := p.upTo([]time.Duration{50 * time.Millisecond, 10 * time.Second}[p.random.IntN(2)])
	said := trueStart.Add(p.now - p.upTo(roundTrip)).Add(p.upTo(4*time.Second) - 2*time.Second)
	if err := p.limiter.anchorTo(p.t.Context(), said, roundTrip); err != nil {
		p.t.Fatal(err)
	}
}

func (w *world) newProcess() *process {
	w.processes++
	w.alive[w.processes] = true
	return &process{world: w, id: w.processes}
}

func (p *process) start() {
	p.awake = p.slept
	p.epoch = time.Date(1990+p.random.IntN(100), 1, 1, 0, 0, 0, 0, time.UTC) // a wrong wall clock does not matter
	p.limiter = NewLimiter(p.log(), p.server.limits)
	p.limiter.Now = p.local
	p.limiter.Wall = func() time.Time { return p.local().Add(p.slept - p.awake + p.wallJump) }
	p.anchor()
	for group, workers := range map[Group]int{GroupMetadata: 2, GroupDownload: 4} {
		for range workers {
			p.after(0, func() { p.work(group) })
		}
	}
	if p.scenario.uptime > 0 {
		p.after(p.about(p.scenario.uptime), p.crash)
	}
}

// crash voids what this process was about to do: no end is noted.
func (p *process) crash() {
	delete(p.alive, p.id)
	next := p.newProcess()
	next.after(p.upTo(time.Minute), next.start)
}

func (w *world) jump() {
	w.wallJump += w.upTo(48*time.Hour) - 24*time.Hour
	w.inAnyProcess(w.about(w.scenario.jumpEvery), w.jump)
}

// suspend closes the laptop: KSeF goes on receiving what is under way, the
// processes and their monotonic clocks stand still.
func (w *world) suspend() {
	d := w.about(3 * time.Hour)
	w.slept += d
	for i := range w.events {
		if w.events[i].process != -1 {
			w.events[i].at += d
		}
	}
	heap.Init(&w.events)
	// The clock already counts d as slept, so nothing may look at it before then.
	w.inAnyProcess(d+w.about(w.scenario.suspendEvery), w.suspend)
}

func (p *process) work(group Group) {
	if !p.limiter.fresh() {
		p.anchor()
	}
	again := func() { p.work(group) }
	permit, at, err := p.limiter.try(p.t.Context(), group)
	if budget, ok := errors.AsType[*BudgetError](err); ok {
		at = budget.Until
	} else if err != nil {
		p.t.Fatal(err)
	}
	if !at.IsZero() {
		p.after(time.Duration(float64(at.Sub(p.local()))/p.speed)+1, again)
		return
	}
	latency := p.latency()
	answered := p.random.IntN(100) > 0
	received := p.upTo(latency)
	if !answered { // the operating system goes on sending after the process gave up
		received = p.upTo(latency + 100*time.Second)
	}
	p.inAnyProcess(received, func() {
		if err := p.server.receive(group, p.now); err != nil {
			p.t.Fatalf("after %s, process %d: %v", p.now, p.id, err)
		}
	})
	p.after(latency, func() {
		if err := permit.end(p.t.Context(), answered); err != nil {
			p.t.Fatal(err)
		}
		again()
	})
}

// run lets the scenario take its course.
func (w *world) run() {
	w.alive = map[int]bool{}
	w.server = slidingWindows{limits: DefaultLimits(), received: map[Group][]time.Duration{}, total: map[Group]int{}}
	w.speed = 1 + (w.random.Float64()-0.5)*0.002
	for range w.scenario.processes {
		w.newProcess().start()
	}
	if w.scenario.jumpEvery > 0 {
		w.inAnyProcess(w.about(w.scenario.jumpEvery), w.jump)
	}
	if w.scenario.suspendEvery > 0 {
		w.inAnyProcess(w.about(w.scenario.suspendEvery), w.suspend)
	}
	for w.server.total[GroupMetadata]+w.server.total[GroupDownload] < w.scenario.requests {
		next := heap.Pop(&w.events).(event)
		w.now = max(w.now, next.at)
		if next.process == -1 || w.alive[next.process] {
			next.do()
		}
	}
	for _, group := range []Group{GroupMetadata, GroupDownload} {
		possible := float64(w.server.limits[group].PerHour) * w.now.Hours()
		used := float64(w.server.total[group]) / possible
		w.t.Logf("%s: %d requests in %.0f hours and %d processes, %.2f %% of the limit", group, w.server.total[group], w.now.Hours(), w.processes, 100*used)
		if used < w.scenario.leastUtilisation {
			w.t.Errorf("%s: used %.2f %% of the limit, want at least %.0f %%", group, 100*used, 100*w.scenario.leastUtilisation)
		}
	}
}

// TestLimiterNeverExceedsLimits is the promise: whatever happens, KSeF never sees
// more than it allows, and still almost all that it allows is used.
func TestLimiterNeverExceedsLimits(t *testing.T) {
	scenarios := []scenario{
		{name: "steady", processes: 1, requests: 300_000, leastUtilisation: 0.95},
		{name: "crashes and clock jumps", processes: 1, uptime: 3 * time.Hour, jumpEvery: 5 * time.Hour, requests: 400_000, leastUtilisation: 0.95},
		{name: "crash loop", processes: 1, uptime: 4 * time.Minute, requests: 100_000},
		{name: "laptop", processes: 1, uptime: 12 * time.Hour, suspendEvery: 5 * time.Hour, requests: 250_000},
		{name: "two at once", processes: 2, uptime: 6 * time.Hour, jumpEvery: 5 * time.Hour, requests: 150_000, leastUtilisation: 0.95},
		{name: "daemon and many commands", processes: 4, uptime: 20 * time.Minute, requests: 60_000},
		{name: "two on a laptop", processes: 2, uptime: 12 * time.Hour, suspendEvery: 5 * time.Hour, requests: 100_000},
	}
	for seed, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			if testing.Short() {
				s.requests /= 20
			}
			log := newMemoryLog()
			w := &world{t: t, scenario: s, log: func() RequestLog { return log }, random: rand.New(rand.NewPCG(2026, uint64(seed)))}
			w.run()
		})
	}
}

// The same over a real database, opened anew by each process.
func TestLimiterSharesDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "database", "invoices.db")
	open := func() RequestLog {
		d, err := db.Open(t.Context(), path, db.Mirror{Environment: "test", ContextType: "Nip", ContextValue: "5265877635", ID: "x"}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() }) // a process that died has not closed it
		return databaseLog{d}
	}
	s := scenario{processes: 2, uptime: 2 * time.Hour, requests: 1500, leastUtilisation: 0.95}
	if testing.Short() {
		s.requests = 300
	}
	w := &world{t: t, scenario: s, log: open, random: rand.New(rand.NewPCG(2026, 11))}
	w.run()
}

// databaseLog is how package sync keeps the log.
type databaseLog struct{ *db.DB }

func (l databaseLog) StartRequest(ctx context.Context, group string, after int64, open []int64, admit Admit) (int64, error) {
	return l.DB.StartRequest(ctx, group, after, open, func(noted []db.Request, blocks map[string]time.Time) time.Time {
		return admit(logged(noted), blocks)
	})
}

func (l databaseLog) Requests(ctx context.Context, since time.Time) ([]LoggedRequest, error) {
	rows, err := l.DB.Requests(ctx, since)
	return logged(rows), err
}

func logged(rows []db.Request) []LoggedRequest {
	var logged []LoggedRequest
	for _, row := range rows {
		logged = append(logged, LoggedRequest(row))
	}
	return logged
}

// TestLimiterConcurrency drives acquire itself, by many goroutines.
func TestLimiterConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		server := slidingWindows{limits: DefaultLimits(), received: map[Group][]time.Duration{}, total: map[Group]int{}}
		var mu sync.Mutex
		l := NewLimiter(newMemoryLog(), nil)
		l.MaxWait = 2 * time.Hour
		if err := l.anchorTo(t.Context(), began, 0); err != nil {
			t.Fatal(err)
		}
		var workers sync.WaitGroup
		for worker := range 8 {
			workers.Go(func() {
				random := rand.New(rand.NewPCG(7, uint64(worker)))
				pause := func() { _ = sleep(t.Context(), nil, time.Duration(random.Int64N(int64(2*time.Second)))) }
				for range 40 {
					p, err := l.acquire(t.Context(), GroupDownload)
					if err != nil {
						t.Error(err)
						return
					}
					pause()
					mu.Lock()
					err = server.receive(GroupDownload, time.Since(began))
					mu.Unlock()
					if err != nil {
						t.Error(err)
					}
					pause()
					if err := p.end(t.Context(), true); err != nil {
						t.Error(err)
					}
				}
			})
		}
		workers.Wait()
		if hours := time.Since(began).Hours(); hours > 4.2 { // 320 requests at 64 an hour
			t.Errorf("320 requests took %.2f hours, want little more than 4", hours)
		}
	})
}

// clock is a clock that only sleeping and tests move.
type clock struct {
	mu    sync.Mutex
	now   time.Time
	slept []time.Duration
}

func newClock() *clock { return &clock{now: time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Sleep(ctx context.Context, d time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	c.slept = append(c.slept, d)
	return ctx.Err()
}

func (c *clock) advance(d time.Duration) { _ = c.Sleep(context.Background(), d) }

// newTestLimiter is anchored: KSeF's clock is two years ahead of this machine's.
func newTestLimiter(t *testing.T, c *clock, log RequestLog) *Limiter {
	t.Helper()
	l := NewLimiter(log, nil)
	l.Now, l.Sleep = c.Now, c.Sleep
	if err := l.anchorTo(t.Context(), c.Now().AddDate(2, 0, 0), 0); err != nil {
		t.Fatal(err)
	}
	return l
}

func spend(t *testing.T, l *Limiter, group Group, n int) {
	t.Helper()
	for range n {
		p, err := l.acquire(t.Context(), group)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.end(t.Context(), true); err != nil {
			t.Fatal(err)
		}
	}
}

func wantBudgetError(t *testing.T, err error, group Group, until time.Time) {
	t.Helper()
	budget, ok := errors.AsType[*BudgetError](err)
	if !ok {
		t.Fatalf("got error %v, want a BudgetError", err)
	}
	if budget.Group != group || !budget.Until.Equal(until) {
		t.Errorf("got group %s until %s, want %s until %s", budget.Group, budget.Until, group, until)
	}
}

func TestLimiterWaitsOrRefuses(t *testing.T) {
	c := newClock()
	l := newTestLimiter(t, c, newMemoryLog())
	began := c.Now()
	spend(t, l, GroupDownload, 17) // the 17th waits for the minute
	if waited := c.Now().Sub(began); waited < time.Minute || waited > 65*time.Second {
		t.Errorf("17 downloads took %s, want a little more than a minute", waited)
	}
	spend(t, l, GroupDownload, 47)
	first := began.Add(longer(time.Hour))
	_, err := l.acquire(t.Context(), GroupDownload)
	wantBudgetError(t, err, GroupDownload, first)
	if left, next := l.Budget(GroupDownload); left != 0 || !next.Equal(first) {
		t.Errorf("budget %d until %s, want 0 until %s", left, next, first)
	}
	if left, next := l.Budget(GroupMetadata); left != 20 || !next.IsZero() {
		t.Errorf("budget of another group %d until %s, want the 20 of an hour", left, next)
	}
	c.advance(first.Sub(c.Now()))
	if left, _ := l.Budget(GroupDownload); left != 1 {
		t.Errorf("budget %d once the first request is an hour old, want 1", left)
	}
	spend(t, l, GroupDownload, 1)
}

func TestLimiterCountsInFlight(t *testing.T) {
	c := newClock()
	l := newTestLimiter(t, c, newMemoryLog())
	for range 8 {
		if _, err := l.acquire(t.Context(), GroupMetadata); err != nil {
			t.Fatal(err)
		}
	}
	// However long ago they began, they may only be reaching KSeF now.
	c.advance(30 * time.Second)
	l.MaxWait = time.Nanosecond // so that Budget tells of the second
	if left, next := l.Budget(GroupMetadata); left != 0 || next.Sub(c.Now()) != longer(time.Second) {
		t.Errorf("budget %d, next in %s; want 0, next in %s", left, next.Sub(c.Now()), longer(time.Second))
	}
}

func TestLimiterLimits(t *testing.T) {
	c := newClock()
	l := newTestLimiter(t, c, newMemoryLog())
	tests := []struct {
		name   string
		limits Limits
		group  Group
		want   Limit
	}{
		{"given", Limits{GroupDownload: {1, 2, 3}}, GroupDownload, Limit{1, 2, 3}},
		{"known group left out", Limits{GroupOther: {1, 2, 3}}, GroupDownload, Limit{8, 16, 64}},
		{"unknown group", Limits{GroupOther: {1, 2, 3}}, "new", Limit{1, 2, 3}},
		{"nothing given", Limits{}, "new", Limit{10, 30, 120}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l.SetLimits(tt.limits)
			if got := l.limit(tt.group); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
	l.SetLimits(Limits{"free": {}, "hourly": {PerHour: 2}})
	if left, _ := l.Budget("free"); left < 1e6 {
		t.Errorf("budget %d of a group without limits", left)
	}
	spend(t, l, "hourly", 2)
	if left, _ := l.Budget("hourly"); left != 0 {
		t.Errorf("budget %d, want 0", left)
	}
	l.SetLimits(Limits{"hourly": {PerHour: 3}})
	spend(t, l, "hourly", 1)
}

func TestLimiterRemembersAcrossRestarts(t *testing.T) {
	c, log := newClock(), newMemoryLog()
	l := newTestLimiter(t, c, log)
	spend(t, l, GroupMetadata, 4)
	if _, err := l.acquire(t.Context(), GroupMetadata); err != nil { // in flight when the process dies
		t.Fatal(err)
	}
	for _, row := range log.all()[:4] {
		if row.End.IsZero() || row.Start.Year() != 2028 {
			t.Errorf("logged %+v, want an end, and KSeF's time", row)
		}
	}
	restarted := newTestLimiter(t, c, log)
	if left, _ := restarted.Budget(GroupMetadata); left != 15 {
		t.Errorf("budget %d after a restart, want 15", left)
	}
	// The one that never ended counts longest.
	c.advance(longer(time.Hour) + otherProcess + time.Second)
	if left, _ := restarted.Budget(GroupMetadata); left != 19 {
		t.Errorf("budget %d an hour later, want 19: the request without an end still counts", left)
	}
	restarted.SetLimits(Limits{GroupMetadata: {PerHour: 1}})
	if left, _ := restarted.Budget(GroupMetadata); left != 0 {
		t.Errorf("budget %d, want 0: the request without an end still counts", left)
	}
	c.advance(requestTimeout + unansweredFor)
	if left, _ := restarted.Budget(GroupMetadata); left != 1 {
		t.Errorf("budget %d, want 1", left)
	}
}

// The processes before and after a restart may hear the time from nodes of KSeF
// whose clocks differ.
func TestLimiterNodesDisagree(t *testing.T) {
	c, log := newClock(), newMemoryLog()
	ksef := c.Now().AddDate(2, 0, 0)
	oncePerMinute := func(told time.Time) *Limiter {
		l := NewLimiter(log, Limits{GroupDownload: {PerMinute: 1}})
		l.Now, l.Sleep = c.Now, c.Sleep
		if err := l.anchorTo(t.Context(), told, 0); err != nil {
			t.Fatal(err)
		}
		return l
	}
	spend(t, oncePerMinute(ksef.Add(-4*time.Second)), GroupDownload, 1)
	restarted := oncePerMinute(ksef)
	c.advance(time.Minute)
	restarted.MaxWait = time.Nanosecond // so that Budget tells of the minute
	if left, next := restarted.Budget(GroupDownload); left != 0 || next.Sub(c.Now()) > 15*time.Second {
		t.Errorf("budget %d, next in %s; want 0 for some seconds more", left, next.Sub(c.Now()))
	}
}

func TestLimiterRowsFromWrongClock(t *testing.T) {
	c, log := newClock(), newMemoryLog()
	for range 20 {
		id, _ := log.StartRequest(t.Context(), string(GroupMetadata), 0, nil, func([]LoggedRequest, map[string]time.Time) time.Time { return c.Now().AddDate(3, 0, 0) })
		_ = log.EndRequest(t.Context(), id, c.Now().AddDate(3, 0, 0))
	}
	l := newTestLimiter(t, c, log) // a year before those rows
	left, next := l.Budget(GroupMetadata)
	if wait := next.Sub(c.Now()); left != 0 || wait > longer(time.Hour)+unansweredFor {
		t.Errorf("budget %d, next in %s; want 0, next in little more than an hour", left, wait)
	}
}

func TestLimiterUnansweredCountsLonger(t *testing.T) {
	c, log := newClock(), newMemoryLog()
	l := newTestLimiter(t, c, log)
	l.SetLimits(Limits{GroupMetadata: {PerMinute: 1}})
	p, err := l.acquire(t.Context(), GroupMetadata)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.end(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	_, err = l.acquire(t.Context(), GroupMetadata)
	wantBudgetError(t, err, GroupMetadata, c.Now().Add(unansweredFor+longer(time.Minute)))
}

func TestLimiterBlocks(t *testing.T) {
	c, log := newClock(), newMemoryLog()
	l := newTestLimiter(t, c, log)
	until, err := l.block(t.Context(), GroupDownload, 2680*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if shorter, _ := l.block(t.Context(), GroupDownload, time.Second); !shorter.Equal(until) {
		t.Errorf("a shorter block ends at %s, want %s", shorter, until)
	}
	_, err = l.acquire(t.Context(), GroupDownload)
	wantBudgetError(t, err, GroupDownload, until)
	spend(t, l, GroupMetadata, 1) // only that group
	if _, next := l.Budget(GroupDownload); !next.Equal(until) {
		t.Errorf("next download at %s, want %s", next, until)
	}
	for range 5 { // restarts neither forget a block nor lengthen it
		_, err = newTestLimiter(t, c, log).acquire(t.Context(), GroupDownload)
		wantBudgetError(t, err, GroupDownload, until.Add(otherProcess))
	}
	if until, err = l.block(t.Context(), groupAll, time.Hour); err != nil {
		t.Fatal(err)
	}
	for _, group := range []Group{GroupMetadata, groupLogin} {
		_, err = l.acquire(t.Context(), group)
		wantBudgetError(t, err, groupAll, until)
	}
}

// What one process sends, and how KSeF blocks it, holds for those beside it at once.
func TestLimiterBesideAnother(t *testing.T) {
	c, log := newClock(), newMemoryLog()
	one, other := newTestLimiter(t, c, log), newTestLimiter(t, c, log)
	spend(t, one, GroupExport, 1)
	inFlight, err := one.acquire(t.Context(), GroupMetadata)
	if err != nil {
		t.Fatal(err)
	}
	began := c.Now()
	other.SetLimits(Limits{GroupMetadata: {PerHour: 2}, GroupExport: {PerHour: 2}, GroupDownload: {PerHour: 1}})
	spend(t, other, GroupDownload, 1) // and so learns the rest
	_, err = other.acquire(t.Context(), GroupDownload)
	wantBudgetError(t, err, GroupDownload, began.Add(longer(time.Hour)))
	for _, group := range []Group{GroupMetadata, GroupExport} {
		if left, _ := other.Budget(group); left != 1 {
			t.Errorf("budget %d of %s beside one request of another process, want 1", left, group)
		}
	}
	// A request counts from its end, once that is noted.
	c.advance(30 * time.Second)
	if err := inFlight.end(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	c.advance(time.Minute)
	spend(t, other, GroupMetadata, 1)
	_, err = other.acquire(t.Context(), GroupMetadata)
	wantBudgetError(t, err, GroupMetadata, began.Add(30*time.Second+otherProcess+longer(time.Hour)))

	until, err := one.block(t.Context(), groupAll, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range []Group{groupLogin, GroupExport} {
		_, err = other.acquire(t.Context(), group)
		wantBudgetError(t, err, groupAll, until.Add(otherProcess))
	}
	// Its own block it does not lengthen by reading it back.
	_, err = one.acquire(t.Context(), GroupExport)
	wantBudgetError(t, err, groupAll, until)
}

func TestLimiterBlockBeforeFirstLogin(t *testing.T) {
	c, log := newClock(), newMemoryLog()
	l := NewLimiter(log, nil)
	l.Now, l.Sleep = c.Now, c.Sleep
	if _, err := l.acquire(t.Context(), GroupOther); err == nil || !strings.Contains(err.Error(), "log in first") {
		t.Errorf("got %v, want a refusal before the first login", err)
	}
	if left, next := l.Budget(GroupOther); left != 0 || !next.IsZero() {
		t.Errorf("budget %d until %s, want nothing known", left, next)
	}
	until, err := l.block(t.Context(), groupAll, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	_, err = l.acquire(t.Context(), groupLogin)
	wantBudgetError(t, err, groupAll, until)
	ksef := c.Now().AddDate(2, 0, 0)
	if err := l.anchorTo(t.Context(), ksef, 0); err != nil {
		t.Fatal(err)
	}
	if got := log.blocks["*"]; !got.Equal(ksef.Add(time.Hour)) {
		t.Errorf("noted block until %s, want %s", got, ksef.Add(time.Hour))
	}

	// A short block must not replace a longer one that is on record.
	l = NewLimiter(log, nil)
	l.Now, l.Sleep = c.Now, c.Sleep
	if _, err := l.block(t.Context(), groupAll, time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := l.anchorTo(t.Context(), ksef, 0); err != nil {
		t.Fatal(err)
	}
	if got := log.blocks["*"]; !got.Equal(ksef.Add(time.Hour)) {
		t.Errorf("noted block until %s, want %s", got, ksef.Add(time.Hour))
	}
	_, err = l.acquire(t.Context(), GroupOther)
	wantBudgetError(t, err, groupAll, c.Now().Add(time.Hour+otherProcess))
}

func TestLimiterFresh(t *testing.T) {
	tests := []struct {
		name            string
		monotonic, wall time.Duration
		want            bool
	}{
		{"a while later", 59 * time.Minute, 59 * time.Minute, true},
		{"an hour later", time.Hour, time.Hour, false},
		{"after a night asleep", time.Minute, 8 * time.Hour, false},
		{"wall clock set back", 59 * time.Minute, -8 * time.Hour, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newClock()
			l := newTestLimiter(t, c, newMemoryLog())
			wall := c.Now().Add(tt.wall)
			l.Wall = func() time.Time { return wall }
			c.advance(tt.monotonic)
			if got := l.fresh(); got != tt.want {
				t.Errorf("got %t, want %t", got, tt.want)
			}
		})
	}
}

func TestLimiterLogFailure(t *testing.T) {
	c, log := newClock(), newMemoryLog()
	l := newTestLimiter(t, c, log)
	log.err = errors.New("disk full")
	if _, err := l.acquire(t.Context(), GroupOther); !errors.Is(err, log.err) {
		t.Errorf("got %v: a request that cannot be noted must not be sent", err)
	}
	if err := NewLimiter(log, nil).anchorTo(t.Context(), c.Now(), 0); !errors.Is(err, log.err) {
		t.Errorf("got %v: without its log the limiter knows nothing", err)
	}
}

func TestLimiterWaitIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLimiter(newMemoryLog(), Limits{GroupOther: {PerMinute: 1}})
		if err := l.anchorTo(t.Context(), time.Now(), 0); err != nil {
			t.Fatal(err)
		}
		spend(t, l, GroupOther, 1)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		began := time.Now()
		if _, err := l.acquire(ctx, GroupOther); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the context's error", err)
		}
		if waited := time.Since(began); waited != 10*time.Second {
			t.Errorf("waited %s, want 10s", waited)
		}
	})
}
