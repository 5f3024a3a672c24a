package ksef

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sort"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Timings of the limiter.
const (
	defaultMaxWait = 70 * time.Second // covers the windows of a second and a minute

	// A request that got no answer may still reach KSeF after this program gave
	// it up or died: the operating system goes on sending what was written. Such
	// a request counts as ended this much later.
	unansweredFor = 2 * time.Minute

	// otherProcess is added to what another process noted, because its instants
	// came from another answer of KSeF than ours: KSeF's nodes have been seen to
	// differ by 4 s, and either answer may be an hour old (maxAnchorAge).
	otherProcess = 10 * time.Second

	// maxAnchorAge is how long the estimate of KSeF's clock is trusted. Operating
	// systems slew a clock by 0.05 % at most: 2 s in this time.
	maxAnchorAge = time.Hour
)

// groupLogin marks the requests of a login and for public keys. KSeF allows 60 a
// second of them (open-api), so they are paced and can be blocked, but are not
// counted and need no log.
const groupLogin Group = "login"

// groupAll in a block stands for every group.
const groupAll Group = "*"

// RequestLog is the limiter's memory across restarts, and how processes that run
// at the same time know of each other's requests; the caller keeps it in the
// mirror's database. All instants are KSeF's, not this machine's. Methods may be
// called by several goroutines at once.
type RequestLog interface {
	// StartRequest notes that a request is about to be sent, if admit agrees. It
	// tells admit of the requests with an ID above after, of those whose ID is in
	// open, and of the last block of every group. What admit returns is noted,
	// durably: StartRequest returns only once a power cut could not undo it. The
	// zero time notes nothing, and the id is 0 then. Between what admit is told and
	// the note no process can note another request: deciding and noting are one
	// step for all of them. admit may be called again if the step did not succeed.
	// IDs ascend, and none is given twice.
	StartRequest(ctx context.Context, group string, after int64, open []int64, admit Admit) (id int64, err error)
	// EndRequest notes that the request is over, whatever came of it.
	EndRequest(ctx context.Context, id int64, at time.Time) error
	// BlockGroup notes, durably, that nothing may be sent in the group until then;
	// the group "*" stands for all. It never shortens an earlier block.
	BlockGroup(ctx context.Context, group string, until time.Time) error
	// Requests gives every request that started or ended at or after since, also
	// those that never ended.
	Requests(ctx context.Context, since time.Time) ([]LoggedRequest, error)
	// Blocks gives the last block of every group; those that are over may be left out.
	Blocks(ctx context.Context) (map[string]time.Time, error)
}

// Admit decides on a request, knowing what other processes have noted: see
// [RequestLog].
type Admit func(noted []LoggedRequest, blocks map[string]time.Time) time.Time

// LoggedRequest is one row of a [RequestLog]. A zero End means that none was
// noted: the request is in flight, or its process died meanwhile.
type LoggedRequest struct {
	ID         int64
	Group      string
	Start, End time.Time
}

// BudgetError says that a request would exceed what KSeF allows, or that KSeF
// has blocked the group. Nothing was sent, unless it is inside an [Error] of
// status 429 or 403, by which KSeF announced the block.
type BudgetError struct {
	Group Group     // "*" when KSeF blocked every group
	Until time.Time // when the next request may be allowed, by this machine's clock (Limiter.Now)
}

// Error names the group and the instant.
func (e *BudgetError) Error() string {
	return fmt.Sprintf("no request of group %s is allowed before %s", e.Group, e.Until.Format(time.RFC3339))
}

