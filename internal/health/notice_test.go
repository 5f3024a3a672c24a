package health

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ksefmirror/internal/config"
	"ksefmirror/internal/credential"
	"ksefmirror/internal/event"
	"ksefmirror/internal/ksef"
	"ksefmirror/internal/tree"
	ksefsync "ksefmirror/sync"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// stream is a status with one role, which succeeded and is complete as long ago as
// is given; a negative time means never.
func stream(success, lag time.Duration, lastError string) ksefsync.Status {
	s := ksefsync.StreamStatus{Role: "buyer", LastError: lastError, Watermark: ksef.NewTimestamp(noon.Add(-lag)), LagSeconds: int64(lag.Seconds()), Invoices: 7, LastRun: noon.Format(time.RFC3339)}
	if success >= 0 {
		s.LastSuccess = noon.Add(-success).Format(time.RFC3339)
	}
	return ksefsync.Status{Streams: []ksefsync.StreamStatus{s}, Mounted: true, Invoices: 7}
}

// What is said of a mirror, and how loudly.
func TestNotices(t *testing.T) {
	with := func(change func(*ksefsync.Status)) found {
		s := stream(time.Minute, time.Minute, "")
		change(&s)
		return found{status: s}
	}
	failing := func(trouble ksefsync.Trouble) found {
		return with(func(s *ksefsync.Status) {
			s.Streams[0].LastError, s.Streams[0].Trouble = "HTTP 403", trouble
			s.Streams = append(s.Streams, s.Streams[0])
			s.Streams[1].Role = "seller"
		})
	}
	fine := stream(time.Minute, time.Minute, "")
	for name, test := range map[string]struct {
		found found
		level Level
		kind  Kind // "": nothing is said
		role  string
		says  string
	}{
		"in order":        {found{status: fine}, Say, "", "", ""},
		"quiet for 100m":  {found{status: stream(100*time.Minute, 100*time.Minute, "")}, Say, "", "", ""},
		"one error":       {found{status: stream(20*time.Minute, 20*time.Minute, "HTTP 502")}, Look, Failing, "buyer", "HTTP 502"},
		"behind":          {found{status: stream(time.Minute, 5*time.Hour, "")}, Look, Behind, "buyer", "complete only up to"},
		"no success":      {found{status: stream(3*time.Hour, 3*time.Hour, "HTTP 502")}, Act, NoSuccess, "buyer", "no success since"},
		"never succeeded": {found{status: stream(-1, time.Hour, "HTTP 502")}, Act, NoSuccess, "buyer", "never succeeded"},
		"in its first run": {with(func(s *ksefsync.Status) {
			s.Streams[0].LastSuccess, s.Streams[0].LastRun, s.Streams[0].Watermark = "", "", ""
		}), Look, NeverRun, "buyer", "has not ended yet"},
		"resting": {with(func(s *ksefsync.Status) {
			s.Streams[0].LastSuccess, s.Streams[0].RestSeconds = noon.Add(-12*time.Hour).Format(time.RFC3339), 12*3600
		}), Say, "", "", ""},
		"waiting": {with(func(s *ksefsync.Status) {
			s.Waiting = []ksefsync.Waiting{{KSeFNumber: "N", Role: "buyer", Reason: "its hash is wrong"}}
		}), Look, Quarantine, "buyer", "N could not be mirrored yet, and is tried again: its hash is wrong"},
		"many waiting": {with(func(s *ksefsync.Status) {
			s.Waiting = slices.Repeat([]ksefsync.Waiting{{KSeFNumber: "N", Role: "buyer"}}, 500)
		}), Look, Quarantine, "buyer", "N could not"},
		"blocked": {with(func(s *ksefsync.Status) {
			s.Budget = []ksefsync.GroupBudget{{Group: ksef.GroupMetadata, BlockedUntil: "2026-11-22T13:00:00Z"}}
		}), Look, Blocked, "", "before 2026-11-22T13:00:00Z"},
		"late invoices": {with(func(s *ksefsync.Status) {
			s.Streams[0].LateLately = []string{"N1", "N2", "N3", "N4", "N5", "N6", "N7"}
		}), Look, Late, "buyer", "N1, N2, N3, N4, N5 and 2 more (see the view v_differences)"},
		"hidden lately": {with(func(s *ksefsync.Status) {
			s.Streams[0].NotListed, s.Streams[0].NotListedLately = 9, []string{"N"}
		}), Look, NotListed, "buyer", "no longer listed by KSeF"},
		"hidden long ago": {with(func(s *ksefsync.Status) { s.Streams[0].NotListed = 9 }), Say, "", "", ""},
		"not reconciled": {with(func(s *ksefsync.Status) {
			s.Streams[0].Reconciled = &ksefsync.ReconciliationStatus{Error: "HTTP 503"}
		}), Look, NotReconciled, "buyer", "could not be reconciled: HTTP 503"},
		"receiver fails": {with(func(s *ksefsync.Status) {
			s.Receivers = []ksefsync.ReceiverStatus{{Receiver: "webhook", Behind: 3, Failures: 2, LastError: "HTTP 500"}}
		}), Look, Receiver, "", "the webhook is behind by 3 invoices: HTTP 500"},
		"login refused":         {failing(ksefsync.TroubleLogin), Act, Login, "", "HTTP 403"},
		"permission is missing": {failing(ksefsync.TroublePermission), Act, Permission, "", "have InvoiceRead granted"},
		"several fail alike":    {failing(""), Look, Failing, "", "the last run failed"},
		"never run":             {found{statusErr: fmt.Errorf("open: %w", fs.ErrNotExist)}, Look, NeverRun, "", "never run"},
		"unreadable":            {found{statusErr: errors.New("not a database")}, Act, Unreadable, "", "not a database"},
		"not mounted":           {with(func(s *ksefsync.Status) { s.Mounted = false }), Act, NotMounted, "", "mount its volume"},
		"nothing to mount yet":  {with(func(s *ksefsync.Status) { s.Mounted, s.Invoices = false, 0 }), Say, "", "", ""},
		"opening failed":        {found{status: fine, last: errors.New("locked")}, Look, Failing, "", "locked"},
		"failed, as its role":   {found{status: stream(time.Minute, time.Minute, "HTTP 502"), last: errors.New("buyer: HTTP 502")}, Look, Failing, "buyer", "HTTP 502"},
		"disk is low":           {found{status: fine, volume: tree.Volume{Free: 3 << 30}}, Look, Disk, "", "3072 MB left"},
		"disk is nearly full":   {found{status: fine, volume: tree.Volume{Free: 100 << 20}}, Act, Disk, "", "100 MB left"},
		"disk is not known":     {found{status: fine, volumeErr: errors.New("no")}, Say, "", "", ""},
		"certificate is wrong": {found{status: fine, login: LoginState{Err: config.Problems{{Key: "mirror.m.auth.certificate", Want: "it ended"}}}}, Act,
			CredentialUnusable, "", "it ended"},
		"only the service sees it": {found{status: fine, login: LoginState{Err: fmt.Errorf("read: %w", config.ErrNotHere)}}, Say, "", "", ""},
		"credentials end": {found{status: fine, login: LoginState{Due: true, Notice: credential.TokenNotice(noon)}}, Look,
			CredentialEnds, "", "in 39 days"},
	} {
		t.Run(name, func(t *testing.T) {
			if test.found.volume.Free == 0 {
				test.found.volume.Free = 1 << 40
			}
			got := test.found.notices(config.Mirror{Name: "m", Environment: "prod", Interval: 15 * time.Minute}, noon)
			if test.kind == "" {
				if len(got) > 0 {
					t.Errorf("%+v", got)
				}
				return
			}
			// The most urgent comes first.
			if len(got) == 0 || got[0].Kind != test.kind || got[0].Level != test.level || got[0].Role != test.role || !strings.Contains(got[0].Text, test.says) {
				t.Errorf("%+v", got)
			}
			if len(got) > shownWaiting+1 {
				t.Errorf("%d notices", len(got))
			}
			times := 0
			for _, n := range got {
				if n.Kind == test.kind {
					times++
				}
			}
			if times > 1 && test.kind != Quarantine {
				t.Errorf("it is said %d times", times)
			}
		})
	}
	on := found{status: fine, login: LoginState{Due: true, Notice: credential.TokenNotice(noon)}, volume: tree.Volume{Free: 1 << 40}}
	if got := on.notices(config.Mirror{Environment: "test"}, noon); len(got) != 1 || got[0].Level != Say {
		t.Errorf("on test: %+v", got)
	}
}

