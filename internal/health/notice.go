// Package health says how mirrors are, in plain words and in figures: one list of
// notices for each, the same wherever it shows (the command status, the STATUS file
// in the mirror's folder, the log, the metrics), and pings for whoever waits for
// them. It only looks: nothing here changes a mirror, delays it or stops it.
package health

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"ksefmirror/internal/config"
	"ksefmirror/internal/credential"
	"ksefmirror/internal/event"
	"ksefmirror/internal/tree"
	ksefsync "ksefmirror/sync"
)

// Level says who is needed. Its numbers are the exit codes of status, as
// monitoring plug-ins give them.
type Level int

// The levels, in ascending order.
const (
	Say  Level = 0 // good to know; all is in order
	Look Level = 1 // someone should look
	Act  Level = 2 // someone must act, or invoices will not come
)

// String is the level in metrics.
func (l Level) String() string { return [...]string{"say", "look", "act"}[l] }

// Kind is what a notice is about. Kinds are stable: monitoring depends on them.
type Kind string

// The kinds of notices.
const (
	NeverRun           Kind = "never_run"
	Unreadable         Kind = "unreadable"
	NotMounted         Kind = "not_mounted"
	Disk               Kind = "disk"
	CredentialUnusable Kind = "credential_unusable" // #nosec G101 -- a word, no credential
	CredentialEnds     Kind = "credential_ends"     // #nosec G101 -- a word, no credential
	Login              Kind = "login"
	Permission         Kind = "permission"
	Blocked            Kind = "blocked"
	NoSuccess          Kind = "no_success"
	Behind             Kind = "behind"
	Failing            Kind = "failing"
	Quarantine         Kind = "quarantine"
	Late               Kind = "late"
	NotListed          Kind = "not_listed"
	NotReconciled      Kind = "not_reconciled"
	Receiver           Kind = "receiver"
	Backup             Kind = "backup"
)

// Kinds gives every kind with the number of its event; 0 for what is not logged: the
// daemon itself says that a run has failed, and is about to run what has never run.
func Kinds() map[Kind]event.ID {
	return map[Kind]event.ID{
		NeverRun: 0, Unreadable: event.Unreadable, NotMounted: event.NotMounted, Disk: event.Disk,
		CredentialUnusable: event.CredentialUnusable, CredentialEnds: event.CredentialEnds, Login: event.Login,
		Permission: event.Permission, Blocked: event.Blocked, NoSuccess: event.NoSuccess, Behind: event.Behind,
		Failing: 0, Quarantine: event.Quarantine, Late: event.Late, NotListed: event.NotListed,
		NotReconciled: event.NotReconciled, Receiver: event.Receiver, Backup: event.Backup,
	}
}

// Notice is one thing about a mirror that a person should know, or do.
type Notice struct {
	Kind  Kind   `json:"kind"`
	Level Level  `json:"level"`
	Role  string `json:"role"` // "": it is about the whole mirror
	Text  string `json:"text"` // what is the matter and what to do, for people

	// about tells notices of one kind and role apart that are to be logged apart,
	// for Text changes from day to day.
	about string
}

// late is how many intervals may pass without a success before someone must act,
// but never less than minLate.
const (
	late    = 3
	minLate = 2 * time.Hour
)

// A mirror stops when its disk is full; a package of 1 GB needs its space twice.
const (
	diskLow   = 4 << 30
	diskEmpty = 512 << 20
)

// shownWaiting is how many invoices in quarantine have a notice of their own.
const shownWaiting = 20

// patience is how long the mirror may go without a success.
func patience(m config.Mirror) time.Duration {
	return max(late*m.Interval, minLate) + m.QuietHours.Length()
}

// found is everything that notices are made from.
type found struct {
	status    ksefsync.Status
	statusErr error // why there is no status
	login     LoginState
	volume    tree.Volume
	volumeErr error
	backup    string // what is wrong with the nightly backups; "" if nothing
	last      error  // of the latest attempt, where that is known
}

// notices says what is not in order with a mirror, the most urgent first.
func (f found) notices(m config.Mirror, now time.Time) []Notice {
	all := []Notice{}
	add := func(kind Kind, level Level, role, about, format string, args ...any) {
		all = append(all, Notice{Kind: kind, Level: level, Role: role, about: about, Text: fmt.Sprintf(format, args...)})
	}
	switch {
	case errors.Is(f.statusErr, fs.ErrNotExist):
		add(NeverRun, Look, "", "", "it has never run: start it with ksefmirror sync %s, or start the service; or, if it has, its folder %s has gone: mount its volume, or move it back", m.Name, m.Dir)
	case f.statusErr != nil:
		add(Unreadable, Act, "", "", "%v", f.statusErr)
	default:
		f.addOfStatus(m, now, add)
	}
	f.addOfLogin(m, now, add)
	if f.volumeErr == nil && f.volume.Free < diskLow {
		level := Look
		if f.volume.Free < diskEmpty {
			level = Act
		}
		add(Disk, level, "", level.String(), "the disk that holds %s has only %d MB left; free some space, for nothing is mirrored once it is full (nothing is lost by that)", m.Dir, f.volume.Free>>20)
	}
	if f.backup != "" {
		add(Backup, Look, "", "", "%s", f.backup)
	}
	if f.last != nil && !errors.Is(f.last, tree.ErrNotMounted) && !slices.ContainsFunc(all, func(n Notice) bool {
		return n.Kind == Failing || n.Kind == Login || n.Kind == Permission
	}) {
		add(Failing, Look, "", "", "the last attempt failed, and it is tried again: %v", f.last)
	}
	slices.SortStableFunc(all, func(a, b Notice) int { return int(b.Level) - int(a.Level) })
	return all
}

