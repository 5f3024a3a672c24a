package parse

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"io"
	"slices"
	"strings"

	"github.com/antchfx/xmlquery"
)

// The namespaces of the body of a UBL document, and those of the extensions that
// Poland adds to it. They share their local names, and the extensions repeat the
// body, so that only one of the two is read at a time. Both are read only.
var (
	ublBody = []string{
		"urn:oasis:names:specification:ubl:schema:xsd:CommonAggregateComponents-2",
		"urn:oasis:names:specification:ubl:schema:xsd:CommonBasicComponents-2",
		"urn:oasis:names:specification:ubl:schema:xsd:CommonExtensionComponents-2",
	}
	ublPoland = []string{
		"urn:pl:extended:CommonAggregateComponents-2",
		"urn:pl:extended:CommonBasicComponents-2",
	}
)

// ublInvoice collects what is known only at the end of a UBL document.
type ublInvoice struct {
	body               ublTotals
	before, difference *ublTotals // of the extensions; nil without them
	hasPaymentMeans    bool
}

// ubl reads PEF and PEF_KOR: an invoice or a credit note of UBL 2.1, by EN 16931
// and Peppol BIS Billing 3.0.
func (r *reader) ubl(root *xmlquery.Node) {
	d := r.doc
	r.namespaces, r.xsdDecimal = ublBody, true
	var u ublInvoice
	for n := range r.children(root) {
		switch n.Data {
		case "UBLExtensions":
			r.ublExtensions(n, &u)
		case "CustomizationID":
			r.note(n, Note{Kind: "customization", Value: text(n)})
		case "ProfileID":
			r.note(n, Note{Kind: "profile", Value: text(n)})
		case "ID":
			d.InvoiceNumber = text(n)
		case "IssueDate":
			d.IssueDate = r.date(n)
		case "DueDate":
			r.ublDueDate(n)
		case "InvoiceTypeCode", "CreditNoteTypeCode":
			d.InvoiceType = text(n)
		case "Note":
			r.note(n, Note{Kind: "note", Value: lines(n)})
		case "TaxPointDate":
			d.TaxDate = r.date(n)
		case "DocumentCurrencyCode":
			d.Currency = text(n)
		case "TaxCurrencyCode":
			d.TaxCurrency = text(n)
		case "AccountingCost":
			r.related(n, RelatedDocument{Kind: "accounting_cost", Number: text(n)})
		case "BuyerReference":
			r.related(n, RelatedDocument{Kind: "buyer_reference", Number: text(n)})
		case "InvoicePeriod":
			r.ublPeriod(n)
		case "DiscrepancyResponse":
			d.CorrectionReason = r.childText(n, "Description")
		case "BillingReference":
			r.billingReference(n)
		case "AccountingSupplierParty":
			r.ublParty(n, "seller")
		case "AccountingCustomerParty":
			r.ublParty(n, "buyer")
		case "PayeeParty":
			r.ublParty(n, "payee")
		case "TaxRepresentativeParty":
			r.ublParty(n, "authorized")
		case "Delivery":
			r.delivery(n)
		case "DeliveryTerms":
			d.DeliveryTerms = r.childText(n, "SpecialTerms")
		case "PaymentMeans":
			u.hasPaymentMeans = true
			r.paymentMeans(n)
		case "PaymentTerms":
			r.ublPaymentTerms(n)
		case "TaxExchangeRate":
			if rate := r.child(n, "CalculationRate"); rate != nil {
				d.ExchangeRate = r.decimal(rate)
			}
		case "AllowanceCharge":
			r.allowanceCharge(n, 0)
		case "InvoiceLine", "CreditNoteLine":
			r.ublLine(n, false)
		default:
			if !r.ublDocumentReference(n) {
				u.body.read(r, n)
			}
		}
	}
	u.store(d)
}

