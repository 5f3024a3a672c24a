package cli

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"strings"

	"ksefmirror/internal/config"
)

// discreet keeps NIPs out of what a handler writes above debug, in messages,
// attributes and errors alike, as [withoutNIPs] does: logs are read by people and
// programs who may not see whom the company deals with.
type discreet struct{ slog.Handler }

// Handle implements [slog.Handler].
func (h discreet) Handle(ctx context.Context, record slog.Record) error {
	if record.Level <= slog.LevelDebug {
		return h.Handler.Handle(ctx, record)
	}
	shown := slog.NewRecord(record.Time, record.Level, withoutNIPs(record.Message), record.PC)
	record.Attrs(func(a slog.Attr) bool {
		shown.AddAttrs(discreetAttr(a))
		return true
	})
	return h.Handler.Handle(ctx, shown)
}

// WithAttrs implements [slog.Handler]. The level of what they will stand beside is not
// known yet, so they are without NIPs at every level.
func (h discreet) WithAttrs(attrs []slog.Attr) slog.Handler {
	return discreet{h.Handler.WithAttrs(discreetAttrs(attrs))}
}

// WithGroup implements [slog.Handler].
func (h discreet) WithGroup(name string) slog.Handler { return discreet{h.Handler.WithGroup(name)} }

func discreetAttrs(attrs []slog.Attr) []slog.Attr {
	shown := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		shown[i] = discreetAttr(a)
	}
	return shown
}

func discreetAttr(a slog.Attr) slog.Attr {
	a.Value = a.Value.Resolve()
	switch a.Value.Kind() {
	case slog.KindString:
		a.Value = slog.StringValue(withoutNIPs(a.Value.String()))
	case slog.KindGroup:
		a.Value = slog.GroupValue(discreetAttrs(a.Value.Group())...)
	case slog.KindAny: // an error, or what may hold texts
		text := fmt.Sprint(a.Value.Any())
		if shown := withoutNIPs(text); shown != text {
			a.Value = slog.StringValue(shown)
		}
	}
	return a
}

// discreetError is an error whose text goes where the log goes.
type discreetError struct{ error }

// Error is the error's text without NIPs.
func (e discreetError) Error() string { return withoutNIPs(e.error.Error()) }

// Unwrap gives the error.
func (e discreetError) Unwrap() error { return e.error }

// inText finds KSeF numbers, each with the path before it, as the names of files and
// folders name companies. The first group is what tells an invoice from all others:
// the date and the technical part (numer-ksef.md).
const (
	tailOfNumber = `20[0-9]{6}-[0-9A-F]{6}-?[0-9A-F]{6}-[0-9A-F]{2}`
	inPath       = `[^\s"':;,=()<>\[\]{}]`
)

var (
	numberInText = regexp.MustCompile(`(?:` + inPath + `*[/\\][^/\\"':;,=\n]*|` + inPath + `*)(?:[0-9]{10}|M[0-9]{9}|[A-Z]{3}[0-9]{7})-(` + tailOfNumber + `)`)
	tenDigits    = regexp.MustCompile(`[0-9A-Fa-f]*[0-9]{10}[0-9A-Fa-f]*`)
)

// withoutNIPs gives a text in which each KSeF number, with the path before it, is
// "…-20260801-0123456789AB-CD", which the command show takes, and of any other NIP
// only its last digits are left, so that mirrors can be told apart. What is no NIP by
// its check digit stays.
func withoutNIPs(text string) string {
	if !strings.ContainsAny(text, "0123456789") {
		return text
	}
	text = numberInText.ReplaceAllString(text, "…-$1")
	return tenDigits.ReplaceAllStringFunc(text, func(found string) string {
		if !config.IsNIP(found) {
			return found // part of a hash, or just a number
		}
		return "…" + found[len(found)-4:]
	})
}

// shortNumber is a KSeF number as the log has it.
var shortNumber = regexp.MustCompile(`^(?:…|\.{3})?-?(` + tailOfNumber + `)$`)
