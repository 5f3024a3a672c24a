//go:build !windows

package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestSecretOpenToOthers(t *testing.T) {
	folder := t.TempDir()
	for _, test := range []struct {
		mode   os.FileMode
		refuse bool
	}{
		{0o600, false}, {0o400, false}, {0o700, false},
		{0o640, true}, {0o604, true}, {0o620, true}, {0o602, true}, {0o601, true}, {0o644, true}, {0o777, true},
	} {
		t.Run(fmt.Sprintf("%#o", test.mode), func(t *testing.T) {
			path := filepath.Join(folder, test.mode.String())
			write(t, path, "hunter2")
			if err := os.Chmod(path, test.mode); err != nil {
				t.Fatal(err)
			}
			got, err := Reference{"file", path}.Read()
			if !test.refuse {
				if got != "hunter2" || err != nil {
					t.Errorf("got %q, %v", got, err)
				}
				return
			}
			if got != "" || err == nil || !strings.Contains(err.Error(), fmt.Sprintf("chmod 600 %q", path)) {
				t.Errorf("got %q, %v; want an error with the chmod to run", got, err)
			}

			if got, err := (Reference{"file", path}).ReadPassphrase(); got != "" || err == nil {
				t.Errorf("passphrase: got %q, %v", got, err)
			}
			if got, err := (Reference{"file", path}).ReadKey(); got != nil || err == nil {
				t.Errorf("key: got %q, %v", got, err)
			}
			if got, err := (Reference{"file", path}).ReadCertificate(); string(got) != "hunter2" || err != nil {
				t.Errorf("certificate: got %q, %v; it is public", got, err)
			}

			config := filepath.Join(folder, "config.toml")
			for key, auth := range map[string]string{
				"token":       `token = "file:` + path + `"`,
				"private_key": "method = \"certificate\"\ncertificate = \"cred:acme.crt\"\nprivate_key = \"file:" + path + `"`,
				"pkcs12":      "method = \"certificate\"\npkcs12 = \"file:" + path + `"`,
				"passphrase":  "method = \"certificate\"\npkcs12 = \"cred:acme.p12\"\npassphrase = \"file:" + path + `"`,
			} {
				write(t, config, replace(t, good, `token = "cred:unit.token"`, auth))
				var problems Problems
				if _, err := Load(config, nil); !errors.As(err, &problems) || len(problems) != 1 || problems[0].Key != "mirror.Unit-7.auth."+key {
					t.Errorf("Load: got %v, want %s as its one problem", err, key)
				}
			}
		})
	}
}

func TestSecretOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file to another user")
	}
	path := filepath.Join(t.TempDir(), "token")
	write(t, path, "hunter2")
	if err := os.Chown(path, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	if got, err := (Reference{"file", path}).Read(); got != "" || err == nil || !strings.Contains(err.Error(), "belongs to user 12345") {
		t.Errorf("got %q, %v; want an error that names the owner", got, err)
	}
}

// What takes the place of a file can be used by whoever could use that.
func TestCopyAccess(t *testing.T) {
	folder := t.TempDir()
	from, to := filepath.Join(folder, "acme.crt"), filepath.Join(folder, "acme.crt.new")
	write(t, from, "old")
	write(t, to, "new")
	if err := os.Chmod(from, 0o644); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(from, 12345, 12346); err != nil {
			t.Fatal(err)
		}
	}
	if err := CopyAccess(from, to); err != nil {
		t.Fatal(err)
	}
	theirs, err := os.Stat(from)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := os.Stat(to)
	if err != nil {
		t.Fatal(err)
	}
	want, got := theirs.Sys().(*syscall.Stat_t), ours.Sys().(*syscall.Stat_t)
	if ours.Mode() != theirs.Mode() || got.Uid != want.Uid || got.Gid != want.Gid {
		t.Errorf("mode %v, owner %d, group %d; want %v, %d, %d", ours.Mode(), got.Uid, got.Gid, theirs.Mode(), want.Uid, want.Gid)
	}
}

// TestSecretIsAPipe would hang if the pipe were opened.
func TestSecretIsAPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (Reference{"file", path}).Read(); err == nil || !strings.Contains(err.Error(), "regular file") {
		t.Errorf("got %v", err)
	}
}