// Limiter keeps every request within KSeF's limits, across restarts, crashes and
// all processes that share its log. Its methods may be called by several
// goroutines at once.
//
// KSeF counts requests in three sliding windows at once (limity-api.md). The
// limiter sees only when a request began and when it was over; KSeF received it
// at some instant between. So request k is admitted only if, for every limit of
// N in W, fewer than N earlier requests of the group ended after now - W or are
// still in flight. Proof that KSeF never sees N+1 within W: of such N+1 let k be
// the one admitted last; of the N others one, j, had ended by start(k) - W, so
// received(j) <= end(j) <= start(k) - W <= received(k) - W. This holds for any
// latency and order. Clocks that run at unequal rates are met by a W a little
// longer than KSeF's. A token bucket would not do: with a burst of N it admits
// almost 2N in W.
//
// "Earlier" and "admitted last" mean something across processes too, since
// admitting is one step of the log for all of them: at that step k knows of every
// request that was admitted before. The limiter knows exactly when its own ended.
// Another process's looks at least as recent as it is; one without an end counts
// as in flight for as long as it can be, which is requestTimeout and unansweredFor
// after its start. That allows two minutes for the disk to note a request before
// it is sent.
//
// Two clocks are used. Within a process all instants are this machine's
// monotonic ones, which no change of the wall clock touches; while a laptop
// sleeps they stand still, which only makes requests look more recent than they
// are. The log, which other processes read, is in KSeF's time: every login asks
// KSeF for a challenge that says what time it is (anchor). So a wrong or jumping
// wall clock and a reboot need no care.
type Limiter struct {
	Now     func() time.Time                           // nil: time.Now
	Sleep   func(context.Context, time.Duration) error // nil: real
	MaxWait time.Duration                              // a longer wait becomes a BudgetError; 0: 70 s

	log  RequestLog
	wall func() time.Time // Now without its monotonic part; tests set it apart

	mu       sync.Mutex
	limits   Limits
	groups   map[Group]*groupState
	blocks   map[Group]time.Time // until, by Now
	anchored *anchor             // nil: KSeF's time is not known yet

	// What of the log is known here.
	seen  int64               // the highest ID
	open  map[int64]bool      // the IDs of other processes' requests without an end
	noted map[Group]time.Time // the blocks, until, by KSeF's time
}

// groupState is what the limiter remembers of one group: only what a window can
// still reach.
type groupState struct {
	pacer    *rate.Limiter
	inFlight int
	ended    []time.Time         // by Now, ascending
	others   map[int64]time.Time // when other processes' requests ended or will have, by Now; by ID
}

// anchor ties KSeF's clock to this machine's.
type anchor struct {
	server      time.Time // what KSeF said
	roundTrip   time.Duration
	local, wall time.Time // when the answer had arrived, so that server <= KSeF's time then <= server + roundTrip
}

// NewLimiter remembers by log, and begins with limits; nil means [DefaultLimits].
func NewLimiter(log RequestLog, limits Limits) *Limiter {
	if limits == nil {
		limits = DefaultLimits()
	}
	return &Limiter{
		log: log, limits: limits,
		groups: map[Group]*groupState{}, blocks: map[Group]time.Time{},
		open: map[int64]bool{}, noted: map[Group]time.Time{},
	}
}

// SetLimits replaces the limits from the next request on.
func (l *Limiter) SetLimits(limits Limits) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.limits = limits
	for _, state := range l.groups {
		state.pacer = nil
	}
}

// Budget tells how many requests of the group the limits allow without a wait
// longer than MaxWait between two, and if none, when the next may be sent, by this
// machine's clock; next is zero otherwise. It answers 0 and the zero time before
// the first login, when the log has not been read yet, and math.MaxInt for a group
// that has no limit in a window longer than that.
func (l *Limiter) Budget(group Group) (left int, next time.Time) {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.anchored == nil {
		return 0, time.Time{}
	}
	if at, _ := l.earliest(group, now); at.Sub(now) > l.maxWait() {
		return 0, at
	}
	left = math.MaxInt
	ends := l.group(group).ends(now)
	for _, w := range l.windows(group) {
		if w.length > l.maxWait() {
			since := now.Add(-w.length)
			old := sort.Search(len(ends), func(i int) bool { return ends[i].After(since) })
			left = min(left, w.requests-(len(ends)-old))
		}
	}
	return max(left, 1), time.Time{} // one is about to be free, or acquire would not wait for it
}

func (l *Limiter) maxWait() time.Duration {
	if l.MaxWait == 0 {
		return defaultMaxWait
	}
	return l.MaxWait
}

// permit is the right to send one request. end must be called once it is over.
type permit struct {
	limiter *Limiter
	group   Group
	id      int64
}

// acquire waits until a request of the group may be sent, and notes it. The
// request must be sent at once. It returns a *BudgetError without waiting when
// the wait would be longer than MaxWait, and the context's error as such.
func (l *Limiter) acquire(ctx context.Context, group Group) (permit, error) {
	if err := l.pace(ctx, group); err != nil {
		return permit{}, err
	}
	for {
		p, at, err := l.try(ctx, group)
		if err != nil || at.IsZero() {
			return p, err
		}
		if err := l.sleep(ctx, at.Sub(l.now())); err != nil {
			return permit{}, err
		}
	}
}

