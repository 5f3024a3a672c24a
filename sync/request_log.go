package sync

import (
	"context"
	"time"

	"ksefmirror/db"
	"ksefmirror/internal/ksef"
)

// requestLog lets the limiter keep its memory in the mirror's database, so that
// restarts, the daemon and commands beside it draw on one budget.
type requestLog struct{ db *db.DB }

func (l requestLog) StartRequest(ctx context.Context, group string, after int64, open []int64, admit ksef.Admit) (int64, error) {
	return l.db.StartRequest(ctx, group, after, open, func(recorded []db.Request, blocks map[string]time.Time) time.Time {
		return admit(logged(recorded), blocks)
	})
}

func (l requestLog) EndRequest(ctx context.Context, id int64, at time.Time) error {
	return l.db.EndRequest(ctx, id, at)
}

func (l requestLog) BlockGroup(ctx context.Context, group string, until time.Time) error {
	return l.db.BlockGroup(ctx, group, until)
}

func (l requestLog) Blocks(ctx context.Context) (map[string]time.Time, error) {
	return l.db.Blocks(ctx)
}

func (l requestLog) Requests(ctx context.Context, since time.Time) ([]ksef.LoggedRequest, error) {
	rows, err := l.db.Requests(ctx, since)
	return logged(rows), err
}

func logged(rows []db.Request) []ksef.LoggedRequest {
	logged := make([]ksef.LoggedRequest, len(rows))
	for i, r := range rows {
		logged[i] = ksef.LoggedRequest(r)
	}
	return logged
}

// RequestLog is the log of a mirror's requests, opened beside whoever works on the
// mirror, so that what is asked of KSeF for a mirror but not of its invoices draws
// on the same budget.
type RequestLog struct {
	requestLog
}

// OpenRequestLog opens the log of the mirror in o.Dir. The error wraps
// [fs.ErrNotExist] when the mirror has never run.
func OpenRequestLog(ctx context.Context, o Options) (*RequestLog, error) {
	o.setDefaults()
	d, err := db.OpenBeside(ctx, DatabasePath(o.Dir), o.mirrored(""), o.Log)
	if err != nil {
		return nil, err
	}
	return &RequestLog{requestLog{d}}, nil
}

// Close closes the log.
func (l *RequestLog) Close() error { return l.db.Close() }
