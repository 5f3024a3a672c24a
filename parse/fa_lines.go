package parse

import "github.com/antchfx/xmlquery"

// linesAndSum reads FaWiersze of FA(1).
func (r *reader) linesAndSum(rows *xmlquery.Node) {
	for n := range r.children(rows) {
		switch n.Data {
		case "WartoscWierszyFaktury1":
			r.doc.LinesNet, _ = r.amount(n)
		case "FaWiersz":
			r.line(n)
		}
	}
}

func (r *reader) line(row *xmlquery.Node) {
	if !r.enterRow(row) {
		return
	}
	defer r.leaveRow()
	line := Line{Kind: "line", Position: r.position}
	var info *xmlquery.Node
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
		case "DodatkoweInfo": // FA(1)
			info = n
		}
	}
	r.lineInfo(info, line.Number)
	r.doc.Lines = append(r.doc.Lines, line)
}

func (r *reader) lineInfo(n *xmlquery.Node, line int) {
	if n != nil {
		r.note(n, Note{Kind: "line_info", Line: line, Value: text(n)})
	}
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
		case "KursWalutyZ": // FA(1)
			line.ExchangeRate = r.decimal(n)
		case "StanPrzedZ":
			line.BeforeCorrection = isOne(n)
		}
	}
	r.doc.Lines = append(r.doc.Lines, line)
}

func (r *reader) order(order *xmlquery.Node) {
	for n := range r.children(order) {
		switch n.Data {
		case "WartoscZamowienia":
			r.doc.OrderValue, _ = r.amount(n)
		case "ZamowienieWiersz":
			r.orderLine(n)
		}
	}
}