// try is one step of acquire: it gives a permit, or the instant at which to try
// again.
func (l *Limiter) try(ctx context.Context, group Group) (permit, time.Time, error) {
	// Deciding and noting must be one step, or two workers take the last request.
	l.mu.Lock()
	defer l.mu.Unlock()
	if group == groupLogin {
		if err := l.learnBlocks(ctx); err != nil {
			return permit{}, time.Time{}, err
		}
		at, err := l.allowed(group, l.now())
		return permit{l, group, 0}, at, err
	}
	if l.anchored == nil {
		return permit{}, time.Time{}, errors.New("the time at KSeF is not known yet; log in first")
	}
	var at time.Time
	var refused error
	id, err := l.log.StartRequest(ctx, string(group), l.seen, slices.Collect(maps.Keys(l.open)), func(noted []LoggedRequest, blocks map[string]time.Time) time.Time {
		now := l.now() // only now: the log may have been waited for
		l.learn(now, noted, blocks)
		if at, refused = l.allowed(group, now); refused != nil || !at.IsZero() {
			return time.Time{}
		}
		return l.anchored.latest(now, l.wallNow())
	})
	switch {
	case err != nil:
		// Should it have been noted all the same, it is learned like another's.
		return permit{}, time.Time{}, fmt.Errorf("note a request of group %s: %w", group, err)
	case id == 0:
		return permit{}, at, refused
	}
	// A crash from here on leaves a row without an end, which other processes
	// count as a request that may still be on its way.
	l.seen = id
	l.group(group).inFlight++
	return permit{l, group, id}, time.Time{}, nil
}

// allowed says when a request of the group may be sent by what is known here: the
// zero time for now, or an error when the wait would be longer than MaxWait.
func (l *Limiter) allowed(group Group, now time.Time) (time.Time, error) {
	at, blocked := l.earliest(group, now)
	if !at.After(now) {
		return time.Time{}, nil
	}
	if at.Sub(now) > l.maxWait() {
		return time.Time{}, &BudgetError{Group: blocked, Until: at}
	}
	return at, nil
}

// learn takes in what other processes have noted. To be told the same twice
// changes nothing.
func (l *Limiter) learn(now time.Time, noted []LoggedRequest, blocks map[string]time.Time) {
	server := l.anchored.least(now)
	for _, row := range noted {
		l.seen = max(l.seen, row.ID)
		delete(l.open, row.ID)
		end := row.End
		if end.IsZero() {
			l.open[row.ID] = true
			end = row.Start.Add(requestTimeout + unansweredFor)
		}
		// server is not ahead of KSeF's time, and what was noted is not behind it,
		// so the request looks at least as recent as it is. A row further ahead
		// than any request can be was noted by a wrong clock: it has just ended.
		ago := max(server.Sub(end.Add(otherProcess)), -unansweredFor)
		state := l.group(Group(row.Group))
		if state.others == nil {
			state.others = map[int64]time.Time{}
		}
		state.others[row.ID] = now.Add(-ago)
	}
	for _, state := range l.groups {
		for id, end := range state.others {
			if end.Before(now.Add(-longer(time.Hour))) {
				delete(state.others, id)
				delete(l.open, id) // its process died
			}
		}
	}
	for name, until := range blocks {
		group := Group(name)
		if !until.After(l.noted[group]) { // known, or our own
			continue
		}
		l.noted[group] = until
		if until = now.Add(until.Add(otherProcess).Sub(server)); until.After(l.blocks[group]) {
			l.blocks[group] = until
		}
	}
}

// learnBlocks asks the log for the blocks alone. Before the first login there is
// nothing to compare them with.
func (l *Limiter) learnBlocks(ctx context.Context) error {
	if l.anchored == nil {
		return nil
	}
	blocks, err := l.log.Blocks(ctx)
	if err != nil {
		return fmt.Errorf("read the blocked groups: %w", err)
	}
	l.learn(l.now(), nil, blocks)
	return nil
}

