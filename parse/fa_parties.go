package parse

import (
	"cmp"
	"slices"
	"strings"

	"github.com/antchfx/xmlquery"
)

// party reads any of the parties; each element occurs only where the schema has it.
func (r *reader) party(party *xmlquery.Node, kind string) {
	if !r.enterRow(party) {
		return
	}
	defer r.leaveRow()
	r.doc.Parties = append(r.doc.Parties, r.partyOf(party, kind))
}

// partyOf reads the party inside of a row, whose position it gets.
func (r *reader) partyOf(party *xmlquery.Node, kind string) Party {
	p := Party{Kind: kind, Position: r.position}
	var contact Contact   // of FA(1), which has it flat
	var vatCountry string // likewise
	for n := range r.children(party) {
		switch n.Data {
		case "PrefiksPodatnika":
			p.IDCountry = text(n)
		case "PrefiksNabywcy":
			vatCountry = text(n)
		case "NrEORI":
			p.EORI = text(n)
		case "DaneIdentyfikacyjne":
			r.identity(n, &p)
		case "Adres", "AdresPrzewoznika":
			p.Country, p.Address1, p.Address2, p.GLN = r.address(n)
		case "AdresKoresp":
			p.MailCountry, p.MailAddress1, p.MailAddress2, _ = r.address(n)
		case "DaneKontaktowe":
			if contact := r.contact(n); contact != (Contact{}) {
				p.Contacts = append(p.Contacts, contact)
			}
		case "Email", "EmailPU":
			contact.Email = text(n)
		case "Telefon", "TelefonPU":
			if contact.Phone != "" { // FA(1) has several
				p.Contacts = append(p.Contacts, contact)
				contact = Contact{}
			}
			contact.Phone = text(n)
		case "StatusInfoPodatnika":
			p.TaxpayerStatus = r.integer(n, 1, 4)
		case "NrKlienta", "NrKontrahenta": // the latter in FA_RR
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
	if contact != (Contact{}) {
		p.Contacts = append(p.Contacts, contact)
	}
	if vatCountry != "" && vatCountry != "PL" && p.ID != "" {
		p.IDType, p.IDCountry, p.NIP = "VatUe", vatCountry, ""
	}
	return p
}

// identity reads DaneIdentyfikacyjne, whose identifiers are a choice. Documents
// with two of them exist; the NIP then counts, as in KSeF's metadata.
func (r *reader) identity(identity *xmlquery.Node, p *Party) {
	var nip, internal, vatPrefix, vat, country, other string
	var firstName, lastName string
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
		case "Nazwa", "PelnaNazwa": // the latter in FA(1), as the next three
			p.Name = text(n)
		case "ImiePierwsze":
			firstName = text(n)
		case "Nazwisko":
			lastName = text(n)
		case "NazwaHandlowa":
			p.TradeName = text(n)
		}
	}
	if p.Name == "" {
		p.Name = strings.TrimSpace(firstName + " " + lastName)
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

// address reads an address of two lines, or one of FA(1) in its parts.
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
		case "AdresPol", "AdresZagr":
			return r.addressInParts(n)
		}
	}
	return country, line1, line2, gln
}

// addressInParts makes the two lines of an address of FA(1) from its parts. The
// community, district and voivodeship, which the place implies, are left out.
func (r *reader) addressInParts(address *xmlquery.Node) (country, line1, line2, gln string) {
	var street, house, flat, place, postCode, postOffice string
	for n := range r.children(address) {
		switch n.Data {
		case "KodKraju":
			country = text(n)
		case "Ulica":
			street = text(n)
		case "NrDomu":
			house = text(n)
		case "NrLokalu":
			flat = "/" + text(n)
		case "Miejscowosc":
			place = text(n)
		case "KodPocztowy":
			postCode = text(n)
		case "Poczta":
			postOffice = text(n)
		case "GLN":
			gln = text(n)
		}
	}
	if street != "" || house != "" { // a village has no streets
		line1 = collapse(cmp.Or(street, place) + " " + house + flat)
	}
	line2 = collapse(postCode + " " + place)
	if postOffice != "" && postOffice != place {
		line2 = joined(line2, "poczta "+postOffice)
	}
	return country, line1, line2, gln
}

// addressLine is an address in one line.
func (r *reader) addressLine(address *xmlquery.Node) string {
	country, line1, line2, gln := r.address(address)
	if gln != "" {
		gln = "GLN " + gln
	}
	return joined(line1, line2, country, gln)
}

// joined lists those of the parts that are not empty.
func joined(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ", ")
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
