package ksefsim

import (
	"bytes"
	"cmp"
	"encoding/json"
	"encoding/xml"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"time"

	"ksefmirror/internal/ksef"
)

// party is someone named on an invoice.
type party struct {
	nip        string // "" unless a well-formed NIP
	internalID string
	kind       string // of its identifier, in the words of open-api: Nip, InternalId, VatUe, Other, None
	value      string
	name       string
	role       int // of a third party or an authorized one
}

// document is what the simulator needs of an invoice's XML, as far as it could
// be read; every field has a value that KSeF could have sent.
type document struct {
	number, issued, currency, invoiceType string
	formSystem, formVersion, formValue    string
	net, vat, gross                       string // two decimals
	selfInvoicing, attachment             bool
	seller, buyer                         party
	third                                 []party
	authorized                            *party
}

// element is an element of which only the name and its own text matter.
type element struct {
	XMLName xml.Name
	Text    string `xml:",chardata"`
}

type identification struct {
	NIP     string `xml:"NIP"`
	IDWew   string `xml:"IDWew"`
	KodUE   string `xml:"KodUE"`
	NrVatUE string `xml:"NrVatUE"`
	NrID    string `xml:"NrID"`
	Nazwa   string `xml:"Nazwa"`
	Pelna   string `xml:"PelnaNazwa"` // FA(1)
}

type subject struct {
	ID   identification `xml:"DaneIdentyfikacyjne"`
	Rola int            `xml:"Rola"`
	PU   int            `xml:"RolaPU"`
}

type body struct {
	P17    string    `xml:"Adnotacje>P_17"`
	Fields []element `xml:",any"`
}

// faktura is FA(1) to FA(3) and FA_RR(1). Names are matched in any namespace, so
// a later form is read as far as it is like these.
type faktura struct {
	Form struct {
		System  string `xml:"kodSystemowy,attr"`
		Version string `xml:"wersjaSchemy,attr"`
		Value   string `xml:",chardata"`
	} `xml:"Naglowek>KodFormularza"`
	Seller     *subject   `xml:"Podmiot1"`
	Buyer      *subject   `xml:"Podmiot2"`
	Third      []subject  `xml:"Podmiot3"`
	Authorized *subject   `xml:"PodmiotUpowazniony"`
	Fa         *body      `xml:"Fa"`
	RR         *body      `xml:"FakturaRR"`
	Attachment []struct{} `xml:"Zalacznik"`
}

// ubl is a PEF invoice or credit note.
type ubl struct {
	XMLName  xml.Name
	ID       string   `xml:"ID"`
	Issued   string   `xml:"IssueDate"`
	Currency string   `xml:"DocumentCurrencyCode"`
	Seller   ublParty `xml:"AccountingSupplierParty>Party"`
	Buyer    ublParty `xml:"AccountingCustomerParty>Party"`
	Tax      []struct {
		Amount struct {
			Currency string `xml:"currencyID,attr"`
			Value    string `xml:",chardata"`
		} `xml:"TaxAmount"`
	} `xml:"TaxTotal"`
	Net        string     `xml:"LegalMonetaryTotal>TaxExclusiveAmount"`
	Gross      string     `xml:"LegalMonetaryTotal>TaxInclusiveAmount"`
	Attachment []struct{} `xml:"AdditionalDocumentReference>Attachment"`
}

type ublParty struct {
	VAT   string `xml:"PartyTaxScheme>CompanyID"`
	Legal string `xml:"PartyLegalEntity>CompanyID"`
	Name  string `xml:"PartyLegalEntity>RegistrationName"`
}

// read takes from an invoice's XML what can be taken. It never fails: KSeF has
// metadata of everything it stores, and a mirror must cope with all of it.
func read(text []byte) document {
	d := document{invoiceType: "Vat", currency: "PLN", formSystem: "FA (3)", formVersion: "1-0E", formValue: "FA"}
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	// An error still leaves whatever was decoded before it.
	switch rootName(text) {
	case "Invoice", "CreditNote":
		var in ubl
		_ = xml.Unmarshal(text, &in)
		d.fromUBL(&in)
	default:
		var in faktura
		_ = xml.Unmarshal(text, &in)
		d.fromFaktura(&in)
	}
	if d.seller.nip == "" {
		d.seller.nip = "9999999999" // the number and the metadata need some NIP
	}
	return d
}

// rootName is the local name of the root element, "" where there is none.
func rootName(text []byte) string {
	decoder := xml.NewDecoder(bytes.NewReader(text))
	for {
		token, err := decoder.Token()
		if err != nil {
			return ""
		}
		if root, ok := token.(xml.StartElement); ok {
			return root.Name.Local
		}
	}
}

