package sync

import (
	"context"

	"ksefmirror/db"
)

// ReceiverStatus is how far a receiver of new invoices has been told. Instants are
// RFC 3339 UTC, "" when there is none.
type ReceiverStatus struct {
	Receiver    string `json:"receiver"`     // command, webhook or digest
	Behind      int64  `json:"behind"`       // invoices that it has not taken yet
	Failures    int    `json:"failures"`     // attempts in a row
	LastError   string `json:"last_error"`   // "" when the last attempt succeeded
	NextAttempt string `json:"next_attempt"` // after a failure; "" then: only after the next start
	LastSuccess string `json:"last_success"`
}

// readReceivers gives the receivers of new invoices, by name.
func readReceivers(ctx context.Context, d *db.DB) ([]ReceiverStatus, error) {
	deliveries, err := d.Deliveries(ctx)
	receivers := []ReceiverStatus{}
	for _, one := range deliveries {
		receivers = append(receivers, ReceiverStatus{
			Receiver: one.Receiver, Behind: one.Behind, Failures: one.Failures, LastError: one.LastError,
			NextAttempt: instant(one.NextAttempt), LastSuccess: instant(one.LastSuccess),
		})
	}
	return receivers, err
}
