package db

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"ksefmirror/parse"
)

// Invoice is one invoice to store.
type Invoice struct {
	// What KSeF states about it.
	KSeFNumber, APIType, InvoicingMode string
	InvoicingAt, AcquiredAt, StoredAt  time.Time   // kept to 100 ns; a zero time but the last is not stated
	ReceivedDate                       string      // YYYY-MM-DD in Poland
	Net, VATPLN, Gross                 parse.Minor // the VAT is in PLN whatever the currency
	Hash                               string      // SHA-256 of XML in base64
	CorrectedHash                      string      // likewise, of the offline invoice it corrects; "" for none
	MetadataJSON                       []byte      // as sent

	// Also from KSeF: they stand in for what the document does not state, or all
	// of them where it could not be read.
	SellerNIP, SellerName           string
	BuyerIDType, BuyerID, BuyerName string
	InvoiceNumber, IssueDate        string
	Currency, FormCode              string

	Document    *parse.Document // nil when there is none
	ParseStatus string          // ok; unsupported or error: the fields of Document are not used, but for its form
	ParseError  string          // "" for none: then the document's warnings are kept

	Path string // in the folder tree, relative, with slashes
	XML  []byte // as received
	Role string // "": that of its batch
}

// rows are rows to insert into one table: their values, row after row. The first
// value of each is the id of its invoice, not yet known.
type rows struct {
	insert *insert
	count  int
	values []any
}

// invoiceRows is an invoice ready to be inserted.
type invoiceRows struct {
	hash, role      string
	invoice         []column // its row
	children        []rows
	texts           []string            // what the children refer to in the table texts
	stored          map[string]struct{} // those that are there for sure
	size            int
	sum             [sha256.Size]byte
	packed          []byte
	withoutDocument func(status, reason string) []column // its row as if nothing could be read
}

// rowsOf checks the XML against its hash and makes the rows of an invoice.
func (d *DB) rowsOf(in *Invoice, role string) (invoiceRows, error) {
	sum := sha256.Sum256(in.XML)
	if hash := base64.StdEncoding.EncodeToString(sum[:]); hash != in.Hash {
		return invoiceRows{}, fmt.Errorf("the SHA-256 of its XML is %s, KSeF states %s", hash, in.Hash)
	}
	// Both in one frame: they share names, numbers and amounts, so that the metadata
	// takes a hundred bytes there.
	document := slices.Concat(in.XML, in.MetadataJSON)
	if len(document) > maxDocument {
		return invoiceRows{}, fmt.Errorf("its XML and metadata have %d bytes, at most %d can be kept", len(document), maxDocument)
	}
	packed, err := d.compress(document)
	if err != nil {
		return invoiceRows{}, err
	}
	one := *in
	one.Role = cmp.Or(in.Role, role)
	r := readingOf(&one, d.now())
	r.hash, r.role = one.Hash, one.Role
	r.size, r.sum, r.packed = len(in.XML), sum, packed
	return r, nil
}

// readingOf makes the rows of what was read of an invoice.
func readingOf(in *Invoice, now time.Time) invoiceRows {
	r := invoiceRows{
		withoutDocument: func(status, reason string) []column {
			return invoiceColumns(in, unread(in.Document), status, reason, now)
		},
	}
	if in.ParseStatus != "ok" || in.Document == nil {
		r.invoice = r.withoutDocument(in.ParseStatus, in.ParseError)
		return r
	}
	doc := in.Document
	problems := cmp.Or(in.ParseError, strings.Join(doc.Warnings, "\n"))
	r.invoice = invoiceColumns(in, doc, "ok", problems, now)
	r.children = []rows{
		rowsFor(&insertParties, doc.Parties, partyColumns),
		rowsFor(&insertLines, doc.Lines, lineColumns),
		rowsFor(&insertVATRows, doc.VATRows, vatColumns),
		rowsFor(&insertReferences, doc.References, referenceColumns),
		rowsFor(&insertCorrectionStates, doc.CorrectionStates, correctionStateColumns),
		rowsFor(&insertPayments, doc.Payments, paymentColumns),
		rowsFor(&insertDueDates, furtherTerms(doc), dueDateColumns),
		rowsFor(&insertAccounts, doc.Accounts, accountColumns),
		rowsFor(&insertAdjustments, doc.Adjustments, adjustmentColumns),
		rowsFor(&insertRelatedDocuments, doc.RelatedDocuments, relatedDocumentColumns),
		rowsFor(&insertTransports, doc.Transports, transportColumns),
		rowsFor(&insertNotes, doc.Notes, noteColumns),
		rowsFor(&insertAttachments, doc.Attachments, attachmentColumns),
	}
	for i := range doc.Notes {
		if value := doc.Notes[i].Value; len(value) >= sharedText {
			r.texts = append(r.texts, value)
		}
	}
	return r
}