// Every kind has an event, and every event of a notice a kind.
func TestKindsAreEvents(t *testing.T) {
	events := map[event.ID]bool{}
	for _, e := range event.All() {
		if events[e.ID] {
			t.Errorf("event %d stands twice", e.ID)
		}
		events[e.ID] = true
	}
	used := map[event.ID]Kind{}
	for kind, id := range Kinds() {
		if id == 0 {
			continue
		}
		if other, twice := used[id]; twice || !events[id] {
			t.Errorf("%s: event %d is not listed, or that of %q too", kind, id, other)
		}
		used[id] = kind
	}
	for id := range events {
		if id >= 200 && used[id] == "" {
			t.Errorf("event %d has the kind %q", id, used[id])
		}
	}
}

// watcher gives a watcher and its log.
func watcher() (*Watcher, *bytes.Buffer) {
	log := new(bytes.Buffer)
	return NewWatcher(Mirror{}, nil, NewTurns(), nil, slog.New(slog.NewTextHandler(log, nil))), log
}

// Each notice about the end of a certificate is logged once; those of a new
// certificate anew.
func TestNoticesOfTheEndAreLoggedOnce(t *testing.T) {
	end := noon.AddDate(0, 6, 0)
	w, log := watcher()
	for _, step := range []struct{ days, lines int }{
		{-100, 0}, {-60, 1}, {-59, 1}, {-31, 1}, {-30, 2}, {-29, 2}, {-14, 3}, {-7, 4}, {-2, 4}, {-1, 5},
	} {
		now := end.AddDate(0, 0, step.days)
		notice, due := credential.CertificateNotice(&x509.Certificate{NotAfter: end}, now)
		f := found{status: stream(0, 0, ""), login: LoginState{Notice: notice, Due: due}, volume: tree.Volume{Free: 1 << 40}}
		f.status.Streams[0].LastSuccess = now.Format(time.RFC3339)
		w.logNotices(Report{Notices: f.notices(config.Mirror{Environment: "prod"}, now)})
		if got := strings.Count(log.String(), "event=205"); got != step.lines || strings.Count(log.String(), "\n") != step.lines {
			t.Errorf("%d days: %d lines, want %d\n%s", step.days, got, step.lines, log.String())
		}
	}
	w.logNotices(Report{})
	if !strings.Contains(log.String(), "event=120 kind=credential_ends") {
		t.Errorf("that there is a new one is not said:\n%s", log.String())
	}
}

