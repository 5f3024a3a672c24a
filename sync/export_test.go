package sync

import (
	"context"

	"ksefmirror/db"
	"ksefmirror/internal/ksef"
)

// CommitPositionFirst breaks the promise on purpose, in the way that is most
// common elsewhere: how far a stream is becomes durable when KSeF has listed the
// invoices, before they are stored.
func (m *Mirror) CommitPositionFirst() { m.remote = positionFirst{m.remote, m.db} }

type positionFirst struct {
	Remote
	db *db.DB
}

func (p positionFirst) QueryMetadata(ctx context.Context, q ksef.Query, page, pageSize int) (ksef.MetadataPage, error) {
	answer, err := p.Remote.QueryMetadata(ctx, q, page, pageSize)
	if err != nil {
		return answer, err
	}
	roles := map[ksef.SubjectType]string{ksef.Seller: "seller", ksef.Buyer: "buyer", ksef.ThirdParty: "third_party", ksef.Authorized: "authorized"}
	mark := string(answer.HWM)
	return answer, p.db.Commit(ctx, db.Batch{Role: roles[q.SubjectType], Position: mark, Watermark: mark, HWM: mark})
}
