package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func newTree(tb testing.TB) *Tree {
	tb.Helper()
	dir := filepath.Join(tb.TempDir(), "mirror", "invoices")
	if err := Create(dir, "id-1"); err != nil {
		tb.Fatal(err)
	}
	return openTree(tb, dir)
}

func openTree(tb testing.TB, dir string) *Tree {
	tb.Helper()
	tree, err := Open(dir, "id-1")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := tree.Close(); err != nil {
			tb.Error(err)
		}
	})
	return tree
}

// manyFiles gives n files in a few folders.
func manyFiles(n int) []File {
	files := make([]File, n)
	for i := range files {
		files[i] = File{Path: fmt.Sprintf("purchases/2026/%02d/%d.xml", i%3+1, i), Content: fmt.Appendf(nil, "<invoice>%d</invoice>", i)}
	}
	return files
}

// contents gives everything that Walk finds, by path.
func contents(tb testing.TB, tree *Tree) map[string]string {
	tb.Helper()
	found := map[string]string{}
	for entry, err := range tree.Walk() {
		if err != nil {
			tb.Fatal(err)
		}
		content, err := tree.Read(entry.Path)
		if err != nil {
			tb.Fatal(err)
		}
		if entry.Size != int64(len(content)) || entry.ModTime.IsZero() {
			tb.Errorf("entry %+v of a file of %d bytes", entry, len(content))
		}
		found[entry.Path] = string(content)
	}
	return found
}

func wanted(files []File, more ...File) map[string]string {
	want := map[string]string{}
	for _, file := range append(more, files...) {
		want[file.Path] = string(file.Content)
	}
	return want
}

func checkContents(tb testing.TB, tree *Tree, want map[string]string) {
	tb.Helper()
	if diff := cmp.Diff(want, contents(tb, tree)); diff != "" {
		tb.Errorf("the tree differs (-want +got):\n%s", diff)
	}
}

func checkNoTemporaries(tb testing.TB, tree *Tree) {
	tb.Helper()
	left, err := os.ReadDir(filepath.Join(tree.dir, temporaryFolder))
	if err != nil || len(left) > 0 {
		tb.Errorf("temporaries are left: %v, %v", left, err)
	}
}

// write writes a file as a person would.
func write(tb testing.TB, tree *Tree, name, content string) {
	tb.Helper()
	full := filepath.Join(tree.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(full), 0o750); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(content), 0o600); err != nil {
		tb.Fatal(err)
	}
}

// symlink makes a symbolic link, or skips the test where there are none: Windows wants a privilege for it, and Wine only
// pretends.
func symlink(t *testing.T, target, name string) {
	t.Helper()
	if err := os.Symlink(target, name); err != nil {
		t.Skipf("the system refuses to make a symbolic link: %v", err)
	}
	if info, err := os.Lstat(name); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Skipf("the system makes something else of a symbolic link: %v, %v", info, err)
	}
}

// bothWays runs a test with few files, flushed one by one, and with many, flushed together where the system can.
func bothWays(t *testing.T, test func(t *testing.T, files []File)) {
	for _, n := range []int{2, flushTogetherFrom + 2} {
		t.Run(fmt.Sprintf("%d files", n), func(t *testing.T) { test(t, manyFiles(n)) })
	}
}

func TestPut(t *testing.T) {
	bothWays(t, func(t *testing.T, files []File) {
		tree := newTree(t)
		first, second := files[0].Path, files[1].Path
		write(t, tree, temporaryFolder+"/left-over", "half")
		write(t, tree, second, "changed by a person")
		write(t, tree, "purchases/2026/02/1.kept-1.xml", "changed before")

		kept, err := tree.Put(t.Context(), files...)
		if err != nil {
			t.Fatal(err)
		}
		beside := strings.TrimSuffix(second, ".xml") + ".kept-2.xml"
		if diff := cmp.Diff([]Kept{{Path: second, Beside: beside}}, kept); diff != "" {
			t.Error(diff)
		}
		if !IsKept(beside) || IsKept(first) {
			t.Error("IsKept is wrong")
		}
		want := wanted(files, File{beside, []byte("changed by a person")}, File{"purchases/2026/02/1.kept-1.xml", []byte("changed before")})
		checkContents(t, tree, want)
		checkNoTemporaries(t, tree)

		// Again, with one deleted: what is there is left alone, what is not comes back.
		past := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		if err := os.Chtimes(filepath.Join(tree.dir, filepath.FromSlash(second)), past, past); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(tree.dir, filepath.FromSlash(first))); err != nil {
			t.Fatal(err)
		}
		if kept, err := tree.Put(t.Context(), files...); err != nil || kept != nil {
			t.Fatalf("Put again: %v, %v", kept, err)
		}
		if info, err := os.Stat(filepath.Join(tree.dir, filepath.FromSlash(second))); err != nil || !info.ModTime().Equal(past) {
			t.Errorf("a stored file was written again (%v)", err)
		}
		checkContents(t, tree, want)
		checkNoTemporaries(t, tree)
	})
}

