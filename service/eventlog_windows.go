package service

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"

	"golang.org/x/sys/windows/svc/eventlog"
)

// The ids of events. The messages that Windows has for sources of programs
// without a message file reach from 1 to 1000.
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
// Application event log, from the source that the installation made. Event 1 is
// information, 2 a warning, 3 an error. It stays open as long as the process.
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
		return h.log.Error(eventError, text)
	case record.Level >= slog.LevelWarn:
		return h.log.Warning(eventWarning, text)
	}
	return h.log.Info(eventInfo, text)
}

// WithAttrs implements [slog.Handler].
func (h eventHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return eventHandler{h.Handler.WithAttrs(attrs), h.eventBuffer}
}

// WithGroup implements [slog.Handler].
func (h eventHandler) WithGroup(name string) slog.Handler {
	return eventHandler{h.Handler.WithGroup(name), h.eventBuffer}
}