func (d *document) fromFaktura(in *faktura) {
	if in.Form.System != "" {
		d.formSystem, d.formVersion, d.formValue = in.Form.System, in.Form.Version, strings.TrimSpace(in.Form.Value)
	}
	d.attachment = len(in.Attachment) > 0
	if in.Seller != nil {
		d.seller = in.Seller.party(0)
	}
	d.buyer.kind = "None"
	if in.Buyer != nil {
		d.buyer = in.Buyer.party(0)
	}
	for _, each := range in.Third {
		d.third = append(d.third, each.party(each.Rola))
	}
	if in.Authorized != nil {
		if p := in.Authorized.party(in.Authorized.PU); p.nip != "" {
			d.authorized = &p
		}
	}
	switch {
	case in.RR != nil:
		d.number, d.issued = in.RR.text("P_4C"), in.RR.text("P_4B")
		d.net, d.gross = in.RR.sum("P_11_1"), in.RR.sum("P_12_1")
		d.vat = total(cmp.Or(in.RR.text("P_11_2W"), in.RR.text("P_11_2"))) // the first is in PLN
		d.take(in.RR)
	case in.Fa != nil:
		d.number, d.issued = in.Fa.text("P_2"), in.Fa.text("P_1")
		d.net, d.gross = in.Fa.sumMatching(netField), in.Fa.sum("P_15")
		d.vat = in.Fa.sumMatching(vatField)
		if currency := in.Fa.text("KodWaluty"); currency != "" && currency != "PLN" {
			d.vat = in.Fa.sumMatching(vatInPLNField) // vatAmount is in PLN always (open-api)
		}
		d.selfInvoicing = strings.TrimSpace(in.Fa.P17) == "1"
		d.take(in.Fa)
	default:
		d.net, d.vat, d.gross = "0.00", "0.00", "0.00"
	}
}

var (
	netField      = regexp.MustCompile(`^P_13_\d+(_\d)?$`)
	vatField      = regexp.MustCompile(`^P_14_\d$`)
	vatInPLNField = regexp.MustCompile(`^P_14_\dW$`)
)

// take reads what FA and FA_RR have in common.
func (d *document) take(b *body) {
	if currency := b.text("KodWaluty"); len(currency) == 3 {
		d.currency = currency
	}
	switch b.text("RodzajFaktury") {
	case "KOR":
		d.invoiceType = "Kor"
	case "ZAL":
		d.invoiceType = "Zal"
	case "ROZ":
		d.invoiceType = "Roz"
	case "UPR":
		d.invoiceType = "Upr"
	case "KOR_ZAL":
		d.invoiceType = "KorZal"
	case "KOR_ROZ":
		d.invoiceType = "KorRoz"
	case "VAT_RR":
		d.invoiceType = "VatRr"
	case "KOR_VAT_RR":
		d.invoiceType = "KorVatRr"
	}
}

func (d *document) fromUBL(in *ubl) {
	d.number, d.issued = in.ID, in.Issued
	d.formSystem, d.formVersion, d.formValue, d.invoiceType = "PEF (3)", "2-1", "PEF", "VatPef"
	if in.XMLName.Local == "CreditNote" {
		d.formSystem, d.invoiceType = "PEF_KOR (3)", "KorPef"
	}
	if len(in.Currency) == 3 {
		d.currency = in.Currency
	}
	d.seller, d.buyer = in.Seller.party(), in.Buyer.party()
	d.net, d.vat, d.gross = total(in.Net), "0.00", total(in.Gross)
	for _, tax := range in.Tax {
		if tax.Amount.Currency == "PLN" || len(in.Tax) == 1 {
			d.vat = total(tax.Amount.Value)
		}
	}
	d.attachment = len(in.Attachment) > 0
}

func (p ublParty) party() party {
	id := strings.TrimPrefix(cmp.Or(strings.TrimSpace(p.VAT), strings.TrimSpace(p.Legal)), "PL")
	switch {
	case nipOnly.MatchString(id):
		return party{nip: id, kind: "Nip", value: id, name: p.Name}
	case id != "":
		return party{kind: "Other", value: id, name: p.Name}
	default:
		return party{kind: "None", name: p.Name}
	}
}

func (s *subject) party(role int) party {
	id := s.ID
	p := party{kind: "None", name: strings.TrimSpace(cmp.Or(id.Nazwa, id.Pelna)), role: role}
	if nip := strings.TrimSpace(id.NIP); nipOnly.MatchString(nip) {
		p.nip, p.kind, p.value = nip, "Nip", nip
	}
	// A document with both is invalid and exists: it is seen by either.
	if internal := strings.TrimSpace(id.IDWew); internal != "" {
		p.internalID, p.kind, p.value = internal, "InternalId", internal
	}
	switch {
	case p.value != "":
	case id.NrVatUE != "":
		p.kind, p.value = "VatUe", strings.TrimSpace(id.KodUE)+strings.TrimSpace(id.NrVatUE)
	case id.NrID != "":
		p.kind, p.value = "Other", strings.TrimSpace(id.NrID)
	}
	return p
}

func (b *body) text(name string) string {
	for _, field := range b.Fields {
		if field.XMLName.Local == name {
			return strings.TrimSpace(field.Text)
		}
	}
	return ""
}

func (b *body) sum(name string) string { return total(b.text(name)) }

func (b *body) sumMatching(pattern *regexp.Regexp) string {
	var terms []string
	for _, field := range b.Fields {
		if pattern.MatchString(field.XMLName.Local) {
			terms = append(terms, field.Text)
		}
	}
	return total(terms...)
}

