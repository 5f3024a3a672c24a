// Package event numbers what an operator acts on, so that whoever watches the
// journal or Windows's event log need not look for words. The numbers and their
// levels are in this file only; a number never changes its meaning.
package event

import (
	"context"
	"log/slog"
	"slices"
)

// Key is the attribute of a log record that holds the number of its event.
const Key = "event"

// ID is the number of an event. On Windows it is the event's id, which there
// reaches from 1 to 1000; 1, 2 and 3 are information, warnings and errors without a
// number of their own.
type ID int

// The life of the program and of its mirrors.
const (
	Started         ID = 100
	Stopped         ID = 101
	Ended           ID = 102
	Unwise          ID = 103
	Trouble         ID = 110
	Recovered       ID = 111
	Stuck           ID = 112
	Settled         ID = 120
	FileNotWritten  ID = 121
	MetricsNotShown ID = 122
	PingFailed      ID = 123
)

// What a person is asked to do: a notice of package health.
const (
	Unreadable         ID = 201
	NotMounted         ID = 202
	Disk               ID = 203
	CredentialUnusable ID = 204
	CredentialEnds     ID = 205
	Login              ID = 206
	Permission         ID = 207
	Blocked            ID = 208
	NoSuccess          ID = 209
	Behind             ID = 210
	Quarantine         ID = 211
	Late               ID = 212
	NotListed          ID = 213
	NotReconciled      ID = 214
	Receiver           ID = 215
	Backup             ID = 216
)

// Event is an event as README.md lists it.
type Event struct {
	ID    ID
	Level slog.Level // of its log record; that of a notice is its own
	Text  string     // the record's message; of a notice, what it is about
}

// All gives every event, by number.
func All() []Event {
	return []Event{
		{Started, slog.LevelInfo, "ksefmirror started"},
		{Stopped, slog.LevelInfo, "ksefmirror stopped"},
		{Ended, slog.LevelError, "ksefmirror ended"},
		{Unwise, slog.LevelWarn, "the configuration is unwise"},
		{Trouble, slog.LevelError, "mirror is in trouble, it will be tried again"},
		{Recovered, slog.LevelInfo, "mirror recovered"},
		{Stuck, slog.LevelError, "a mirror does not move any more; the service manager will restart the program"},
		{Settled, slog.LevelInfo, "nothing need be done about this any more"},
		{FileNotWritten, slog.LevelWarn, "the STATUS file could not be written"},
		{MetricsNotShown, slog.LevelError, "metrics cannot be served, it will be tried again"},
		{PingFailed, slog.LevelWarn, "whoever waits for a ping could not be told"},
		{Unreadable, slog.LevelError, "the database cannot be read"},
		{NotMounted, slog.LevelError, "the invoices folder is not there"},
		{Disk, slog.LevelWarn, "the disk is nearly full"},
		{CredentialUnusable, slog.LevelError, "the certificate or its key cannot be used"},
		{CredentialEnds, slog.LevelWarn, "the certificate or token ends soon"},
		{Login, slog.LevelError, "KSeF does not accept the credentials"},
		{Permission, slog.LevelError, "a permission is missing in KSeF"},
		{Blocked, slog.LevelWarn, "KSeF has blocked requests for a time"},
		{NoSuccess, slog.LevelError, "no success for long"},
		{Behind, slog.LevelWarn, "complete only up to some time ago"},
		{Quarantine, slog.LevelWarn, "an invoice could not be mirrored yet"},
		{Late, slog.LevelWarn, "invoices appeared in KSeF below the watermark"},
		{NotListed, slog.LevelWarn, "KSeF no longer lists invoices"},
		{NotReconciled, slog.LevelWarn, "the mirror could not be compared with KSeF's list"},
		{Receiver, slog.LevelWarn, "who is to be told of new invoices could not be told"},
		{Backup, slog.LevelWarn, "there is no recent backup"},
	}
}

// Log logs an event that is not a notice, with further attributes.
func Log(log *slog.Logger, id ID, attributes ...any) {
	all := All()
	i := slices.IndexFunc(all, func(e Event) bool { return e.ID == id })
	log.Log(context.Background(), all[i].Level, all[i].Text, append([]any{Key, int(id)}, attributes...)...)
}