// unread keeps of a document that could not be read what tells its form.
func unread(doc *parse.Document) *parse.Document {
	if doc == nil {
		return &parse.Document{Form: "UNKNOWN"}
	}
	return &parse.Document{Form: cmp.Or(doc.Form, "UNKNOWN"), FormCode: doc.FormCode, FormVersion: doc.FormVersion, Namespace: doc.Namespace}
}

// column is one column of a row. Keeping the name beside the value keeps a
// hundred of them from slipping.
type column struct {
	name  string
	value any
}

// rowsAtOnce are how many rows one statement inserts: a statement costs more than
// a row. With these, any few rows take at most a few statements.
var rowsAtOnce = [...]int{8, 4, 2, 1}

// insert is the statements that insert into one table, by rowsAtOnce.
type insert [len(rowsAtOnce)]string

// The statements take their column names from the functions below.
var (
	insertInvoiceRow = insertInto("invoices", invoiceColumns(&Invoice{}, &parse.Document{}, "", "", time.Time{}), 1) + " ON CONFLICT(ksef_number) DO NOTHING"
	insertParties    = insertsInto("parties", partyColumns(&parse.Party{}))
	insertLines      = insertsInto("invoice_lines", lineColumns(&parse.Line{}))
	insertVATRows    = insertsInto("vat_summary", vatColumns(&parse.VATRow{}))

	insertReferences       = insertsInto("invoice_references", referenceColumns(&parse.Reference{}))
	insertCorrectionStates = insertsInto("correction_states", correctionStateColumns(&parse.CorrectionState{}))
	insertPayments         = insertsInto("payments", paymentColumns(&parse.Payment{}))
	insertDueDates         = insertsInto("due_dates", dueDateColumns(&parse.DueDate{}))
	insertAccounts         = insertsInto("bank_accounts", accountColumns(&parse.Account{}))
	insertAdjustments      = insertsInto("adjustments", adjustmentColumns(&parse.Adjustment{}))
	insertRelatedDocuments = insertsInto("related_documents", relatedDocumentColumns(&parse.RelatedDocument{}))
	insertTransports       = insertsInto("transports", transportColumns(&parse.Transport{}))
	insertNotes            = insertsInto("invoice_notes", noteColumns(&parse.Note{}))
	insertAttachments      = insertsInto("attachments", attachmentColumns(&parse.Attachment{}))
)

func insertsInto(table string, columns []column) (all insert) {
	for i, count := range rowsAtOnce {
		all[i] = insertInto(table, columns, count)
	}
	return all
}

func insertInto(table string, columns []column, count int) string {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.name
	}
	values := "(?" + strings.Repeat(", ?", len(columns)-1) + ")"
	return "INSERT INTO " + table + "(" + strings.Join(names, ", ") + ") VALUES" + values + strings.Repeat(", "+values, count-1)
}

// rowsFor makes the rows of a table from what a document has of it.
func rowsFor[T any](statements *insert, of []T, columns func(*T) []column) rows {
	r := rows{insert: statements, count: len(of)}
	for i := range of {
		r.values = valuesOf(r.values, columns(&of[i]))
	}
	return r
}

// valuesOf appends the values of a row.
func valuesOf(values []any, columns []column) []any {
	values = slices.Grow(values, len(columns))
	for _, c := range columns {
		values = append(values, c.value)
	}
	return values
}