// ublExtensions reads the data that PEF_KOR adds to a credit note, of which the
// body alone would say what holds after the correction, and not what it corrects.
func (r *reader) ublExtensions(extensions *xmlquery.Node, u *ublInvoice) {
	for extension := range r.children(extensions) {
		content := r.child(extension, "ExtensionContent")
		if content == nil {
			continue
		}
		r.namespaces = ublPoland
		for n := range r.children(content) {
			switch n.Data {
			case "OriginalInvoiceData":
				u.before = &ublTotals{}
				for part := range r.children(n) {
					if part.Data == "InvoiceLine" {
						r.ublLine(part, true)
					} else {
						u.before.read(r, part)
					}
				}
			case "InvoiceCorrection":
				u.difference = &ublTotals{}
				for part := range r.children(n) {
					u.difference.read(r, part)
				}
			case "AdditionalAddressData":
				for party := range r.children(n) {
					switch party.Data {
					case "SellerSupplierParty":
						r.ublParty(party, "issuer")
					case "ReceiverParty":
						r.ublParty(party, "recipient")
					}
				}
			}
		}
		r.namespaces = ublBody
	}
}

// store makes the amounts of the document from the totals. Of a correction they are
// the differences that PEF_KOR states. A credit note without them says what is
// credited, in positive amounts, so that the difference is its negative.
func (u *ublInvoice) store(d *Document) {
	d.IsCorrection = d.Form == "PEF_KOR" || d.InvoiceType == "384" // UNTDID 1001: corrected invoice
	d.SelfBilling = d.InvoiceType == "389" || d.InvoiceType == "261"
	for i := range d.References {
		if d.IsCorrection {
			d.References[i].Relation = "corrects"
		}
	}
	amounts := u.body
	switch {
	case u.difference != nil:
		amounts = *u.difference
		if u.before != nil {
			d.CorrectionStates = u.before.states(d.CorrectionStates, "before", d)
			d.AmountBefore = u.before.gross
		}
		d.CorrectionStates = u.body.states(d.CorrectionStates, "after", d)
	case d.Form == "PEF_KOR":
		amounts.negate()
		for i := range d.Lines {
			d.Lines[i].Net.Value = -d.Lines[i].Net.Value
			d.Lines[i].Quantity = negated(d.Lines[i].Quantity)
		}
		for i := range d.Adjustments {
			d.Adjustments[i].Amount.Value = -d.Adjustments[i].Amount.Value
		}
	}
	d.Net, d.Gross, d.LinesNet, d.Prepaid, d.ToPay = amounts.net, amounts.gross, amounts.lines, amounts.prepaid, amounts.toPay
	if tax := amounts.tax(d.Currency); tax != nil {
		d.VAT, d.VATRows = tax.amount, tax.rows
	}
	if tax := amounts.otherTax(d); tax != nil {
		d.TaxCurrencyVAT = tax.amount
		if d.TaxCurrency == "PLN" {
			d.VATPLN = tax.amount
		}
	}
	for _, tax := range u.body.taxes {
		d.ReverseCharge = d.ReverseCharge || tax.reverseCharge
		d.Exempt = d.Exempt || tax.exempt
		if d.ExemptBasis == "" {
			d.ExemptBasis = tax.exemptBasis
		}
	}
	prepaid := !d.IsCorrection && d.Prepaid.Value != 0
	switch {
	case prepaid && d.ToPay.Stated && d.ToPay.Value == 0:
		d.PaymentStatus = "paid"
	case prepaid:
		d.PaymentStatus = "partial"
	case len(d.DueDates) > 0:
		d.PaymentStatus = "unpaid"
	case u.hasPaymentMeans:
		d.PaymentStatus = "unknown"
	}
}

// ublDocumentReference reads a reference to a document that is not an invoice, and
// reports whether n is one.
func (r *reader) ublDocumentReference(n *xmlquery.Node) bool {
	kind := ""
	switch n.Data {
	case "OrderReference":
		kind = "order"
		if number := r.childText(n, "SalesOrderID"); number != "" {
			r.related(n, RelatedDocument{Kind: "sales_order", Number: number})
		}
	case "ContractDocumentReference":
		kind = "contract"
	case "DespatchDocumentReference":
		kind = "despatch"
	case "ReceiptDocumentReference":
		kind = "receipt"
	case "OriginatorDocumentReference":
		kind = "tender"
	case "ProjectReference":
		kind = "project"
	case "AdditionalDocumentReference":
		kind = "additional"
		r.ublAttachment(n)
	default:
		return false
	}
	document := RelatedDocument{Kind: kind, Number: r.childText(n, "ID"), Description: r.childText(n, "DocumentDescription")}
	if date := r.child(n, "IssueDate"); date != nil {
		document.Date = r.date(date)
	}
	r.related(n, document)
	return true
}

