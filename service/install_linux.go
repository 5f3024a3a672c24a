package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	kardianos "github.com/kardianos/service"
)

// programPath is where the program is copied to if it is not in a place for
// programs already.
const programPath = "/usr/local/bin/" + Name

// programPlaces are places for programs: packages and administrators write there.
var programPlaces = []string{"/usr", "/opt", "/bin", "/sbin"}

// host is the machine that is installed on. Tests have one of their own.
type host struct {
	root    string // before every path that is written to: "", or a scratch folder
	account func() (uid, gid int, err error)
	run     func(ctx context.Context, name string, args ...string) error
	chown   func(folder *os.Root, path string, uid, gid int) error
	manager func(unit string) (manager, error)
}

// NewPlan says what installing the service takes. It touches nothing.
func NewPlan(s Setup) (Plan, error) {
	return host{
		account: systemAccount,
		run:     runProgram,
		chown:   (*os.Root).Lchown,
		manager: func(unit string) (manager, error) {
			return systemManager(kardianos.Config{Option: kardianos.KeyValue{"SystemdScript": unit}})
		},
	}.plan(s)
}

func (h host) plan(s Setup) (Plan, error) {
	if err := s.validate(); err != nil {
		return Plan{}, err
	}
	program := s.Program
	steps := h.checks(s)
	if !within(program, programPlaces) {
		program = programPath
		steps = append(steps, placeProgram(s.Program, h.root+program))
	}
	credentials, check := h.credentials(s)
	text, err := unit(program, s, credentials)
	if err != nil {
		return Plan{}, err
	}
	steps = append(steps, check...)
	steps = append(steps,
		Step{"create the system user " + Name + " and its group, if there are none", h.createAccount},
		Step{"let the group read " + s.Config, func(context.Context) error { return h.letRead(s.Config) }},
		Step{"make the folders of the mirrors in " + s.DataDir + " and give them to the user", func(context.Context) error { return h.handOver(s) }},
		Step{"write /etc/systemd/system/" + Name + ".service and have systemd start it with the machine", func(context.Context) error { return h.register(text) }},
	)
	return Plan{Definition: text, Steps: steps}, nil
}

// checks gives the steps that refuse what a service could not live with, though
// it can be printed.
func (h host) checks(s Setup) []Step {
	refuse := func(text string, err error) Step {
		return Step{text, func(context.Context) error { return err }}
	}
	var steps []Step
	for _, path := range s.SecretFiles {
		if info, err := os.Stat(h.root + path); err == nil && info.Mode().Perm()&0o004 != 0 {
			continue // such as a certificate, which is no secret
		}
		steps = append(steps, refuse("check that the service can read "+path,
			fmt.Errorf("its user cannot, and need not: move the file to %s if it is not there, open to root alone (chmod 600), and write cred:%s for file:%s in the configuration; systemd then hands it over",
				secretsDir(s.Config), filepath.Base(path), path)))
	}
	for _, path := range []string{s.Config, s.DataDir} {
		if within(path, temporary) {
			steps = append(steps, refuse("check that "+path+" is there to stay",
				errors.New("it is in a folder for temporary files, which are deleted: choose another place")))
		}
	}
	return steps
}

func secretsDir(config string) string { return filepath.Join(filepath.Dir(config), "secrets") }

// credentials says which files systemd is to hand over, and gives the step that
// looks whether they are there and private. Without it the service would fail to
// start, with a message that names no file.
func (h host) credentials(s Setup) ([]credential, []Step) {
	var all []credential
	var steps []Step
	for _, name := range s.Credentials {
		c := credential{name: name, path: filepath.Join(secretsDir(s.Config), name)}
		if _, err := os.Stat(h.root + c.path + ".cred"); err == nil {
			c.path, c.encrypted = c.path+".cred", true
		}
		all = append(all, c)
		steps = append(steps, Step{"check that " + c.path + " is there, and open to nobody but its owner", func(context.Context) error {
			info, err := os.Stat(h.root + c.path)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return fmt.Errorf("%w; the configuration names it as cred:%s: put the secret there", err, name)
			case err != nil:
				return err
			case !c.encrypted && info.Mode().Perm()&0o077 != 0:
				return fmt.Errorf("its mode %#o lets others at it; run: chmod 600 %q, and replace the secret if others could have read it", info.Mode().Perm(), c.path)
			}
			return nil
		}})
	}
	return all, steps
}

func (h host) createAccount(ctx context.Context) error {
	_, _, err := h.account()
	var unknown user.UnknownUserError
	if !errors.As(err, &unknown) {
		return err
	}
	return h.run(ctx, "useradd", "--system", "--user-group", "--no-create-home", "--home-dir", stateDir, "--shell", "/usr/sbin/nologin", Name)
}

// letRead lets the service's group read the configuration, and enter the folder
// it is in, unless everybody may.
func (h host) letRead(config string) error {
	_, gid, err := h.account()
	if err != nil {
		return err
	}
	folder, err := os.OpenRoot(h.root + filepath.Dir(config))
	if err != nil {
		return err
	}
	defer folder.Close()
	for path, bits := range map[string]fs.FileMode{".": 0o050, filepath.Base(config): 0o040} {
		info, err := folder.Stat(path)
		if err != nil {
			return err
		}
		if everybody := bits >> 3; info.Mode().Perm()&everybody == everybody {
			continue
		}
		// The group first: the one that is there now is not to be let in.
		if err := h.chown(folder, path, -1, gid); err != nil {
			return err
		}
		if err := folder.Chmod(path, info.Mode().Perm()|bits); err != nil {
			return err
		}
	}
	return nil
}

// handOver makes the folders of the mirrors and gives them to the service's user,
// with all that is in them; the data folder only if there was none, for otherwise
// it may be shared. No file is opened, for that could cost locks of SQLite, and no
// link followed.
func (h host) handOver(s Setup) error {
	uid, gid, err := h.account()
	if err != nil {
		return err
	}
	_, err = os.Stat(h.root + s.DataDir)
	isNew := errors.Is(err, fs.ErrNotExist)
	if err := os.MkdirAll(h.root+s.DataDir, 0o750); err != nil {
		return err
	}
	folder, err := os.OpenRoot(h.root + s.DataDir)
	if err != nil {
		return err
	}
	defer folder.Close()
	if isNew {
		if err := h.chown(folder, ".", uid, gid); err != nil {
			return err
		}
	}
	for _, mirror := range s.Mirrors {
		below, err := filepath.Rel(s.DataDir, mirror)
		if err != nil {
			return err
		}
		if err := folder.MkdirAll(below, 0o750); err != nil {
			return err
		}
		err = fs.WalkDir(folder.FS(), below, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return h.chown(folder, path, uid, gid)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// register has systemd take the unit, in place of one that is there. A running
// service runs on.
func (h host) register(unit string) error {
	m, err := h.manager(unit)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(h.root + "/etc/systemd/system/" + Name + ".service"); err == nil {
		if err := m.Uninstall(); err != nil {
			return fmt.Errorf("remove the unit that is there: %w", err)
		}
	}
	return m.Install()
}

// withBoundedStop leaves a stop to systemd, which kills what does not stop.
func withBoundedStop(m manager) manager { return m }

func systemAccount() (uid, gid int, err error) {
	account, err := user.Lookup(Name)
	if err != nil {
		return 0, 0, err
	}
	if uid, err = strconv.Atoi(account.Uid); err != nil {
		return 0, 0, err
	}
	gid, err = strconv.Atoi(account.Gid)
	return uid, gid, err
}

func runProgram(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput() // #nosec G204 -- the names are constant
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}
