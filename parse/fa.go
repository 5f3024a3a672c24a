package parse

import (
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/antchfx/xmlquery"
)

const (
	// maxRows of one kind (lines, order lines, buyers before a correction, …) are
	// read. The schemas allow 10,000 lines (FaWiersz maxOccurs) and 101 parties; a
	// row costs forty times the smallest element that makes one.
	maxRows = 10_000
	// maxWarnings of one document are kept.
	maxWarnings = 32
)

// reader fills a Document from the tree of an FA(2) or FA(3) invoice. It walks the
// children of each element once; elements of other namespaces are ignored.
type reader struct {
	doc       *Document
	namespace string
	row       string // the repeated element being read, "" outside of one
	position  int    // its position, for warnings
	rows      map[string]int
	dropped   int // warnings beyond maxWarnings
}

// children yields the elements directly inside n.
func (r *reader) children(n *xmlquery.Node) iter.Seq[*xmlquery.Node] {
	return func(yield func(*xmlquery.Node) bool) {
		for child := n.FirstChild; child != nil; child = child.NextSibling {
			if child.Type == xmlquery.ElementNode && child.NamespaceURI == r.namespace && !yield(child) {
				return
			}
		}
	}
}

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
		case "Fa":
			r.invoice(n)
		case "Zalacznik":
			r.doc.HasAttachment = true
		}
	}
	r.doc.TaxDate = taxDate(r.doc)
	if r.dropped > 0 {
		r.doc.Warnings = append(r.doc.Warnings, fmt.Sprintf("%d more warnings", r.dropped))
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

// taxDate is a convenience for listing by month, not a ruling on the tax point. The
// date of a line before its correction is the one that the correction takes back.
func taxDate(d *Document) string {
	if d.SaleDate != "" {
		return d.SaleDate
	}
	if d.PeriodTo != "" {
		return d.PeriodTo
	}
	latest := ""
	for _, line := range d.Lines {
		if !line.BeforeCorrection {
			latest = max(latest, line.SaleDate)
		}
	}
	if latest != "" {
		return latest
	}
	return d.IssueDate
}

// invoice reads Fa. Amounts of a correction are differences and are kept as stated.
func (r *reader) invoice(fa *xmlquery.Node) {
	d := r.doc
	var vat vatSummary
	for n := range r.children(fa) {
		switch n.Data {
		case "KodWaluty":
			d.Currency = text(n)
		case "P_1":
			d.IssueDate = r.date(n)
		case "P_1M":
			d.IssuePlace = text(n)
		case "P_2":
			d.InvoiceNumber = text(n)
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
		case "RodzajFaktury":
			d.InvoiceType = text(n)
			switch d.InvoiceType {
			case "KOR", "KOR_ZAL", "KOR_ROZ":
				d.IsCorrection = true
			}
		case "PrzyczynaKorekty":
			d.CorrectionReason = text(n)
		case "TypKorekty":
			d.CorrectionEffect = r.integer(n, 1, 3)
		case "OkresFaKorygowanej":
			d.CorrectionPeriod = text(n)
		case "NrFaKorygowany":
			d.CorrectedNumberFixed = text(n)
		case "Podmiot1K":
			r.party(n, "seller_before")
		case "Podmiot2K":
			r.party(n, "buyer_before")
		case "P_15ZK":
			d.AmountBefore, _ = r.amount(n)
		case "KursWalutyZK":
			d.ExchangeRateBefore = r.decimal(n)
		case "FP":
			d.CashRegister = isOne(n)
		case "TP":
			d.RelatedParties = isOne(n)
		case "ZwrotAkcyzy":
			d.ExciseRefund = isOne(n)
		case "FaWiersz":
			r.line(n)
		case "Rozliczenie":
			r.settlement(n)
		case "Platnosc":
			r.payment(n)
		case "Zamowienie":
			for row := range r.children(n) {
				if row.Data == "ZamowienieWiersz" {
					r.orderLine(row)
				}
			}
		default:
			vat.read(r, n)
		}
	}
	vat.store(d)
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

// vatBuckets are the fields of the VAT summary in the order of the schema. It is
// read only.
var vatBuckets = [...]struct{ bucket, net, vat, vatPLN string }{
	{"standard", "P_13_1", "P_14_1", "P_14_1W"},
	{"reduced1", "P_13_2", "P_14_2", "P_14_2W"},
	{"reduced2", "P_13_3", "P_14_3", "P_14_3W"},
	{"taxi", "P_13_4", "P_14_4", "P_14_4W"},
	{"oss", "P_13_5", "P_14_5", ""},
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
		row.Bucket, row.Field = vatBuckets[i].bucket, vatBuckets[i].net
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
	case "P_PMarzy_2":
		r.margin(n, "travel")
	case "P_PMarzy_3_1":
		r.margin(n, "used_goods")
	case "P_PMarzy_3_2":
		r.margin(n, "art")
	case "P_PMarzy_3_3":
		r.margin(n, "antiques")
	}
}

func (r *reader) margin(n *xmlquery.Node, scheme string) {
	if isOne(n) {
		r.doc.MarginScheme = scheme
	}
}

func (r *reader) settlement(settlement *xmlquery.Node) {
	d := r.doc
	for n := range r.children(settlement) {
		switch n.Data {
		case "SumaObciazen":
			d.Charges, _ = r.amount(n)
		case "SumaOdliczen":
			d.Deductions, _ = r.amount(n)
		case "DoZaplaty":
			d.ToPay, _ = r.amount(n)
		case "DoRozliczenia":
			d.ToSettle, _ = r.amount(n)
		}
	}
}

// payment reads Platnosc: what the issuer claims at the time of issue.
func (r *reader) payment(payment *xmlquery.Node) {
	d := r.doc
	var paid, partial, hasTerm bool
	for n := range r.children(payment) {
		switch n.Data {
		case "Zaplacono":
			paid = paid || isOne(n)
		case "DataZaplaty":
			d.PaidDate = r.date(n)
		case "ZnacznikZaplatyCzesciowej":
			switch text(n) {
			case "1":
				partial = true
			case "2": // FA(3): paid in full, in parts
				paid = true
			}
		case "TerminPlatnosci":
			hasTerm = r.paymentTerm(n) || hasTerm
		case "FormaPlatnosci":
			d.PaymentMethod = r.paymentMethod(n)
		case "OpisPlatnosci": // with PlatnoscInna, instead of FormaPlatnosci
			d.PaymentMethodText = text(n)
		case "Skonto":
			r.discount(n)
		case "LinkDoPlatnosci":
			d.PaymentLink = text(n)
		case "IPKSeF":
			d.PaymentKSeFID = text(n)
		}
	}
	switch {
	case paid:
		d.PaymentStatus = "paid"
	case partial:
		d.PaymentStatus = "partial"
	case hasTerm:
		d.PaymentStatus = "unpaid"
	default:
		d.PaymentStatus = "unknown"
	}
}

// paymentTerm reads TerminPlatnosci and reports whether it says anything: a date,
// or a description such as "14 days from delivery", which is not computed.
func (r *reader) paymentTerm(term *xmlquery.Node) bool {
	d, stated := r.doc, false
	for n := range r.children(term) {
		switch n.Data {
		case "Termin":
			date := r.date(n)
			if date == "" {
				continue
			}
			if d.FirstDueDate == "" || date < d.FirstDueDate {
				d.FirstDueDate = date
			}
			d.LastDueDate = max(d.LastDueDate, date)
			stated = true
		case "TerminOpis": // FA(2): text; FA(3): Ilosc, Jednostka, ZdarzeniePoczatkowe
			stated = stated || collapse(n.InnerText()) != ""
		}
	}
	return stated
}

func (r *reader) paymentMethod(n *xmlquery.Node) string {
	methods := [...]string{"cash", "card", "voucher", "cheque", "credit", "transfer", "mobile"}
	if code := r.integer(n, 1, len(methods)); code > 0 {
		return methods[code-1] //nolint:gosec // integer gives 0 or 1 to len(methods)
	}
	return ""
}

func (r *reader) discount(discount *xmlquery.Node) {
	for n := range r.children(discount) {
		switch n.Data {
		case "WarunkiSkonta":
			r.doc.DiscountTerms = text(n)
		case "WysokoscSkonta":
			r.doc.DiscountAmount = text(n)
		}
	}
}

// party reads any of the parties; each element occurs only where the schema has it.
func (r *reader) party(party *xmlquery.Node, kind string) {
	if !r.enterRow(party) {
		return
	}
	defer r.leaveRow()
	p := Party{Kind: kind, Position: r.position}
	for n := range r.children(party) {
		switch n.Data {
		case "PrefiksPodatnika":
			p.IDCountry = text(n)
		case "NrEORI":
			p.EORI = text(n)
		case "DaneIdentyfikacyjne":
			r.identity(n, &p)
		case "Adres":
			p.Country, p.Address1, p.Address2, p.GLN = r.address(n)
		case "AdresKoresp":
			p.MailCountry, p.MailAddress1, p.MailAddress2, _ = r.address(n)
		case "DaneKontaktowe":
			if contact := r.contact(n); contact != (Contact{}) {
				p.Contacts = append(p.Contacts, contact)
			}
		case "StatusInfoPodatnika":
			p.TaxpayerStatus = r.integer(n, 1, 4)
		case "NrKlienta":
			p.CustomerNumber = text(n)
		case "IDNabywcy":
			p.LinkKey = text(n)
		case "JST":
			r.doc.BuyerLocalGov = isOne(n)
		case "GV":
			r.doc.BuyerVATGroup = isOne(n)
		case "Rola", "RolaPU":
			p.RoleCode = r.integer(n, 1, 99)
		case "OpisRoli":
			p.RoleText = text(n)
		case "Udzial":
			p.SharePercent = r.decimal(n)
		}
	}
	r.doc.Parties = append(r.doc.Parties, p)
}

// identity reads DaneIdentyfikacyjne, whose identifiers are a choice. Documents
// with two of them exist; the NIP then counts, as in KSeF's metadata.
func (r *reader) identity(identity *xmlquery.Node, p *Party) {
	var nip, internal, vatPrefix, vat, country, other string
	var none bool
	for n := range r.children(identity) {
		switch n.Data {
		case "NIP":
			nip = text(n)
		case "IDWew":
			internal = text(n)
		case "KodUE":
			vatPrefix = text(n)
		case "NrVatUE":
			vat = text(n)
		case "KodKraju":
			country = text(n)
		case "NrID":
			other = text(n)
		case "BrakID":
			none = isOne(n)
		case "Nazwa":
			p.Name = text(n)
		}
	}
	switch {
	case nip != "":
		p.IDType, p.ID, p.NIP = "Nip", nip, nip
	case internal != "":
		p.IDType, p.ID = "InternalId", internal
		if len(internal) >= 10 && isDigits(internal[:10]) { // NIP-NNNNN (TNIPIdWew)
			p.NIP = internal[:10]
		}
	case vat != "":
		p.IDType, p.ID, p.IDCountry = "VatUe", vat, vatPrefix
	case other != "":
		p.IDType, p.ID, p.IDCountry = "Other", other, country
	case none:
		p.IDType = "None"
	}
	stated := 0
	for _, id := range [...]string{nip, internal, vat, other} {
		if id != "" {
			stated++
		}
	}
	if stated > 1 {
		r.warn(identity, "several identifiers; "+p.IDType+" is used")
	}
}

func (r *reader) address(address *xmlquery.Node) (country, line1, line2, gln string) {
	for n := range r.children(address) {
		switch n.Data {
		case "KodKraju":
			country = text(n)
		case "AdresL1":
			line1 = text(n)
		case "AdresL2":
			line2 = text(n)
		case "GLN":
			gln = text(n)
		}
	}
	return country, line1, line2, gln
}

func (r *reader) contact(contact *xmlquery.Node) Contact {
	var c Contact
	for n := range r.children(contact) {
		switch n.Data {
		case "Email", "EmailPU":
			c.Email = text(n)
		case "Telefon", "TelefonPU":
			c.Phone = text(n)
		}
	}
	return c
}

func (r *reader) line(row *xmlquery.Node) {
	if !r.enterRow(row) {
		return
	}
	defer r.leaveRow()
	line := Line{Kind: "line", Position: r.position}
	for n := range r.children(row) {
		switch n.Data {
		case "NrWierszaFa":
			line.Number = r.integer(n, 0, maxLineNumber)
		case "UU_ID":
			line.UID = text(n)
		case "P_6A":
			line.SaleDate = r.date(n)
		case "P_7":
			line.Name = text(n)
		case "Indeks":
			line.ItemCode = text(n)
		case "GTIN":
			line.GTIN = text(n)
		case "PKWiU":
			line.PKWiU = text(n)
		case "CN":
			line.CN = text(n)
		case "PKOB":
			line.PKOB = text(n)
		case "P_8A":
			line.Unit = text(n)
		case "P_8B":
			line.Quantity = r.decimal(n)
		case "P_9A":
			line.UnitPriceNet = r.decimal(n)
		case "P_9B":
			line.UnitPriceGross = r.decimal(n)
		case "P_10":
			line.Discount = r.decimal(n)
		case "P_11":
			line.Net, _ = r.amount(n)
		case "P_11A":
			line.Gross, _ = r.amount(n)
		case "P_11Vat":
			line.VAT, _ = r.amount(n)
		case "P_12":
			line.VATRate = text(n)
		case "P_12_XII":
			line.OSSRate = r.decimal(n)
		case "P_12_Zal_15":
			line.Annex15 = isOne(n)
		case "KwotaAkcyzy":
			line.Excise, _ = r.amount(n)
		case "GTU":
			line.GTU = text(n)
		case "Procedura":
			line.Procedure = text(n)
		case "KursWaluty":
			line.ExchangeRate = r.decimal(n)
		case "StanPrzed":
			line.BeforeCorrection = isOne(n)
		}
	}
	r.doc.Lines = append(r.doc.Lines, line)
}

// orderLine reads a row of the order that an advance invoice is for. Its amounts
// are those of the order, not of the advance.
func (r *reader) orderLine(row *xmlquery.Node) {
	if !r.enterRow(row) {
		return
	}
	defer r.leaveRow()
	line := Line{Kind: "order", Position: r.position}
	for n := range r.children(row) {
		switch n.Data {
		case "NrWierszaZam":
			line.Number = r.integer(n, 0, maxLineNumber)
		case "UU_IDZ":
			line.UID = text(n)
		case "P_7Z":
			line.Name = text(n)
		case "IndeksZ":
			line.ItemCode = text(n)
		case "GTINZ":
			line.GTIN = text(n)
		case "PKWiUZ":
			line.PKWiU = text(n)
		case "CNZ":
			line.CN = text(n)
		case "PKOBZ":
			line.PKOB = text(n)
		case "P_8AZ":
			line.Unit = text(n)
		case "P_8BZ":
			line.Quantity = r.decimal(n)
		case "P_9AZ":
			line.UnitPriceNet = r.decimal(n)
		case "P_11NettoZ":
			line.Net, _ = r.amount(n)
		case "P_11VatZ":
			line.VAT, _ = r.amount(n)
		case "P_12Z":
			line.VATRate = text(n)
		case "P_12Z_XII":
			line.OSSRate = r.decimal(n)
		case "P_12Z_Zal_15":
			line.Annex15 = isOne(n)
		case "GTUZ":
			line.GTU = text(n)
		case "ProceduraZ":
			line.Procedure = text(n)
		case "KwotaAkcyzyZ":
			line.Excise, _ = r.amount(n)
		case "StanPrzedZ":
			line.BeforeCorrection = isOne(n)
		}
	}
	r.doc.Lines = append(r.doc.Lines, line)
}

// enterRow begins a repeated element: it sets the position that the row and its
// warnings have, and reports false for rows beyond maxRows.
func (r *reader) enterRow(n *xmlquery.Node) bool {
	if r.rows == nil {
		r.rows = make(map[string]int)
	}
	r.rows[n.Data]++
	r.row, r.position = n.Data, r.rows[n.Data]
	if r.position <= maxRows {
		return true
	}
	if r.position == maxRows+1 {
		r.warn(n, fmt.Sprintf("only the first %d are read", maxRows))
	}
	r.leaveRow()
	return false
}

func (r *reader) leaveRow() { r.row = "" }

// warn notes that n could not be read as it stands.
func (r *reader) warn(n *xmlquery.Node, why string) {
	if len(r.doc.Warnings) == maxWarnings {
		r.dropped++
		return
	}
	where := n.Data
	if r.row != "" && r.row != n.Data {
		where = fmt.Sprintf("%s %d/%s", r.row, r.position, n.Data)
	}
	r.doc.Warnings = append(r.doc.Warnings, where+": "+why)
}

// amount reads n as hundredths. ok is false when n holds something else.
func (r *reader) amount(n *xmlquery.Node) (amount Minor, ok bool) {
	value, err := hundredths(text(n))
	if err != nil {
		r.warn(n, err.Error())
		return Minor{}, false
	}
	return Minor{value, true}, true
}

func (r *reader) decimal(n *xmlquery.Node) string {
	value, err := canonicalDecimal(text(n))
	if err != nil {
		r.warn(n, err.Error())
	}
	return value
}

// maxLineNumber fits an int on every platform.
const maxLineNumber = 1<<31 - 1

// integer reads a whole number between low and high; it is 0 when n holds
// something else.
func (r *reader) integer(n *xmlquery.Node, low, high int) int {
	s := text(n)
	value, err := strconv.Atoi(s)
	if err != nil || !isDigits(s) || value < low || value > high {
		r.warn(n, fmt.Sprintf("not a whole number from %d to %d", low, high))
		return 0
	}
	return value
}

// date reads YYYY-MM-DD; a time zone behind it, which xsd:date allows and the
// schemas of FA do not, is dropped.
func (r *reader) date(n *xmlquery.Node) string {
	s := text(n)
	day, zone := s[:min(len(s), len(time.DateOnly))], s[min(len(s), len(time.DateOnly)):]
	if _, err := time.Parse(time.DateOnly, day); err != nil || !isZone(zone) {
		r.warn(n, "not a date")
		return ""
	}
	return day
}

func isZone(s string) bool {
	if s == "" {
		return true
	}
	_, err := time.Parse("Z07:00", s)
	return err == nil
}

// dateTime reads an xsd:dateTime, with or without fraction and zone, as written.
func (r *reader) dateTime(n *xmlquery.Node) string {
	s := text(n)
	const local = "2006-01-02T15:04:05"
	zone := s[min(len(s), len(local)):]
	zone = strings.TrimLeft(zone, ".0123456789")
	if _, err := time.Parse(local, strings.TrimSuffix(s, zone)); err != nil || !isZone(zone) {
		r.warn(n, "not a date and time")
		return ""
	}
	return s
}

// isOne reads the markers of the schemas: 1 is yes; 2, where it is allowed, is no.
func isOne(n *xmlquery.Node) bool { return text(n) == "1" }

// attribute is the value of an attribute without namespace, "" without one.
func attribute(n *xmlquery.Node, name string) string {
	for _, a := range n.Attr {
		if a.Name.Local == name && a.NamespaceURI == "" {
			return collapse(a.Value)
		}
	}
	return ""
}

// text is the text directly inside n, joined across comments, entities and CDATA
// sections, with white space collapsed as for xsd:token.
func text(n *xmlquery.Node) string {
	first := n.FirstChild
	if first == nil {
		return ""
	}
	if first.NextSibling == nil && first.Type == xmlquery.TextNode {
		return collapse(first.Data)
	}
	var joined strings.Builder
	for child := first; child != nil; child = child.NextSibling {
		if child.Type == xmlquery.TextNode || child.Type == xmlquery.CharDataNode {
			joined.WriteString(child.Data)
		}
	}
	return collapse(joined.String())
}

// collapse trims white space and makes one space of each run of it.
func collapse(s string) string {
	if isCollapsed(s) {
		return s
	}
	var b strings.Builder
	b.Grow(len(s))
	for i := range len(s) {
		if !isSpace(s[i]) {
			if i > 0 && isSpace(s[i-1]) && b.Len() > 0 {
				b.WriteByte(' ')
			}
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

func isCollapsed(s string) bool {
	for i := range len(s) {
		if isSpace(s[i]) && (s[i] != ' ' || i == 0 || i == len(s)-1 || isSpace(s[i+1])) {
			return false
		}
	}
	return true
}