func TestPutKeepsWhateverIsInTheWay(t *testing.T) {
	file := func(content string) func(*testing.T, string) {
		return func(t *testing.T, full string) {
			if err := os.WriteFile(full, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := []struct {
		name string
		make func(t *testing.T, full string)
		// look describes what was made, to see that it is still the same.
		look func(full string) (string, error)
	}{
		{"empty file", file(""), readString},
		{"same size, other bytes", file("CONTENT"), readString},
		{"folder", func(t *testing.T, full string) {
			if err := os.MkdirAll(filepath.Join(full, "inner"), 0o750); err != nil {
				t.Fatal(err)
			}
		}, func(full string) (string, error) {
			entries, err := os.ReadDir(full)
			return fmt.Sprint(entries), err
		}},
		{"dangling link", func(t *testing.T, full string) { symlink(t, "nowhere", full) }, os.Readlink},
		{"link to the same bytes", func(t *testing.T, full string) {
			file("content")(t, full+".target")
			symlink(t, filepath.Base(full)+".target", full)
		}, os.Readlink},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			tree := newTree(t)
			test.make(t, filepath.Join(tree.dir, "a.xml"))
			before, err := test.look(filepath.Join(tree.dir, "a.xml"))
			if err != nil {
				t.Fatal(err)
			}
			kept, err := tree.Put(t.Context(), File{"a.xml", []byte("content")})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]Kept{{"a.xml", "a.kept-1.xml"}}, kept); diff != "" {
				t.Error(diff)
			}
			after, err := test.look(filepath.Join(tree.dir, "a.kept-1.xml"))
			if err != nil || after != before {
				t.Errorf("what was in the way was %q and is %q, %v", before, after, err)
			}
			if content, err := tree.Read("a.xml"); err != nil || string(content) != "content" {
				t.Errorf("the file has %q, %v", content, err)
			}
		})
	}
}

// A folder cannot be linked, so on Unix it takes the way of file systems without hard links.
func TestPutKeepsEveryFolderInTheWay(t *testing.T) {
	tree := newTree(t)
	for n := 1; n <= 3; n++ {
		if err := os.Mkdir(filepath.Join(tree.dir, "a.xml"), 0o750); err != nil {
			t.Fatal(err)
		}
		kept, err := tree.Put(t.Context(), File{"a.xml", []byte("content")})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]Kept{{"a.xml", fmt.Sprintf("a.kept-%d.xml", n)}}, kept); diff != "" {
			t.Error(diff)
		}
		if err := os.Remove(filepath.Join(tree.dir, "a.xml")); err != nil {
			t.Fatal(err)
		}
	}
	if found, err := filepath.Glob(filepath.Join(tree.dir, "a.kept-*.xml")); err != nil || len(found) != 3 {
		t.Errorf("kept: %v, %v", found, err)
	}
}

func readString(full string) (string, error) {
	content, err := os.ReadFile(full)
	return string(content), err
}

func TestPutRefusesPaths(t *testing.T) {
	tree := newTree(t)
	for _, name := range []string{"", ".", "..", "/a", "a/", "a//b", "a/../b", "../a", "a\x00b", markerName, ".KSEFmirror", temporaryFolder + "/a", ".KsefMirror-TMP"} {
		if _, err := tree.Put(t.Context(), File{"good.xml", []byte("x")}, File{name, []byte("x")}); err == nil {
			t.Errorf("%q was taken", name)
		}
		if _, err := tree.Read(name); err == nil {
			t.Errorf("%q was read", name)
		}
	}
	checkContents(t, tree, map[string]string{})
}

