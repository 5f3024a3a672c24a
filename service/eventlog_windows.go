package service

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"

	"golang.org/x/sys/windows/svc/eventlog"

	"ksefmirror/internal/event"
)

// The ids of events without a number of their own in package event. The messages
// that Windows has for sources of programs without a message file reach from 1 to
// 1000.
const (
	eventInfo    = 1
	eventWarning = 2
	eventError   = 3
)

// events is Windows's event log: an eventlog.Log.
type events interface {
	Info(id uint32, text string) error
	Warning(id uint32, text string) error
	Error(id uint32, text string) error
}

// eventHandler writes each record as one event, in the words of a text log.
type eventHandler struct {
	slog.Handler // writes to buffer
	*eventBuffer
}

type eventBuffer struct {
	mu     sync.Mutex // held from writing a record to the buffer until it is an event
	buffer bytes.Buffer
	log    events
}

// NewEventLog gives a handler that writes records from level on to the
// Application event log, from the source that the installation made. An event's id
// is its number in package event; else 1 is information, 2 a warning, 3 an error. It
// stays open as long as the process.
func NewEventLog(level slog.Leveler) (slog.Handler, error) {
	log, err := eventlog.Open(Name)
	if err != nil {
		return nil, err
	}
	return newEventHandler(log, level), nil
}

func newEventHandler(log events, level slog.Leveler) slog.Handler {
	buffer := &eventBuffer{log: log}
	text := slog.NewTextHandler(&buffer.buffer, &slog.HandlerOptions{
		Level: level,
		// An event has a time and a level of its own.
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
				return slog.Attr{}
			}
			return a
		},
	})
	return eventHandler{text, buffer}
}

// Handle implements [slog.Handler].
func (h eventHandler) Handle(ctx context.Context, record slog.Record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.buffer.Reset()
	if err := h.Handler.Handle(ctx, record); err != nil {
		return err
	}
	text := strings.TrimSpace(h.buffer.String())
	switch {
	case record.Level >= slog.LevelError:
		return h.log.Error(idOf(record, eventError), text)
	case record.Level >= slog.LevelWarn:
		return h.log.Warning(idOf(record, eventWarning), text)
	}
	return h.log.Info(idOf(record, eventInfo), text)
}

// idOf is the number of the event that a record tells of, or another.
func idOf(record slog.Record, other uint32) uint32 {
	record.Attrs(func(a slog.Attr) bool {
		if a.Key == event.Key && a.Value.Kind() == slog.KindInt64 && a.Value.Int64() > 0 && a.Value.Int64() <= 1000 {
			other = uint32(a.Value.Int64()) // #nosec G115 -- it was just compared
		}
		return true
	})
	return other
}

// WithAttrs implements [slog.Handler].
func (h eventHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return eventHandler{h.Handler.WithAttrs(attrs), h.eventBuffer}
}

// WithGroup implements [slog.Handler].
func (h eventHandler) WithGroup(name string) slog.Handler {
	return eventHandler{h.Handler.WithGroup(name), h.eventBuffer}
}
