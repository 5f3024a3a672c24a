package ksef

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// everyFilter is a query with every filter of the specification.
const everyFilter = `{"subjectType":"Subject2","dateRange":{"dateType":"PermanentStorage","from":"2026-11-01T00:00:00Z","to":"2026-11-22T00:00:00Z",
	"restrictToPermanentStorageHwmDate":true},"ksefNumber":"5265877635-20261102-01B5F5027B2E-48","invoiceNumber":"FV/1","amount":{"type":"Brutto","from":1.5,"to":100},
	"sellerNip":"5265877635","buyerIdentifier":{"type":"Nip","value":"1111111111"},"currencyCodes":["PLN","EUR"],"invoicingMode":"Online",
	"isSelfInvoicing":false,"formType":"FA","invoiceTypes":["Vat","Kor"],"hasAttachment":true}`

func TestQueryFromJSON(t *testing.T) {
	no, yes := false, true
	number, err := NewNumber("5265877635-20261102-01B5F5027B2E")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(everyFilter, "5265877635-20261102-01B5F5027B2E-48", string(number))
	var got Query
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	want := Query{
		SubjectType: Buyer, DateType: ByPermanentStorage, From: "2026-11-01T00:00:00Z", To: "2026-11-22T00:00:00Z",
		Filter: Filter{
			KSeFNumber: string(number), InvoiceNumber: "FV/1", Amount: &AmountRange{"Brutto", "1.5", "100"}, SellerNIP: "5265877635",
			Buyer: &BuyerID{"Nip", "1111111111"}, Currencies: []string{"PLN", "EUR"}, InvoicingMode: "Online",
			IsSelfInvoicing: &no, FormType: "FA", InvoiceTypes: []string{"Vat", "Kor"}, HasAttachment: &yes,
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := got.Check(); err != nil {
		t.Error(err)
	}
	// What KSeF leaves open by null, and that it lists beyond the mark unless told not to.
	text = `{"subjectType":"Subject1","dateRange":{"dateType":"PermanentStorage","from":"2026-11-01T00:00:00Z","to":null},"amount":null,"currencyCodes":null,"ksefNumber":null}`
	got = Query{}
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Query{SubjectType: Seller, DateType: ByPermanentStorage, From: "2026-11-01T00:00:00Z", BeyondHWM: true}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for name, text := range map[string]string{
		"unknown field":   `{"subjectType":"Subject1","sellernip2":"1"}`,
		"two values":      everyFilter + `{}`,
		"no offset":       `{"dateRange":{"from":"2026-11-01T00:00:00"}}`,
		"array":           `[]`,
		"cut off":         everyFilter[:100],
		"number for text": `{"invoiceNumber":5}`,
	} {
		if err := json.Unmarshal([]byte(text), &Query{}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestQueryCheck(t *testing.T) {
	valid := Query{SubjectType: Seller, From: "2026-11-01T00:00:00Z"}
	if err := valid.Check(); err != nil {
		t.Fatal(err)
	}
	for says, change := range map[string]func(*Query){
		"subjectType":               func(q *Query) { q.SubjectType = "Subject4" },
		"dateType":                  func(q *Query) { q.DateType = "Sale" },
		"from is missing":           func(q *Query) { q.From = "" },
		"is before":                 func(q *Query) { q.To = "2026-10-01T00:00:00Z" },
		"check digits":              func(q *Query) { q.Filter.KSeFNumber = "5265877635-20261102-01B5F5027B2E-00" },
		"256 characters":            func(q *Query) { q.Filter.InvoiceNumber = strings.Repeat("ż", 257) },
		"ten digits":                func(q *Query) { q.Filter.SellerNIP = "526-587-76-35" },
		"amount.type":               func(q *Query) { q.Filter.Amount = &AmountRange{Type: "Gross"} },
		"amount.from \"1e999999999": func(q *Query) { q.Filter.Amount = &AmountRange{Type: "Netto", From: "1e999999999"} },
		"amount.to":                 func(q *Query) { q.Filter.Amount = &AmountRange{Type: "Netto", To: "1,50"} },
		"buyerIdentifier.type":      func(q *Query) { q.Filter.Buyer = &BuyerID{Type: "NIP"} },
		"50 characters":             func(q *Query) { q.Filter.Buyer = &BuyerID{Type: "Other", Value: strings.Repeat("x", 51)} },
		"three capital letters":     func(q *Query) { q.Filter.Currencies = []string{"PLN", "zł"} },
		"invoicingMode":             func(q *Query) { q.Filter.InvoicingMode = "online" },
		"formType":                  func(q *Query) { q.Filter.FormType = "RR" },
		"invoiceTypes":              func(q *Query) { q.Filter.InvoiceTypes = []string{"Vat", "VAT"} },
	} {
		q := valid
		change(&q)
		if err := q.Check(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
	err := Query{SubjectType: "x", DateType: "y"}.Check()
	for _, says := range []string{"subjectType", "dateType", "from is missing"} {
		if !strings.Contains(err.Error(), says) {
			t.Errorf("not all mistakes are reported: %v", err)
		}
	}
}

// FuzzQuery: whatever is read and passes the check is written so that it reads as
// the same again.
func FuzzQuery(f *testing.F) {
	f.Add(everyFilter)
	f.Add(`{"subjectType":"Subject1","dateRange":{"dateType":"Issue","from":"2026-11-01T00:00:00+01:00","restrictToPermanentStorageHwmDate":true}}`)
	f.Add(`{"amount":{"type":"Vat","from":"12"},"dateRange":null}`)
	f.Fuzz(func(t *testing.T, text string) {
		var q, again Query
		if json.Unmarshal([]byte(text), &q) != nil || q.Check() != nil {
			return
		}
		if q.DateType == "" {
			q.DateType = ByPermanentStorage // as it is written
		}
		written, err := json.Marshal(q)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(written, &again); err != nil {
			t.Fatalf("%s: %v", written, err)
		}
		rewritten, err := json.Marshal(again)
		if err != nil || string(written) != string(rewritten) {
			t.Errorf("%s became %s: %v", written, rewritten, err)
		}
		q.Filter.Match(Metadata{GrossAmount: "1e999999999"})
	})
}
