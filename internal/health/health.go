package health

import (
	"context"
	"time"

	"ksefmirror/internal/config"
	"ksefmirror/internal/tree"
	ksefsync "ksefmirror/sync"
)

// Report is how a mirror is: one element of what status --json prints.
type Report struct {
	Name    string   `json:"name"`
	Level   Level    `json:"level"`   // that of its most urgent notice; 0: in order
	Notices []Notice `json:"notices"` // the most urgent first
	Dir     string   `json:"dir"`
	// CredentialEnds is when what it logs in with ends, RFC 3339 UTC; "" if that is
	// not known here.
	CredentialEnds string `json:"credential_ends"`
	// DiskFree and DiskSize are those of the volume of Dir, in bytes; both are 0 if
	// that is not known.
	DiskFree int64 `json:"disk_free_bytes"`
	DiskSize int64 `json:"disk_size_bytes"`
	// Status is what the database tells; zero if it has never run or cannot be read.
	ksefsync.Status

	at       time.Time
	patience time.Duration
}

// Mirror is one mirror to look at.
type Mirror struct {
	config.Mirror
	// Login tells how what it logs in with is. It asks KSeF nothing.
	Login func(now time.Time) LoginState
}

// Look reports how the mirror is. It only reads, also while another process works
// on it. last is the error of the latest attempt where the caller knows it, such as
// one to open the mirror, which leaves no trace in a database; nil otherwise.
func (m Mirror) Look(ctx context.Context, last error, now time.Time) Report {
	f := found{last: last, login: m.Login(now)}
	f.status, f.statusErr = ksefsync.ReadStatus(ctx, m.Dir, m.Roles, now)
	f.volume, f.volumeErr = tree.VolumeOf(m.Dir)
	r := Report{
		Name: m.Name, Dir: m.Dir, Status: f.status, Notices: f.notices(m.Mirror, now),
		DiskFree: f.volume.Free, DiskSize: f.volume.Size,
		at: now, patience: patience(m.Mirror),
	}
	if f.statusErr != nil {
		r.Status = ksefsync.Status{Streams: []ksefsync.StreamStatus{}, Waiting: []ksefsync.Waiting{}, Budget: []ksefsync.GroupBudget{}, Receivers: []ksefsync.ReceiverStatus{}}
	}
	if !f.login.Ends.IsZero() {
		r.CredentialEnds = f.login.Ends.UTC().Format(time.RFC3339)
	}
	for _, n := range r.Notices {
		r.Level = max(r.Level, n.Level)
	}
	return r
}