func invoiceColumns(in *Invoice, doc *parse.Document, status, problems string, now time.Time) []column {
	seller := party(doc, "seller")
	buyer := party(doc, "buyer")
	sellerNIP := cmp.Or(seller.NIP, in.SellerNIP)
	if strings.HasPrefix(doc.Form, "PEF") {
		// UBL has several numbers of a party, and issuers mix them up.
		sellerNIP = cmp.Or(in.SellerNIP, seller.NIP)
	}
	// A buyer's identification is taken whole from one of the two sources.
	buyerIDType, buyerID := buyer.IDType, buyer.ID
	if buyerIDType == "" {
		buyerIDType, buyerID = in.BuyerIDType, in.BuyerID
	}
	buyerNIP := ""
	if buyerIDType == "Nip" {
		buyerNIP = buyerID
	}
	lines := 0
	for i := range doc.Lines {
		if doc.Lines[i].Kind == "line" {
			lines++
		}
	}
	// The view knows the namespace of a form; here it would take the room of a line.
	namespace := doc.Namespace
	if namespace == parse.NamespaceOf(doc.FormCode) {
		namespace = ""
	}
	// An unread document says nothing, not "no".
	annotation := func(set bool) any {
		if status != "ok" {
			return nil
		}
		return flag(set)
	}
	return []column{
		{"ksef_number", in.KSeFNumber},
		{"api_invoice_type", text(in.APIType)},
		{"invoicing_mode", text(in.InvoicingMode)},
		{"invoicing_at", moment(in.InvoicingAt)},
		{"acquired_at", moment(in.AcquiredAt)},
		{"stored_at", moment(in.StoredAt)},
		{"received_date", text(in.ReceivedDate)},
		{"api_net_minor", minor(in.Net)},
		{"api_vat_pln_minor", minor(in.VATPLN)},
		{"api_gross_minor", minor(in.Gross)},
		{"invoice_hash", in.Hash},
		{"corrected_offline_hash", text(in.CorrectedHash)},
		{"form", doc.Form},
		{"form_code", text(cmp.Or(doc.FormCode, in.FormCode))},
		{"form_version", text(doc.FormVersion)},
		{"xml_namespace", text(namespace)},
		{"invoice_type", text(doc.InvoiceType)},
		{"is_correction", flag(doc.IsCorrection)},
		{"invoice_number", text(cmp.Or(doc.InvoiceNumber, in.InvoiceNumber))},
		{"issue_date", text(cmp.Or(doc.IssueDate, in.IssueDate))},
		{"issue_place", text(doc.IssuePlace)},
		{"created_at", text(doc.CreatedAt)},
		{"system_info", text(doc.SystemInfo)},
		{"sale_date", text(doc.SaleDate)},
		{"period_from", text(doc.PeriodFrom)},
		{"period_to", text(doc.PeriodTo)},
		{"tax_date", text(doc.TaxDate)},
		{"currency", text(cmp.Or(doc.Currency, in.Currency))},
		{"exchange_rate", text(doc.ExchangeRate)},
		{"gross_minor", minor(doc.Gross)},
		{"net_minor", minor(doc.Net)},
		{"vat_minor", minor(doc.VAT)},
		{"vat_pln_minor", minor(doc.VATPLN)},
		{"net_pln_minor", minor(doc.NetPLN)},
		{"gross_pln_minor", minor(doc.GrossPLN)},
		{"tax_currency", text(doc.TaxCurrency)},
		{"tax_currency_vat_minor", minor(doc.TaxCurrencyVAT)},
		{"lines_net_minor", minor(doc.LinesNet)},
		{"order_value_minor", minor(doc.OrderValue)},
		{"to_pay_minor", minor(doc.ToPay)},
		{"to_settle_minor", minor(doc.ToSettle)},
		{"charges_minor", minor(doc.Charges)},
		{"deductions_minor", minor(doc.Deductions)},
		{"prepaid_minor", minor(doc.Prepaid)},
		{"seller_nip", text(sellerNIP)},
		{"seller_name", text(cmp.Or(seller.Name, in.SellerName))},
		{"seller_country", text(seller.Country)},
		{"buyer_id_type", text(buyerIDType)},
		{"buyer_id", text(buyerID)},
		{"buyer_id_country", text(buyer.IDCountry)},
		{"buyer_nip", text(buyerNIP)},
		{"buyer_name", text(cmp.Or(buyer.Name, in.BuyerName))},
		{"buyer_country", text(buyer.Country)},
		{"cash_method", annotation(doc.CashMethod)},
		{"self_billing", annotation(doc.SelfBilling)},
		{"reverse_charge", annotation(doc.ReverseCharge)},
		{"split_payment", annotation(doc.SplitPayment)},
		{"exempt", annotation(doc.Exempt)},
		{"exempt_basis", text(doc.ExemptBasis)},
		{"new_transport", annotation(doc.NewTransport)},
		{"triangular", annotation(doc.Triangular)},
		{"margin_scheme", text(doc.MarginScheme)},
		{"cash_register", annotation(doc.CashRegister)},
		{"related_parties", annotation(doc.RelatedParties)},
		{"excise_refund", annotation(doc.ExciseRefund)},
		{"buyer_local_gov", annotation(doc.BuyerLocalGov)},
		{"buyer_vat_group", annotation(doc.BuyerVATGroup)},
		{"intermediary", annotation(doc.Intermediary)},
		{"correction_reason", text(doc.CorrectionReason)},
		{"correction_effect", stated(doc.CorrectionEffect)},
		{"correction_period", text(doc.CorrectionPeriod)},
		{"corrected_number_fixed", text(doc.CorrectedNumberFixed)},
		{"amount_before_minor", minor(doc.AmountBefore)},
		{"exchange_rate_before", text(doc.ExchangeRateBefore)},
		{"payment_status", text(doc.PaymentStatus)},
		{"paid_date", text(doc.PaidDate)},
		{"payment_method", text(doc.PaymentMethod)},
		{"payment_method_code", text(doc.PaymentMethodCode)},
		{"payment_method_text", text(doc.PaymentMethodText)},
		{"payment_reference", text(doc.PaymentReference)},
		{"first_due_date", text(doc.FirstDueDate)},
		{"last_due_date", text(doc.LastDueDate)},
		{"payment_ksef_id", text(doc.PaymentKSeFID)},
		{"payment_link", text(doc.PaymentLink)},
		{"discount_terms", text(doc.DiscountTerms)},
		{"discount_amount", text(doc.DiscountAmount)},
		{"delivery_terms", text(doc.DeliveryTerms)},
		{"contract_exchange_rate", text(doc.ContractExchangeRate)},
		{"contract_currency", text(doc.ContractCurrency)},
		{"line_count", lines},
		{"roles", text(in.Role)},
		{"gtu_codes", gtuCodes(doc.Lines)},
		{"has_attachment", flag(doc.HasAttachment)},
		{"xml_path", in.Path},
		{"parse_status", status},
		{"parse_error", text(problems)},
		{"parser_version", parse.Version},
		{"metadata_json", ""}, // they are with the document
		{"first_seen_at", moment(now)},
		{"updated_at", moment(now)},
	}
}

