package parse

import (
	"strings"

	"github.com/antchfx/xmlquery"
)

// formCode reads what the header says about the form, for any document with the
// header of FA.
func (r *reader) formCode(root *xmlquery.Node) {
	for header := range r.children(root) {
		if header.Data != "Naglowek" {
			continue
		}
		for n := range r.children(header) {
			if n.Data != "KodFormularza" {
				continue
			}
			if code := attribute(n, "kodSystemowy"); code != "" {
				r.doc.FormCode = code
			}
			r.doc.FormVersion = attribute(n, "wersjaSchemy")
		}
	}
}

// faktura reads an invoice of FA or FA_RR, which differ in the element that holds
// the invoice proper. Where the versions of FA name a field differently, all its
// names are read: but for ZaplataCzesciowa, no name has two meanings.
func (r *reader) faktura(root *xmlquery.Node) {
	for n := range r.children(root) {
		switch n.Data {
		case "Naglowek":
			r.header(n)
		case "Podmiot1":
			r.party(n, "seller")
		case "Podmiot2":
			r.party(n, "buyer")
		case "Podmiot3":
			r.party(n, "third")
		case "PodmiotUpowazniony":
			r.party(n, "authorized")
		case "Fa", "FakturaRR":
			if _, ok := r.next(n, n.Data, 1); !ok {
				continue // a second one would double the VAT summary
			}
			if n.Data == "Fa" {
				r.invoice(n)
			} else {
				r.invoiceRR(n)
			}
		case "Stopka":
			r.footer(n)
		case "Zalacznik":
			r.attachment(n)
		}
	}
}

func (r *reader) header(header *xmlquery.Node) {
	for n := range r.children(header) {
		switch n.Data {
		case "DataWytworzeniaFa":
			r.doc.CreatedAt = r.dateTime(n)
		case "SystemInfo":
			r.doc.SystemInfo = text(n)
		}
	}
}

// invoice reads Fa. Amounts of a correction are differences and are kept as stated.
func (r *reader) invoice(fa *xmlquery.Node) {
	d := r.doc
	var vat vatSummary
	for n := range r.children(fa) {
		switch n.Data {
		case "P_1":
			d.IssueDate = r.date(n)
		case "P_2":
			d.InvoiceNumber = text(n)
		case "WZ":
			r.related(n, RelatedDocument{Kind: "warehouse", Number: text(n)})
		case "P_6":
			d.SaleDate = r.date(n)
		case "OkresFa":
			r.period(n)
		case "P_15":
			d.Gross, _ = r.amount(n)
		case "KursWalutyZ":
			d.ExchangeRate = r.decimal(n)
		case "Adnotacje":
			r.annotations(n)
		case "OkresFaKorygowanej":
			d.CorrectionPeriod = text(n)
		case "P_15ZK":
			d.AmountBefore, _ = r.amount(n)
		case "KursWalutyZK":
			d.ExchangeRateBefore = r.decimal(n)
		case "ZaliczkaCzesciowa":
			r.advancePart(n)
		case "FakturaZaliczkowa", "NrFaZaliczkowej": // the latter in FA(1)
			r.advanceInvoice(n)
		case "FP":
			d.CashRegister = isOne(n)
		case "TP":
			d.RelatedParties = isOne(n)
		case "ZwrotAkcyzy":
			d.ExciseRefund = isOne(n)
		case "FaWiersz":
			r.line(n)
		case "FaWiersze": // FA(1)
			r.linesAndSum(n)
		case "WarunkiTransakcji":
			r.transactionTerms(n)
		case "Zamowienie":
			r.order(n)
		default:
			if !r.common(n) {
				vat.read(r, n)
			}
		}
	}
	vat.store(d)
}

// common reads what FA and FA_RR have alike, and reports whether n was such a field.
func (r *reader) common(n *xmlquery.Node) bool {
	d := r.doc
	switch n.Data {
	case "KodWaluty":
		d.Currency = text(n)
	case "P_1M":
		d.IssuePlace = text(n)
	case "RodzajFaktury":
		d.InvoiceType = text(n)
		d.IsCorrection = strings.HasPrefix(d.InvoiceType, "KOR") // KOR, KOR_ZAL, KOR_ROZ, KOR_VAT_RR
	case "PrzyczynaKorekty":
		d.CorrectionReason = text(n)
	case "TypKorekty":
		d.CorrectionEffect = r.integer(n, 1, 3)
	case "DaneFaKorygowanej":
		r.correctedInvoice(n)
	case "NrFaKorygowany":
		d.CorrectedNumberFixed = text(n)
	case "Podmiot1K":
		r.party(n, "seller_before")
	case "Podmiot2K":
		r.party(n, "buyer_before")
	case "DodatkowyOpis":
		r.description(n)
	case "Rozliczenie":
		r.settlement(n)
	case "Platnosc":
		r.payment(n)
	default:
		return false
	}
	return true
}

