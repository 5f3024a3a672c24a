package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// extent is how much of the schema an invoice uses.
type extent int

const (
	usual extent = iota // what most invoices have, varied
	full                // what any invoice may have
)

// generator makes invoices up. Its choices look random and are always the same.
type generator struct{ state int64 }

// number gives one below n.
func (g *generator) number(n int) int {
	g.state = g.state*6364136223846793005 + 1442695040888963407 // Knuth's MMIX
	return int(g.state>>33&0x3fffffff) % n                      // the high bits: the low ones repeat early
}

func (g *generator) pick(words []string) string { return words[g.number(len(words))] }

// digits gives n of them, the first not 0.
func (g *generator) digits(n int) string {
	var b strings.Builder
	b.WriteString(strconv.Itoa(1 + g.number(9)))
	for range n - 1 {
		b.WriteString(strconv.Itoa(g.number(10)))
	}
	return b.String()
}

// amount gives hundredths as decimal text.
func amount(hundredths int) string { return fmt.Sprintf("%d.%02d", hundredths/100, hundredths%100) }

func (g *generator) date() string {
	return fmt.Sprintf("2026-%02d-%02d", 1+g.number(12), 1+g.number(28))
}

// sometimes gives the elements always in a full invoice, otherwise in so many of
// a hundred.
func (g *generator) sometimes(e extent, percent int, elements ...element) []element {
	if e == full || g.number(100) < percent {
		return elements
	}
	return nil
}

func (g *generator) invoice(schema int, e extent) element {
	attributes := ` xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns="http://crd.gov.pl/wzor/2025/06/25/13775/"`
	if schema == 2 {
		attributes = ` xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns="http://crd.gov.pl/wzor/2023/06/29/12648/"`
	}
	if g.number(2) == 0 {
		attributes = ` xmlns:etd="http://crd.gov.pl/xml/schematy/dziedzinowe/mf/2022/01/05/eD/DefinicjeTypy/"` + strings.Replace(attributes, ` xmlns:xsd="http://www.w3.org/2001/XMLSchema"`, "", 1)
	}
	children := slices.Concat(
		[]element{g.header(schema), g.seller(e), g.buyer(schema, e)},
		g.sometimes(e, 10, g.third(e)),
		[]element{g.body(schema, e)},
		g.sometimes(e, 50, g.footer(e)),
	)
	return element{name: "Faktura", attributes: attributes, children: children}
}

func (g *generator) header(schema int) element {
	code := element{name: "KodFormularza", text: "FA", attributes: fmt.Sprintf(` kodSystemowy="FA (%d)" wersjaSchemy="1-0E"`, schema)}
	return group("Naglowek", code,
		leaf("WariantFormularza", fmt.Sprint(schema)),
		leaf("DataWytworzeniaFa", g.date()+fmt.Sprintf("T%02d:%02d:%02dZ", 6+g.number(14), g.number(60), g.number(60))),
		leaf("SystemInfo", g.pick(systems)))
}

func (g *generator) identity(company bool) element {
	name := g.pick(companies) + " " + g.pick(companyForms)
	if !company {
		name = g.pick(firstNames) + " " + g.pick(lastNames)
	}
	return group("DaneIdentyfikacyjne", leaf("NIP", g.digits(10)), leaf("Nazwa", name))
}

func (g *generator) address(name string) element {
	return group(name, leaf("KodKraju", "PL"),
		leaf("AdresL1", g.pick(streets)+" "+fmt.Sprint(1+g.number(150))),
		leaf("AdresL2", fmt.Sprintf("%02d-%03d ", g.number(99), g.number(999))+g.pick(cities)))
}

func (g *generator) contact() element {
	domain := g.digits(3) + ".pl"
	return group("DaneKontaktowe", leaf("Email", g.pick([]string{"biuro@", "faktury@", "ksiegowosc@", "kontakt@"})+domain), leaf("Telefon", "+48"+g.digits(9)))
}

func (g *generator) seller(e extent) element {
	return group("Podmiot1", slices.Concat(
		g.sometimes(e, 15, leaf("PrefiksPodatnika", "PL")),
		[]element{g.identity(true), g.address("Adres")},
		g.sometimes(e, 10, g.address("AdresKoresp")),
		g.sometimes(e, 50, g.contact()))...)
}

func (g *generator) buyer(schema int, e extent) element {
	marks := []element{leaf("JST", "2"), leaf("GV", "2")}
	if schema == 2 {
		marks = nil
	}
	return group("Podmiot2", slices.Concat(
		[]element{g.identity(g.number(4) > 0), g.address("Adres")},
		g.sometimes(e, 30, g.contact()),
		g.sometimes(e, 30, leaf("NrKlienta", g.digits(6))),
		marks)...)
}

