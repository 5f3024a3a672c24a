package health

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ksefmirror/internal/config"
	"ksefmirror/internal/ksef"
	ksefsync "ksefmirror/sync"
)

func TestText(t *testing.T) {
	warsaw, err := time.LoadLocation("Europe/Warsaw")
	if err != nil {
		t.Skip(err)
	}
	const want = `acme: someone should look at this

Complete up to 2026-11-22 12:00: every invoice that KSeF stored before then is here,
1207 in all. They are in the folder "invoices".

  buyer               7 invoices, complete up to 2026-11-22 12:59
  seller           1200 invoices, complete up to 2026-11-22 12:00

What to do or to know:
  - buyer: 5265877635-20261105-0100001AF629-AF could not be mirrored yet, and is tried again: its hash is wrong
  - KSeF allows no invoiceMetadata requests before 2026-11-22T13:00:00Z; it goes on by itself then

Written 2026-11-22 13:00 (Polish time, as all times above). While ksefmirror runs, this is
written again within 2 hours. If they are over, it does not run: tell whoever
looks after this computer.
`
	r := report()
	if got := r.Text(warsaw); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	r.Streams[0].Watermark = "" // the earliest counts, and there is none yet
	if got := r.Text(warsaw); !strings.Contains(got, "Not complete yet. 1207 invoices are here so far") || !strings.Contains(got, "buyer               7 invoices, complete up to not known yet") {
		t.Errorf("got\n%s", got)
	}
	r.Status = ksefsync.Status{}
	if got := r.Text(warsaw); !strings.Contains(got, "How complete it is cannot be told now.") || strings.Contains(got, " 0 ") {
		t.Errorf("got\n%s", got)
	}
}

func TestWriteFile(t *testing.T) {
	r := report()
	r.Dir = t.TempDir()
	if err := r.WriteFile(); err != nil {
		t.Fatal(err)
	}
	before, err := os.Open(filepath.Join(r.Dir, FileName))
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	if runtime.GOOS == "windows" {
		before.Close() // there an open file cannot be replaced
	}
	r.Level = Act
	if err := r.WriteFile(); err != nil {
		t.Fatal(err)
	}
	// Whoever was reading has the whole old file.
	if old, err := io.ReadAll(before); runtime.GOOS != "windows" && (err != nil || !strings.HasPrefix(string(old), "acme: someone should look") || !strings.HasSuffix(string(old), "computer.\n")) {
		t.Errorf("%q, %v", old, err)
	}
	content, err := os.ReadFile(filepath.Join(r.Dir, FileName))
	if err != nil || !strings.HasPrefix(string(content), "acme: someone must act\n") {
		t.Errorf("%q, %v", content, err)
	}
	if info, err := os.Stat(filepath.Join(r.Dir, FileName)); runtime.GOOS != "windows" && (err != nil || info.Mode().Perm() != 0o640) {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	// What cannot be replaced stays, and nothing is left beside it.
	r.Dir = t.TempDir()
	if err := os.MkdirAll(filepath.Join(r.Dir, FileName, "in the way"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := r.WriteFile(); err == nil {
		t.Error("it replaced a folder")
	}
	if left, err := os.ReadDir(r.Dir); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
	r.Dir = filepath.Join(r.Dir, "missing")
	if err := r.WriteFile(); err == nil {
		t.Error("it wrote into a folder that is not there")
	}
}

// The file is written when something has changed that matters to a person, at the
// latest after an hour, and not with every look. It is never in the way.
func TestFileIsWrittenWhenItMatters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := Mirror{Mirror: config.Mirror{Name: "acme", Dir: t.TempDir(), Interval: 15 * time.Minute}}
		w := NewWatcher(m, nil, NewTurns(), nil, slog.New(slog.DiscardHandler))
		r := report()
		r.Dir = m.Dir
		path := filepath.Join(m.Dir, FileName)
		written := func() bool {
			t.Helper()
			r.at = time.Now()
			w.keepFile(r)
			err := os.Remove(path)
			if err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			return err == nil
		}
		wait := func(d time.Duration) { <-time.After(d) }
		if !written() {
			t.Error("not written at first")
		}
		wait(15 * time.Minute)
		r.Streams[0].Watermark = ksef.NewTimestamp(time.Now())
		if written() {
			t.Error("written for a new instant alone")
		}
		r.Invoices++
		if !written() {
			t.Error("not written for a new invoice")
		}
		r.Notices = r.Notices[1:]
		if !written() {
			t.Error("not written when a notice was settled")
		}
		wait(59 * time.Minute)
		if written() {
			t.Error("written within the hour")
		}
		wait(time.Minute)
		if !written() {
			t.Error("not written after an hour")
		}
		r.Notices = []Notice{{Kind: NeverRun}}
		if written() {
			t.Error("written where no mirror is")
		}
		// A failure is not remembered as success.
		r.Notices = nil
		if err := os.Mkdir(path, 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(path, "x"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		w.keepFile(r)
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		if !written() {
			t.Error("not written after it had failed")
		}
	})
}

// Four mirrors are looked at at a time; one that hangs does not hold up the others
// for ever.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := NewTurns()
		began := time.Now()
		var first func()
		for range 4 {
			first = turns.take(t.Context())
		}
		if time.Since(began) != 0 {
			t.Errorf("four took %s", time.Since(began))
		}
		turns.take(t.Context())()
		if time.Since(began) != turnAfter {
			t.Errorf("the fifth waited for %s", time.Since(began))
		}
		first()
		began = time.Now()
		turns.take(t.Context())
		if time.Since(began) != 0 {
			t.Errorf("the next one waited for %s", time.Since(began))
		}
	})
}