func (r *reader) period(period *xmlquery.Node) {
	for n := range r.children(period) {
		switch n.Data {
		case "P_6_Od":
			r.doc.PeriodFrom = r.date(n)
		case "P_6_Do":
			r.doc.PeriodTo = r.date(n)
		}
	}
}

// correctedInvoice reads DaneFaKorygowanej, of which a collective correction has
// thousands.
func (r *reader) correctedInvoice(corrected *xmlquery.Node) {
	if !r.enter(corrected, "corrects", maxReferences) {
		return
	}
	defer r.leaveRow()
	reference := Reference{Relation: "corrects", Position: r.position}
	for n := range r.children(corrected) {
		switch n.Data {
		case "DataWystFaKorygowanej":
			reference.IssueDate = r.date(n)
		case "NrFaKorygowanej":
			reference.Number = text(n)
		case "NrKSeFFaKorygowanej":
			reference.KSeFNumber = text(n)
		case "NrKSeFN":
			reference.OutsideKSeF = isOne(n)
		}
	}
	r.doc.References = append(r.doc.References, reference)
}

// advanceInvoice reads FakturaZaliczkowa, which names an advance invoice by its
// number in KSeF or, where it has none, by its own. FA(1) has that number alone,
// and does not say which of the two it is.
func (r *reader) advanceInvoice(advance *xmlquery.Node) {
	if !r.enter(advance, "settles_advance", maxReferences) {
		return
	}
	defer r.leaveRow()
	reference := Reference{Relation: "settles_advance", Position: r.position}
	if advance.Data == "NrFaZaliczkowej" {
		reference.KSeFNumber, reference.Number = splitNumber(text(advance))
	}
	for n := range r.children(advance) {
		switch n.Data {
		case "NrKSeFFaZaliczkowej":
			reference.KSeFNumber = text(n)
		case "NrFaZaliczkowej":
			reference.Number = text(n)
		case "NrKSeFZN":
			reference.OutsideKSeF = isOne(n)
		}
	}
	r.doc.References = append(r.doc.References, reference)
}

// splitNumber tells whether a number that may be either is one of KSeF or the
// issuer's own.
func splitNumber(number string) (ksefNumber, own string) {
	if isKSeFNumber(number) {
		return number, ""
	}
	return "", number
}