func TestPutStaysInsideTheTree(t *testing.T) {
	tree := newTree(t)
	outside := t.TempDir()
	symlink(t, outside, filepath.Join(tree.dir, "purchases"))
	if _, err := tree.Put(t.Context(), File{"purchases/a.xml", []byte("x")}); err == nil {
		t.Error("Put followed a link out of the tree")
	}
	if found, err := os.ReadDir(outside); err != nil || len(found) > 0 {
		t.Errorf("outside of the tree: %v, %v", found, err)
	}
}

func TestPutConcurrently(t *testing.T) {
	tree := newTree(t)
	files := manyFiles(4 * flushTogetherFrom)
	var group sync.WaitGroup
	for i := range 6 {
		group.Go(func() {
			for j := range 4 {
				// Overlapping parts of the same files.
				part := files[(i+j)*2 : (i+j)*2+flushTogetherFrom-2+j]
				if kept, err := tree.Put(t.Context(), part...); err != nil || kept != nil {
					t.Errorf("Put: %v, %v", kept, err)
				}
			}
		})
	}
	group.Wait()
	if kept, err := tree.Put(t.Context(), files...); err != nil || kept != nil {
		t.Errorf("Put: %v, %v", kept, err)
	}
	checkContents(t, tree, wanted(files))
	checkNoTemporaries(t, tree)
}

func TestPutStopsWhenCancelled(t *testing.T) {
	bothWays(t, func(t *testing.T, files []File) {
		tree := newTree(t)
		ctx, cancel := context.WithCancel(t.Context())
		tree.fault = func(step, name string) error {
			if step == "rename" {
				cancel()
			}
			return nil
		}
		if _, err := tree.Put(ctx, files...); !errors.Is(err, context.Canceled) {
			t.Errorf("error is %v", err)
		}
		if found := contents(t, tree); len(found) != 1 {
			t.Errorf("files after the cancellation: %v", found)
		}
		checkNoTemporaries(t, tree)
	})
}

// TestPutSurvivesEveryFault lets every step of Put fail in turn, and also takes, at every step, a copy of the folder
// as a crash there would leave it.
func TestPutSurvivesEveryFault(t *testing.T) {
	bothWays(t, func(t *testing.T, files []File) {
		const changed = "changed by a person"
		inTheWay := files[1].Path
		// check asserts what must hold at any time, and that calling Put again then completes the work.
		check := func(t *testing.T, dir string) {
			t.Helper()
			tree := openTree(t, dir)
			keptAs := ""
			for name, content := range contents(t, tree) {
				switch {
				case content == changed:
					keptAs += name
				case content != wanted(files)[name]:
					t.Errorf("%s has %q", name, content)
				}
			}
			if keptAs != inTheWay && !IsKept(keptAs) {
				t.Errorf("the person's file is now at %q", keptAs)
			}
			if _, err := tree.Put(t.Context(), files...); err != nil {
				t.Fatal(err)
			}
			beside := strings.TrimSuffix(inTheWay, ".xml") + ".kept-1.xml"
			checkContents(t, tree, wanted(files, File{beside, []byte(changed)}))
			checkNoTemporaries(t, tree)
		}

		steps := 0
		for failAt := 1; ; failAt++ {
			tree := newTree(t)
			write(t, tree, inTheWay, changed)
			fault := errors.New("injected")
			steps = 0
			tree.fault = func(step, name string) error {
				if steps++; steps == failAt {
					return fault
				}
				return nil
			}
			_, err := tree.Put(t.Context(), files...)
			if steps < failAt {
				if err != nil {
					t.Fatal(err)
				}
				break
			}
			if !errors.Is(err, fault) {
				t.Fatalf("step %d failed, but Put says %v", failAt, err)
			}
			check(t, tree.dir)
		}
		if steps < 3*len(files) {
			t.Fatalf("only %d steps were seen", steps)
		}

		tree := newTree(t)
		write(t, tree, inTheWay, changed)
		var crashed []string
		tree.fault = func(step, name string) error {
			dir := filepath.Join(t.TempDir(), "crashed")
			crashed = append(crashed, dir)
			return os.CopyFS(dir, os.DirFS(tree.dir))
		}
		if _, err := tree.Put(t.Context(), files...); err != nil {
			t.Fatal(err)
		}
		for _, dir := range crashed {
			check(t, dir)
		}
	})
}

