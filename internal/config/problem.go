package config

import (
	"fmt"
	"regexp"
	"strings"
)

// redacted stands for a value that is a secret, or might be one.
const redacted = "[redacted]"

// Problem is one mistake in a configuration file.
type Problem struct {
	File string // as given to [Load]; "" where it is clear
	Key  string // the full TOML key, such as mirror.acme.context
	// Value is what the file says: empty when the key is missing or empty, and
	// "[redacted]" wherever it might be a secret.
	Value string
	Want  string // what is expected, or what is wrong, and what to do about it
}

// String gives the problem in one line.
func (p Problem) String() string {
	key := p.Key
	if p.File != "" {
		key = p.File + ": " + key
	}
	switch p.Value {
	case "":
		return fmt.Sprintf("%s: %s", key, p.Want)
	case redacted:
		return fmt.Sprintf("%s = %s: %s", key, p.Value, p.Want)
	}
	return fmt.Sprintf("%s = %q: %s", key, p.Value, p.Want)
}

// Problems is every mistake in a configuration file, in the order of the check.
// As an error it is found with errors.As and a variable of type Problems.
type Problems []Problem

// Error gives one problem per line.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, problem := range p {
		lines[i] = problem.String()
	}
	return strings.Join(lines, "\n")
}

// tokenShape is how a KSeF token begins: the reference number of its creation.
// People paste tokens into the wrong key, or behind "file:" or "env:".
var tokenShape = regexp.MustCompile(`(?i)\d{8}-[A-Z]{2}-[0-9A-F]{10}`)

// shown gives value as it may appear in a message.
func shown(value any) string {
	text := fmt.Sprint(value)
	if tokenShape.MatchString(text) {
		return redacted
	}
	return text
}
