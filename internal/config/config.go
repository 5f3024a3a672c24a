// Package config reads config.toml: which mirrors there are, what each one
// copies, where to, how often, and where its secrets are kept. It reports every
// mistake at once, each with its key, its value and what is expected.
//
// It starts nothing, knows nothing of KSeF's protocol, and imports no other
// package of the project. The file itself, with every key, its default and its
// reason, is written from manual.toml.tmpl.
package config

import (
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// Config is one configuration file, checked.
type Config struct {
	// File is where it was read from, as given to [Load].
	File string
	// DataDir is the folder that holds one folder per mirror. [Load] makes it
	// absolute; in [Default] it is relative to the configuration file's folder.
	DataDir string
	// Metrics is the host and port at which Prometheus is told how the mirrors are;
	// "" tells nobody. It is on this machine unless the file says otherwise.
	Metrics string
	// WatchFolders has changes in the invoices folders noticed at once, where the
	// system tells of them; else they are found by the daily audits alone.
	WatchFolders bool
	Log          Log
	// Mail is how mails are sent; nil: none are.
	Mail   *Mail
	Backup Backup
	// Mirrors is sorted by name and, after [Load], never empty.
	Mirrors []Mirror
	// Warnings is what is allowed but unwise.
	Warnings Problems
}

// Log says how much is logged, and in which form.
type Log struct {
	Level slog.Level // debug, info, warn or error
	// Format is "text", "json", or "auto": text on a terminal, JSON otherwise.
	Format string
}

// Backup says where the nightly backups of all mirrors go.
type Backup struct {
	// Dir is an existing folder; [Load] makes it absolute. Empty means no nightly
	// backups.
	Dir  string
	Keep int // of each mirror, at least 1
}

// Mirror is one named configuration: whose invoices, from which environment,
// how often, and into which folder.
type Mirror struct {
	Name        string // a safe folder name, unique without regard to case
	Environment string // "test", "demo" or "prod"
	// APIURL replaces the environment's address; empty means the environment's
	// own. It has no slash at its end.
	APIURL string
	// LatarniaURL replaces the address of the ministry's beacon for outages; empty
	// means the environment's own.
	LatarniaURL string
	Context     Context
	// Roles holds at least one of "seller", "buyer", "third_party" and
	// "authorized", each at most once.
	Roles []string
	// Since is the day, at 00:00 UTC, from which a new mirror copies invoices.
	Since    time.Time
	Interval time.Duration // from the start of one cycle to the start of the next
	// NightRoles are those of Roles that are asked for once a night only.
	NightRoles []string
	QuietHours Hours // in which KSeF is not asked
	// Layout is the pattern of folder and file names, as the operator wrote it.
	Layout string
	// PingURL is where the address is kept that is told of every cycle; zero for none.
	PingURL Reference
	Auth    Auth
	Dir     string // DataDir joined with Name: the mirror's own folder, absolute
	// Who is told of new invoices; nil: not that way.
	Command *Command
	Webhook *Webhook
	Digest  *Digest
}

// Command is a program that is run when there are new invoices.
type Command struct {
	Run     []string      // the program, by its absolute path, and its arguments
	Timeout time.Duration // after which it is killed
}

// Webhook is an address that new invoices are posted to.
type Webhook struct {
	URL    string    // https, or http to this machine. It may hold a secret
	Secret Reference // signs the requests
}

// Digest is a daily mail about new invoices.
type Digest struct {
	To           []string // plain addresses, one at least
	Hour, Minute int      // in Poland, from when on it is sent
	Mail         *Mail    // how it is sent: [Config.Mail]
}

// Mail says how mails are sent.
type Mail struct {
	Server string // host:port. At port 465 TLS comes first, at others STARTTLS
	// User and Password log in to it; both are zero if it asks for nothing.
	User     string
	Password Reference
	From     string // a plain address
}

// Hours are hours of every day. The zero value is none.
type Hours struct {
	From, To int // minutes after midnight: From is included, To is not; over midnight if it is before From
}

// Contain tells whether a clock that shows t, in its location, shows one of the
// hours.
func (h Hours) Contain(t time.Time) bool {
	minute := t.Hour()*60 + t.Minute()
	if h.From <= h.To {
		return h.From <= minute && minute < h.To
	}
	return minute >= h.From || minute < h.To
}

// Length is how long they are, but for the days on which the clock is changed.
func (h Hours) Length() time.Duration {
	const day = 24 * 60
	return time.Duration((h.To-h.From+day)%day) * time.Minute
}

// The ways to log in.
const (
	MethodCertificate = "certificate" // a certificate and its private key
	MethodToken       = "token"       // a KSeF token
)

// Auth says how a mirror logs in, and where what it takes is kept.
type Auth struct {
	Method string // MethodCertificate or MethodToken
	// Token is set for MethodToken.
	Token Reference
	// For MethodCertificate either Certificate and PrivateKey are set, or PKCS12,
	// which holds both. Passphrase is zero if the private key is not encrypted.
	Certificate, PrivateKey, PKCS12, Passphrase Reference
}

// used gives the references that the method takes, by their keys in the table
// auth.
func (a Auth) used() map[string]Reference {
	used := map[string]Reference{"token": a.Token}
	if a.Method == MethodCertificate {
		used = map[string]Reference{"certificate": a.Certificate, "private_key": a.PrivateKey, "pkcs12": a.PKCS12, "passphrase": a.Passphrase}
	}
	maps.DeleteFunc(used, func(_ string, r Reference) bool { return r == Reference{} })
	return used
}

// used gives the references of the whole configuration that are used, by their
// keys, in the order of the file's tables.
func (c *Config) used() []usedReference {
	var all []usedReference
	for _, m := range c.Mirrors {
		auth := m.Auth.used()
		for _, key := range slices.Sorted(maps.Keys(auth)) {
			all = append(all, usedReference{toml.Key{"mirror", m.Name, "auth", key}, auth[key]})
		}
		if m.PingURL != (Reference{}) {
			all = append(all, usedReference{toml.Key{"mirror", m.Name, "ping_url"}, m.PingURL})
		}
		if m.Webhook != nil {
			all = append(all, usedReference{toml.Key{"mirror", m.Name, "webhook", "secret"}, m.Webhook.Secret})
		}
	}
	if c.Mail != nil && c.Mail.Password != (Reference{}) {
		all = append(all, usedReference{toml.Key{"mail", "password"}, c.Mail.Password})
	}
	return all
}

type usedReference struct {
	key toml.Key
	Reference
}

// References gives where everything secret is kept that the configuration uses.
func (c *Config) References() []Reference {
	var all []Reference
	for _, used := range c.used() {
		all = append(all, used.Reference)
	}
	return all
}

// Default gives the configuration of a file without any key. It has no mirror,
// so it is not yet valid.
func Default() Config {
	return Config{DataDir: "data", WatchFolders: true, Log: Log{Level: slog.LevelInfo, Format: "auto"}, Backup: Backup{Keep: 7}}
}

// DefaultMirror gives the values of the keys that a mirror may leave out. Name,
// Environment, Context and the references in Auth have no default: a wrong guess would copy
// the wrong company's invoices, or those of a test system.
func DefaultMirror() Mirror {
	return Mirror{
		Roles: slices.Clone(roles),
		// The first permanent-storage date of KSeF 2.0 in production.
		Since:    time.Date(2026, time.February, 1, 0, 0, 0, 0, time.UTC),
		Interval: 15 * time.Minute,
		Layout:   "{role}/{year}/{month}/{date}_{counterparty}_{invoice}",
		Auth:     Auth{Method: MethodToken},
	}
}

// Load reads and checks the file at path. Relative paths in it are resolved
// against its folder, never against the working directory, which for a Windows
// service is System32. checkLayout says what is wrong with a layout; nil accepts
// every layout.
//
// The error is a [Problems] when the file was read and understood as TOML but
// says something wrong; it then holds every problem. Any other error names the
// file. Secrets kept in files are read once to see that they are there and
// private; the others are looked at only by [Reference.Read] and its like,
// because whoever checks a configuration rarely has the service's environment.
func Load(path string, checkLayout func(string) error) (*Config, error) {
	config, problems, err := loadTables(path, checkLayout)
	if err != nil {
		return nil, err
	}
	for _, used := range config.used() {
		problem := Problem{File: path, Key: shown(used.key), Value: used.String()}
		switch used.Scheme {
		case schemeFile:
			if err := used.check(used.key[len(used.key)-1]); err != nil {
				problem.Want = err.Error()
				problems = append(problems, problem)
			}
		case schemeEnv:
			problem.Want = "other programs of the same user can read environment variables, and crash reports and child processes get them; prefer file: or cred:"
			config.Warnings = append(config.Warnings, problem)
		}
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return config, nil
}

// LoadWithoutSecrets is [Load] without looking at the secrets in files, for
// commands that make them and those that need none. It gives no warnings about where they are kept.
func LoadWithoutSecrets(path string, checkLayout func(string) error) (*Config, error) {
	config, problems, err := loadTables(path, checkLayout)
	if err == nil && len(problems) > 0 {
		err = problems
	}
	if err != nil {
		return nil, err
	}
	return config, nil
}

func loadTables(path string, checkLayout func(string) error) (*Config, Problems, error) {
	data, err := os.ReadFile(path) // #nosec G304 -- the operator names the file
	if err != nil {
		return nil, nil, fmt.Errorf("read configuration: %w", err)
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, nil, fmt.Errorf("locate configuration %s: %w", path, err)
	}
	config, problems, err := decode(path, filepath.Dir(absolute), data, time.Now(), checkLayout)
	if err != nil {
		return nil, nil, err
	}
	config.File = path
	return config, problems, nil
}

// Path gives the configuration file to load: the one named by flag, else
// config.toml in the working directory, else the system's
// (/etc/ksefmirror/config.toml, or %ProgramData%\ksefmirror\config.toml on
// Windows). The error lists where it looked. A file named by flag is not looked
// at, so that [Load] reports what is wrong with it.
func Path(flag string) (string, error) {
	return find(flag, "config.toml", SystemPath())
}

func find(flag string, places ...string) (string, error) {
	if flag != "" {
		return flag, nil
	}
	for _, place := range places {
		// A file that is there but cannot be looked at is the one that was
		// meant; passing over it would run another configuration in silence.
		if _, err := os.Stat(place); err == nil || !isAbsent(err) {
			return place, nil
		}
	}
	return "", fmt.Errorf("no configuration file: looked for %s; name one with --config FILE or write one with ksefmirror config init: %w",
		strings.Join(places, " and "), fs.ErrNotExist)
}

// SystemPath is where the system's configuration is kept: see [Path].
func SystemPath() string {
	if runtime.GOOS != "windows" {
		return "/etc/ksefmirror/config.toml"
	}
	folder := os.Getenv("ProgramData")
	if folder == "" {
		folder = `C:\ProgramData`
	}
	return filepath.Join(folder, "ksefmirror", "config.toml")
}
