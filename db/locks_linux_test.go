package db

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	sqlite3 "modernc.org/sqlite/lib"
)

// Code of this process that opens and closes the database file must not cost a
// committed invoice, even when a visitor comes and then a crash. With the POSIX
// locks that SQLite uses by default it does, without any error: the second case
// shows that the first one tests something.
func TestOpenAndCloseOfTheDatabaseFile(t *testing.T) {
	for role, want := range map[string]int{"careless with Open": 60, "careless with POSIX locks": 30} {
		t.Run(role, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "invoices.db")
			p := start(t, role, path)
			p.line(t)
			start(t, "visitor", path).end(t)
			p.goOn(t)
			p.line(t) // all twenty commits were acknowledged
			p.kill(t)
			pool, err := connect(path, readWrite, time.Second, 1)
			if err != nil {
				t.Fatal(err)
			}
			defer pool.Close()
			var got int
			var check string
			if err := pool.QueryRow("SELECT (SELECT count(*) FROM invoices), (SELECT quick_check FROM pragma_quick_check)").Scan(&got, &check); err != nil {
				t.Fatal(err)
			}
			if got != want || check != "ok" {
				t.Errorf("%d of 60 rows are left, want %d, check %s", got, want, check)
			}
		})
	}
}

// The locks on the -shm file stay POSIX locks: opening and closing that one lets
// another writer into the middle of a transaction. If this test fails in its
// second case, the driver has learned better, and the rule that nothing but
// SQLite opens files in the database's folder may be reconsidered.
func TestOpenAndCloseOfTheIndexFile(t *testing.T) {
	for role, admitted := range map[string]bool{"transaction": false, "transaction and shm": true} {
		t.Run(role, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "invoices.db")
			p := start(t, role, path)
			p.line(t)
			pool, err := connect(path, readWrite, time.Millisecond, 1)
			if err != nil {
				t.Fatal(err)
			}
			defer pool.Close()
			tx, err := pool.Begin()
			if err == nil {
				err = tx.Rollback()
			} else if !isCode(err, sqlite3.SQLITE_BUSY) {
				t.Fatal(err)
			}
			if (err == nil) != admitted {
				t.Errorf("a second writer: %v, want it admitted: %v", err, admitted)
			}
			p.kill(t)
		})
	}
}

// The rule itself, for this package: it looks at files and renames them, but
// opens none.
func TestNothingButSQLiteOpensFiles(t *testing.T) {
	allowed := map[string]bool{"os.MkdirAll": true, "os.Stat": true, "os.Remove": true, "os.Rename": true, "os.ErrNotExist": true}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range file.Imports {
			if path := strings.Trim(spec.Path.Value, `"`); path == "syscall" || strings.HasPrefix(path, "golang.org/x/sys") || path == "io/ioutil" {
				t.Errorf("%s imports %s", name, path)
			}
		}
		ast.Inspect(file, func(node ast.Node) bool {
			selector, ok := node.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if of, ok := selector.X.(*ast.Ident); ok && of.Name == "os" && !allowed["os."+selector.Sel.Name] {
				t.Errorf("%s uses os.%s", set.Position(node.Pos()), selector.Sel.Name)
			}
			return true
		})
	}
}

// Accounting software may read the folder and not write to it, also while the
// daemon is stopped.
func TestReaderWithoutWritePermission(t *testing.T) {
	folder := t.TempDir()
	for _, up := range []string{folder, filepath.Dir(folder)} {
		if err := os.Chmod(up, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	database := filepath.Join(folder, "database")
	path := filepath.Join(database, "invoices.db")
	d, err := Open(t.Context(), path, testMirror, discard())
	if err != nil {
		t.Fatal(err)
	}
	commit(t, d, batchAt(0))
	// The binary may be in a folder that another user cannot enter.
	program := filepath.Join(folder, "reader")
	copyProgram(t, program)
	read := func(state string) {
		t.Helper()
		command := childCommand(t, program, "visitor read-only", path)
		command.Env = append(command.Env, "HOME="+folder)
		if os.Geteuid() == 0 {
			command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
		if out, err := command.CombinedOutput(); err != nil {
			t.Errorf("a reader without write permission, while the daemon is %s: %v: %s", state, err, out)
		}
	}
	mode := os.FileMode(0o555)
	if os.Geteuid() == 0 {
		mode = 0o755 // the reader is another user
	}
	if err := os.Chmod(database, mode); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(database, 0o755) }) // for TempDir to remove it
	read("running")
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	read("stopped")
}

func copyProgram(t *testing.T, to string) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	from, err := os.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	file, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(file, from); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
}
