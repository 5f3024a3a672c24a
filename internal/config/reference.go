package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// The places a secret may be kept.
const (
	schemeFile       = "file"
	schemeEnv        = "env"
	schemeCredential = "cred"
)

// maxSecretBytes is far above any KSeF token (about 100 characters) and far
// below a file that was named by mistake.
const maxSecretBytes = 16 << 10

const wantReference = `want where the token is kept, never the token itself: "file:PATH", "env:NAME" or "cred:NAME"`

// Reference says where a secret is kept; it never holds the secret, so it may be
// printed, logged and compared. The zero value refers to nothing.
type Reference struct {
	Scheme string // "file", "env" or "cred"
	// Name is the absolute path of a file, the name of an environment variable,
	// or the name of a credential: a file in $CREDENTIALS_DIRECTORY, where
	// systemd puts what LoadCredential= names.
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

// Read reads the secret anew, so that a token that was exchanged is used without
// a restart. White space around it is cut off. A file must belong to the user
// who runs the process or to root (Administrators) and be readable by nobody
// else; what systemd provides is private by its own rules. The error names the
// reference and what to do, never the secret.
func (r Reference) Read() (string, error) {
	secret, err := r.read()
	if err != nil {
		return "", fmt.Errorf("read secret %s: %w", r, err)
	}
	return secret, nil
}

// read is Read without the reference in its error.
func (r Reference) read() (string, error) {
	switch r.Scheme {
	case schemeFile:
		return readSecretFile(r.Name, privateToOwner)
	case schemeEnv:
		secret, set := os.LookupEnv(r.Name)
		if !set {
			return "", errors.New("the environment variable is not set for this process")
		}
		return cleanSecret(secret)
	case schemeCredential:
		folder := os.Getenv("CREDENTIALS_DIRECTORY")
		if folder == "" {
			return "", errors.New("$CREDENTIALS_DIRECTORY is not set; credentials exist only in a systemd service with LoadCredential=")
		}
		return readSecretFile(filepath.Join(folder, r.Name), nil)
	}
	return "", errors.New("no secret is configured; " + wantReference)
}

// readSecretFile reads the secret in the file at path. private, when not nil,
// says why others could read the open file.
func readSecretFile(path string, private func(*os.File) error) (string, error) {
	// Opening a named pipe would wait for its writer for ever.
	info, err := os.Stat(path) // #nosec G703 -- the operator names the file
	switch {
	case isAbsent(err):
		return "", fmt.Errorf("%w; put the token there, as the only line, in a file that nobody else can read", err)
	case err != nil:
		return "", err
	case !info.Mode().IsRegular():
		return "", errors.New("want a regular file")
	}
	file, err := os.Open(path) // #nosec G304 G703 -- the operator names the file
	if err != nil {
		return "", fmt.Errorf("%w; the user who runs ksefmirror must own the file", err)
	}
	defer file.Close()
	// The open file is asked, not the path, which could by now be another file.
	if private != nil {
		if err := private(file); err != nil {
			return "", err
		}
	}
	data, err := io.ReadAll(io.LimitReader(file, maxSecretBytes+1))
	if err != nil {
		return "", err
	}
	return cleanSecret(string(data))
}

// cleanSecret cuts off the white space around a secret and refuses what cannot
// be a token, such as a file saved as UTF-16 or a file of several lines. Sent as
// it is, KSeF would only call it wrong.
func cleanSecret(text string) (string, error) {
	if len(text) > maxSecretBytes {
		return "", errors.New("far too long for a token; is it the right file?")
	}
	secret := strings.TrimSpace(text)
	if secret == "" {
		return "", errors.New("it is empty; put the token there")
	}
	for _, r := range secret {
		if r <= ' ' || r > '~' {
			return "", errors.New("want one line of plain characters without spaces; save the file as UTF-8 without a byte order mark")
		}
	}
	return secret, nil
}

var (
	variableName   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	credentialName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
)

// parseReference reads "scheme:name"; a relative file is in folder. The error
// never holds the text, which may be a secret.
func parseReference(text, folder string) (Reference, error) {
	scheme, name, _ := strings.Cut(text, ":")
	if tokenShape.MatchString(text) {
		return Reference{}, errors.New("this looks like the token itself; " + wantReference)
	}
	switch {
	case scheme == schemeFile && name != "":
		if !filepath.IsAbs(name) {
			name = filepath.Join(folder, name)
		}
		return Reference{schemeFile, filepath.Clean(name)}, nil
	case scheme == schemeEnv && variableName.MatchString(name),
		scheme == schemeCredential && credentialName.MatchString(name):
		return Reference{scheme, name}, nil
	}
	return Reference{}, errors.New(wantReference)
}

func isAbsent(err error) bool { return errors.Is(err, fs.ErrNotExist) }