// end notes that the request is over. answered says that KSeF answered; without
// an answer the request may still be on its way (see unansweredFor). Pass a
// context that outlives the request's, or a cancelled request leaves no end.
func (p permit) end(ctx context.Context, answered bool) error {
	if p.group == groupLogin {
		return nil
	}
	var late time.Duration
	if !answered {
		late = unansweredFor
	}
	l := p.limiter
	l.mu.Lock()
	now := l.now()
	state := l.group(p.group)
	state.inFlight--
	state.add(now.Add(late))
	state.ended = slices.Delete(state.ended, 0, state.before(now.Add(-longer(time.Hour))))
	stamp := l.anchored.latest(now, l.wallNow()).Add(late)
	l.mu.Unlock()

	// A crash before this is noted is a row without an end: see try.
	if err := l.log.EndRequest(ctx, p.id, stamp); err != nil {
		return fmt.Errorf("note the end of a request of group %s: %w", p.group, err)
	}
	return nil
}

// block stops a group, or all with groupAll, for d from now. A block of any
// length is kept across restarts, for which KSeF's time must be known: before
// the first login it is kept in memory only, until anchorTo notes it.
func (l *Limiter) block(ctx context.Context, group Group, d time.Duration) (until time.Time, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	until = now.Add(d)
	if l.blocks[group].After(until) {
		return l.blocks[group], nil
	}
	l.blocks[group] = until
	if l.anchored == nil {
		return until, nil
	}
	return until, l.noteBlock(ctx, group, now)
}

func (l *Limiter) noteBlock(ctx context.Context, group Group, now time.Time) error {
	until := l.anchored.latest(now, l.wallNow()).Add(l.blocks[group].Sub(now))
	if err := l.log.BlockGroup(ctx, string(group), until); err != nil {
		return fmt.Errorf("note that group %s is blocked: %w", group, err)
	}
	if until.After(l.noted[group]) {
		l.noted[group] = until
	}
	return nil
}

// anchorTo takes in what KSeF said about its time, roundTrip after it was asked.
// The first time it also reads the log.
func (l *Limiter) anchorTo(ctx context.Context, server time.Time, roundTrip time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	told := &anchor{server: server, roundTrip: roundTrip, local: now, wall: l.wallNow()}
	if l.anchored != nil {
		l.anchored = told
		return nil
	}
	rows, err := l.log.Requests(ctx, server.Add(-longer(time.Hour)-requestTimeout-unansweredFor-otherProcess))
	if err != nil {
		return fmt.Errorf("read the log of requests: %w", err)
	}
	blocks, err := l.log.Blocks(ctx)
	if err != nil {
		return fmt.Errorf("read the blocked groups: %w", err)
	}
	l.anchored = told
	for group, until := range l.blocks { // from before KSeF's time was known
		if noted := blocks[string(group)].Sub(server); until.Sub(now) > noted {
			err = errors.Join(err, l.noteBlock(ctx, group, now))
		}
	}
	l.learn(now, rows, blocks)
	return err
}

// fresh reports whether KSeF's time is known well enough. After a laptop has
// slept it is not, since the wall clock has moved on.
func (l *Limiter) fresh() bool {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.anchored != nil && l.anchored.age(now, l.wallNow()) < maxAnchorAge
}

// serverTime is KSeF's time, at most a round trip too late; this machine's
// before the first login.
func (l *Limiter) serverTime() time.Time {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.anchored == nil {
		return now
	}
	return l.anchored.latest(now, l.wallNow())
}

// earliest is the first instant, not before now, at which a request of the group
// may be admitted if those in flight end now; and what holds it back.
func (l *Limiter) earliest(group Group, now time.Time) (time.Time, Group) {
	at, cause := now, group
	for _, blocked := range []Group{group, groupAll} {
		if until := l.blocks[blocked]; until.After(at) {
			at, cause = until, blocked
		}
	}
	if group == groupLogin {
		return at, cause
	}
	ends := l.group(group).ends(now)
	for _, w := range l.windows(group) {
		if len(ends) < w.requests {
			continue
		}
		// Fewer than w.requests are left in the window once this one is not.
		if free := ends[len(ends)-w.requests].Add(w.length); free.After(at) {
			at, cause = free, group
		}
	}
	return at, cause
}

