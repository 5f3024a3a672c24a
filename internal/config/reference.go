package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The places a secret may be kept.
const (
	schemeFile       = "file"
	schemeEnv        = "env"
	schemeCredential = "cred"
	schemeDPAPI      = "dpapi"
)

const (
	// maxSecretBytes is far above any KSeF token (about 100 characters) and far
	// below a file that was named by mistake.
	maxSecretBytes = 16 << 10
	// maxFileBytes is the same for a certificate or key, which may come with those
	// of all its issuers.
	maxFileBytes = 256 << 10
)

// ErrNotHere is in the error of reading what only the service can see: an
// environment variable or a systemd credential that this process was not given,
// or a DPAPI file of another Windows account.
var ErrNotHere = errors.New("this process cannot see it")

// wantReference says where what may be kept.
func wantReference(what string) string {
	return fmt.Sprintf(`want where the %s is kept, never the %[1]s itself: "file:PATH", "cred:NAME", "dpapi:PATH" or "env:NAME"`, what)
}

// Reference says where a secret is kept; it never holds the secret, so it may be
// printed, logged and compared. The zero value refers to nothing.
type Reference struct {
	Scheme string // "file", "cred", "dpapi" or "env"
	// Name is the absolute path of a file, which DPAPI of Windows has encrypted if
	// the scheme is "dpapi"; the name of an environment variable; or the name of a
	// credential: a file in $CREDENTIALS_DIRECTORY, where systemd puts what
	// LoadCredential= names.
	Name string
}

// String gives the reference, such as file:/etc/ksefmirror/secrets/acme.token,
// and "" for the zero value.
func (r Reference) String() string {
	if r == (Reference{}) {
		return ""
	}
	return r.Scheme + ":" + r.Name
}

// Read reads a token, or the secret of a webhook, anew, so that one that was
// exchanged is used without a restart. White space around it is cut off. A file must belong to the user who
// runs the process or to root (Administrators) and be readable by nobody else;
// what systemd provides is private by its own rules. The error names the
// reference and what to do, never the secret; it is [ErrNotHere] when only the
// service can read it.
func (r Reference) Read() (string, error) {
	token, err := r.token()
	return token, r.named(err)
}

// ReadPassphrase is [Reference.Read] for a passphrase or password: one line, of which nothing
// but the line's end is cut off, for spaces may be part of it.
func (r Reference) ReadPassphrase() (string, error) {
	passphrase, err := r.passphrase()
	return passphrase, r.named(err)
}

// ReadKey is [Reference.Read] for a file with a private key, given as it is.
func (r Reference) ReadKey() ([]byte, error) {
	data, err := r.contents(maxFileBytes, privateToOwner)
	return data, r.named(err)
}

// ReadCertificate is [Reference.ReadKey] for a certificate, which others may
// read: it is public.
func (r Reference) ReadCertificate() ([]byte, error) {
	data, err := r.contents(maxFileBytes, nil)
	return data, r.named(err)
}

// named is err with the reference in it.
func (r Reference) named(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("read %s: %w", r, err)
}

// check says why what a key refers to cannot be read.
func (r Reference) check(key string) error {
	var err error
	switch key {
	case "token", "secret":
		_, err = r.token()
	case "passphrase", "password":
		_, err = r.passphrase()
	case "certificate":
		_, err = r.contents(maxFileBytes, nil)
	default:
		_, err = r.contents(maxFileBytes, privateToOwner)
	}
	return err
}

func (r Reference) token() (string, error) {
	data, err := r.contents(maxSecretBytes, privateToOwner)
	if err != nil {
		return "", err
	}
	return cleanSecret(string(data))
}

func (r Reference) passphrase() (string, error) {
	data, err := r.contents(maxSecretBytes, privateToOwner)
	if err != nil {
		return "", err
	}
	return cleanPassphrase(string(data))
}