// gtuCodes gives the codes GTU of lines as migration 13 has them. NULL: one of them has
// another form.
func gtuCodes(lines []parse.Line) any {
	var codes []string
	for i := range lines {
		if lines[i].GTU == "" {
			continue
		}
		code, is := strings.CutPrefix(lines[i].GTU, "GTU_")
		if !is || code == "" || strings.Contains(code, ",") {
			return nil
		}
		codes = append(codes, code)
	}
	slices.Sort(codes)
	return strings.Join(slices.Compact(codes), ",")
}

// party gives the first party of a kind, or an empty one.
func party(doc *parse.Document, kind string) *parse.Party {
	for i := range doc.Parties {
		if doc.Parties[i].Kind == kind {
			return &doc.Parties[i]
		}
	}
	return &parse.Party{}
}

func partyColumns(p *parse.Party) []column {
	var email, phone string
	for _, c := range p.Contacts {
		email, phone = cmp.Or(email, c.Email), cmp.Or(phone, c.Phone)
	}
	var contacts any
	if len(p.Contacts) > 1 {
		// Strings only: this cannot fail.
		list, _ := json.Marshal(p.Contacts)
		contacts = string(list)
	}
	return []column{
		{"invoice_id", nil},
		{"party", p.Kind},
		{"position", p.Position},
		{"id_type", text(p.IDType)},
		{"id_value", text(p.ID)},
		{"id_country", text(p.IDCountry)},
		{"eori", text(p.EORI)},
		{"name", text(p.Name)},
		{"trade_name", text(p.TradeName)},
		{"country", text(p.Country)},
		{"address1", text(p.Address1)},
		{"address2", text(p.Address2)},
		{"gln", text(p.GLN)},
		{"legal_id", text(p.LegalID)},
		{"endpoint", text(p.Endpoint)},
		{"mail_country", text(p.MailCountry)},
		{"mail_address1", text(p.MailAddress1)},
		{"mail_address2", text(p.MailAddress2)},
		{"email", text(email)},
		{"phone", text(phone)},
		{"contacts_json", contacts},
		{"role_code", stated(p.RoleCode)},
		{"role_text", text(p.RoleText)},
		{"share_percent", text(p.SharePercent)},
		{"customer_number", text(p.CustomerNumber)},
		{"link_key", text(p.LinkKey)},
		{"taxpayer_status", stated(p.TaxpayerStatus)},
	}
}