// billingReference reads a reference to an earlier invoice. EN 16931 (BG-3) has it
// for corrected invoices, and for advance invoices that a final one settles. Its ID
// is the issuer's number by UBL; KSeF's own templates put KSeF's number there.
func (r *reader) billingReference(billing *xmlquery.Node) {
	n := r.child(billing, "InvoiceDocumentReference")
	if n == nil || !r.enter(billing, "references", maxReferences) {
		return
	}
	defer r.leaveRow()
	reference := Reference{Relation: "settles_advance", Position: r.position}
	reference.KSeFNumber, reference.Number = splitNumber(r.childText(n, "ID"))
	if date := r.child(n, "IssueDate"); date != nil {
		reference.IssueDate = r.date(date)
	}
	r.doc.References = append(r.doc.References, reference)
}

func (r *reader) ublPeriod(period *xmlquery.Node) {
	for n := range r.children(period) {
		switch n.Data {
		case "StartDate":
			r.doc.PeriodFrom = r.date(n)
		case "EndDate":
			r.doc.PeriodTo = r.date(n)
		}
	}
}

// ublLine reads a line of the body or, with before, one of the invoice that is
// corrected.
func (r *reader) ublLine(row *xmlquery.Node, before bool) {
	if !r.enter(row, "line", maxRows) {
		return
	}
	defer r.leaveRow()
	line := Line{Kind: "line", Position: r.position, BeforeCorrection: before}
	for n := range r.children(row) {
		switch n.Data {
		case "ID": // any text
			if id := text(n); isDigits(id) && len(id) < 10 {
				line.Number = r.integer(n, 0, maxLineNumber)
			} else {
				line.Number, line.UID = line.Position, id
			}
		case "Note":
			r.note(n, Note{Kind: "note", Line: line.Number, Value: lines(n)})
		case "InvoicedQuantity", "CreditedQuantity":
			line.Quantity, line.Unit = r.decimal(n), attribute(n, "unitCode")
		case "LineExtensionAmount":
			line.Net, _ = r.amount(n)
		case "AllowanceCharge":
			r.allowanceCharge(n, line.Position)
		case "Item":
			r.item(n, &line)
		case "Price":
			if price := r.child(n, "PriceAmount"); price != nil {
				line.UnitPriceNet = r.decimal(price)
			}
			if quantity := r.child(n, "BaseQuantity"); quantity != nil {
				if line.PriceQuantity = r.decimal(quantity); line.PriceQuantity == "1" {
					line.PriceQuantity = ""
				}
			}
		}
	}
	r.doc.Lines = append(r.doc.Lines, line)
}

func (r *reader) item(item *xmlquery.Node, line *Line) {
	for n := range r.children(item) {
		switch n.Data {
		case "Name":
			line.Name = text(n)
		case "Description":
			r.note(n, Note{Kind: "item", Line: line.Number, Value: lines(n)})
		case "SellersItemIdentification":
			line.ItemCode = r.childText(n, "ID")
		case "StandardItemIdentification":
			line.GTIN = r.childText(n, "ID")
		case "CommodityClassification":
			if code := r.child(n, "ItemClassificationCode"); code != nil {
				r.note(n, Note{Kind: "classification", Line: line.Number, Key: attribute(code, "listID"), Value: text(code)})
			}
		case "AdditionalItemProperty":
			r.note(n, Note{Kind: "item", Line: line.Number, Key: r.childText(n, "Name"), Value: r.childText(n, "Value")})
		case "ClassifiedTaxCategory":
			line.VATRate = r.ublRate(n)
		}
	}
}

