package parse

import (
	"strings"

	"github.com/antchfx/xmlquery"
)

// transactionTerms reads WarunkiTransakcji.
func (r *reader) transactionTerms(terms *xmlquery.Node) {
	d := r.doc
	for n := range r.children(terms) {
		switch n.Data {
		case "Umowy":
			r.agreement(n, "contract")
		case "Zamowienia":
			r.agreement(n, "order")
		case "NrPartiiTowaru":
			r.note(n, Note{Kind: "batch", Value: text(n)})
		case "WarunkiDostawy":
			d.DeliveryTerms = text(n)
		case "KursUmowny":
			d.ContractExchangeRate = r.decimal(n)
		case "WalutaUmowna":
			d.ContractCurrency = text(n)
		case "Transport":
			r.transport(n)
		case "PodmiotPosredniczacy":
			d.Intermediary = isOne(n)
		}
	}
}

// agreement reads a contract (Umowy) or an order (Zamowienia).
func (r *reader) agreement(agreement *xmlquery.Node, kind string) {
	document := RelatedDocument{Kind: kind}
	for n := range r.children(agreement) {
		switch n.Data {
		case "NrUmowy", "NrZamowienia":
			document.Number = text(n)
		case "DataUmowy", "DataZamowienia":
			document.Date = r.date(n)
		}
	}
	r.related(agreement, document)
}

func (r *reader) transport(transport *xmlquery.Node) {
	if !r.enterRow(transport) {
		return
	}
	defer r.leaveRow()
	t := Transport{Position: r.position}
	var via []string
	carriers := 0
	for n := range r.children(transport) {
		switch n.Data {
		case "RodzajTransportu":
			t.Mode = r.integer(n, 1, 8)
		case "OpisInnegoTransportu":
			t.ModeText = text(n)
		case "Przewoznik":
			carriers++
			if carriers == 1 { // it shares the position of its transport
				r.doc.Parties = append(r.doc.Parties, r.partyOf(n, "carrier"))
			}
		case "NrZleceniaTransportu":
			t.OrderNumber = text(n)
		case "OpisLadunku":
			t.Cargo = r.integer(n, 1, 20)
		case "OpisInnegoLadunku":
			t.CargoText = text(n)
		case "JednostkaOpakowania":
			t.Packaging = text(n)
		case "DataGodzRozpTransportu":
			t.DepartedAt = r.dateTime(n)
		case "DataGodzZakTransportu":
			t.ArrivedAt = r.dateTime(n)
		case "WysylkaZ":
			t.From = r.addressLine(n)
		case "WysylkaPrzez":
			via = append(via, r.addressLine(n))
		case "WysylkaDo":
			t.To = r.addressLine(n)
		}
	}
	t.Via = strings.Join(via, "\n")
	r.doc.Transports = append(r.doc.Transports, t)
}
