package config

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestReadSecret(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "token")
	for _, test := range []struct{ name, content, want, problem string }{
		{"plain", "se|cr-et", "se|cr-et", ""},
		{"line end", "secret\n", "secret", ""},
		{"windows line end", "secret\r\n", "secret", ""},
		{"blank lines", "\n secret \n\n", "secret", ""},
		{"empty", "", "", "empty"},
		{"only a line end", "\n", "", "empty"},
		{"two lines", "secret\nsecret\n", "", "one line"},
		{"two words", "secret secret", "", "one line"},
		{"byte order mark", "\ufeffsecret\n", "", "byte order mark"},
		{"UTF-16", "s\x00e\x00c\x00r\x00e\x00t\x00", "", "UTF-8"},
		{"some other file", strings.Repeat("x", maxSecretBytes+1), "", "is it the right file?"},
	} {
		t.Run(test.name, func(t *testing.T) {
			write(t, path, test.content)
			got, err := Reference{"file", path}.Read()
			if test.problem == "" {
				if got != test.want || err != nil {
					t.Errorf("got %q, %v; want %q", got, err, test.want)
				}
				return
			}
			if got != "" || err == nil || !strings.Contains(err.Error(), test.problem) {
				t.Fatalf("got %q, %v; want an error with %q", got, err, test.problem)
			}
			if strings.Contains(err.Error(), "secret secret") || !strings.Contains(err.Error(), "file:"+path) {
				t.Errorf("the error shows the secret or does not name the file: %v", err)
			}
		})
	}
}

func TestReadPassphrase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "passphrase")
	for _, test := range []struct{ name, content, want, problem string }{
		{"plain", "hunter2", "hunter2", ""},
		{"spaces and Polish letters", " zażółć gęślą \n", " zażółć gęślą ", ""},
		{"windows line end", "hunter2\r\n", "hunter2", ""},
		{"empty", "", "", "it is empty"},
		{"only a line end", "\r\n", "", "it is empty"},
		{"two lines", "hunter2\nhunter2\n", "", "the only line"},
		{"byte order mark", "\ufeffhunter2\n", "", "byte order mark"},
		{"Windows-1250", "za\xbf\xf3\xb3\xe6", "", "UTF-8"},
		{"UTF-16", "\xff\xfeh\x00u\x00n\x00", "", "UTF-8"},
	} {
		t.Run(test.name, func(t *testing.T) {
			write(t, path, test.content)
			got, err := Reference{"file", path}.ReadPassphrase()
			if got != test.want || (err != nil) != (test.problem != "") || err != nil && !strings.Contains(err.Error(), test.problem) {
				t.Errorf("got %q, %v; want %q, %q", got, err, test.want, test.problem)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows the passphrase: %v", err)
			}
		})
	}
}

// TestReadKey gives files as they are, of any bytes and lines.
func TestReadKey(t *testing.T) {
	const content = "\x30\x82 any bytes\r\nany lines\n\n"
	path := filepath.Join(t.TempDir(), "key")
	write(t, path, content)
	const inEnvironment = "-----BEGIN\nany lines\n\n" // which holds no other bytes than text
	t.Setenv("ACME_KEY", inEnvironment)
	for reference, want := range map[Reference]string{{"file", path}: content, {"env", "ACME_KEY"}: inEnvironment} {
		if got, err := reference.ReadKey(); string(got) != want || err != nil {
			t.Errorf("%s: got %q, %v", reference, got, err)
		}
		if got, err := reference.ReadCertificate(); string(got) != want || err != nil {
			t.Errorf("%s: got %q, %v", reference, got, err)
		}
	}
}

// TestNotHere tells what only the service can see from what is wrong.
func TestNotHere(t *testing.T) {
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	for _, test := range []struct {
		reference Reference
		notHere   bool
	}{
		{Reference{"env", "NO_SUCH_KEY"}, true},
		{Reference{"cred", "acme.key"}, true},
		{Reference{"file", filepath.Join(t.TempDir(), "none")}, false},
	} {
		if _, err := test.reference.ReadKey(); err == nil || errors.Is(err, ErrNotHere) != test.notHere {
			t.Errorf("%s: got %v", test.reference, err)
		}
	}
}

// TestReadSecretAnew changes the secret between two readings.
func TestReadSecretAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	reference := Reference{"file", path}
	for _, want := range []string{"first", "second"} {
		write(t, path, want)
		if got, err := reference.Read(); got != want || err != nil {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	}
}

