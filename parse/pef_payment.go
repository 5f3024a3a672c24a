package parse

import "github.com/antchfx/xmlquery"

func (r *reader) ublDueDate(n *xmlquery.Node) {
	if position, ok := r.next(n, "due", maxRows); ok {
		r.due(DueDate{Position: position, Date: r.date(n)})
	}
}

func (r *reader) ublPaymentTerms(terms *xmlquery.Node) {
	if position, ok := r.next(terms, "due", maxRows); ok {
		r.due(DueDate{Position: position, Description: r.childText(terms, "Note")})
	}
}

// paymentMeans reads a way to pay. Each account is in one of its own; what they say
// of the method is the same in all (EN 16931, BG-16), so the first counts.
func (r *reader) paymentMeans(means *xmlquery.Node) {
	d := r.doc
	for n := range r.children(means) {
		switch n.Data {
		case "PaymentMeansCode":
			if d.PaymentMethodCode == "" {
				d.PaymentMethodCode, d.PaymentMethodText = text(n), attribute(n, "name")
				d.PaymentMethod = ublPaymentMethod(d.PaymentMethodCode)
			}
		case "PaymentDueDate":
			r.ublDueDate(n)
		case "PaymentID":
			if d.PaymentReference == "" {
				d.PaymentReference = text(n)
			}
		case "PayeeFinancialAccount":
			r.ublAccount(n, "seller")
		case "PaymentMandate": // of a direct debit
			if account := r.child(n, "PayerFinancialAccount"); account != nil {
				r.ublAccount(account, "buyer")
			}
		}
	}
}

// ublPaymentMethod translates the codes of UNCL 4461 that have a word in FA.
func ublPaymentMethod(code string) string {
	switch code {
	case "10":
		return "cash"
	case "20":
		return "cheque"
	case "30", "31", "42", "58":
		return "transfer"
	case "48", "54", "55":
		return "card"
	default:
		return ""
	}
}

func (r *reader) ublAccount(account *xmlquery.Node, owner string) {
	if !r.enterRow(account) {
		return
	}
	defer r.leaveRow()
	r.doc.Accounts = append(r.doc.Accounts, Account{
		Owner: owner, Position: r.position, Number: r.childText(account, "ID"),
		SWIFT: r.childText(account, "FinancialInstitutionBranch", "ID"), Description: r.childText(account, "Name"),
	})
}
