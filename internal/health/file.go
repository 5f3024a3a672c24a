package health

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"ksefmirror/internal/ksef"
)

// FileName is the name of the file in a mirror's folder that tells people how the
// mirror is.
const FileName = "STATUS.txt"

// rewriteAfter is how often the file is written when nothing has changed but the
// time: while ksefmirror runs it is never older than any patience.
const rewriteAfter = time.Hour

// Text is the report in plain words, for whoever opens the folder. Its instants are
// in zone.
func (r Report) Text(zone *time.Location) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	local := func(t time.Time) string { return t.In(zone).Format("2006-01-02 15:04") }

	line("%s: %s", r.Name, [...]string{"in order", "someone should look at this", "someone must act"}[r.Level])
	line("")
	earliest := ksef.Timestamp("")
	whole := len(r.Streams) > 0
	for _, s := range r.Streams {
		whole = whole && s.Watermark != ""
		if earliest == "" || s.Watermark != "" && s.Watermark.Compare(earliest) < 0 {
			earliest = s.Watermark
		}
	}
	switch {
	case len(r.Streams) == 0:
		line("How complete it is cannot be told now.")
	case whole:
		line("Complete up to %s: every invoice that KSeF stored before then is here,", local(earliest.Time()))
		line("%d in all. They are in the folder \"invoices\".", r.Invoices)
	default:
		line("Not complete yet. %d invoices are here so far, in the folder \"invoices\".", r.Invoices)
	}
	line("")
	for _, s := range r.Streams {
		until := "not known yet"
		if s.Watermark != "" {
			until = local(s.Watermark.Time())
		}
		line("  %-12s %8d invoices, complete up to %s", s.Role, s.Invoices, until)
	}
	if len(r.Notices) > 0 {
		line("")
		line("What to do or to know:")
	}
	for _, n := range r.Notices {
		line("  - %s", n.words())
	}
	line("")
	line("Written %s (Polish time, as all times above). While ksefmirror runs, this is", local(r.at))
	line("written again within %d hours. If they are over, it does not run: tell whoever", (r.patience+time.Hour-1)/time.Hour)
	line("looks after this computer.")
	return b.String()
}

// words is the notice with the role that it is about.
func (n Notice) words() string {
	if n.Role == "" {
		return n.Text
	}
	return n.Role + ": " + n.Text
}

// meaning is the part of the report that is worth a new file at once: not the
// instants, which move with every cycle.
func (r Report) meaning() string {
	var b strings.Builder
	fmt.Fprintln(&b, r.Level, r.Invoices)
	for _, n := range r.Notices {
		fmt.Fprintln(&b, n.Kind, n.Level, n.Role, n.about)
	}
	return b.String()
}

// WriteFile writes the report into the mirror's folder. The file appears whole or
// stays as it was; a crash in between leaves a temporary file beside it. Several
// processes may do so at the same time.
func (r Report) WriteFile() (err error) {
	zone, err := time.LoadLocation("Europe/Warsaw")
	if err != nil {
		return fmt.Errorf("time zone of Poland: %w", err)
	}
	file, err := os.CreateTemp(r.Dir, FileName+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file.Name()) // the error is what counts
		}
	}()
	_, err = file.WriteString(r.Text(zone))
	if err == nil {
		err = file.Sync()
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	// People read it as they read the invoices: through the group of the account.
	if err := os.Chmod(file.Name(), 0o640); err != nil { // #nosec G302 -- the group is who is meant to read it
		return err
	}
	return os.Rename(file.Name(), filepath.Join(r.Dir, FileName))
}
