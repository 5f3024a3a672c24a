package parse

import (
	"strings"

	"github.com/antchfx/xmlquery"
)

func (r *reader) settlement(settlement *xmlquery.Node) {
	d := r.doc
	for n := range r.children(settlement) {
		switch n.Data {
		case "Obciazenia":
			r.adjustment(n, "charge")
		case "SumaObciazen":
			d.Charges, _ = r.amount(n)
		case "Odliczenia":
			r.adjustment(n, "deduction")
		case "SumaOdliczen":
			d.Deductions, _ = r.amount(n)
		case "DoZaplaty":
			d.ToPay, _ = r.amount(n)
		case "DoRozliczenia":
			d.ToSettle, _ = r.amount(n)
		}
	}
}

func (r *reader) adjustment(adjustment *xmlquery.Node, kind string) {
	if !r.enterRow(adjustment) {
		return
	}
	defer r.leaveRow()
	a := Adjustment{Kind: kind, Position: r.position}
	for n := range r.children(adjustment) {
		switch n.Data {
		case "Kwota":
			a.Amount, _ = r.amount(n)
		case "Powod":
			a.Reason = text(n)
		}
	}
	r.doc.Adjustments = append(r.doc.Adjustments, a)
}

// payment reads Platnosc: what the issuer claims at the time of issue.
func (r *reader) payment(payment *xmlquery.Node) {
	d := r.doc
	var paid, partial bool
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
		case "ZaplataCzesciowa", "PlatnosciCzesciowe": // FA(1) has the latter, and in the former the marker
			if isOne(n) {
				partial = true
			} else {
				r.partialPayment(n)
			}
		case "TerminPlatnosci", "TerminyPlatnosci": // the latter in FA(1)
			r.paymentTerm(n)
		case "FormaPlatnosci":
			d.PaymentMethodCode = text(n)
			d.PaymentMethod = r.paymentMethod(n)
		case "OpisPlatnosci": // with PlatnoscInna, instead of FormaPlatnosci
			d.PaymentMethodText = text(n)
		case "RachunekBankowy":
			r.account(n, "seller")
		case "RachunekBankowyFaktora":
			r.account(n, "factor")
		case "RachunekBankowy1": // FA_RR, as the next
			r.account(n, "farmer")
		case "RachunekBankowy2":
			r.account(n, "buyer")
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
	case len(d.DueDates) > 0:
		d.PaymentStatus = "unpaid"
	default:
		d.PaymentStatus = "unknown"
	}
}

func (r *reader) partialPayment(payment *xmlquery.Node) {
	if !r.enter(payment, "paid", maxRows) {
		return
	}
	defer r.leaveRow()
	p := Payment{Kind: "paid", Position: r.position}
	for n := range r.children(payment) {
		switch n.Data {
		case "KwotaZaplatyCzesciowej":
			p.Amount, _ = r.amount(n)
		case "DataZaplatyCzesciowej":
			p.Date = r.date(n)
		case "FormaPlatnosci":
			p.Method = r.paymentMethod(n)
		case "OpisPlatnosci":
			p.MethodText = text(n)
		}
	}
	r.doc.Payments = append(r.doc.Payments, p)
}

// advancePart reads ZaliczkaCzesciowa, one of the receipts that an advance invoice
// documents.
func (r *reader) advancePart(part *xmlquery.Node) {
	if !r.enterRow(part) {
		return
	}
	defer r.leaveRow()
	p := Payment{Kind: "advance_part", Position: r.position}
	for n := range r.children(part) {
		switch n.Data {
		case "P_6Z":
			p.Date = r.date(n)
		case "P_15Z":
			p.Amount, _ = r.amount(n)
		case "KursWalutyZW":
			p.ExchangeRate = r.decimal(n)
		}
	}
	r.doc.Payments = append(r.doc.Payments, p)
}

// paymentTerm reads TerminPlatnosci: a date, or a description such as "14 days from
// delivery", which is not computed.
func (r *reader) paymentTerm(term *xmlquery.Node) {
	if !r.enter(term, "due", maxRows) {
		return
	}
	defer r.leaveRow()
	due := DueDate{Position: r.position}
	for n := range r.children(term) {
		switch n.Data {
		case "Termin", "TerminPlatnosci": // the latter in FA(1)
			due.Date = r.date(n)
		case "TerminOpis", "TerminPlatnosciOpis":
			due.Description = r.termDescription(n)
		}
	}
	r.due(due)
}

// due keeps a term of payment that says anything.
func (r *reader) due(due DueDate) {
	if due.Date == "" && due.Description == "" {
		return
	}
	d := r.doc
	d.DueDates = append(d.DueDates, due)
	if due.Date == "" {
		return
	}
	if d.FirstDueDate == "" || due.Date < d.FirstDueDate {
		d.FirstDueDate = due.Date
	}
	d.LastDueDate = max(d.LastDueDate, due.Date)
}

// termDescription reads TerminOpis: a text or, in FA(3), the number of units, the
// unit and the event from which they count.
func (r *reader) termDescription(description *xmlquery.Node) string {
	parts := []string{text(description)}
	for n := range r.children(description) {
		parts = append(parts, text(n))
	}
	return collapse(strings.Join(parts, " "))
}

// paymentMethod reads FormaPlatnosci. FA_RR has one form of payment, the transfer.
func (r *reader) paymentMethod(n *xmlquery.Node) string {
	methods := []string{"cash", "card", "voucher", "cheque", "credit", "transfer", "mobile"}
	if r.doc.Form == "FA_RR" {
		methods = []string{"transfer"}
	}
	if code := r.integer(n, 1, len(methods)); code > 0 {
		return methods[code-1]
	}
	return ""
}

// account reads a bank account. FA(1) names the number by its standard.
func (r *reader) account(account *xmlquery.Node, owner string) {
	if !r.enterRow(account) {
		return
	}
	defer r.leaveRow()
	a := Account{Owner: owner, Position: r.position}
	for n := range r.children(account) {
		switch n.Data {
		case "NrRB", "NrRBPL", "NrRBZagr":
			a.Number = text(n)
		case "SWIFT":
			a.SWIFT = text(n)
		case "RachunekWlasnyBanku":
			a.BankOwn = r.integer(n, 1, 3)
		case "NazwaBanku":
			a.BankName = text(n)
		case "OpisRachunku":
			a.Description = text(n)
		}
	}
	r.doc.Accounts = append(r.doc.Accounts, a)
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