func lineColumns(l *parse.Line) []column {
	return []column{
		{"invoice_id", nil},
		{"kind", l.Kind},
		{"position", l.Position},
		{"line_number", stated(l.Number)},
		{"line_uid", text(l.UID)},
		{"before_correction", flag(l.BeforeCorrection)},
		{"sale_date", text(l.SaleDate)},
		{"name", text(l.Name)},
		{"item_code", text(l.ItemCode)},
		{"gtin", text(l.GTIN)},
		{"pkwiu", text(l.PKWiU)},
		{"cn", text(l.CN)},
		{"pkob", text(l.PKOB)},
		{"quality_class", text(l.QualityClass)},
		{"unit", text(l.Unit)},
		{"quantity", text(l.Quantity)},
		{"unit_price_net", text(l.UnitPriceNet)},
		{"price_quantity", text(l.PriceQuantity)},
		{"unit_price_gross", text(l.UnitPriceGross)},
		{"discount", text(l.Discount)},
		{"net_minor", minor(l.Net)},
		{"gross_minor", minor(l.Gross)},
		{"vat_minor", minor(l.VAT)},
		{"vat_rate", text(l.VATRate)},
		{"oss_rate", text(l.OSSRate)},
		{"annex15", flag(l.Annex15)},
		{"excise_minor", minor(l.Excise)},
		{"gtu", text(l.GTU)},
		{"procedure", text(l.Procedure)},
		{"exchange_rate", text(l.ExchangeRate)},
	}
}

func vatColumns(v *parse.VATRow) []column {
	return []column{
		{"invoice_id", nil},
		{"bucket", v.Bucket},
		{"net_minor", minor(v.Net)},
		{"vat_minor", minor(v.VAT)},
		{"vat_pln_minor", minor(v.VATPLN)},
	}
}

func referenceColumns(r *parse.Reference) []column {
	return []column{
		{"invoice_id", nil},
		{"relation", r.Relation},
		{"position", r.Position},
		{"ksef_number", text(r.KSeFNumber)},
		{"number", text(r.Number)},
		{"issue_date", text(r.IssueDate)},
		{"outside_ksef", flag(r.OutsideKSeF)},
	}
}

func correctionStateColumns(s *parse.CorrectionState) []column {
	return []column{
		{"invoice_id", nil},
		{"state", s.State},
		{"bucket", s.Bucket},
		{"net_minor", minor(s.Net)},
		{"vat_minor", minor(s.VAT)},
		{"gross_minor", minor(s.Gross)},
		{"lines_net_minor", minor(s.LinesNet)},
		{"prepaid_minor", minor(s.Prepaid)},
		{"to_pay_minor", minor(s.ToPay)},
		{"tax_currency_vat_minor", minor(s.TaxCurrencyVAT)},
	}
}

func paymentColumns(p *parse.Payment) []column {
	return []column{
		{"invoice_id", nil},
		{"kind", p.Kind},
		{"position", p.Position},
		{"date", text(p.Date)},
		{"amount_minor", minor(p.Amount)},
		{"method", text(p.Method)},
		{"method_text", text(p.MethodText)},
		{"document", text(p.Document)},
		{"exchange_rate", text(p.ExchangeRate)},
	}
}