// isKSeFNumber reports what looks like a number of KSeF (TNumerKSeF): the issuer,
// the day, and hexadecimal digits in one group of twelve or, before KSeF 2.0, two of
// six, then two more.
func isKSeFNumber(s string) bool {
	groups := strings.Split(s, "-")
	if len(groups) != 4 && len(groups) != 5 {
		return false
	}
	issuer, day, rest := groups[0], groups[1], strings.Join(groups[2:], "")
	return len(issuer) == 10 && isDigits(issuer[3:]) && strings.Trim(issuer, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == "" &&
		len(day) == 8 && isDigits(day) && len(rest) == 14 && strings.Trim(rest, "0123456789ABCDEF") == ""
}

// vatBuckets are the fields of the VAT summary in the order of the schema. It is
// read only.
var vatBuckets = [...]struct{ bucket, net, vat, vatPLN string }{
	{"standard", "P_13_1", "P_14_1", "P_14_1W"},
	{"reduced1", "P_13_2", "P_14_2", "P_14_2W"},
	{"reduced2", "P_13_3", "P_14_3", "P_14_3W"},
	{"taxi", "P_13_4", "P_14_4", "P_14_4W"},
	{"oss", "P_13_5", "P_14_5", ""},
	{"zero", "P_13_6", "", ""}, // FA(1)
	{"zero_domestic", "P_13_6_1", "", ""},
	{"zero_eu", "P_13_6_2", "", ""},
	{"zero_export", "P_13_6_3", "", ""},
	{"exempt", "P_13_7", "", ""},
	{"outside", "P_13_8", "", ""},
	{"outside_services_eu", "P_13_9", "", ""},
	{"reverse_charge", "P_13_10", "", ""},
	{"margin", "P_13_11", "", ""},
}

// vatSummary collects the fields P_13 and P_14, which the schema lays flat in Fa.
type vatSummary struct {
	rows             [len(vatBuckets)]VATRow
	net, vat, vatPLN total
}

// read takes n when it is a field of the summary.
func (v *vatSummary) read(r *reader, n *xmlquery.Node) {
	if !strings.HasPrefix(n.Data, "P_1") {
		return
	}
	for i, fields := range vatBuckets {
		var field *Minor
		var sum *total
		switch n.Data {
		case fields.net:
			field, sum = &v.rows[i].Net, &v.net
		case fields.vat:
			field, sum = &v.rows[i].VAT, &v.vat
		case fields.vatPLN:
			field, sum = &v.rows[i].VATPLN, &v.vatPLN
		default:
			continue
		}
		value, ok := r.amount(n)
		if !ok {
			sum.void = true
		}
		*field = value
		return
	}
}

// store adds the stated rows and their sums. Nothing is derived from the amount
// due: an invoice may be due for a sum that is not net and VAT together.
func (v *vatSummary) store(d *Document) {
	for i, row := range v.rows {
		if !row.Net.Stated && !row.VAT.Stated && !row.VATPLN.Stated {
			continue
		}
		row.Bucket = vatBuckets[i].bucket
		d.VATRows = append(d.VATRows, row)
		v.net.add(row.Net)
		v.vat.add(row.VAT)
		v.vatPLN.add(row.VATPLN)
	}
	d.Net, d.VAT, d.VATPLN = v.net.minor(), v.vat.minor(), v.vatPLN.minor()
}

func (r *reader) annotations(annotations *xmlquery.Node) {
	d := r.doc
	for n := range r.children(annotations) {
		switch n.Data {
		case "P_16":
			d.CashMethod = isOne(n)
		case "P_17":
			d.SelfBilling = isOne(n)
		case "P_18":
			d.ReverseCharge = isOne(n)
		case "P_18A":
			d.SplitPayment = isOne(n)
		case "P_23":
			d.Triangular = isOne(n)
		case "Zwolnienie", "NoweSrodkiTransportu", "PMarzy":
			for choice := range r.children(n) {
				r.annotationChoice(choice)
			}
		default: // FA(1) has them flat
			r.annotationChoice(n)
		}
	}
}

func (r *reader) annotationChoice(n *xmlquery.Node) {
	d := r.doc
	switch n.Data {
	case "P_19":
		d.Exempt = isOne(n)
	case "P_19A", "P_19B", "P_19C":
		d.ExemptBasis = text(n)
	case "P_22":
		d.NewTransport = isOne(n)
	case "NowySrodekTransportu":
		r.newTransport(n)
	case "P_PMarzy_2":
		r.margin(n, "travel")
	case "P_PMarzy_3_1":
		r.margin(n, "used_goods")
	case "P_PMarzy_3_2":
		r.margin(n, "art")
	case "P_PMarzy_3_3":
		r.margin(n, "antiques")
	default: // FA(1) has the fields of one new means of transport here
		r.newTransportField(n, 0)
	}
}

func (r *reader) newTransport(transport *xmlquery.Node) {
	line := 0
	if number := r.child(transport, "P_NrWierszaNST"); number != nil {
		line = r.integer(number, 0, maxLineNumber)
	}
	for n := range r.children(transport) {
		r.newTransportField(n, line)
	}
}

// newTransportField keeps a field of a means of transport under its name, P_22A to
// P_22D1: make, model, VIN, mileage and the like.
func (r *reader) newTransportField(n *xmlquery.Node, line int) {
	if field, ok := strings.CutPrefix(n.Data, "P_22"); ok && field != "" && field != "N" {
		r.note(n, Note{Kind: "new_transport", Line: line, Key: n.Data, Value: text(n)})
	}
}

func (r *reader) margin(n *xmlquery.Node, scheme string) {
	if isOne(n) {
		r.doc.MarginScheme = scheme
	}
}

// description reads DodatkowyOpis.
func (r *reader) description(description *xmlquery.Node) {
	if !r.enterRow(description) {
		return
	}
	defer r.leaveRow()
	note := Note{Kind: "note", Position: r.position}
	for n := range r.children(description) {
		switch n.Data {
		case "NrWiersza":
			note.Line = r.integer(n, 0, maxLineNumber)
		case "Klucz":
			note.Key = text(n)
		case "Wartosc":
			note.Value = text(n)
		}
	}
	r.doc.Notes = append(r.doc.Notes, note)
}

func (r *reader) footer(footer *xmlquery.Node) {
	for part := range r.children(footer) {
		switch part.Data {
		case "Informacje":
			for n := range r.children(part) {
				if n.Data == "StopkaFaktury" {
					r.note(n, Note{Kind: "footer", Value: lines(n)})
				}
			}
		case "Rejestry":
			var numbers []string
			for n := range r.children(part) {
				if number := text(n); n.Data != "PelnaNazwa" && number != "" {
					numbers = append(numbers, n.Data+" "+number) // KRS, REGON, BDO
				}
			}
			r.note(part, Note{Kind: "registry", Key: r.childText(part, "PelnaNazwa"), Value: strings.Join(numbers, ", ")})
		}
	}
}