func TestReadSecretElsewhere(t *testing.T) {
	folder := t.TempDir()
	write(t, filepath.Join(folder, "acme.token"), "credential\n")
	// systemd makes credentials private in its own way; their mode may say
	// otherwise.
	if err := os.Chmod(filepath.Join(folder, "acme.token"), 0o440); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", folder)
	t.Setenv("ACME_TOKEN", "variable")
	t.Setenv("EMPTY_TOKEN", "")

	for _, test := range []struct {
		reference     Reference
		want, problem string
	}{
		{Reference{"cred", "acme.token"}, "credential", ""},
		{Reference{"env", "ACME_TOKEN"}, "variable", ""},
		{Reference{"cred", "none"}, "", "read cred:none: "},
		{Reference{"env", "NO_SUCH_TOKEN"}, "", "read env:NO_SUCH_TOKEN: this process cannot see it: the environment variable is not set"},
		{Reference{"env", "EMPTY_TOKEN"}, "", "empty"},
		{Reference{"file", folder}, "", "regular file"},
		{Reference{}, "", "nothing is configured"},
	} {
		got, err := test.reference.Read()
		if got != test.want || (err != nil) != (test.problem != "") || err != nil && !strings.Contains(err.Error(), test.problem) {
			t.Errorf("%s: got %q, %v; want %q, %q", test.reference, got, err, test.want, test.problem)
		}
	}

	t.Setenv("CREDENTIALS_DIRECTORY", "")
	if _, err := (Reference{"cred", "acme.token"}).Read(); err == nil || !strings.Contains(err.Error(), "LoadCredential=") {
		t.Errorf("got %v, want an error that says where credentials exist", err)
	}
}

func TestParseReference(t *testing.T) {
	folder := home(t)
	elsewhere := filepath.Join(filepath.Dir(folder), "elsewhere")
	for text, want := range map[string]Reference{
		"file:secrets/acme.token":   {"file", filepath.Join(folder, "secrets", "acme.token")},
		"file:../acme.token":        {"file", filepath.Join(filepath.Dir(folder), "acme.token")},
		"file:" + elsewhere:         {"file", elsewhere},
		"env:ACME_TOKEN":            {"env", "ACME_TOKEN"},
		"cred:ksefmirror.acme-1.tk": {"cred", "ksefmirror.acme-1.tk"},
	} {
		got, err := parseReference(text, folder, "token")
		if got != want || err != nil {
			t.Errorf("%s: got %v, %v; want %v", text, got, err, want)
		}
		if again, err := parseReference(got.String(), folder, "token"); again != want || err != nil {
			t.Errorf("%s: its String is read as %v, %v", text, again, err)
		}
	}
}

func TestParseProtectedReference(t *testing.T) {
	folder := home(t)
	got, err := parseReference("dpapi:secrets/acme.key", folder, "private key")
	if runtime.GOOS != "windows" {
		if err == nil || !strings.Contains(err.Error(), "only on Windows") {
			t.Errorf("got %v, %v", got, err)
		}
		return
	}
	if want := (Reference{"dpapi", filepath.Join(folder, "secrets", "acme.key")}); got != want || err != nil {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
}

func TestGrantsEveryone(t *testing.T) {
	for descriptor, want := range map[string]bool{
		"D:PAI(A;;FA;;;SY)(A;;FA;;;BA)(A;;FR;;;S-1-5-80-1234-5678)": false,
		"O:BAG:SYD:P(A;;FA;;;OW)(A;;FA;;;BA)(A;;FA;;;SY)":           false,
		"D:(D;;FA;;;WD)(A;;FA;;;BA)":                                false,
		"D:P":                                                       false, // an empty list grants nothing
		"D:AI(A;ID;FA;;;SY)(A;ID;FA;;;BA)(A;ID;0x1200a9;;;BU)":      true,
		"D:(A;;FR;;;WD)":                                            true,
		"D:(A;;FA;;;BA)(A;;FR;;;S-1-5-11)":                          true,
		`D:(XA;;FR;;;AU;(@User.Title=="x"))`:                        true,
		"D:NO_ACCESS_CONTROL":                                       true,
		"O:BAG:SY":                                                  true,
		"":                                                          true,
	} {
		if got := grantsEveryone(descriptor); got != want {
			t.Errorf("%s: got %v, want %v", descriptor, got, want)
		}
	}
}
