package parse

import (
	"cmp"
	"strings"

	"github.com/antchfx/xmlquery"
)

// ublParty reads a party, which some elements wrap in one more element.
func (r *reader) ublParty(party *xmlquery.Node, kind string) {
	if !r.enterRow(party) {
		return
	}
	defer r.leaveRow()
	p := Party{Kind: kind, Position: r.position}
	if kind == "authorized" {
		p.RoleCode = 3 // RolaPU 3: tax representative
	}
	if wrapped := r.child(party, "Party"); wrapped != nil {
		party = wrapped
	}
	var vatID, taxID string
	for n := range r.children(party) {
		switch n.Data {
		case "EndpointID":
			p.Endpoint = strings.TrimPrefix(attribute(n, "schemeID")+":"+text(n), ":")
		case "PartyIdentification":
			r.partyIdentification(n, &p)
		case "PartyName":
			p.TradeName = r.childText(n, "Name")
		case "PostalAddress":
			p.Country, p.Address1, p.Address2 = r.ublAddress(n)
		case "PartyTaxScheme":
			if id := r.childText(n, "CompanyID"); r.childText(n, "TaxScheme", "ID") == "VAT" {
				vatID = id
			} else {
				taxID = id
			}
		case "PartyLegalEntity":
			p.Name = r.childText(n, "RegistrationName")
			p.LegalID = r.childText(n, "CompanyID")
		case "Contact":
			contact := Contact{Email: r.childText(n, "ElectronicMail"), Phone: r.childText(n, "Telephone")}
			if contact != (Contact{}) {
				p.Contacts = append(p.Contacts, contact)
			}
		}
	}
	p.Name = cmp.Or(p.Name, p.TradeName)
	if p.TradeName == p.Name {
		p.TradeName = ""
	}
	ublIdentity(&p, cmp.Or(vatID, taxID))
	r.doc.Parties = append(r.doc.Parties, p)
}

// schemeGLN is the code of GLN in the lists of identifiers (ICD 0088).
const schemeGLN = "0088"

func (r *reader) partyIdentification(identification *xmlquery.Node, p *Party) {
	n := r.child(identification, "ID")
	switch {
	case n == nil:
	case attribute(n, "schemeID") == schemeGLN:
		p.GLN = text(n)
	default:
		p.CustomerNumber = text(n)
	}
}

// euPrefixes are the countries of VAT numbers of the EU (TKodyKrajowUE), but Poland.
const euPrefixes = " AT BE BG CY CZ DE DK EE EL ES FI FR HR HU IE IT LT LU LV MT NL PT RO SE SI SK XI "

// ublIdentity tells the kind of a tax number. By EN 16931 (BT-31, BT-48) it begins
// with its country; Polish issuers often leave that out of a NIP.
func ublIdentity(p *Party, number string) {
	country, rest := number[:min(2, len(number))], strings.TrimSpace(number[min(2, len(number)):])
	nip, isPolish := number, false
	if country == "PL" {
		nip = rest
	}
	isPolish = len(nip) == 10 && isDigits(nip)
	switch {
	case number == "":
	case isPolish:
		p.IDType, p.ID, p.NIP = "Nip", nip, nip
	case strings.Contains(euPrefixes, " "+country+" "):
		p.IDType, p.ID, p.IDCountry = "VatUe", rest, country
	default:
		p.IDType, p.ID = "Other", number
	}
}

// ublAddress makes the two lines of an address from its parts.
func (r *reader) ublAddress(address *xmlquery.Node) (country, line1, line2 string) {
	street, further := r.childText(address, "StreetName"), r.childText(address, "AdditionalStreetName")
	line1 = joined(street, further, r.childText(address, "AddressLine", "Line"))
	place := collapse(r.childText(address, "PostalZone") + " " + r.childText(address, "CityName"))
	line2 = joined(place, r.childText(address, "CountrySubentity"))
	return r.childText(address, "Country", "IdentificationCode"), line1, line2
}

// delivery reads where, when and to whom the goods went.
func (r *reader) delivery(delivery *xmlquery.Node) {
	if !r.enterRow(delivery) {
		return
	}
	defer r.leaveRow()
	p := Party{Kind: "delivery", Position: r.position}
	for n := range r.children(delivery) {
		switch n.Data {
		case "ActualDeliveryDate":
			r.doc.SaleDate = r.date(n)
		case "DeliveryLocation":
			if id := r.child(n, "ID"); id != nil && attribute(id, "schemeID") == schemeGLN {
				p.GLN = text(id)
			}
			if address := r.child(n, "Address"); address != nil {
				p.Country, p.Address1, p.Address2 = r.ublAddress(address)
			}
		case "DeliveryParty":
			p.Name = r.childText(n, "PartyName", "Name")
		}
	}
	if p.Name != "" || p.Country != "" || p.GLN != "" || p.Address1 != "" || p.Address2 != "" {
		r.doc.Parties = append(r.doc.Parties, p)
	}
}
