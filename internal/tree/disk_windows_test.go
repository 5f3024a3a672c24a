package tree

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/windows"
)

// lock opens a file as a virus scanner does, so that nobody else can rename it.
func lock(t *testing.T, full string) (release func()) {
	t.Helper()
	name, err := windows.UTF16PtrFromString(full)
	if err != nil {
		t.Fatal(err)
	}
	handle, err := windows.CreateFile(name, windows.GENERIC_READ, 0, nil, windows.OPEN_EXISTING, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := windows.CloseHandle(handle); err != nil {
			t.Error(err)
		}
	}
}

func TestPutWaitsForVirusScanner(t *testing.T) {
	tree := newTree(t)
	file := File{"a.xml", []byte("content")}
	var temporary string
	tree.fault = func(step, name string) error {
		switch step {
		case "create":
			temporary = name
		case "rename":
			release := lock(t, filepath.Join(tree.dir, filepath.FromSlash(temporary)))
			time.AfterFunc(300*time.Millisecond, release)
		}
		return nil
	}
	start := time.Now()
	if kept, err := tree.Put(t.Context(), file); err != nil || kept != nil {
		t.Fatalf("Put: %v, %v", kept, err)
	}
	if waited := time.Since(start); waited < 300*time.Millisecond {
		t.Errorf("the file was renamed after %s, although it was locked", waited)
	}
	checkContents(t, tree, wanted([]File{file}))
}

func TestRetryWhileInUse(t *testing.T) {
	other := errors.New("other")
	tests := []struct {
		name    string
		err     error
		until   time.Duration // when the error goes away
		cancel  time.Duration
		want    error
		atLeast time.Duration
		atMost  time.Duration
	}{
		{"at once", nil, 0, time.Hour, nil, 0, 0},
		{"other error", other, time.Hour, time.Hour, other, 0, 0},
		{"sharing violation for a second", windows.ERROR_SHARING_VIOLATION, time.Second, time.Hour, nil, time.Second, 2 * time.Second},
		{"access denied for a moment", windows.ERROR_ACCESS_DENIED, time.Millisecond, time.Hour, nil, time.Millisecond, 10 * time.Millisecond},
		{"lock violation for ever", windows.ERROR_LOCK_VIOLATION, time.Hour, time.Hour, windows.ERROR_LOCK_VIOLATION, 4 * time.Second, 5 * time.Second},
		{"cancelled", windows.ERROR_SHARING_VIOLATION, time.Hour, time.Second, context.Canceled, time.Second, time.Second},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer time.AfterFunc(test.cancel, cancel).Stop()
				start := time.Now()
				err := retryWhileInUse(ctx, func() error {
					if time.Since(start) >= test.until {
						return nil
					}
					return test.err
				})
				waited := time.Since(start)
				if !errors.Is(err, test.want) || waited < test.atLeast || waited > test.atMost {
					t.Errorf("after %s the error is %v", waited, err)
				}
			})
		})
	}
}

func TestExplain(t *testing.T) {
	for _, err := range []error{windows.ERROR_DISK_FULL, windows.ERROR_WRITE_PROTECT, windows.ERROR_SHARING_VIOLATION} {
		if explained := explain(err); !errors.Is(explained, err) || explained.Error() == err.Error() {
			t.Errorf("%v is explained by %v", err, explained)
		}
	}
}
