package config

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWrite(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "new", "folder")
	path := filepath.Join(folder, "config.toml")
	secret := filepath.Join(folder, "secrets", "a.b.token")
	written, err := Write(path, InitOptions{
		Name: "a.b", Environment: "prod", APIURL: "http://127.0.0.1:8080/v2", Context: "nip:5265877635", Token: " hunter2\n",
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{secret, path}, written); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if runtime.GOOS != "windows" {
		for _, path := range append(written, filepath.Dir(secret)) {
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s has mode %v, want it private", path, info.Mode())
			}
		}
	}
	if strings.Contains(read(t, path), "hunter2") {
		t.Error("the configuration holds the token")
	}

	config, err := Load(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	mirror := config.Mirrors[0]
	if mirror.Name != "a.b" || mirror.Environment != "prod" || mirror.APIURL != "http://127.0.0.1:8080/v2" || mirror.Context.String() != "nip:5265877635" {
		t.Errorf("%+v", mirror)
	}
	if token, err := mirror.Auth.Token.Read(); token != "hunter2" || err != nil {
		t.Errorf("token %q, err %v", token, err)
	}
}

func TestWriteNeverOverwrites(t *testing.T) {
	options := shippedOptions
	options.Token = "hunter2"
	for _, existing := range []string{"config.toml", filepath.Join("secrets", "acme.token")} {
		t.Run(existing, func(t *testing.T) {
			folder := t.TempDir()
			write(t, filepath.Join(folder, existing), "precious")
			written, err := Write(filepath.Join(folder, "config.toml"), options)
			if err == nil || !strings.Contains(err.Error(), existing) || len(written) > 0 {
				t.Errorf("got %v, %v; want an error that names %s", written, err, existing)
			}
			if got := read(t, filepath.Join(folder, existing)); got != "precious" {
				t.Errorf("it now holds %q", got)
			}
			var files []string
			if err := filepath.WalkDir(folder, func(path string, entry os.DirEntry, err error) error {
				if err == nil && !entry.IsDir() {
					files = append(files, path)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{filepath.Join(folder, existing)}, files); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestCreateNeverOverwrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	write(t, path, "precious")
	if err := (newFile{path, []byte("new")}).create(); !errors.Is(err, os.ErrExist) {
		t.Errorf("got %v", err)
	}
	if got := read(t, path); got != "precious" {
		t.Errorf("it now holds %q", got)
	}
}

func TestWriteRefuses(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*InitOptions)
		want   string
	}{
		{"name that leads elsewhere", func(o *InitOptions) { o.Name = "../x" }, "safe folder name"},
		{"name with a line end", func(o *InitOptions) { o.Name = "x]\n[log" }, "safe folder name"},
		{"environment", func(o *InitOptions) { o.Environment = "live" }, "test, demo or prod"},
		{"context", func(o *InitOptions) { o.Context = "nip:1234567890" }, "check digit"},
		{"context with a key", func(o *InitOptions) { o.Context = "nip:5265877635\"\nsince = \"2022-01-01" }, "ten digits"},
		{"address", func(o *InitOptions) { o.APIURL = "http://example.test" }, "want https"},
		{"token of two lines", func(o *InitOptions) { o.Token = "hunter2\nhunter2" }, "one line"},
	} {
		t.Run(test.name, func(t *testing.T) {
			folder := t.TempDir()
			options := shippedOptions
			options.Token = "hunter2"
			test.change(&options)
			written, err := Write(filepath.Join(folder, "config.toml"), options)
			if err == nil || !strings.Contains(err.Error(), test.want) || len(written) > 0 {
				t.Errorf("got %v, %v; want an error with %q", written, err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows the token: %v", err)
			}
			if entries, _ := os.ReadDir(folder); len(entries) > 0 {
				t.Errorf("it left %v", entries)
			}
		})
	}
}