// contents reads what is referred to, of at most limit bytes. private, when not
// nil, says why others could read an open file.
func (r Reference) contents(limit int, private func(*os.File) error) ([]byte, error) {
	switch r.Scheme {
	case schemeFile:
		return readFile(r.Name, limit, private)
	case schemeDPAPI:
		// Any program on the machine can decrypt what was encrypted for the machine,
		// so the file must be private all the same.
		data, err := readFile(r.Name, limit, private)
		if err != nil {
			return nil, err
		}
		return unprotect(data)
	case schemeEnv:
		value, set := os.LookupEnv(r.Name)
		if !set {
			return nil, fmt.Errorf("%w: the environment variable is not set for it", ErrNotHere)
		}
		return []byte(value), nil
	case schemeCredential:
		folder := os.Getenv("CREDENTIALS_DIRECTORY")
		if folder == "" {
			return nil, fmt.Errorf("%w: $CREDENTIALS_DIRECTORY is not set; credentials exist only in a systemd service with LoadCredential=", ErrNotHere)
		}
		return readFile(filepath.Join(folder, r.Name), limit, nil)
	}
	return nil, errors.New("nothing is configured; " + wantReference("secret"))
}

// readFile reads the file at path, of at most limit bytes. private, when not nil,
// says why others could read the open file.
func readFile(path string, limit int, private func(*os.File) error) ([]byte, error) {
	// Opening a named pipe would wait for its writer for ever.
	info, err := os.Stat(path) // #nosec G703 -- the operator names the file
	switch {
	case isAbsent(err):
		return nil, fmt.Errorf("%w; put it there, in a file that only the user who runs ksefmirror can read", err)
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("want a regular file")
	}
	file, err := os.Open(path) // #nosec G304 G703 -- the operator names the file
	if err != nil {
		return nil, fmt.Errorf("%w; the user who runs ksefmirror must own the file", err)
	}
	defer file.Close()
	// The open file is asked, not the path, which could by now be another file.
	if private != nil {
		if err := private(file); err != nil {
			return nil, err
		}
	}
	data, err := io.ReadAll(io.LimitReader(file, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if len(data) > limit {
		return nil, fmt.Errorf("it has more than %d bytes; is it the right file?", limit)
	}
	return data, nil
}

// cleanSecret cuts off the white space around a secret and refuses what cannot
// be a token, such as a file saved as UTF-16 or a file of several lines. Sent as
// it is, it would only be called wrong.
func cleanSecret(text string) (string, error) {
	secret := strings.TrimSpace(text)
	if secret == "" {
		return "", errors.New("it is empty; put the secret there")
	}
	for _, r := range secret {
		if r <= ' ' || r > '~' {
			return "", errors.New("want one line of plain characters without spaces; save the file as UTF-8 without a byte order mark")
		}
	}
	return secret, nil
}

// cleanPassphrase cuts off the end of the line and refuses what nobody types as a
// passphrase.
func cleanPassphrase(text string) (string, error) {
	passphrase := strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r")
	switch {
	case passphrase == "":
		return "", errors.New("it is empty; put the secret there")
	case !utf8.ValidString(passphrase) || strings.HasPrefix(passphrase, "\ufeff"):
		return "", errors.New("save the file as UTF-8 without a byte order mark")
	case strings.ContainsFunc(passphrase, unicode.IsControl):
		return "", errors.New("want the passphrase as the only line")
	}
	return passphrase, nil
}

var (
	variableName   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	credentialName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
)

// parseReference reads "scheme:name", where what is kept; a relative file is in
// folder. The error never holds the text, which may be a secret.
func parseReference(text, folder, what string) (Reference, error) {
	scheme, name, _ := strings.Cut(text, ":")
	if tokenShape.MatchString(text) {
		return Reference{}, errors.New("this looks like the token itself; " + wantReference(what))
	}
	switch {
	case scheme == schemeDPAPI && runtime.GOOS != "windows":
		return Reference{}, errors.New("DPAPI exists only on Windows; use file: or cred: instead")
	case (scheme == schemeFile || scheme == schemeDPAPI) && name != "":
		if !filepath.IsAbs(name) {
			name = filepath.Join(folder, name)
		}
		return Reference{scheme, filepath.Clean(name)}, nil
	case scheme == schemeEnv && variableName.MatchString(name),
		scheme == schemeCredential && credentialName.MatchString(name):
		return Reference{scheme, name}, nil
	}
	return Reference{}, errors.New(wantReference(what))
}

func isAbsent(err error) bool { return errors.Is(err, fs.ErrNotExist) }
