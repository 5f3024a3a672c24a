package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ksefmirror/internal/config"
	"ksefmirror/internal/tree"
	ksefsync "ksefmirror/sync"
)

// The answers of status, as monitoring plug-ins give them.
const (
	statusOK       = 0
	statusWarning  = 1 // someone should look
	statusCritical = 2 // a stream has not succeeded for long, or cannot be read
)

// late is how many intervals may pass without a success before status calls it
// critical, but never less than minLate.
const (
	late    = 3
	minLate = 2 * time.Hour
)

// lateBackup is how old the last of the nightly backups may be: one may fail, as its
// disk is being changed.
const lateBackup = 48 * time.Hour

// mirrorStatus is one mirror in the output of status --json.
type mirrorStatus struct {
	Name  string `json:"name"`
	Level int    `json:"level"` // 0 in order, 1 look at it, 2 act
	// Problems says in words what is not in order.
	Problems []string `json:"problems"`
	// Notices says in words what must be done in time.
	Notices []string `json:"notices"`
	Dir     string   `json:"dir"`
	ksefsync.Status
}

func (c *command) status() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status [NAME…]",
		Short: "Show how complete every mirror is",
		Long: `Shows each mirror and role: how far it is complete, how many invoices it holds, its
last success and error, and what KSeF's limits leave. It only reads the database,
also while the daemon runs. Exits 0 when all is in order, 1 when someone should
look, 2 when a role has not succeeded for three intervals and two hours. That KSeF's
limits cut a run short is no failure; it then says how far the role is complete.`,
		RunE: func(cmd *cobra.Command, names []string) error {
			loaded, mirrors, err := c.pick(names)
			if err != nil {
				return err
			}
			level := statusOK
			all := []mirrorStatus{}
			for _, m := range mirrors {
				s := judge(m, time.Now(), func(now time.Time) (ksefsync.Status, error) {
					return ksefsync.ReadStatus(cmd.Context(), m.Dir, m.Roles, now)
				})
				s.judgeLogin(m, time.Now())
				s.judgeBackup(m, loaded.Backup.Dir, time.Now())
				level = max(level, s.Level)
				all = append(all, s)
			}
			if asJSON {
				encoder := json.NewEncoder(c.stdout)
				encoder.SetIndent("", "  ")
				if err := encoder.Encode(all); err != nil {
					return err
				}
			} else {
				for _, s := range all {
					c.printStatus(s)
				}
			}
			if level != statusOK {
				return &coded{code: level}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// judge reads the status of one mirror and says what is not in order.
func judge(m config.Mirror, now time.Time, read func(time.Time) (ksefsync.Status, error)) mirrorStatus {
	s := mirrorStatus{Name: m.Name, Dir: m.Dir, Problems: []string{}, Notices: []string{}}
	problem := func(level int, format string, args ...any) {
		s.Level = max(s.Level, level)
		s.Problems = append(s.Problems, fmt.Sprintf(format, args...))
	}
	var err error
	s.Status, err = read(now)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		problem(statusWarning, "it has never run: start it with ksefmirror sync %s", m.Name)
		return s
	case err != nil:
		problem(statusCritical, "%v", err)
		return s
	}
	for _, stream := range s.Streams {
		allowed := max(late*m.Interval, minLate) + time.Duration(stream.RestSeconds)*time.Second + m.QuietHours.Length()
		if slices.Contains(m.NightRoles, stream.Role) {
			allowed += 24 * time.Hour
		}
		success, _ := time.Parse(time.RFC3339, stream.LastSuccess) // a zero time is told apart below
		switch {
		case stream.LastSuccess == "":
			problem(statusCritical, "%s: it has never succeeded", stream.Role)
		case now.Sub(success) > allowed:
			problem(statusCritical, "%s: no success since %s", stream.Role, stream.LastSuccess)
		}
		if lag := time.Duration(stream.LagSeconds) * time.Second; lag > allowed {
			problem(statusWarning, "%s: complete only up to %s", stream.Role, stream.Watermark)
		}
		if stream.LastError != "" {
			problem(statusWarning, "%s: %s", stream.Role, stream.LastError)
		}
		if n := len(stream.LateLately); n > 0 {
			problem(statusWarning, "%s: %d invoices appeared in KSeF below the watermark, as found in the last seven days: %s", stream.Role, n, several(stream.LateLately))
		}
		if n := len(stream.NotListedLately); n > 0 {
			problem(statusWarning, "%s: %d invoices are no longer listed by KSeF, as found in the last seven days; they are kept: %s", stream.Role, n, several(stream.NotListedLately))
		}
		if r := stream.Reconciled; r != nil && r.Error != "" {
			problem(statusWarning, "%s: could not be reconciled: %s", stream.Role, r.Error)
		}
	}
	for _, w := range s.Waiting {
		problem(statusWarning, "%s: %s could not be mirrored yet: %s", w.Role, w.KSeFNumber, w.Reason)
	}
	for _, r := range s.Receivers {
		if r.Failures > 0 {
			problem(statusWarning, "the %s is behind by %d invoices: %s", r.Receiver, r.Behind, r.LastError)
		}
	}
	for _, g := range s.Budget {
		if g.BlockedUntil != "" {
			problem(statusWarning, "KSeF allows no %s requests before %s", g.Group, g.BlockedUntil)
		}
	}
	return s
}

// judgeLogin adds what is not in order with what the mirror logs in with, and what
// soon will not be. On prod someone should look; on test and demo, where nothing
// depends on it, it is only said.
func (s *mirrorStatus) judgeLogin(m config.Mirror, now time.Time) {
	notice, due, err := loginNotice(m, now)
	var problems config.Problems
	switch {
	case errors.Is(err, config.ErrNotHere):
		// Whoever asks is not the service, which looks at it at every login.
	case errors.As(err, &problems):
		s.Level = statusCritical
		for _, problem := range problems {
			s.Problems = append(s.Problems, problem.String())
		}
	case err != nil:
		s.Level = statusCritical
		s.Problems = append(s.Problems, err.Error())
	case due:
		if m.Environment == "prod" {
			s.Level = max(s.Level, statusWarning)
		}
		s.Notices = append(s.Notices, notice.Text)
	}
}

// judgeBackup adds what is not in order with the nightly backups, if the
// configuration has a folder for them.
func (s *mirrorStatus) judgeBackup(m config.Mirror, folder string, now time.Time) {
	if folder == "" {
		return
	}
	id, err := tree.ID(filepath.Join(m.Dir, "invoices"))
	if err != nil || id == "" {
		return // it has never run, or has worse troubles
	}
	last, err := ksefsync.LastBackup(folder, m.Dir, id)
	problem := ""
	switch {
	case err != nil:
		problem = err.Error()
	case last.IsZero():
		problem = "there is no backup in " + folder
	case now.Sub(last) > lateBackup:
		problem = "the last backup is of " + last.Format(time.RFC3339)
	default:
		return
	}
	s.Level = max(s.Level, statusWarning)
	s.Problems = append(s.Problems, problem)
}

func (c *command) printStatus(s mirrorStatus) {
	words := map[int]string{statusOK: "in order", statusWarning: "look at it", statusCritical: "act"}
	_, _ = fmt.Fprintf(c.stdout, "%s: %s (%d invoices, %d of them unread)\n", s.Name, words[s.Level], s.Invoices, s.Unread)
	if s.Outdated > 0 {
		_, _ = fmt.Fprintf(c.stdout, "  %d invoices are still as an older version of this program has read them; each cycle reads some of them again, reparse all at once\n", s.Outdated)
	}
	for _, stream := range s.Streams {
		lag := "-"
		if stream.LagSeconds >= 0 {
			lag = (time.Duration(stream.LagSeconds) * time.Second).String()
		}
		_, _ = fmt.Fprintf(c.stdout, "  %-11s %7d invoices, complete up to %s (%s ago), last success %s\n",
			stream.Role, stream.Invoices, orDash(string(stream.Watermark)), lag, orDash(stream.LastSuccess))
		if stream.Reason != "" {
			_, _ = fmt.Fprintf(c.stdout, "  %-11s last run by %s\n", "", stream.Reason)
		}
		if r := stream.Reconciled; r != nil {
			_, _ = fmt.Fprintf(c.stdout, "  %-11s reconciled %s from %s on: %d listed, %d late, %d no longer listed\n",
				"", r.At, r.From, r.Listed, r.Late, r.NotListed)
		}
	}
	for _, r := range s.Receivers {
		_, _ = fmt.Fprintf(c.stdout, "  %-11s has %d new invoices to be told of, last success %s\n", r.Receiver, r.Behind, orDash(r.LastSuccess))
	}
	for _, g := range s.Budget {
		if g.PerHour == 0 {
			_, _ = fmt.Fprintf(c.stdout, "  %-16s not limited\n", g.Group)
			continue
		}
		_, _ = fmt.Fprintf(c.stdout, "  %-16s %d of %d requests left this hour\n", g.Group, g.Left, g.PerHour)
	}
	for _, problem := range s.Problems {
		_, _ = fmt.Fprintf(c.stdout, "  ! %s\n", problem)
	}
	for _, notice := range s.Notices {
		_, _ = fmt.Fprintf(c.stdout, "  ! %s\n", notice)
	}
}

// several names the first of a list that may be long.
func several(numbers []string) string {
	const shown = 5
	if len(numbers) <= shown {
		return strings.Join(numbers, ", ")
	}
	return strings.Join(numbers[:shown], ", ") + fmt.Sprintf(" and %d more (see the view v_differences)", len(numbers)-shown)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