var decimal = regexp.MustCompile(`^-?\d{1,20}(\.\d{1,8})?$`)

// total adds decimal numbers and leaves out what is none. The result has two
// decimals, as KSeF's metadata is shown in open-api.
func total(terms ...string) string {
	sum := new(big.Rat)
	for _, term := range terms {
		if term = strings.TrimSpace(term); decimal.MatchString(term) {
			value, _ := new(big.Rat).SetString(term)
			sum.Add(sum, value)
		}
	}
	return sum.FloatString(2)
}

// seenBy lists who sees the document in which role (open-api,
// InvoiceQuerySubjectType), each once; everyone, unless zero, sees it at least
// as buyer.
func (d *document) seenBy(everyone ksef.Context) []list {
	var all []list
	see := func(p party, subject ksef.SubjectType) {
		for _, context := range []ksef.Context{{Type: ksef.ContextNIP, Value: p.nip}, {Type: ksef.ContextInternalID, Value: p.internalID}} {
			if context.Value != "" && !slices.Contains(all, list{context, subject}) {
				all = append(all, list{context, subject})
			}
		}
	}
	see(d.seller, ksef.Seller)
	see(d.buyer, ksef.Buyer)
	for _, p := range d.third {
		see(p, ksef.ThirdParty)
	}
	if d.authorized != nil {
		see(*d.authorized, ksef.Authorized)
	}
	if everyone.Value != "" && !slices.ContainsFunc(all, func(l list) bool { return l.context == everyone }) {
		all = append(all, list{everyone, ksef.Buyer})
	}
	return all
}

// row is an invoice in the answer to a query: the metadata that the client
// reads, and the fields that only open-api, InvoiceMetadata, knows.
type row struct {
	ksef.Metadata
	CorrectedHash *string      `json:"hashOfCorrectedInvoice,omitempty"`
	Third         []thirdParty `json:"thirdSubjects"`
	Authorized    *authorized  `json:"authorizedSubject,omitempty"`
}

type identifier struct {
	Type  string  `json:"type"`
	Value *string `json:"value"`
}

type thirdParty struct {
	Identifier identifier `json:"identifier"`
	Name       string     `json:"name,omitempty"`
	Role       int        `json:"role"`
}

type authorized struct {
	NIP  string `json:"nip"`
	Name string `json:"name,omitempty"`
	Role int    `json:"role"`
}

// MarshalJSON writes Raw where a test has set it.
func (r row) MarshalJSON() ([]byte, error) {
	if r.Raw != nil {
		return r.Raw, nil
	}
	if r.Metadata.CorrectedHash != "" {
		r.CorrectedHash = &r.Metadata.CorrectedHash
	}
	type plain row
	return json.Marshal(plain(r))
}

// row derives the metadata. The two dates before the permanent storage date are
// made up: KSeF accepts an invoice and gives it its number shortly before.
func (d *document) row(number ksef.Number, at time.Time, sum string) row {
	var r row
	r.KSeFNumber = string(number)
	r.InvoiceNumber = cut(d.number, 256)
	r.IssueDate = at.Format(time.DateOnly)
	if _, err := time.Parse(time.DateOnly, d.issued); err == nil {
		r.IssueDate = d.issued
	}
	r.InvoicingDate = ksef.Timestamp(at.Add(-3211_234_500).Format(ticks))
	r.Acquired = ksef.Timestamp(at.Add(-1012_345_600).Format(ticks))
	r.Stored = ksef.Timestamp(at.Format(microseconds))
	r.Seller.NIP, r.Seller.Name = d.seller.nip, cut(d.seller.name, 512)
	r.Buyer.Identifier.Type, r.Buyer.Identifier.Value, r.Buyer.Name = d.buyer.kind, cut(d.buyer.value, 50), cut(d.buyer.name, 512)
	if d.buyer.kind == "InternalId" { // not a type of buyer (open-api, BuyerIdentifierType)
		r.Buyer.Identifier.Type = "Other"
	}
	r.NetAmount, r.VATAmount, r.GrossAmount = json.Number(d.net), json.Number(d.vat), json.Number(d.gross)
	r.Currency, r.InvoicingMode, r.InvoiceType = d.currency, "Online", d.invoiceType
	r.FormCode.SystemCode, r.FormCode.SchemaVersion, r.FormCode.Value = d.formSystem, d.formVersion, d.formValue
	r.IsSelfInvoicing, r.HasAttachment, r.InvoiceHash = d.selfInvoicing, d.attachment, sum
	r.Third = []thirdParty{}
	for _, p := range d.third {
		third := thirdParty{Identifier: identifier{Type: p.kind}, Name: cut(p.name, 512), Role: p.role}
		if value := cut(p.value, 50); value != "" {
			third.Identifier.Value = &value
		}
		r.Third = append(r.Third, third)
	}
	if d.authorized != nil {
		r.Authorized = &authorized{d.authorized.nip, cut(d.authorized.name, 512), d.authorized.role}
	}
	return r
}

// cut shortens text to at most n characters.
func cut(text string, n int) string {
	runes := []rune(text)
	return string(runes[:min(n, len(runes))])
}
