package service

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

// units are setups whose units are kept as golden files.
var units = map[string]struct {
	program     string
	setup       Setup
	credentials []credential
}{
	"system": {
		"/usr/local/bin/ksefmirror",
		Setup{Config: "/etc/ksefmirror/config.toml", DataDir: "/var/lib/ksefmirror"},
		[]credential{{"acme.token", "/etc/ksefmirror/secrets/acme.token", false}, {"unit.token", "/etc/ksefmirror/secrets/unit.token.cred", true}},
	},
	"volume": {
		"/opt/ksef mirror/ksefmirror",
		Setup{Config: "/etc/ksefmirror/100% $HOME.toml", DataDir: "/srv/Księgowość 2026;x/50%", BackupDir: "/mnt/the other disk/ksef"},
		[]credential{{"acme.token", "/etc/100% sure/acme.token", false}},
	},
	"home": {
		"/usr/bin/ksefmirror",
		Setup{Config: "/home/anna/ksef/config.toml", DataDir: "/home/anna/ksef/data", BackupDir: "/home/anna/backups"},
		nil,
	},
	"temporary": {
		"/usr/bin/ksefmirror",
		Setup{Config: "/tmp/demo/config.toml", DataDir: "/tmp/demo/data"},
		nil,
	},
}

func TestUnit(t *testing.T) {
	for name, test := range units {
		t.Run(name, func(t *testing.T) {
			got, err := unit(test.program, test.setup, test.credentials)
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name+".service")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// systemd itself reads every unit without a word, and calls none exposed.
func TestSystemdAcceptsTheUnits(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("there is no systemd-analyze on this machine")
	}
	const limit = 1.5
	overall := regexp.MustCompile(`Overall exposure level for .*: (\d+\.\d+)`)
	for name, test := range units {
		t.Run(name, func(t *testing.T) {
			// verify looks whether the program is there.
			text, err := unit("/bin/true", test.setup, test.credentials)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), Name+".service")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", path).CombinedOutput()
			if err != nil || strings.Contains(string(out), Name+".service:") {
				t.Errorf("systemd-analyze verify: %v\n%s", err, out)
			}
			out, err = exec.CommandContext(t.Context(), analyze, "security", "--offline=true", path).CombinedOutput()
			if err != nil {
				t.Fatalf("systemd-analyze security: %v\n%s", err, out)
			}
			found := overall.FindSubmatch(out)
			if found == nil {
				t.Fatalf("no exposure in\n%s", out)
			}
			exposure, err := strconv.ParseFloat(string(found[1]), 64)
			if err != nil || exposure > limit {
				t.Errorf("exposure %s, want at most %g", found[1], limit)
			}
			t.Logf("exposure %s", found[1])
		})
	}
}

func TestUnitRefusesPaths(t *testing.T) {
	good := Setup{Config: "/etc/ksefmirror/config.toml", DataDir: "/var/lib/ksefmirror"}
	for _, path := range []string{"/a\nExecStartPre=/bin/sh", `/a"b`, "/a'b", "/a:b", `/a\b`, "/a{{Name}}"} {
		for _, s := range []Setup{{Config: path, DataDir: good.DataDir}, {Config: good.Config, DataDir: path}} {
			if text, err := unit("/usr/bin/ksefmirror", s, nil); err == nil {
				t.Errorf("%q was accepted:\n%s", path, text)
			}
		}
		if _, err := unit(path, good, nil); err == nil {
			t.Errorf("the program %q was accepted", path)
		}
	}
}