// pace spaces requests out evenly within the second, so that a burst does not
// look like an attack. It guarantees nothing; the windows do.
func (l *Limiter) pace(ctx context.Context, group Group) error {
	l.mu.Lock()
	state := l.group(group)
	if state.pacer == nil {
		perSecond := rate.Inf
		if group == groupLogin {
			perSecond = 10
		} else if n := l.limit(group).PerSecond; n > 0 {
			perSecond = rate.Limit(n)
		}
		state.pacer = rate.NewLimiter(perSecond, 1)
	}
	now := l.now()
	wait := state.pacer.ReserveN(now, 1).DelayFrom(now)
	l.mu.Unlock()
	return l.sleep(ctx, wait)
}

// window is one limit, with a length that covers KSeF's whatever the clocks.
type window struct {
	requests int
	length   time.Duration
}

// longer makes up for clocks that run at unequal rates.
func longer(d time.Duration) time.Duration { return d + d/200 + 100*time.Millisecond }

func (l *Limiter) windows(group Group) []window {
	limit := l.limit(group)
	all := []window{
		{limit.PerSecond, longer(time.Second)},
		{limit.PerMinute, longer(time.Minute)},
		{limit.PerHour, longer(time.Hour)},
	}
	return slices.DeleteFunc(all, func(w window) bool { return w.requests <= 0 })
}

// limit of a group. One that KSeF's answer left out keeps its published limit,
// and one that is unknown altogether has that of "other", as limity-api.md says
// of every endpoint that it does not name.
func (l *Limiter) limit(group Group) Limit {
	if limit, ok := l.limits[group]; ok {
		return limit
	}
	published := DefaultLimits()
	if limit, ok := published[group]; ok {
		return limit
	}
	if limit, ok := l.limits[GroupOther]; ok {
		return limit
	}
	return published[GroupOther]
}

func (l *Limiter) group(group Group) *groupState {
	if l.groups[group] == nil {
		l.groups[group] = &groupState{}
	}
	return l.groups[group]
}

// ends are the instants at which requests ended, in order; those in flight as if
// they ended now.
func (s *groupState) ends(now time.Time) []time.Time {
	ends := slices.Concat(s.ended, slices.Repeat([]time.Time{now}, s.inFlight), slices.Collect(maps.Values(s.others)))
	slices.SortFunc(ends, time.Time.Compare)
	return ends
}

func (s *groupState) add(end time.Time) {
	s.ended = slices.Insert(s.ended, s.before(end), end)
}

// before is how many requests had ended before t.
func (s *groupState) before(t time.Time) int {
	i, _ := slices.BinarySearchFunc(s.ended, t, time.Time.Compare)
	return i
}

// age is how long ago KSeF told its time: by the monotonic clock, which stands
// still while the machine sleeps, or by the wall clock, which does not, whichever
// says more. It is too little only if, since then, the machine has slept and its
// wall clock was set back by as long.
func (a *anchor) age(now, wall time.Time) time.Duration {
	return max(now.Sub(a.local), wall.Sub(a.wall))
}

// least is the least that KSeF's time can be, but for the rates of the clocks.
// After the machine has slept it is far behind, until KSeF is asked again.
func (a *anchor) least(now time.Time) time.Time { return a.server.Add(now.Sub(a.local)) }

// latest is the latest that KSeF's time can be. What is noted so never looks
// older than it is.
func (a *anchor) latest(now, wall time.Time) time.Time {
	return a.server.Add(a.roundTrip + a.age(now, wall))
}

func (l *Limiter) now() time.Time {
	if l.Now != nil {
		return l.Now()
	}
	return time.Now()
}

// wallNow is this machine's wall clock alone, which Round(0) leaves.
func (l *Limiter) wallNow() time.Time {
	if l.wall != nil {
		return l.wall()
	}
	return l.now().Round(0)
}

func (l *Limiter) sleep(ctx context.Context, d time.Duration) error {
	return sleep(ctx, l.Sleep, d)
}

// sleep waits for d by instead or, if that is nil, in reality. It returns the
// context's error when that ends first.
func sleep(ctx context.Context, instead func(context.Context, time.Duration) error, d time.Duration) error {
	if err := ctx.Err(); err != nil || d <= 0 {
		return err
	}
	if instead != nil {
		return instead(ctx, d)
	}
	waiting, end := context.WithTimeout(ctx, d)
	defer end()
	<-waiting.Done()
	return ctx.Err()
}