type adder func(kind Kind, level Level, role, about, format string, args ...any)

func (f found) addOfStatus(m config.Mirror, now time.Time, add adder) {
	s := f.status
	if !s.Mounted && s.Invoices > 0 {
		add(NotMounted, Act, "", "", "the folder with the invoices is not there, or is not this mirror's: mount its volume, or bring the folder back; nothing is written until then")
	}
	f.addErrors(add)
	for _, stream := range s.Streams {
		allowed := patience(m) + time.Duration(stream.RestSeconds)*time.Second
		if slices.Contains(m.NightRoles, stream.Role) {
			allowed += 24 * time.Hour
		}
		success, _ := time.Parse(time.RFC3339, stream.LastSuccess) // a zero time is told apart below
		switch {
		case stream.LastRun == "":
			add(NeverRun, Look, stream.Role, "", "its first run has not ended yet")
		case stream.LastSuccess == "":
			add(NoSuccess, Act, stream.Role, "", "it has never succeeded")
		case now.Sub(success) > allowed:
			add(NoSuccess, Act, stream.Role, "", "no success since %s; see that ksefmirror runs, and its log", stream.LastSuccess)
		}
		if lag := time.Duration(stream.LagSeconds) * time.Second; lag > allowed {
			add(Behind, Look, stream.Role, "", "complete only up to %s", stream.Watermark)
		}
		if n := len(stream.LateLately); n > 0 {
			add(Late, Look, stream.Role, stream.LateLately[n-1], "%d invoices appeared in KSeF below the watermark, as found in the last seven days; book them: %s", n, several(stream.LateLately))
		}
		if n := len(stream.NotListedLately); n > 0 {
			add(NotListed, Look, stream.Role, stream.NotListedLately[n-1], "%d invoices are no longer listed by KSeF, as found in the last seven days; they are kept: %s", n, several(stream.NotListedLately))
		}
		if r := stream.Reconciled; r != nil && r.Error != "" {
			add(NotReconciled, Look, stream.Role, "", "could not be reconciled: %s", r.Error)
		}
	}
	for i, w := range s.Waiting {
		if i == shownWaiting {
			add(Quarantine, Look, "", "", "%d more invoices could not be mirrored yet: status --json names them all", len(s.Waiting)-i)
			break
		}
		add(Quarantine, Look, w.Role, "", "%s could not be mirrored yet, and is tried again: %s", w.KSeFNumber, w.Reason)
	}
	for _, r := range s.Receivers {
		if r.Failures > 0 {
			add(Receiver, Look, "", r.Receiver, "the %s is behind by %d invoices: %s", r.Receiver, r.Behind, r.LastError)
		}
	}
	for _, g := range s.Budget {
		if g.BlockedUntil != "" {
			add(Blocked, Look, "", string(g.Group), "KSeF allows no %s requests before %s; it goes on by itself then", g.Group, g.BlockedUntil)
		}
	}
}

// addErrors adds the errors of the last runs: one notice where several roles met
// the same.
func (f found) addErrors(add adder) {
	type trouble struct {
		kind ksefsync.Trouble
		text string
	}
	var order []trouble
	roles := map[trouble][]string{}
	for _, stream := range f.status.Streams {
		if stream.LastError == "" {
			continue
		}
		t := trouble{stream.Trouble, stream.LastError}
		if roles[t] == nil {
			order = append(order, t)
		}
		roles[t] = append(roles[t], stream.Role)
	}
	for _, t := range order {
		role := ""
		if len(roles[t]) == 1 {
			role = roles[t][0]
		}
		switch t.kind {
		case ksefsync.TroubleLogin:
			add(Login, Act, role, "", "KSeF does not accept what the mirror logs in with: %s", t.text)
		case ksefsync.TroublePermission:
			add(Permission, Act, role, "", "a permission is missing: have InvoiceRead granted in KSeF: %s", t.text)
		default:
			add(Failing, Look, role, "", "the last run failed, and it is tried again: %s", t.text)
		}
	}
}

// addOfLogin adds what is not in order with what the mirror logs in with, and what
// soon will not be. A session hides for days that it cannot be used any more, so that
// is said, and logged, anew each day. That it ends is for someone to look at on prod;
// on test and demo, where nothing depends on it, it is only said.
func (f found) addOfLogin(m config.Mirror, now time.Time, add adder) {
	const hurry = "; put it right before the mirror's session ends, in seven days at most"
	today := now.UTC().Format(time.DateOnly)
	var problems config.Problems
	switch err := f.login.Err; {
	case errors.Is(err, config.ErrNotHere):
		// Whoever asks is not the service, which looks at it itself.
	case errors.As(err, &problems):
		for _, problem := range problems {
			add(CredentialUnusable, Act, "", problem.Key+today, "%s%s", problem, hurry)
		}
	case err != nil:
		add(CredentialUnusable, Act, "", today, "%v%s", err, hurry)
	}
	if f.login.Due {
		level := Say
		if m.Environment == "prod" {
			level = Look
		}
		add(CredentialEnds, level, "", f.login.Notice.Due.String(), "%s", f.login.Notice.Text)
	}
}

// LoginState is how that is which a mirror logs in with.
type LoginState struct {
	Ends   time.Time         // of the certificate, or of all tokens; zero if that is not known
	Notice credential.Notice // about the end, if Due
	Due    bool
	Err    error // why it cannot be used; config.ErrNotHere: only the service can see it
}

// several names the first of a list that may be long.
func several(numbers []string) string {
	const shown = 5
	if len(numbers) <= shown {
		return strings.Join(numbers, ", ")
	}
	return strings.Join(numbers[:shown], ", ") + fmt.Sprintf(" and %d more (see the view v_differences)", len(numbers)-shown)
}
