package sync_test

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"ksefmirror/internal/ksefsim"
	ksefsync "ksefmirror/sync"
)

// What keeps a cycle from beginning is told of every role, by the kind of trouble
// that a person has to mend; and no longer once it is mended.
func TestStatusTellsTrouble(t *testing.T) {
	slow(t)
	for name, test := range map[string]struct {
		breakIt func(*world)
		trouble ksefsync.Trouble
		roles   int // that it is told of: one error that would meet the others too is enough
	}{
		"token refused":           {func(w *world) { w.sim.SetLoginOutcome(ksefsim.LoginOutcome{Status: 450}) }, ksefsync.TroubleLogin, 4},
		"no permission to log in": {func(w *world) { w.sim.SetLoginOutcome(ksefsim.LoginOutcome{Status: 415}) }, ksefsync.TroublePermission, 4},
		"no permission to read": {func(w *world) {
			w.sim.Fault(ksefsim.Forbidden("/invoices/query/metadata", 0, "missing-permissions"))
		}, ksefsync.TroublePermission, 4},
		"KSeF is down": {func(w *world) {
			w.fault("", 0, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.WriteHeader(http.StatusBadGateway) })
		}, "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, ksefsim.Options{})
			test.breakIt(w)
			if _, err := w.cycle(); err == nil {
				t.Fatal("nothing was wrong")
			}
			told := 0
			for _, s := range w.status().Streams {
				if s.LastError != "" && s.Trouble == test.trouble && s.LastRun != "" && s.LastSuccess == "" {
					told++
				}
			}
			if told != test.roles {
				t.Errorf("of %d roles: %+v", told, w.status().Streams)
			}
		})
	}
	w := newWorld(t, ksefsim.Options{})
	w.sim.Fault(ksefsim.Forbidden("/invoices/query/metadata", 4, "missing-permissions"))
	if _, err := w.cycle(); err == nil {
		t.Fatal("nothing was wrong")
	}
	w.mustCycle()
	for _, s := range w.status().Streams {
		if s.LastError != "" || s.Trouble != "" || s.LastSuccess == "" {
			t.Errorf("mended, and it says %+v", s)
		}
	}
	if s := w.status(); !s.Mounted {
		t.Error("the folder is there, and it says that it is not")
	}
	if err := os.Rename(filepath.Join(w.dir, "invoices"), filepath.Join(w.dir, "elsewhere")); err != nil {
		t.Fatal(err)
	}
	if s := w.status(); s.Mounted {
		t.Error("the folder is not there, and it says that it is")
	}
}