func TestUsable(t *testing.T) {
	rename := func(t *testing.T, from, to string) {
		if err := os.Rename(from, to); err != nil {
			t.Skipf("the system keeps an open folder in its place: %v", err)
		}
	}
	tests := []struct {
		name       string
		spoil      func(t *testing.T, dir string)
		notMounted bool
	}{
		{"marker deleted", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, markerName)); err != nil {
				t.Fatal(err)
			}
		}, true},
		{"folder moved away", func(t *testing.T, dir string) { rename(t, dir, dir+"-moved") }, true},
		{"another folder in its place", func(t *testing.T, dir string) {
			rename(t, dir, dir+"-moved")
			if err := Create(dir, "id-1"); err != nil {
				t.Fatal(err)
			}
		}, true},
		{"marker of another mirror", func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, markerName), []byte(markerLine+"id-2\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, false},
		{"damaged marker", func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, markerName), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			tree := newTree(t)
			if _, err := tree.Put(t.Context(), manyFiles(1)...); err != nil {
				t.Fatal(err)
			}
			test.spoil(t, tree.dir)
			if err := tree.Usable(); err == nil || errors.Is(err, ErrNotMounted) != test.notMounted {
				t.Errorf("Usable says %v", err)
			}
			if _, err := tree.Put(t.Context(), File{"late.xml", []byte("x")}); err == nil || errors.Is(err, ErrNotMounted) != test.notMounted {
				t.Errorf("Put says %v", err)
			}
			if _, err := tree.root.Lstat("late.xml"); !errors.Is(err, fs.ErrNotExist) {
				t.Error("Put wrote")
			}
			given := 0
			for entry, err := range tree.Walk() {
				if given++; err == nil || errors.Is(err, ErrNotMounted) != test.notMounted {
					t.Errorf("Walk gives %v, %v", entry, err)
				}
			}
			if given != 1 {
				t.Errorf("Walk gives %d times", given)
			}
		})
	}
}

func TestWalk(t *testing.T) {
	tree := newTree(t)
	files := manyFiles(4)
	if _, err := tree.Put(t.Context(), files...); err != nil {
		t.Fatal(err)
	}
	write(t, tree, temporaryFolder+"/temporary", "x")
	write(t, tree, "of a person/note.txt", "x")
	write(t, tree, "sub/"+markerName, "a person's copy counts as a file")
	_ = os.Symlink("note.txt", filepath.Join(tree.dir, "of a person", "link")) // where the system makes one, it is left out
	var got []string
	for entry, err := range tree.Walk() {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, entry.Path)
	}
	want := []string{"of a person/note.txt", "purchases/2026/01/0.xml", "purchases/2026/01/3.xml", "purchases/2026/02/1.xml", "purchases/2026/03/2.xml", "sub/" + markerName}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for range tree.Walk() {
		break // must not panic by calling again
	}
}

func TestRead(t *testing.T) {
	tree := newTree(t)
	if _, err := tree.Read("none.xml"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	write(t, tree, "folder/large", "")
	if err := os.Truncate(filepath.Join(tree.dir, "folder", "large"), maxReadSize+1); err != nil {
		t.Fatal(err)
	}
	if content, err := tree.Read("folder/large"); err == nil {
		t.Errorf("%d bytes were read", len(content))
	}
	if _, err := tree.Read("folder"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder: %v", err)
	}
}

// BenchmarkPut stores files in fresh folders, in calls of 1, 100 and 1,000 files of 6 KB.
func BenchmarkPut(b *testing.B) {
	for _, size := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("%d per call", size), func(b *testing.B) {
			tree := newTree(b)
			content := []byte(strings.Repeat("x", 6<<10))
			files := make([]File, size)
			syncs, stored := 0, 0
			tree.fault = func(step, name string) error {
				if step == "sync" {
					syncs++
				}
				return nil
			}
			for b.Loop() {
				for i := range files {
					files[i] = File{path.Join("purchases", fmt.Sprint(stored/1000), fmt.Sprint(stored%28), fmt.Sprint(stored, ".xml")), content}
					stored++
				}
				if _, err := tree.Put(b.Context(), files...); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(stored)/b.Elapsed().Seconds(), "files/s")
			b.ReportMetric(float64(syncs)*1000/float64(stored), "syncs/1000files")
		})
	}
}
