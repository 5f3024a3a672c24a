package sync

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"ksefmirror/db"
	"ksefmirror/internal/ksef"
	"ksefmirror/internal/tree"
)

// lately is how long status points at a difference from KSeF's list. Afterwards it
// only counts it: an invoice that KSeF hides stays hidden, and would for ever be
// something to look at.
const lately = 7 * 24 * time.Hour

// Status is what the database of a mirror tells about it, without asking KSeF
// and without disturbing whoever works on the mirror.
type Status struct {
	Invoices int            `json:"invoices"`
	Unread   int            `json:"unread"`   // mirrored, but their form or content could not be read
	Outdated int            `json:"outdated"` // as an older version has read them; cycles read them again
	Streams  []StreamStatus `json:"streams"`
	Waiting  []Waiting      `json:"waiting"` // listed by KSeF, not mirrored yet
	Exports  ExportCounts   `json:"exports"`
	Budget   []GroupBudget  `json:"budget"`
	// Receivers are told of new invoices.
	Receivers []ReceiverStatus `json:"receivers"`
	// Mounted is false when the invoices folder is not the one that the database
	// belongs to: most often its volume is not mounted.
	Mounted bool `json:"mounted"`
}

// ExportCounts are the numbers of packages that KSeF was asked for and that are not
// stored yet, and of those given up within a day.
type ExportCounts struct {
	Requested int `json:"requested"` // KSeF has not answered yet
	Preparing int `json:"preparing"`
	GivenUp   int `json:"given_up"`
}

// StreamStatus is where one role stands. Instants that are not known are "".
type StreamStatus struct {
	Role        string         `json:"role"`
	Invoices    int            `json:"invoices"`
	Watermark   ksef.Timestamp `json:"watermark"`   // complete up to here
	LagSeconds  int64          `json:"lag_seconds"` // now less the watermark; -1 without one
	LastRun     string         `json:"last_run"`    // RFC 3339 UTC, as the next
	LastSuccess string         `json:"last_success"`
	LastError   string         `json:"last_error"`   // "" when the last run was in order
	Trouble     Trouble        `json:"trouble"`      // the kind of LastError, if only a person can mend it
	Reason      string         `json:"reason"`       // why the last run asked for a package, or did not
	RestSeconds int64          `json:"rest_seconds"` // how long the role is left alone after its last run, as it has always been empty
	NotListed   int            `json:"not_listed"`   // invoices here that KSeF no longer lists
	// Reconciled is the last comparison that ended; nil before the first.
	Reconciled *ReconciliationStatus `json:"reconciled"`
	// LateLately and NotListedLately are the KSeF numbers found in the last seven
	// days, as late or as no longer listed.
	LateLately      []string `json:"late_lately"`
	NotListedLately []string `json:"not_listed_lately"`
}

// ReconciliationStatus is how one comparison of a role with KSeF's list ended.
type ReconciliationStatus struct {
	At        string         `json:"at"`   // RFC 3339 UTC
	From      ksef.Timestamp `json:"from"` // by permanent storage
	Reached   ksef.Timestamp `json:"reached"`
	Listed    int            `json:"listed"`
	Late      int            `json:"late"`       // listed, and had not been here
	NotListed int            `json:"not_listed"` // here, and not listed
	Error     string         `json:"error"`      // why it ended early; "" when it did not
}

// Waiting is an invoice that could not be mirrored yet.
type Waiting struct {
	KSeFNumber string `json:"ksef_number"`
	Role       string `json:"role"`
	Reason     string `json:"reason"`
}

// GroupBudget is what the limits on requests leave of one group, as far as this
// mirror's own requests go.
type GroupBudget struct {
	Group        ksef.Group `json:"group"`
	Left         int        `json:"left"`          // requests that could be sent now
	PerHour      int        `json:"per_hour"`      // 0: not limited
	BlockedUntil string     `json:"blocked_until"` // RFC 3339 UTC; "" when not blocked
}

