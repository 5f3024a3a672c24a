package service

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	_ "embed"
)

//go:embed ksefmirror.service.tmpl
var unitTemplate string

// stateDir is what systemd makes for StateDirectory=ksefmirror.
const stateDir = "/var/lib/" + Name

// homes are the places that ProtectHome= hides.
var homes = []string{"/home", "/root", "/run/user"}

// temporary are the places that PrivateTmp= replaces by empty ones.
var temporary = []string{"/tmp", "/var/tmp"}

// hidden are all these.
var hidden = slices.Concat(homes, temporary)

// credential is a file that systemd reads as root and shows to the service alone.
type credential struct {
	name, path string
	encrypted  bool
}

// unit gives the text of the systemd unit.
func unit(program string, s Setup, credentials []credential) (string, error) {
	for _, path := range []string{program, s.Config, s.DataDir, s.BackupDir} {
		if err := checkUnitPath(path); err != nil {
			return "", err
		}
	}
	values := struct {
		Description, Name, Command, Mounts  string
		State                               bool
		Home, ReadWrite, Bind, BindReadOnly string
		Credentials                         []string
	}{
		Description: description,
		Name:        Name,
		Command:     word(program, true) + " --config " + word(s.Config, true),
		Mounts:      word(filepath.Dir(s.Config), false) + " " + word(s.DataDir, false),
		State:       within(s.DataDir, []string{stateDir}),
		Home:        "yes",
	}
	// What is hidden from the service appears to it where it is named, alone.
	switch {
	case values.State:
	case within(s.DataDir, hidden):
		values.Bind = word(s.DataDir, false)
	default:
		values.ReadWrite = word(s.DataDir, false)
	}
	// A folder for backups need not be there for the service to start: the minus.
	switch folder := "-" + s.BackupDir; {
	case s.BackupDir == "" || within(s.BackupDir, []string{s.DataDir}):
	case within(s.BackupDir, hidden):
		values.Bind = strings.TrimSpace(values.Bind + " " + word(folder, false))
	default:
		values.ReadWrite = strings.TrimSpace(values.ReadWrite + " " + word(folder, false))
	}
	if within(s.Config, hidden) {
		values.BindReadOnly = word(filepath.Dir(s.Config), false)
	}
	if within(s.DataDir, homes) || within(s.Config, homes) || within(s.BackupDir, homes) {
		values.Home = "tmpfs" // empty, not locked
	}
	for _, c := range credentials {
		setting := "LoadCredential"
		if c.encrypted {
			setting = "LoadCredentialEncrypted"
		}
		// What follows the name is taken as it stands, without quotation.
		values.Credentials = append(values.Credentials, setting+"="+c.name+":"+strings.ReplaceAll(c.path, "%", "%%"))
	}
	page, err := template.New("unit").Parse(unitTemplate)
	if err != nil {
		return "", err
	}
	var text strings.Builder
	if err := page.Execute(&text, values); err != nil {
		return "", err
	}
	return text.String(), nil
}

// checkUnitPath refuses what a unit, or the template of kardianos that it passes
// through, would read as something else. Nobody has such folders.
func checkUnitPath(path string) error {
	if strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || strings.ContainsRune(`"':\`, r) }) || strings.Contains(path, "{{") {
		return fmt.Errorf("%q: a systemd unit cannot name this path; choose one without quotation marks, colons, backslashes, braces and control characters", path)
	}
	return nil
}

// word writes a path as one word of a setting; in a command line systemd also
// replaces variables.
func word(path string, command bool) string {
	path = strings.ReplaceAll(path, "%", "%%")
	if command {
		path = strings.ReplaceAll(path, "$", "$$")
	}
	if strings.ContainsAny(path, " ;") {
		return `"` + path + `"`
	}
	return path
}

// within tells whether path is one of the folders or below one.
func within(path string, folders []string) bool {
	for _, folder := range folders {
		if path == folder || strings.HasPrefix(path, folder+"/") {
			return true
		}
	}
	return false
}