// furtherTerms gives the terms of a document that say more than its first due date:
// most invoices have none.
func furtherTerms(doc *parse.Document) []parse.DueDate {
	if doc.FirstDueDate == doc.LastDueDate && !slices.ContainsFunc(doc.DueDates, func(d parse.DueDate) bool { return d.Description != "" }) {
		return nil
	}
	return doc.DueDates
}

func dueDateColumns(d *parse.DueDate) []column {
	return []column{
		{"invoice_id", nil},
		{"position", d.Position},
		{"date", text(d.Date)},
		{"description", text(d.Description)},
	}
}

func accountColumns(a *parse.Account) []column {
	return []column{
		{"invoice_id", nil},
		{"owner", a.Owner},
		{"position", a.Position},
		{"account", text(a.Number)},
		{"swift", text(a.SWIFT)},
		{"bank_name", text(a.BankName)},
		{"description", text(a.Description)},
		{"bank_own", stated(a.BankOwn)},
	}
}

func adjustmentColumns(a *parse.Adjustment) []column {
	return []column{
		{"invoice_id", nil},
		{"kind", a.Kind},
		{"position", a.Position},
		{"line_position", stated(a.Line)},
		{"amount_minor", minor(a.Amount)},
		{"reason", text(a.Reason)},
	}
}

func relatedDocumentColumns(r *parse.RelatedDocument) []column {
	return []column{
		{"invoice_id", nil},
		{"kind", r.Kind},
		{"position", r.Position},
		{"number", text(r.Number)},
		{"date", text(r.Date)},
		{"description", text(r.Description)},
	}
}

func transportColumns(t *parse.Transport) []column {
	return []column{
		{"invoice_id", nil},
		{"position", t.Position},
		{"mode", stated(t.Mode)},
		{"mode_text", text(t.ModeText)},
		{"order_number", text(t.OrderNumber)},
		{"cargo", stated(t.Cargo)},
		{"cargo_text", text(t.CargoText)},
		{"packaging", text(t.Packaging)},
		{"departed_at", text(t.DepartedAt)},
		{"arrived_at", text(t.ArrivedAt)},
		{"from_address", text(t.From)},
		{"via_address", text(t.Via)},
		{"to_address", text(t.To)},
	}
}

// sharedText is the length from which a text is kept in the table texts.
const sharedText = 40

// textID is the key of a text in the table texts. Should two texts ever have one
// key, the later is refused there rather than taken for the earlier.
func textID(s string) int64 {
	sum := sha256.Sum256([]byte(s))
	return int64(binary.BigEndian.Uint64(sum[:]) >> 1)
}

func noteColumns(n *parse.Note) []column {
	value, id := text(n.Value), any(nil)
	if len(n.Value) >= sharedText {
		value, id = nil, textID(n.Value)
	}
	return []column{
		{"invoice_id", nil},
		{"kind", n.Kind},
		{"position", n.Position},
		{"line_number", stated(n.Line)},
		{"key", text(n.Key)},
		{"value", value},
		{"text_id", id},
	}
}

func attachmentColumns(a *parse.Attachment) []column {
	var content any
	if a.Block != nil {
		// Strings only: this cannot fail.
		block, _ := json.Marshal(a.Block)
		content = string(block)
	}
	return []column{
		{"invoice_id", nil},
		{"position", a.Position},
		{"kind", a.Kind},
		{"title", text(a.Title)},
		{"mime", text(a.MIME)},
		{"filename", text(a.Filename)},
		{"size", stated(a.Size)},
		{"sha256", text(a.SHA256)},
		{"uri", text(a.URI)},
		{"content_json", content},
	}
}

// minor gives NULL for an amount that is not stated: 0 is an amount.
func minor(m parse.Minor) any {
	if !m.Stated {
		return nil
	}
	return m.Value
}

// stated gives NULL for 0 in a column whose values begin with 1.
func stated(n int) any {
	if n == 0 {
		return nil
	}
	return n
}

func flag(set bool) int {
	if set {
		return 1
	}
	return 0
}
