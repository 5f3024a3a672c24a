package service

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// scratch is a machine in a folder: a real tree of files, an account that is
// made when it is asked for, and a manager that takes notes.
type scratch struct {
	host
	t       *testing.T
	manager fakeManager
	unit    string
	ran     []string
	owners  map[string]int // uid by path of what was given away
}

const scratchUID, scratchGID = 4711, 4712

func newScratch(t *testing.T) *scratch {
	s := &scratch{t: t, owners: map[string]int{}}
	made := false
	s.host = host{
		root: t.TempDir(),
		account: func() (int, int, error) {
			if !made {
				return 0, 0, user.UnknownUserError(Name)
			}
			return scratchUID, scratchGID, nil
		},
		run: func(_ context.Context, name string, args ...string) error {
			s.ran = append(s.ran, name+" "+strings.Join(args, " "))
			made = true
			return nil
		},
		chown: func(folder *os.Root, path string, uid, gid int) error {
			if gid != scratchGID {
				t.Errorf("%s was given to the group %d", path, gid)
			}
			s.owners[strings.TrimPrefix(filepath.Join(folder.Name(), path), s.root)] = uid
			if os.Geteuid() != 0 {
				return nil // only root can give files away; that it was asked for is noted
			}
			return folder.Lchown(path, uid, gid)
		},
	}
	s.host.manager = func(unit string) (manager, error) {
		s.unit = unit
		return &s.manager, nil
	}
	s.write("/home/anna/ksefmirror", 0o755)
	s.write("/etc/ksefmirror/config.toml", 0o600)
	s.write("/etc/ksefmirror/secrets/acme.token", 0o600)
	if err := os.Chmod(s.root+"/etc/ksefmirror", 0o700); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *scratch) write(path string, mode fs.FileMode) {
	s.t.Helper()
	if err := os.MkdirAll(filepath.Dir(s.root+path), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(s.root+path, []byte(path), mode); err != nil {
		s.t.Fatal(err)
	}
}

func (s *scratch) mode(path string) fs.FileMode {
	s.t.Helper()
	info, err := os.Lstat(s.root + path)
	if err != nil {
		s.t.Fatal(err)
	}
	return info.Mode().Perm()
}

// setup is what a first installation finds. The program is given where it really
// is, for it is read; everything else is in the scratch root.
func (s *scratch) setup() Setup {
	return Setup{
		Program: s.root + "/home/anna/ksefmirror",
		Config:  "/etc/ksefmirror/config.toml",
		DataDir: "/var/lib/ksefmirror", Mirrors: []string{"/var/lib/ksefmirror/acme", "/var/lib/ksefmirror/new"},
		Credentials: []string{"acme.token"},
	}
}

func (s *scratch) install(setup Setup) error {
	s.t.Helper()
	plan, err := s.plan(setup)
	if err != nil {
		return err
	}
	return plan.Install(s.t.Context(), func(Step) {})
}

func TestInstall(t *testing.T) {
	s := newScratch(t)
	// The mirror has run as root before, and other things are in the data folder.
	s.write("/var/lib/ksefmirror/acme/database/invoices.db", 0o640)
	s.write("/var/lib/ksefmirror/other/file", 0o640)
	s.write("/etc/ksefmirror/acme.crt", 0o644)
	if err := os.Symlink("/etc/ksefmirror", s.root+"/var/lib/ksefmirror/acme/link"); err != nil {
		t.Fatal(err)
	}
	setup := s.setup()
	setup.SecretFiles = []string{"/etc/ksefmirror/acme.crt"} // a certificate, which anybody may read
	if err := s.install(setup); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(s.root + "/usr/local/bin/ksefmirror")
	if err != nil || string(program) != "/home/anna/ksefmirror" || s.mode("/usr/local/bin/ksefmirror") != 0o755 {
		t.Errorf("the program was not copied: %v", err)
	}
	want := []string{"useradd --system --user-group --no-create-home --home-dir /var/lib/ksefmirror --shell /usr/sbin/nologin ksefmirror"}
	if !slices.Equal(s.ran, want) {
		t.Errorf("ran %q", s.ran)
	}
	for path, mode := range map[string]fs.FileMode{
		"/etc/ksefmirror": 0o750, "/etc/ksefmirror/config.toml": 0o640, "/etc/ksefmirror/secrets/acme.token": 0o600,
	} {
		if got := s.mode(path); got != mode {
			t.Errorf("%s has mode %#o, want %#o", path, got, mode)
		}
	}
	for path, uid := range map[string]int{
		"/etc/ksefmirror": -1, "/etc/ksefmirror/config.toml": -1, // the group alone: the service must not write there
		"/var/lib/ksefmirror/acme": scratchUID, "/var/lib/ksefmirror/new": scratchUID, "/var/lib/ksefmirror/acme/link": scratchUID,
		"/var/lib/ksefmirror/acme/database": scratchUID, "/var/lib/ksefmirror/acme/database/invoices.db": scratchUID,
	} {
		if got, given := s.owners[path]; !given || got != uid {
			t.Errorf("%s: user %d, %t", path, got, given)
		}
		delete(s.owners, path)
	}
	if len(s.owners) != 0 { // such as the folder that other things are in
		t.Errorf("also given away: %v", s.owners)
	}
	if !strings.Contains(s.unit, "ExecStart=/usr/local/bin/ksefmirror --config /etc/ksefmirror/config.toml run\n") ||
		!strings.Contains(s.unit, "\nLoadCredential=acme.token:/etc/ksefmirror/secrets/acme.token\n") {
		t.Errorf("the unit is\n%s", s.unit)
	}
	if !slices.Equal(s.manager.told, []string{"install"}) {
		t.Errorf("the manager was told %q", s.manager.told)
	}

	// Again, after an upgrade and with an encrypted secret: the unit is renewed, the
	// account is not made twice.
	s.write("/etc/systemd/system/ksefmirror.service", 0o644)
	s.write("/etc/ksefmirror/secrets/acme.token.cred", 0o644)
	if err := os.Remove(s.root + "/etc/ksefmirror/secrets/acme.token"); err != nil {
		t.Fatal(err)
	}
	if err := s.install(s.setup()); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(s.manager.told, []string{"install", "uninstall", "install"}) || len(s.ran) != 1 {
		t.Errorf("the manager was told %q, and %q were run", s.manager.told, s.ran)
	}
	if !strings.Contains(s.unit, "\nLoadCredentialEncrypted=acme.token:/etc/ksefmirror/secrets/acme.token.cred\n") {
		t.Errorf("the unit is\n%s", s.unit)
	}
}

// A data folder that was not there is the service's, so that it can add mirrors.
func TestInstallMakesTheDataFolder(t *testing.T) {
	s := newScratch(t)
	if err := s.install(s.setup()); err != nil {
		t.Fatal(err)
	}
	if s.owners["/var/lib/ksefmirror"] != scratchUID || s.mode("/var/lib/ksefmirror") != 0o750 || s.mode("/var/lib/ksefmirror/new") != 0o750 {
		t.Errorf("given away: %v", s.owners)
	}
}

// Planning, which --print does, changes nothing, whatever is wrong.
func TestPlanTouchesNothing(t *testing.T) {
	s := newScratch(t)
	setup := s.setup()
	setup.Credentials = append(setup.Credentials, "missing.token")
	setup.SecretFiles = []string{"/etc/ksefmirror/secrets/acme.token"}
	before := listing(t, s.root)
	plan, err := s.plan(setup)
	if err != nil || len(plan.Steps) < 5 || !strings.HasPrefix(plan.Definition, "[Unit]\n") {
		t.Errorf("%d steps, %v\n%s", len(plan.Steps), err, plan.Definition)
	}
	if after := listing(t, s.root); !slices.Equal(before, after) || len(s.ran)+len(s.owners)+len(s.manager.told) != 0 {
		t.Errorf("%q became %q; ran %q, told %q", before, after, s.ran, s.manager.told)
	}
}

func listing(t *testing.T, folder string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err == nil {
			var info fs.FileInfo
			info, err = entry.Info()
			all = append(all, path+" "+info.Mode().String()+" "+info.ModTime().String())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// What would not work as a service is refused before anything is changed, and
// the error says what to do.
func TestInstallRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*scratch, *Setup)
		says   string
	}{
		"no secret":          {func(_ *scratch, s *Setup) { s.Credentials = []string{"b.token"} }, "names it as cred:b.token"},
		"secret for a group": {func(s *scratch, _ *Setup) { _ = os.Chmod(s.root+"/etc/ksefmirror/secrets/acme.token", 0o640) }, "chmod 600"},
		"secret by file:":    {func(_ *scratch, s *Setup) { s.SecretFiles = []string{"/etc/ksefmirror/secrets/acme.token"} }, "cred:acme.token for file:"},
		"file: not there":    {func(_ *scratch, s *Setup) { s.SecretFiles = []string{"/etc/ksefmirror/acme.key"} }, "cred:acme.key for file:"},
		"temporary data":     {func(_ *scratch, s *Setup) { s.DataDir, s.Mirrors = "/tmp/data", nil }, "choose another place"},
		"relative":           {func(_ *scratch, s *Setup) { s.DataDir = "data" }, "absolute"},
		"mirror elsewhere":   {func(_ *scratch, s *Setup) { s.Mirrors = []string{"/etc"} }, "escapes"},
	} {
		s := newScratch(t)
		setup := s.setup()
		setup.Program = "/usr/bin/ksefmirror"
		test.change(s, &setup)
		if err := s.install(setup); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", name, err)
		}
		if name != "mirror elsewhere" && len(s.ran)+len(s.owners) != 0 || len(s.manager.told) != 0 {
			t.Errorf("%s: ran %q, gave away %v, told %q", name, s.ran, s.owners, s.manager.told)
		}
	}
}

// A program that cannot be copied whole leaves the one that is there.
func TestCopyProgram(t *testing.T) {
	folder := t.TempDir()
	to := filepath.Join(folder, "bin", "ksefmirror")
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, []byte("old"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := copyProgram(folder, to); err == nil { // a folder opens, but cannot be read
		t.Error("a folder was copied")
	}
	if err := copyProgram(filepath.Join(folder, "none"), to); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	entries, err := os.ReadDir(filepath.Dir(to))
	if text, _ := os.ReadFile(to); err != nil || len(entries) != 1 || string(text) != "old" {
		t.Errorf("%v, %d files, the program is %q", err, len(entries), text)
	}
}
