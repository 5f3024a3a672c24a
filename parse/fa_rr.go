package parse

import "github.com/antchfx/xmlquery"

// invoiceRR reads FakturaRR, which a buyer issues for a flat-rate farmer. Its field
// numbers are not those of FA: P_7 is a price and P_11 the value of a line.
func (r *reader) invoiceRR(invoice *xmlquery.Node) {
	d := r.doc
	for n := range r.children(invoice) {
		switch n.Data {
		case "P_4A":
			d.SaleDate = r.date(n)
		case "P_4B":
			d.IssueDate = r.date(n)
		case "P_4C":
			d.InvoiceNumber = text(n)
		case "P_11_1":
			d.Net, _ = r.amount(n)
		case "P_11_1W":
			d.NetPLN, _ = r.amount(n)
		case "P_11_2":
			d.VAT, _ = r.amount(n)
		case "P_11_2W":
			d.VATPLN, _ = r.amount(n)
		case "P_12_1":
			d.Gross, _ = r.amount(n)
		case "P_12_1W":
			d.GrossPLN, _ = r.amount(n)
		case "P_12_2":
			r.note(n, Note{Kind: "amount_in_words", Value: text(n)})
		case "DokumentZaplaty":
			r.paymentDocument(n)
		case "FakturaRRWiersz":
			r.lineRR(n)
		default:
			r.common(n)
		}
	}
	if d.Net.Stated || d.VAT.Stated || d.VATPLN.Stated {
		d.VATRows = append(d.VATRows, VATRow{Bucket: "rr", Net: d.Net, VAT: d.VAT, VATPLN: d.VATPLN})
	}
}

func (r *reader) paymentDocument(document *xmlquery.Node) {
	if !r.enterRow(document) {
		return
	}
	defer r.leaveRow()
	p := Payment{Kind: "document", Position: r.position}
	for n := range r.children(document) {
		switch n.Data {
		case "NrDokumentu":
			p.Document = text(n)
		case "DataDokumentu":
			p.Date = r.date(n)
		}
	}
	r.doc.Payments = append(r.doc.Payments, p)
}

func (r *reader) lineRR(row *xmlquery.Node) {
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
		case "P_4AA":
			line.SaleDate = r.date(n)
		case "P_5":
			line.Name = text(n)
		case "GTIN":
			line.GTIN = text(n)
		case "PKWiU":
			line.PKWiU = text(n)
		case "CN":
			line.CN = text(n)
		case "P_6A":
			line.Unit = text(n)
		case "P_6B":
			line.Quantity = r.decimal(n)
		case "P_6C":
			line.QualityClass = text(n)
		case "P_7":
			line.UnitPriceNet = r.decimal(n)
		case "P_8":
			line.Net, _ = r.amount(n)
		case "P_9":
			line.VATRate = r.decimal(n) // "7.0" is valid, and the same rate as "7"
		case "P_10":
			line.VAT, _ = r.amount(n)
		case "P_11":
			line.Gross, _ = r.amount(n)
		case "StanPrzed":
			line.BeforeCorrection = isOne(n)
		case "KursWaluty":
			line.ExchangeRate = r.decimal(n)
		}
	}
	r.doc.Lines = append(r.doc.Lines, line)
}
