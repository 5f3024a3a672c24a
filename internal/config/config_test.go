package config

import (
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the config.toml that is shipped")

// shippedPath is the config.toml in the root of the project.
var shippedPath = filepath.Join("..", "..", "config.toml")

// shippedOptions are those of the config.toml that is shipped.
var shippedOptions = InitOptions{Name: "acme", Environment: "test", Context: "nip:5265877635"}

func replace(t *testing.T, text, old, replacement string) string {
	t.Helper()
	if !strings.Contains(text, old) {
		t.Fatalf("the test's file has no %q", old)
	}
	return strings.ReplaceAll(text, old, replacement)
}

// write replaces the file at path by one that is private, also where a new file
// inherits its access list from the folder.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err := (newFile{path, []byte(text)}).create(); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestShippedIsTheManual compares the shipped config.toml with what
// "config init" writes: the manual is one text.
func TestShippedIsTheManual(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.toml")
	if _, err := Write(path, shippedOptions); err != nil {
		t.Fatal(err)
	}
	want := read(t, path)
	if *update {
		if err := os.WriteFile(shippedPath, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(want, strings.ReplaceAll(read(t, shippedPath), "\r\n", "\n")); diff != "" {
		t.Errorf("run go test ./internal/config -update (-want +got)\n%s", diff)
	}
}

// TestShippedShowsTheDefaults reads the shipped file as it is, and with every
// commented key in force: both must be the defaults.
func TestShippedShowsTheDefaults(t *testing.T) {
	asIs := read(t, shippedPath)
	inForce := regexp.MustCompile(`(?m)^#([a-z_]+ = )`).ReplaceAllString(asIs, "$1")
	if inForce == asIs {
		t.Fatal("the file shows no default")
	}

	want := Default()
	want.DataDir = filepath.Join(home(t), want.DataDir)
	mirror := DefaultMirror()
	mirror.Name = "acme"
	mirror.Environment = "test"
	mirror.Context = Context{"nip", "5265877635"}
	mirror.Auth.Token = Reference{"file", filepath.Join(home(t), "secrets", "acme.token")}
	mirror.Dir = filepath.Join(want.DataDir, "acme")
	want.Mirrors = []Mirror{mirror}
	for name, text := range map[string]string{"as it is": asIs, "every key in force": inForce} {
		got, problems, err := decode("config.toml", home(t), []byte(text), today, nil)
		if err != nil || len(problems) > 0 {
			t.Fatal(name, err, problems)
		}
		if diff := cmp.Diff(&want, got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
	}

	// The keys of the other way to log in are shown as an example.
	example := regexp.MustCompile(`(?m)^#     ([a-z_0-9]+ = |\[)`).ReplaceAllString(replace(t, inForce, "\nmethod = \"token\"\n", "\n"), "$1")
	shown := make(map[string]bool)
	for _, text := range []string{inForce, example} {
		var values any
		meta, err := toml.Decode(text, &values)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range meta.Keys() {
			shown[tableOf(key)] = true
		}
	}
	for table, keys := range knownKeys() {
		for _, key := range keys {
			full := strings.TrimPrefix(table+"."+key, ".")
			if full != "mirror" && !shown[full] {
				t.Errorf("config.toml does not show %s", full)
			}
		}
	}
}

// TestShippedShowsCertificates puts the two examples of the shipped file in force.
func TestShippedShowsCertificates(t *testing.T) {
	secret := func(name string) Reference { return Reference{"file", filepath.Join(home(t), "secrets", name)} }
	for name, test := range map[string]struct {
		leaveOut []string
		want     Auth
	}{
		"pair":   {[]string{"token", "pkcs12"}, Auth{Method: "certificate", Certificate: secret("acme.crt"), PrivateKey: secret("acme.key"), Passphrase: secret("acme.passphrase")}},
		"pkcs12": {[]string{"token", "certificate", "private_key"}, Auth{Method: "certificate", PKCS12: secret("acme.p12"), Passphrase: secret("acme.passphrase")}},
	} {
		text := regexp.MustCompile(`(?m)^#     ([a-z_0-9]+ = |\[)`).ReplaceAllString(read(t, shippedPath), "$1")
		for _, key := range test.leaveOut {
			text = regexp.MustCompile(`(?m)^`+key+` = .*$`).ReplaceAllString(text, "")
		}
		got, problems, err := decode("config.toml", home(t), []byte(text), today, nil)
		if err != nil || len(problems) > 0 {
			t.Fatal(name, err, problems)
		}
		if diff := cmp.Diff(test.want, got.Mirrors[0].Auth); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
	}
}

// TestLoadWarns has a secret in a place that is allowed but unwise.
func TestLoadWarns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.toml")
	write(t, path, good)
	config, err := Load(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if w := config.Warnings; len(w) != 1 || w[0].Key != "mirror.acme.auth.token" || w[0].Value != "env:ACME_TOKEN" || !strings.Contains(w[0].Want, "prefer file: or cred:") {
		t.Errorf("got %v", w)
	}
	if config.File != path {
		t.Errorf("file %q", config.File)
	}
	// What the method does not use is not warned of, nor looked at.
	write(t, path, replace(t, good, `token = "cred:unit.token"`, "method = \"token\"\ntoken = \"cred:unit.token\"\nprivate_key = \"env:KEY\"\npassphrase = \"file:none\""))
	if config, err := Load(path, nil); err != nil || len(config.Warnings) != 1 {
		t.Errorf("got %v, %v", config, err)
	}
}

// TestLoadReportsCredentials has files for a certificate that cannot be read, each
// for another reason.
func TestLoadReportsCredentials(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "config.toml")
	write(t, filepath.Join(folder, "two-lines"), "one\ntwo\n")
	write(t, filepath.Join(folder, "long"), strings.Repeat("x", maxFileBytes+1))
	write(t, path, replace(t, good, `token = "cred:unit.token"`,
		"method = \"certificate\"\ncertificate = \"file:none\"\nprivate_key = \"file:long\"\npassphrase = \"file:two-lines\""))
	_, err := Load(path, nil)
	var problems Problems
	if !errors.As(err, &problems) || len(problems) != 3 {
		t.Fatalf("got %v, want three problems", err)
	}
	for i, want := range [][2]string{{"certificate", "put it there"}, {"passphrase", "the only line"}, {"private_key", "is it the right file?"}} {
		if got := problems[i]; got.Key != "mirror.Unit-7.auth."+want[0] || !strings.Contains(got.Want, want[1]) {
			t.Errorf("got %v, want %q", got, want)
		}
	}
}

// TestShippedLacksOnlyTheSecret does what the file's first comment says.
func TestShippedLacksOnlyTheSecret(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "config.toml")
	write(t, path, read(t, shippedPath))

	_, err := Load(path, nil)
	var problems Problems
	if !errors.As(err, &problems) || len(problems) != 1 {
		t.Fatalf("got %v, want one problem", err)
	}
	secret := filepath.Join(folder, "secrets", "acme.token")
	if got := problems[0]; got.Key != "mirror.acme.auth.token" || got.Value != "file:"+secret || got.File != path {
		t.Errorf("%+v", got)
	}

	write(t, secret, "a-token\n")
	config, err := Load(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token, err := config.Mirrors[0].Auth.Token.Read(); token != "a-token" || err != nil {
		t.Errorf("token %q, err %v", token, err)
	}
}

// TestLoadReportsSecretsWithTheRest has a bad key and a bad secret in one file.
func TestLoadReportsSecretsWithTheRest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.toml")
	write(t, path, replace(t, replace(t, good, "env:ACME_TOKEN", "file:no-such-file"), `"warn"`, `"loud"`))
	_, err := Load(path, nil)
	var problems Problems
	if !errors.As(err, &problems) || len(problems) != 2 {
		t.Fatalf("got %v, want two problems", err)
	}
	if problems[0].Key != "log.level" || problems[1].Key != "mirror.acme.auth.token" {
		t.Errorf("%v", problems)
	}
}

func TestLoadRelativePath(t *testing.T) {
	folder := t.TempDir()
	t.Chdir(folder)
	write(t, "config.toml", good)
	config, err := Load("config.toml", nil)
	if err != nil {
		t.Fatal(err)
	}
	if !filepath.IsAbs(config.DataDir) || filepath.Base(config.DataDir) != "copies" {
		t.Errorf("data_dir %s, want it absolute, in the folder of the file", config.DataDir)
	}
}

func TestLoadMissingFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.toml")
	if _, err := Load(path, nil); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want an error that names the file", err)
	}
}

