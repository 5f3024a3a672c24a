package health

import (
	"context"
	"path/filepath"
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
	// Backups is the folder of its nightly backups; "" if none are made.
	Backups string
}

// Look reports how the mirror is. It only reads, also while another process works
// on it. last is the error of the latest attempt where the caller knows it, such as
// one to open the mirror, which leaves no trace in a database; nil otherwise.
func (m Mirror) Look(ctx context.Context, last error, now time.Time) Report {
	f := found{last: last, login: m.Login(now)}
	f.status, f.statusErr = ksefsync.ReadStatus(ctx, m.Dir, m.Roles, now)
	f.volume, f.volumeErr = tree.VolumeOf(m.Dir)
	f.backup = m.backup(now)
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

// lateBackup is how old the last of the nightly backups may be: one may fail, as its
// disk may be away for a night.
const lateBackup = 48 * time.Hour

// backup says what is not in order with the nightly backups: nobody looks at them
// until one is needed. "" if nothing is.
func (m Mirror) backup(now time.Time) string {
	if m.Backups == "" {
		return ""
	}
	id, err := tree.ID(filepath.Join(m.Dir, "invoices"))
	if err != nil || id == "" {
		return "" // it has never run, or has worse troubles
	}
	last, err := ksefsync.LastBackup(m.Backups, m.Dir, id, now)
	switch {
	case err != nil:
		return err.Error()
	case last.IsZero():
		return "there is no backup in " + m.Backups
	case now.Sub(last) > lateBackup:
		return "the last backup is of " + last.Format(time.RFC3339)
	}
	return ""
}
