package config

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"text/template"
	"time"

	"github.com/BurntSushi/toml"
)

//go:embed manual.toml.tmpl
var manual string

// InitOptions is what a new configuration file says about its one mirror.
type InitOptions struct {
	Name        string // of the mirror
	Environment string // "test", "demo" or "prod"
	APIURL      string // empty: the environment's own
	Context     string // such as "nip:5265877635"
	// Method is how to log in; "" means MethodToken. With MethodCertificate the file
	// names NAME.crt and NAME.key in the folder secrets beside it, and the configuration
	// is valid only once they exist.
	Method string
	// Token is the KSeF token itself. Empty means that no secret file is
	// written, and that the new configuration is valid only once it exists.
	Token string
	// Service is for a service of systemd: invoices are kept in /var/lib, and what it
	// logs in with is named by cred:, so that its files need not be readable by the
	// service.
	Service bool
}

// serviceDataDir is what systemd makes for the service.
const serviceDataDir = "/var/lib/ksefmirror"

// Write writes a commented configuration file for one mirror to path, and the
// token to secrets/NAME.token beside it, both readable by their owner only. It
// gives the files it wrote. It never overwrites a file: when one of them exists
// it leaves no other behind and the error names that file. The error is a [Problems]
// when an option is not valid.
func Write(path string, options InitOptions) ([]string, error) {
	secret := filepath.Join("secrets", options.Name+".token")
	text, err := render(options)
	if err != nil {
		return nil, fmt.Errorf("write configuration %s: %w", path, err)
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("locate configuration %s: %w", path, err)
	}
	// What was just rendered is read back, so that init cannot write what check
	// would refuse. This also refuses a name that leads out of the folder.
	_, problems, err := decode(path, filepath.Dir(absolute), text, time.Now(), nil)
	switch {
	case err != nil:
		return nil, err
	case len(problems) > 0:
		return nil, problems
	}

	// The configuration comes last: after a crash in between there is a secret
	// that nothing names, and the error of the next attempt says so.
	files := []newFile{{path, text}}
	if options.Token != "" {
		token, err := cleanSecret(options.Token)
		if err != nil {
			return nil, fmt.Errorf("write token: %w", err)
		}
		files = []newFile{{filepath.Join(filepath.Dir(path), secret), []byte(token + "\n")}, {path, text}}
	}
	var written []string
	for _, file := range files {
		if err := file.create(); err != nil {
			for _, path := range written {
				_ = os.Remove(path) // this call made it; the error below is what counts
			}
			return nil, err
		}
		written = append(written, file.path)
	}
	return written, nil
}

// newFile is a file to be written that must not exist yet.
type newFile struct {
	path    string
	content []byte
}

// create writes the file, and the folder it is in, for their owner only. A crash
// in between leaves a file cut short, which the next Write refuses to touch.
func (f newFile) create() (err error) {
	if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
		return fmt.Errorf("write %s: %w", f.path, err)
	}
	file, err := createPrivate(f.path)
	switch {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%w; it is left as it is: remove it or choose another place", err)
	case err != nil:
		return fmt.Errorf("write %s: %w", f.path, err)
	}
	defer func() {
		if closeErr := file.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			_ = os.Remove(f.path) // this call made it, and it is not whole
			err = fmt.Errorf("write %s: %w", f.path, err)
		}
	}()
	if _, err := file.Write(f.content); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	return SyncFolder(filepath.Dir(f.path))
}

// WriteSecret writes a new file, and the folder it is in, for their owner only. It
// is on the disk when WriteSecret returns nil. It never overwrites: the error is
// [fs.ErrExist] if the file exists.
func WriteSecret(path string, content []byte) error { return newFile{path, content}.create() }

// render fills the manual in.
func render(options InitOptions) ([]byte, error) {
	page, err := template.New("manual.toml").Parse(manual)
	if err != nil {
		return nil, err
	}
	kept := schemeFile + ":secrets/"
	if options.Service {
		kept = schemeCredential + ":"
	}
	values := map[string]string{
		"Mirror":      toml.Key{"mirror", options.Name}.String(),
		"Auth":        toml.Key{"mirror", options.Name, "auth"}.String(),
		"Environment": strconv.Quote(options.Environment),
		"Context":     strconv.Quote(options.Context),
		"Kept":        kept,
		"Name":        options.Name,
	}
	if options.Method == MethodCertificate {
		values["Certificate"] = "yes"
	}
	if options.Service {
		values["DataDir"] = strconv.Quote(serviceDataDir)
	}
	if options.APIURL != "" {
		values["APIURL"] = strconv.Quote(options.APIURL)
	}
	var text bytes.Buffer
	if err := page.Execute(&text, values); err != nil {
		return nil, err
	}
	return text.Bytes(), nil
}
