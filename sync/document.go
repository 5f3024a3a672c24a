package sync

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"math/big"
	"time"

	"ksefmirror/db"
	"ksefmirror/internal/ksef"
	"ksefmirror/parse"
)

// invoice turns a row and its XML into what the database stores. A document that
// cannot be read is stored all the same, with the reason.
func (m *Mirror) invoice(row *ksef.Metadata, role string, xml []byte, path string) db.Invoice {
	document, err := parse.Parse(xml)
	status, parseError := "ok", ""
	switch {
	case errors.Is(err, parse.ErrUnsupported):
		status = "unsupported"
	case err != nil:
		status, parseError = "error", err.Error()
		m.Log.Warn("invoice is mirrored but could not be read", "ksef_number", row.KSeFNumber, "err", err)
	}
	return db.Invoice{
		KSeFNumber: row.KSeFNumber, APIType: row.InvoiceType, InvoicingMode: row.InvoicingMode,
		InvoicingAt: row.InvoicingDate.Time(), AcquiredAt: row.Acquired.Time(), StoredAt: row.Stored.Time(),
		ReceivedDate: row.Acquired.Time().In(m.warsaw).Format(time.DateOnly),
		Net:          minor(row.NetAmount.String()), VATPLN: minor(row.VATAmount.String()), Gross: minor(row.GrossAmount.String()),
		Hash: row.InvoiceHash, CorrectedHash: row.CorrectedHash, MetadataJSON: row.Raw,
		SellerNIP: row.Seller.NIP, SellerName: row.Seller.Name,
		BuyerIDType: row.Buyer.Identifier.Type, BuyerID: row.Buyer.Identifier.Value, BuyerName: row.Buyer.Name,
		InvoiceNumber: row.InvoiceNumber, IssueDate: row.IssueDate, Currency: row.Currency, FormCode: row.FormCode.SystemCode,
		Document: document, ParseStatus: status, ParseError: parseError,
		Path: path, XML: xml, Role: role,
	}
}

// counterparty is the other side's name, for the file name.
func counterparty(row *ksef.Metadata, role string) string {
	if role == "seller" {
		return row.Buyer.Name
	}
	return row.Seller.Name
}

// minor turns a JSON number into hundredths, exactly; not stated when it has
// more than two decimals or is beyond [parse.MaxAmount]. The digits stay in the metadata
// as sent.
func minor(number string) parse.Minor {
	amount, ok := new(big.Rat).SetString(number)
	if !ok {
		return parse.Minor{}
	}
	amount.Mul(amount, big.NewRat(100, 1))
	if !amount.IsInt() || amount.Num().CmpAbs(big.NewInt(parse.MaxAmount)) > 0 {
		return parse.Minor{}
	}
	return parse.Minor{Value: amount.Num().Int64(), Stated: true}
}

// hashOf is the SHA-256 of an invoice as KSeF writes it.
func hashOf(xml []byte) string {
	sum := sha256.Sum256(xml)
	return base64.StdEncoding.EncodeToString(sum[:])
}