func (g *generator) third(e extent) element {
	return group("Podmiot3", slices.Concat(
		g.sometimes(e, 10, leaf("IDNabywcy", "0001")),
		[]element{g.identity(true), g.address("Adres"), leaf("Rola", fmt.Sprint(1+g.number(10)))})...)
}

func (g *generator) body(schema int, e extent) element {
	foreign := e == full && g.number(2) == 0 || g.number(20) == 0
	currency := "PLN"
	if foreign {
		currency = "EUR"
	}
	lines, net, vat := g.lines(schema, e)
	kind := g.pick([]string{"VAT", "VAT", "VAT", "VAT", "KOR"})
	place := g.pick(cities)
	children := slices.Concat(
		[]element{leaf("KodWaluty", currency), leaf("P_1", g.date())},
		g.sometimes(e, 70, leaf("P_1M", place)),
		[]element{leaf("P_2", g.invoiceNumber())},
		g.sometimes(e, 10, leaf("WZ", "WZ "+g.digits(4)+"/2026")),
	)
	if g.number(5) == 0 {
		children = append(children, group("OkresFa", leaf("P_6_Od", g.date()), leaf("P_6_Do", g.date())))
	} else {
		children = append(children, leaf("P_6", g.date()))
	}
	children = append(children, leaf("P_13_1", amount(net)), leaf("P_14_1", amount(vat)))
	if foreign {
		children = append(children, leaf("P_14_1W", amount(vat*43/10)))
	}
	children = slices.Concat(children,
		g.sometimes(e, 15, leaf("P_13_2", amount(net/3)), leaf("P_14_2", amount(net/3*8/100))),
		g.sometimes(e, 5, leaf("P_13_3", amount(net/7)), leaf("P_14_3", amount(net/7*5/100))),
		g.sometimes(e, 2, leaf("P_13_6_1", amount(net))),
		g.sometimes(e, 3, leaf("P_13_6_2", amount(net))),
		g.sometimes(e, 5, leaf("P_13_7", amount(net))),
		g.sometimes(e, 2, leaf("P_13_8", amount(net))),
		[]element{leaf("P_15", amount(net+vat)), g.annotations(), leaf("RodzajFaktury", kind)},
	)
	if kind == "KOR" || e == full {
		children = append(children, g.correction()...)
	}
	children = slices.Concat(children,
		g.sometimes(e, 5, leaf("FP", "1")), g.sometimes(e, 3, leaf("TP", "1")),
		g.sometimes(e, 30, group("DodatkowyOpis", leaf("Klucz", g.pick(descriptionKeys)), leaf("Wartosc", g.pick(remarks)))),
		g.sometimes(e, 2, group("FakturaZaliczkowa", leaf("NrKSeFFaZaliczkowej", g.ksefNumber()))),
		lines,
		g.sometimes(e, 3, group("Rozliczenie", group("Obciazenia", leaf("Kwota", amount(g.number(99999))), leaf("Powod", "kaucja")),
			leaf("SumaObciazen", amount(g.number(99999))), leaf("DoZaplaty", amount(net+vat)))),
		[]element{g.payment(e)},
		g.sometimes(e, 15, group("WarunkiTransakcji",
			group("Umowy", leaf("DataUmowy", g.date()), leaf("NrUmowy", g.digits(4)+"/2026")),
			group("Zamowienia", leaf("DataZamowienia", g.date()), leaf("NrZamowienia", "ZAM/"+g.digits(5))),
			leaf("WarunkiDostawy", "DAP"))),
	)
	return group("Fa", children...)
}

func (g *generator) invoiceNumber() string {
	switch g.number(6) {
	case 0:
		return "FV/" + g.digits(4) + fmt.Sprintf("/%02d/2026", 1+g.number(12))
	case 1:
		return "FS-" + g.digits(3) + "/26"
	case 2:
		return fmt.Sprintf("%d/%02d/2026", g.number(500), 1+g.number(12))
	case 3:
		return "FA/" + g.digits(5) + "/2026"
	case 4:
		return "F " + g.digits(6)
	default:
		return "FV" + fmt.Sprintf("2026/%02d/", 1+g.number(12)) + g.digits(3)
	}
}

func (g *generator) ksefNumber() string {
	return g.digits(10) + strings.ReplaceAll("-"+g.date()+"-", "26-", "26") + "0100" + g.digits(8) + "-" + g.digits(2)
}