// What cannot be used any more is logged anew each day.
func TestUnusableIsLoggedDaily(t *testing.T) {
	w, log := watcher()
	for _, step := range []struct {
		hours, lines int
	}{{0, 1}, {6, 1}, {13, 2}, {30, 2}, {37, 3}} {
		now := noon.Add(time.Duration(step.hours) * time.Hour)
		f := found{status: stream(0, 0, ""), login: LoginState{Err: errors.New("no such file")}, volume: tree.Volume{Free: 1 << 40}}
		f.status.Streams[0].LastSuccess = now.Format(time.RFC3339)
		w.logNotices(Report{Notices: f.notices(config.Mirror{}, now)})
		if got := strings.Count(log.String(), "event=204"); got != step.lines || strings.Count(log.String(), "\n") != got {
			t.Errorf("after %d hours: %d lines, want %d\n%s", step.hours, got, step.lines, log.String())
		}
	}
}

// A notice is logged when it comes and when it goes, with its event and level, and
// without a KSeF number, which holds a NIP.
func TestNoticesAreLogged(t *testing.T) {
	w, log := watcher()
	const number = "5265877635-20261105-0100001AF629-AF"
	waiting := Notice{Kind: Quarantine, Level: Look, Role: "buyer", Text: number + " could not be mirrored yet"}
	full := Notice{Kind: Disk, Level: Act, Text: "the disk has only 5 MB left", about: "act"}
	said := func(want ...string) {
		t.Helper()
		lines := slices.Collect(strings.Lines(log.String()))
		log.Reset()
		if len(lines) != len(want) {
			t.Fatalf("it says\n%s", strings.Join(lines, ""))
		}
		for _, each := range want {
			if !slices.ContainsFunc(lines, func(line string) bool { return strings.Contains(line, each) && !strings.Contains(line, "5265877635") }) {
				t.Errorf("no %q in\n%s", each, strings.Join(lines, ""))
			}
		}
	}
	w.logNotices(Report{Notices: []Notice{full, waiting, waiting}})
	said(`level=ERROR msg="the disk has only 5 MB left" event=203 kind=disk`, `level=WARN msg="invoices need a look: see status" event=211 kind=quarantine role=buyer`)
	full.Text = "the disk has only 4 MB left"
	w.logNotices(Report{Notices: []Notice{full, waiting}})
	said()
	w.logNotices(Report{Notices: []Notice{waiting, {Kind: Failing, Level: Look, Text: "the daemon says so itself"}}})
	said(`level=INFO msg="nothing need be done about this any more" event=120 kind=disk`)
	w.logNotices(Report{Notices: []Notice{waiting, full}})
	said("event=203")
	w.logNotices(Report{})
	said("kind=disk", "kind=quarantine role=buyer")
}