// ReadStatus reads the status of the mirror in dir, whose roles are given. The
// error matches fs.ErrNotExist when the mirror has never run.
func ReadStatus(ctx context.Context, dir string, roles []string, now time.Time) (_ Status, err error) {
	d, err := db.OpenReadOnly(ctx, DatabasePath(dir))
	if err != nil {
		return Status{}, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	counts, err := d.Counts(ctx)
	if err != nil {
		return Status{}, err
	}
	status := Status{Invoices: counts.Invoices, Unread: counts.Unparsed, Waiting: []Waiting{}}
	if status.Outdated, err = d.CountOutdated(ctx); err != nil {
		return Status{}, err
	}
	rows, err := d.Streams(ctx)
	if err != nil {
		return Status{}, err
	}
	notListed, err := d.NotListed(ctx)
	if err != nil {
		return Status{}, err
	}
	differences, err := d.Differences(ctx, now.Add(-lately))
	if err != nil {
		return Status{}, err
	}
	for _, role := range roles {
		s := StreamStatus{NotListed: notListed[role], Role: role, Invoices: counts.ByRole[role], LagSeconds: -1}
		if i := slices.IndexFunc(rows, func(r db.Stream) bool { return r.Role == role }); i >= 0 {
			row := rows[i]
			s.Watermark, s.LastError, s.Trouble = ksef.Timestamp(row.Watermark), row.LastError, Trouble(row.Trouble)
			s.Reason, s.RestSeconds = row.Reason, int64(rest(row).Seconds())
			s.LastRun, s.LastSuccess = instant(row.LastRunAt), instant(row.LastSuccessAt)
			if row.Watermark != "" {
				s.LagSeconds = int64(now.Sub(s.Watermark.Time()).Seconds())
			}
		}
		s.LateLately, s.NotListedLately = []string{}, []string{}
		for _, each := range differences {
			switch {
			case each.Role != role:
			case each.NotListed:
				s.NotListedLately = append(s.NotListedLately, each.KSeFNumber)
			default:
				s.LateLately = append(s.LateLately, each.KSeFNumber)
			}
		}
		if s.Reconciled, err = lastReconciled(ctx, d, role); err != nil {
			return Status{}, err
		}
		status.Streams = append(status.Streams, s)
	}
	quarantined, err := d.OpenQuarantine(ctx)
	if err != nil {
		return Status{}, err
	}
	for _, q := range quarantined {
		status.Waiting = append(status.Waiting, Waiting{q.KSeFNumber, q.Role, q.Reason})
	}
	exports, err := d.ExportCounts(ctx, now.Add(-abandonedFor))
	if err != nil {
		return Status{}, err
	}
	status.Exports = ExportCounts(exports)
	if status.Receivers, err = readReceivers(ctx, d); err != nil {
		return Status{}, err
	}
	if status.Budget, err = readBudget(ctx, d, now); err != nil {
		return Status{}, err
	}
	// A marker that cannot be read is as good as none: the mirror would not open either.
	id, err := tree.ID(InvoicesDir(dir))
	status.Mounted = err == nil && id == d.Mirror().ID
	return status, nil
}

// lastReconciled is the last comparison of a role that ended; nil when none did.
func lastReconciled(ctx context.Context, d *db.DB, role string) (*ReconciliationStatus, error) {
	past, err := d.Reconciliations(ctx, role)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(past, func(r db.Reconciliation) bool { return !r.Finished.IsZero() })
	if i < 0 {
		return nil, nil
	}
	last := past[i]
	return &ReconciliationStatus{
		At: instant(last.Finished), From: ksef.Timestamp(last.From), Reached: ksef.Timestamp(last.Reached),
		Listed: last.Listed, Late: last.Late, NotListed: last.NotListed, Error: last.Err,
	}, nil
}

// instant is t as status tells it; "" for the zero time.
func instant(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// readBudget counts this mirror's own requests of the last hour against the limits
// that KSeF last told.
func readBudget(ctx context.Context, d *db.DB, now time.Time) ([]GroupBudget, error) {
	limits, err := readLimits(ctx, d)
	if err != nil {
		return nil, err
	}
	requests, err := d.Requests(ctx, now.Add(-time.Hour))
	if err != nil {
		return nil, err
	}
	blocks, err := d.Blocks(ctx)
	if err != nil {
		return nil, err
	}
	var groups []GroupBudget
	for _, group := range []ksef.Group{ksef.GroupMetadata, ksef.GroupExport, ksef.GroupDownload} {
		g := GroupBudget{Group: group, PerHour: limits[group].PerHour, Left: limits[group].PerHour}
		for _, r := range requests {
			if r.Group == string(group) && g.Left > 0 {
				g.Left--
			}
		}
		until := blocks[string(group)]
		if all := blocks["*"]; all.After(until) { // KSeF's firewall blocks every group
			until = all
		}
		if until.After(now) {
			g.Left, g.BlockedUntil = 0, instant(until)
		}
		groups = append(groups, g)
	}
	return groups, nil
}

// readLimits gives the limits that KSeF last told this mirror, or the published.
func readLimits(ctx context.Context, d *db.DB) (ksef.Limits, error) {
	text, err := d.Limits(ctx)
	if err != nil || text == "" {
		return ksef.DefaultLimits(), err
	}
	limits := ksef.Limits{}
	if err := json.Unmarshal([]byte(text), &limits); err != nil {
		return nil, fmt.Errorf("limits in the database: %w", err)
	}
	return limits, nil
}

// ReceiverStatus is how far a receiver of new invoices has been told. Instants are
// RFC 3339 UTC, "" when there is none.
type ReceiverStatus struct {
	Receiver    string `json:"receiver"`     // command, webhook or digest
	Behind      int64  `json:"behind"`       // invoices that it has not taken yet
	Failures    int    `json:"failures"`     // attempts in a row
	LastError   string `json:"last_error"`   // "" when the last attempt succeeded
	NextAttempt string `json:"next_attempt"` // after a failure; "" then: only after the next start
	LastSuccess string `json:"last_success"`
}

// readReceivers gives the receivers of new invoices, by name.
func readReceivers(ctx context.Context, d *db.DB) ([]ReceiverStatus, error) {
	deliveries, err := d.Deliveries(ctx)
	receivers := []ReceiverStatus{}
	for _, one := range deliveries {
		receivers = append(receivers, ReceiverStatus{
			Receiver: one.Receiver, Behind: one.Behind, Failures: one.Failures, LastError: one.LastError,
			NextAttempt: instant(one.NextAttempt), LastSuccess: instant(one.LastSuccess),
		})
	}
	return receivers, err
}
