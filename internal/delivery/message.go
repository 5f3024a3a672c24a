package delivery

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"ksefmirror/db"
)

// invoiceMessage is an invoice in JSON: the contract with receivers. Fields are
// only ever added.
type invoiceMessage struct {
	Mirror        string        `json:"mirror"`
	KSeFNumber    string        `json:"ksef_number"`
	Roles         []string      `json:"roles"`
	Path          string        `json:"path"` // below the mirror's folder invoices, with slashes
	Hash          string        `json:"invoice_hash"`
	Type          string        `json:"type"` // KSeF's invoiceType
	Form          string        `json:"form"`
	InvoiceNumber string        `json:"invoice_number"`
	IssueDate     string        `json:"issue_date"`
	ReceivedDate  string        `json:"received_date"`
	StoredAt      string        `json:"stored_at"` // in KSeF
	Seller        sellerMessage `json:"seller"`
	Buyer         buyerMessage  `json:"buyer"`
	Currency      string        `json:"currency"`
	// Amounts are decimal text, and null where KSeF states none.
	Net    *string `json:"net"`
	VATPLN *string `json:"vat_pln"`
	Gross  *string `json:"gross"`
}

type sellerMessage struct {
	NIP  string `json:"nip"`
	Name string `json:"name"`
}

type buyerMessage struct {
	IDType string `json:"id_type"`
	ID     string `json:"id"`
	Name   string `json:"name"`
}

func messageOf(mirror string, in db.NewInvoice) invoiceMessage {
	return invoiceMessage{
		Mirror: mirror, KSeFNumber: in.KSeFNumber, Roles: in.Roles, Path: in.Path, Hash: in.Hash, Type: in.Type, Form: in.Form,
		InvoiceNumber: in.InvoiceNumber, IssueDate: in.IssueDate, ReceivedDate: in.ReceivedDate,
		StoredAt: in.StoredAt.UTC().Format(time.RFC3339Nano),
		Seller:   sellerMessage{in.SellerNIP, in.SellerName}, Buyer: buyerMessage{in.BuyerIDType, in.BuyerID, in.BuyerName},
		Currency: in.Currency, Net: stated(in.Net), VATPLN: stated(in.VATPLN), Gross: stated(in.Gross),
	}
}

func stated(amount string) *string {
	if amount == "" {
		return nil
	}
	return &amount
}

// printable gives text as one line that nobody takes for anything but text:
// without control characters, and as UTF-8.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
}