// annotations are nearly the same on every invoice.
func (g *generator) annotations() element {
	split := "2"
	if g.number(6) == 0 {
		split = "1"
	}
	exempt := group("Zwolnienie", leaf("P_19N", "1"))
	if g.number(12) == 0 {
		exempt = group("Zwolnienie", leaf("P_19", "1"), leaf("P_19A", "art. 43 ust. 1 pkt "+g.digits(2)+" ustawy o VAT"))
	}
	return group("Adnotacje", leaf("P_16", "2"), leaf("P_17", "2"), leaf("P_18", "2"), leaf("P_18A", split), exempt,
		group("NoweSrodkiTransportu", leaf("P_22N", "1")), leaf("P_23", "2"), group("PMarzy", leaf("P_PMarzyN", "1")))
}

func (g *generator) correction() []element {
	return []element{
		leaf("PrzyczynaKorekty", g.pick(correctionReasons)), leaf("TypKorekty", fmt.Sprint(1+g.number(3))),
		group("DaneFaKorygowanej", leaf("DataWystFaKorygowanej", g.date()), leaf("NrFaKorygowanej", g.invoiceNumber()),
			leaf("NrKSeF", "1"), leaf("NrKSeFFaKorygowanej", g.ksefNumber())),
	}
}

func (g *generator) lines(schema int, e extent) (lines []element, net, vat int) {
	count := 1 + g.number(8)
	if e == full {
		count = 1
	}
	for i := range count {
		price := 100 + g.number(200000)
		quantity := 1 + g.number(20)
		rate, factor := "23", 23
		if g.number(5) == 0 {
			rate = g.pick([]string{"8", "5", "zw", "0 WDT", "np I"})
			if schema == 2 {
				rate = g.pick([]string{"8", "5", "zw", "0", "np"})
			}
			factor = 0
		}
		net += price * quantity
		vat += price * quantity * factor / 100
		amounts := []element{leaf("P_9A", amount(price)), leaf("P_11", amount(price*quantity))}
		if g.number(8) == 0 {
			amounts = []element{leaf("P_9B", amount(price)), leaf("P_11A", amount(price*quantity))}
		}
		lines = append(lines, group("FaWiersz", slices.Concat(
			[]element{leaf("NrWierszaFa", fmt.Sprint(i+1))},
			g.sometimes(e, 20, leaf("UU_ID", g.digits(16))),
			g.sometimes(e, 5, leaf("P_6A", g.date())),
			[]element{leaf("P_7", g.pick(goods))},
			g.sometimes(e, 20, leaf("Indeks", g.digits(6))),
			g.sometimes(e, 10, leaf("GTIN", "590"+g.digits(10))),
			g.sometimes(e, 10, leaf("PKWiU", g.digits(2)+"."+g.digits(2)+".1")),
			g.sometimes(e, 5, leaf("CN", g.digits(8))),
			[]element{leaf("P_8A", g.pick(units)), leaf("P_8B", fmt.Sprint(quantity))},
			amounts[:1],
			g.sometimes(e, 5, leaf("P_10", amount(g.number(5000)))),
			amounts[1:],
			[]element{leaf("P_12", rate)},
			g.sometimes(e, 5, leaf("GTU", fmt.Sprintf("GTU_%02d", 1+g.number(13)))),
			g.sometimes(e, 2, leaf("KursWaluty", "4."+g.digits(4))))...))
	}
	return lines, net, vat
}

func (g *generator) payment(e extent) element {
	account := group("RachunekBankowy", slices.Concat(
		[]element{leaf("NrRB", g.digits(26))},
		g.sometimes(e, 20, leaf("SWIFT", g.pick([]string{"BREXPLPW", "PKOPPLPW", "WBKPPLPP", "INGBPLPW", "BPKOPLPW"}))),
		g.sometimes(e, 60, leaf("NazwaBanku", g.pick(banks))),
		g.sometimes(e, 10, leaf("OpisRachunku", "PLN")))...)
	term := group("TerminPlatnosci", leaf("Termin", g.date()))
	method := leaf("FormaPlatnosci", g.pick([]string{"6", "6", "6", "1", "2"}))
	if g.number(4) == 0 {
		return group("Platnosc", leaf("Zaplacono", "1"), leaf("DataZaplaty", g.date()), method)
	}
	return group("Platnosc", slices.Concat([]element{term, method}, g.sometimes(e, 80, account))...)
}

func (g *generator) footer(e extent) element {
	return group("Stopka", slices.Concat(
		g.sometimes(e, 60, group("Informacje", leaf("StopkaFaktury", g.pick(footers)))),
		[]element{group("Rejestry", slices.Concat(
			g.sometimes(e, 60, leaf("KRS", "0000"+g.digits(6))),
			g.sometimes(e, 80, leaf("REGON", g.digits(9))),
			g.sometimes(e, 40, leaf("BDO", "000"+g.digits(6))))...)})...)
}