// report is a report with something of everything.
func report() Report {
	status := stream(time.Minute, time.Minute, "")
	status.Streams = append(status.Streams, status.Streams[0])
	status.Streams[1].Role, status.Streams[1].Invoices = "seller", 1200
	status.Streams[1].Watermark = ksef.NewTimestamp(noon.Add(-time.Hour))
	status.Streams[1].Reconciled = &ksefsync.ReconciliationStatus{At: "2026-11-22T03:00:00Z"}
	status.Waiting = []ksefsync.Waiting{{KSeFNumber: "5265877635-20261105-0100001AF629-AF", Role: "buyer", Reason: "its hash is wrong"}}
	status.Receivers = []ksefsync.ReceiverStatus{{Receiver: "webhook", Behind: 3}}
	status.Budget = []ksefsync.GroupBudget{{Group: ksef.GroupMetadata, PerHour: 20, Left: 15, BlockedUntil: "2026-11-22T13:00:00Z"}}
	status.Invoices, status.Unread, status.Exports = 1207, 2, ksefsync.ExportCounts{Requested: 1, Preparing: 2, GivenUp: 3}
	f := found{status: status, volume: tree.Volume{Free: 1 << 40}}
	m := config.Mirror{Name: "acme", Environment: "prod", Interval: 15 * time.Minute}
	r := Report{
		Name: "acme", Status: status, Notices: f.notices(m, noon), DiskFree: 1 << 40, DiskSize: 2 << 40,
		CredentialEnds: "2028-11-01T09:15:00Z", at: noon, patience: patience(m),
	}
	for _, n := range r.Notices {
		r.Level = cmp.Or(r.Level, n.Level)
	}
	return r
}

// Backups that have stopped are said: nobody looks at them until one is needed.
func TestBackup(t *testing.T) {
	now := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	dir := filepath.Join(t.TempDir(), "acme")
	if err := tree.Create(filepath.Join(dir, "invoices"), "0123abcd-0000"); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		made, missing string
		want          string
	}{
		"none":             {want: "there is no backup"},
		"of this night":    {made: "acme-0123abcd-2026-11-22T020304Z.db"},
		"too old":          {made: "acme-0123abcd-2026-11-20T085959Z.db", want: "the last backup is of 2026-11-20T08:59:59Z"},
		"of another":       {made: "acme-99999999-2026-11-22T020304Z.db", want: "there is no backup"},
		"folder not there": {missing: "x", want: "not mounted"},
	} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			if test.made != "" {
				if err := os.WriteFile(filepath.Join(folder, test.made), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			m := Mirror{Mirror: config.Mirror{Name: "acme", Dir: dir}, Backups: filepath.Join(folder, test.missing), Login: func(time.Time) LoginState { return LoginState{} }}
			said := func() (text string) {
				for _, n := range m.Look(t.Context(), nil, now).Notices {
					if n.Kind == Backup && n.Level == Look {
						text += n.Text
					}
				}
				return text
			}
			if got := said(); (test.want == "") != (got == "") || !strings.Contains(got, test.want) {
				t.Errorf("it says %q", got)
			}
			m.Backups = ""
			if got := said(); got != "" {
				t.Errorf("without a folder for backups it says %q", got)
			}
		})
	}
}
