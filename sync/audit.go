package sync

import (
	"context"
	"time"

	"ksefmirror/internal/audit"
)

// AuditDue looks at the next of the mirror's files, and restores those that are gone
// or changed: see [audit.Auditor.Due].
func (m *Mirror) AuditDue(ctx context.Context, until time.Time) error {
	return m.files.Due(ctx, until)
}

// Changed is signalled when files of the mirror may have been changed: call
// [Mirror.Heal] then. It is nil without a watcher.
func (m *Mirror) Changed() <-chan struct{} { return m.files.Changed() }

// Heal looks at what the watcher has told of, and restores it: see
// [audit.Auditor.Heal].
func (m *Mirror) Heal(ctx context.Context, until time.Time) error {
	return m.files.Heal(ctx, until)
}

// Verification is what [Mirror.Verify] found.
type Verification = audit.Verification

// Verify reads every file and every copy in the database, and with repair writes
// missing and changed files anew: see [audit.Auditor.Verify].
func (m *Mirror) Verify(ctx context.Context, repair bool) (Verification, error) {
	return m.files.Verify(ctx, repair)
}