func TestFind(t *testing.T) {
	folder := t.TempDir()
	first, second := filepath.Join(folder, "first.toml"), filepath.Join(folder, "second.toml")

	_, err := find("", first, second)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), first) || !strings.Contains(err.Error(), second) {
		t.Errorf("got %v, want an error that lists both places", err)
	}
	write(t, second, "")
	if got, err := find("", first, second); got != second || err != nil {
		t.Errorf("got %s, %v; want the second place", got, err)
	}
	write(t, first, "")
	if got, err := find("", first, second); got != first || err != nil {
		t.Errorf("got %s, %v; want the first place", got, err)
	}
	if got, err := find("named.toml", first, second); got != "named.toml" || err != nil {
		t.Errorf("got %s, %v; want the named file", got, err)
	}
}

func TestPath(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "config.toml", "")
	if got, err := Path(""); got != "config.toml" || err != nil {
		t.Errorf("got %s, %v", got, err)
	}
	if runtime.GOOS == "windows" {
		t.Setenv("ProgramData", `D:\Data`)
		if got := SystemPath(); got != `D:\Data\ksefmirror\config.toml` {
			t.Errorf("system place %s", got)
		}
	} else if got := SystemPath(); got != "/etc/ksefmirror/config.toml" {
		t.Errorf("system place %s", got)
	}
}