// allowanceCharge reads what is added to the net amount of the document or of a
// line, or taken off.
func (r *reader) allowanceCharge(n *xmlquery.Node, line int) {
	kind := "net_allowance"
	if indicator := r.childText(n, "ChargeIndicator"); indicator == "true" || indicator == "1" {
		kind = "net_charge"
	}
	position, ok := r.next(n, kind, maxRows)
	if !ok {
		return
	}
	adjustment := Adjustment{Kind: kind, Position: position, Line: line, Reason: r.childText(n, "AllowanceChargeReason")}
	if amount := r.child(n, "Amount"); amount != nil {
		adjustment.Amount, _ = r.amount(amount)
	}
	r.doc.Adjustments = append(r.doc.Adjustments, adjustment)
}

// ublAttachment reads the file or link of a reference, if it has one.
func (r *reader) ublAttachment(reference *xmlquery.Node) {
	n := r.child(reference, "Attachment")
	if n == nil {
		return
	}
	r.doc.HasAttachment = true
	attachment := Attachment{URI: r.childText(n, "ExternalReference", "URI"), Kind: "ubl_link", Title: r.childText(reference, "DocumentDescription")}
	if file := r.child(n, "EmbeddedDocumentBinaryObject"); file != nil {
		attachment.Kind, attachment.MIME, attachment.Filename = "ubl_embedded", attribute(file, "mimeCode"), attribute(file, "filename")
		sum := sha256.New()
		// The decoder passes over the ends of lines, other white space is left to us.
		encoded := strings.NewReplacer(" ", "", "\t", "").Replace(rawText(file))
		size, err := io.Copy(sum, base64.NewDecoder(base64.StdEncoding, strings.NewReader(encoded)))
		if err != nil {
			r.warn(file, "not base64")
		} else {
			attachment.Size, attachment.SHA256 = int(size), hex.EncodeToString(sum.Sum(nil))
		}
	}
	position, ok := r.next(n, "attachment", maxRows)
	if !ok {
		return
	}
	attachment.Position = position
	r.doc.Attachments = append(r.doc.Attachments, attachment)
}

// ublTotals are the sums of a document, of its state before a correction, or of the
// difference.
type ublTotals struct {
	lines, net, gross, prepaid, toPay Minor
	taxes                             []ublTax
}

// ublTax is a TaxTotal: one in the currency of the document, and maybe one more in
// the currency of the tax.
type ublTax struct {
	currency              string
	amount                Minor
	rows                  []VATRow
	exempt, reverseCharge bool
	exemptBasis           string
}

// read takes n when it holds sums.
func (t *ublTotals) read(r *reader, n *xmlquery.Node) {
	switch n.Data {
	case "TaxTotal":
		if _, ok := r.next(n, "TaxTotal", maxRows); ok {
			t.taxes = append(t.taxes, r.taxTotal(n))
		}
	case "LegalMonetaryTotal":
		for sum := range r.children(n) {
			switch sum.Data {
			case "LineExtensionAmount":
				t.lines, _ = r.amount(sum)
			case "TaxExclusiveAmount":
				t.net, _ = r.amount(sum)
			case "TaxInclusiveAmount":
				t.gross, _ = r.amount(sum)
			case "PrepaidAmount":
				t.prepaid, _ = r.amount(sum)
			case "PayableAmount":
				t.toPay, _ = r.amount(sum)
			}
		}
	}
}

// taxTotal reads a TaxTotal. Subtotals of one category and rate, of which there
// should be one, are added up.
func (r *reader) taxTotal(taxTotal *xmlquery.Node) ublTax {
	var tax ublTax
	var sums []struct{ net, vat total }
	for n := range r.children(taxTotal) {
		switch n.Data {
		case "TaxAmount":
			tax.currency = attribute(n, "currencyID")
			tax.amount, _ = r.amount(n)
		case "TaxSubtotal":
			bucket := "ubl"
			if category := r.child(n, "TaxCategory"); category != nil {
				bucket = r.ublBucket(category)
				r.ublExemption(category, &tax)
			}
			i := slices.IndexFunc(tax.rows, func(row VATRow) bool { return row.Bucket == bucket })
			if i < 0 {
				if len(tax.rows) == maxBuckets {
					r.warn(n, "too many categories and rates")
					continue
				}
				i = len(tax.rows)
				tax.rows = append(tax.rows, VATRow{Bucket: bucket})
				sums = append(sums, struct{ net, vat total }{})
			}
			sums[i].net.addFrom(r, r.child(n, "TaxableAmount"))
			sums[i].vat.addFrom(r, r.child(n, "TaxAmount"))
		}
	}
	for i := range tax.rows {
		tax.rows[i].Net, tax.rows[i].VAT = sums[i].net.minor(), sums[i].vat.minor()
	}
	return tax
}

// ublBucket names the bucket of a category (UNCL 5305) and its percentage.
func (r *reader) ublBucket(category *xmlquery.Node) string {
	bucket := "ubl:" + r.childText(category, "ID")
	if percent := r.child(category, "Percent"); percent != nil {
		bucket += ":" + r.decimal(percent)
	}
	return bucket
}

// ublRate names the rate of a line as FA would: by the percentage, or by the code of
// a category that has none.
func (r *reader) ublRate(category *xmlquery.Node) string {
	_, code, _ := strings.Cut(r.ublBucket(category), ":")
	code, percent, _ := strings.Cut(code, ":")
	switch {
	case code == "S" || code == "":
		return percent
	case percent == "" || percent == "0":
		return code
	default:
		return code + " " + percent
	}
}

func (r *reader) ublExemption(category *xmlquery.Node, tax *ublTax) {
	switch r.childText(category, "ID") {
	case "E":
		tax.exempt = true
		tax.exemptBasis = r.childText(category, "TaxExemptionReason")
		if tax.exemptBasis == "" {
			tax.exemptBasis = r.childText(category, "TaxExemptionReasonCode")
		}
	case "AE":
		tax.reverseCharge = true
	}
}

// maxBuckets of one VAT summary are read: there are seven categories and few rates.
const maxBuckets = 100

// addFrom adds the amount that n holds; nil holds none.
func (t *total) addFrom(r *reader, n *xmlquery.Node) {
	if n == nil {
		return
	}
	amount, ok := r.amount(n)
	if !ok {
		t.void = true
	}
	t.add(amount)
}

// tax gives the TaxTotal in the currency of the document, or nil. One that does not
// say its currency is taken for it.
func (t *ublTotals) tax(currency string) *ublTax {
	for i := range t.taxes {
		if t.taxes[i].currency == currency || t.taxes[i].currency == "" {
			return &t.taxes[i]
		}
	}
	return nil
}

// otherTax gives the TaxTotal in the currency of the tax, or nil.
func (t *ublTotals) otherTax(d *Document) *ublTax {
	for i := range t.taxes {
		if t.taxes[i].currency == d.TaxCurrency && d.TaxCurrency != d.Currency && d.TaxCurrency != "" {
			return &t.taxes[i]
		}
	}
	return nil
}

func (t *ublTotals) negate() {
	amounts := []*Minor{&t.lines, &t.net, &t.gross, &t.prepaid, &t.toPay}
	for i := range t.taxes {
		tax := &t.taxes[i]
		amounts = append(amounts, &tax.amount)
		for j := range tax.rows {
			amounts = append(amounts, &tax.rows[j].Net, &tax.rows[j].VAT)
		}
	}
	for _, amount := range amounts {
		amount.Value = -amount.Value
	}
}

// states adds the totals as a state of the document: whole, and by bucket.
func (t *ublTotals) states(states []CorrectionState, state string, d *Document) []CorrectionState {
	whole := CorrectionState{State: state, Net: t.net, Gross: t.gross, LinesNet: t.lines, Prepaid: t.prepaid, ToPay: t.toPay}
	if tax := t.otherTax(d); tax != nil {
		whole.TaxCurrencyVAT = tax.amount
	}
	tax := t.tax(d.Currency)
	if tax == nil {
		return append(states, whole)
	}
	whole.VAT = tax.amount
	states = append(states, whole)
	for _, row := range tax.rows {
		states = append(states, CorrectionState{State: state, Bucket: row.Bucket, Net: row.Net, VAT: row.VAT})
	}
	return states
}

// negated is a canonical decimal with the other sign.
func negated(decimal string) string {
	if decimal == "" || decimal == "0" {
		return decimal
	}
	if positive, ok := strings.CutPrefix(decimal, "-"); ok {
		return positive
	}
	return "-" + decimal
}
