package ksefsim

import (
	"encoding/xml"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// writer writes XML indented by its depth.
type writer struct {
	text strings.Builder
	open []string
}

func (w *writer) indent() { w.text.WriteString(strings.Repeat("    ", len(w.open))) }

// in writes an element and, within it, whatever inside writes.
func (w *writer) in(name string, inside func()) {
	w.indent()
	fmt.Fprintf(&w.text, "<%s>\n", name)
	w.open = append(w.open, name)
	inside()
	w.open = w.open[:len(w.open)-1]
	w.indent()
	fmt.Fprintf(&w.text, "</%s>\n", name)
}

// put writes an element with text, and nothing at all where the text is empty.
func (w *writer) put(name, text string) {
	if text == "" {
		return
	}
	w.indent()
	fmt.Fprintf(&w.text, "<%s>", name)
	_ = xml.EscapeText(&w.text, []byte(text)) // a strings.Builder does not fail
	fmt.Fprintf(&w.text, "</%s>\n", name)
}

func (w *writer) amount(name string, hundredths int64) { w.put(name, money(hundredths)) }

func (w *writer) date(name string, day time.Time) {
	if !day.IsZero() {
		w.put(name, day.Format(time.DateOnly))
	}
}

// flag writes 1 for yes and 2 for no, as Adnotacje has it.
func (w *writer) flag(name string, yes bool) {
	if yes {
		w.put(name, "1")
	} else {
		w.put(name, "2")
	}
}

func money(hundredths int64) string {
	sign := ""
	if hundredths < 0 {
		sign, hundredths = "-", -hundredths
	}
	return fmt.Sprintf("%s%d.%02d", sign, hundredths/100, hundredths%100)
}

// quantity writes thousandths without trailing zeros.
func quantity(thousandths int64) string {
	sign := ""
	if thousandths < 0 {
		sign, thousandths = "-", -thousandths
	}
	return sign + strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%d.%03d", thousandths/1000, thousandths%1000), "0"), ".")
}

// xml writes the draft as FA(3), in the order of schemat_FA(3)_v1-0E.xsd.
func (d *draft) xml() string {
	w := new(writer)
	w.text.WriteString(`<?xml version="1.0" encoding="UTF-8"?>` + "\n")
	w.text.WriteString(`<Faktura xmlns:etd="http://crd.gov.pl/xml/schematy/dziedzinowe/mf/2022/01/05/eD/DefinicjeTypy/" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns="http://crd.gov.pl/wzor/2025/06/25/13775/">` + "\n")
	w.open = []string{"Faktura"}
	w.in("Naglowek", func() {
		w.indent()
		w.text.WriteString(`<KodFormularza kodSystemowy="FA (3)" wersjaSchemy="1-0E">FA</KodFormularza>` + "\n")
		w.put("WariantFormularza", "3")
		w.put("DataWytworzeniaFa", d.made.Format("2006-01-02T15:04:05Z"))
		w.put("SystemInfo", "ksefmirror: generator")
	})
	w.in("Podmiot1", func() {
		d.seller.write(w)
		w.contact(d.seller, "Email", "Telefon")
	})
	w.in("Podmiot2", func() {
		if d.anonymous {
			w.in("DaneIdentyfikacyjne", func() { w.put("NIP", d.buyer.nip) })
		} else {
			d.buyer.write(w)
			w.contact(d.buyer, "Email", "Telefon")
			w.put("NrKlienta", d.customer)
		}
		w.flag("JST", false)
		w.flag("GV", false)
	})
	for _, each := range d.third {
		w.in("Podmiot3", func() {
			each.write(w)
			w.put("Rola", strconv.Itoa(each.role))
		})
	}
	if d.authorized != nil {
		w.in("PodmiotUpowazniony", func() {
			d.authorized.write(w)
			w.contact(*d.authorized, "EmailPU", "TelefonPU")
			w.put("RolaPU", "3")
		})
	}
	w.in("Fa", func() { d.writeBody(w) })
	if len(d.footnotes) > 0 || d.seller.register != "" {
		w.in("Stopka", func() {
			for _, each := range d.footnotes {
				w.in("Informacje", func() { w.put("StopkaFaktury", each) })
			}
			if d.seller.register != "" {
				w.in("Rejestry", func() {
					w.put("KRS", d.seller.register)
					w.put("REGON", d.seller.regon)
				})
			}
		})
	}
	w.text.WriteString("</Faktura>\n")
	return w.text.String()
}

func (c company) write(w *writer) {
	w.in("DaneIdentyfikacyjne", func() {
		switch {
		case c.unit != "":
			w.put("IDWew", c.unit)
		case c.nip != "":
			w.put("NIP", c.nip)
		default:
			w.put("KodUE", c.country)
			w.put("NrVatUE", c.vatID)
		}
		w.put("Nazwa", c.name)
	})
	w.in("Adres", func() {
		w.put("KodKraju", c.country)
		w.put("AdresL1", c.street)
		w.put("AdresL2", c.town)
	})
}

func (w *writer) contact(c company, email, phone string) {
	w.in("DaneKontaktowe", func() {
		w.put(email, c.email)
		w.put(phone, c.phone)
	})
}

// buckets are the rates in the order of their fields in Fa.
func buckets() []struct{ rate, net, vat string } {
	return []struct{ rate, net, vat string }{
		{"23", "P_13_1", "P_14_1"}, {"8", "P_13_2", "P_14_2"}, {"5", "P_13_3", "P_14_3"},
		{"0 KR", "P_13_6_1", ""}, {"zw", "P_13_7", ""}, {"np I", "P_13_8", ""}, {"oo", "P_13_10", ""},
	}
}

func (d *draft) writeBody(w *writer) {
	w.put("KodWaluty", d.currency)
	w.date("P_1", d.issued)
	w.put("P_1M", d.seller.town[strings.LastIndexByte(d.seller.town, ' ')+1:])
	w.put("P_2", d.serial)
	w.date("P_6", d.sold)
	if !d.periodTo.IsZero() {
		w.in("OkresFa", func() {
			w.date("P_6_Od", d.periodFrom)
			w.date("P_6_Do", d.periodTo)
		})
	}
	for _, bucket := range buckets() {
		net, stated := d.net[bucket.rate]
		if !stated || d.withoutTax {
			continue
		}
		w.amount(bucket.net, net)
		if bucket.vat != "" {
			w.amount(bucket.vat, d.vat[bucket.rate])
			if d.exchange != 0 {
				w.amount(bucket.vat+"W", divide(d.vat[bucket.rate]*d.exchange, 10_000))
			}
		}
	}
	w.amount("P_15", d.gross)
	w.in("Adnotacje", func() { d.writeNotes(w) })
	w.put("RodzajFaktury", d.kind)
	if d.corrected != nil {
		w.put("PrzyczynaKorekty", d.reason)
		w.put("TypKorekty", strconv.Itoa(d.effect))
		w.in("DaneFaKorygowanej", func() {
			w.date("DataWystFaKorygowanej", d.corrected.issued)
			w.put("NrFaKorygowanej", d.corrected.serial)
			w.put("NrKSeF", "1")
			w.put("NrKSeFFaKorygowanej", string(d.corrected.number))
		})
	}
	for _, each := range d.notes {
		w.in("DodatkowyOpis", func() {
			w.put("Klucz", each[0])
			w.put("Wartosc", each[1])
		})
	}
	if d.advance != nil {
		w.in("FakturaZaliczkowa", func() { w.put("NrKSeFFaZaliczkowej", string(d.advance.number)) })
	}
	number := 0
	for i, one := range d.items {
		if i == 0 || !d.items[i-1].replaced { // both states of a line have its number
			number++
		}
		w.in("FaWiersz", func() { one.write(w, number, d.exchange) })
	}
	d.writePayment(w)
	if d.contract != "" {
		w.in("WarunkiTransakcji", func() {
			w.in("Zamowienia", func() {
				w.date("DataZamowienia", d.issued.AddDate(0, 0, -7))
				w.put("NrZamowienia", d.contract)
			})
		})
	}
	if d.order != nil {
		w.in("Zamowienie", func() {
			w.amount("WartoscZamowienia", d.orderGross)
			for i, one := range d.order {
				w.in("ZamowienieWiersz", func() {
					w.put("NrWierszaZam", strconv.Itoa(i+1))
					w.put("P_7Z", one.name)
					w.put("P_8AZ", one.unit)
					w.put("P_8BZ", quantity(one.quantity))
					w.amount("P_9AZ", one.price)
					w.amount("P_11NettoZ", one.value())
					w.amount("P_11VatZ", tax(one.value(), one.rate))
					w.put("P_12Z", one.rate)
				})
			}
		})
	}
}

func (d *draft) writeNotes(w *writer) {
	has := func(rate string) bool {
		return slices.ContainsFunc(d.items, func(one item) bool { return one.rate == rate })
	}
	w.flag("P_16", false)
	w.flag("P_17", d.selfInvoicing)
	w.flag("P_18", has("oo") || has("np I"))
	w.flag("P_18A", d.splitPayment)
	w.in("Zwolnienie", func() {
		if has("zw") {
			w.put("P_19", "1")
			w.put("P_19A", "art. 43 ust. 1 pkt 29 ustawy o VAT")
		} else {
			w.put("P_19N", "1")
		}
	})
	w.in("NoweSrodkiTransportu", func() { w.put("P_22N", "1") })
	w.flag("P_23", false)
	w.in("PMarzy", func() { w.put("P_PMarzyN", "1") })
}

func (i item) write(w *writer, number int, exchange int64) {
	w.put("NrWierszaFa", strconv.Itoa(number))
	w.put("UU_ID", i.id)
	w.date("P_6A", i.sold)
	w.put("P_7", i.name)
	w.put("Indeks", i.index)
	w.put("PKWiU", i.code)
	w.put("P_8A", i.unit)
	w.put("P_8B", quantity(i.quantity))
	w.amount("P_9A", i.price)
	w.amount("P_11", i.value())
	w.put("P_12", i.rate)
	w.put("GTU", i.group)
	if exchange != 0 {
		w.put("KursWaluty", fmt.Sprintf("%d.%04d", exchange/10_000, exchange%10_000))
	}
	if i.replaced {
		w.put("StanPrzed", "1")
	}
}

func (d *draft) writePayment(w *writer) {
	p := d.payment
	w.in("Platnosc", func() {
		switch {
		case p.due.IsZero():
			w.put("Zaplacono", "1")
			w.date("DataZaplaty", d.issued)
		case p.part > 0:
			w.put("ZnacznikZaplatyCzesciowej", "1")
			w.in("ZaplataCzesciowa", func() {
				w.amount("KwotaZaplatyCzesciowej", p.part)
				w.date("DataZaplatyCzesciowej", d.issued)
				w.put("FormaPlatnosci", "6")
			})
		}
		if !p.due.IsZero() {
			w.in("TerminPlatnosci", func() { w.date("Termin", p.due) })
		}
		w.put("FormaPlatnosci", strconv.Itoa(p.method))
		if p.method == 6 && d.seller.account != "" {
			w.in("RachunekBankowy", func() {
				w.put("NrRB", d.seller.account)
				w.put("SWIFT", "PRZYPLPW")
				w.put("NazwaBanku", "Bank Przykładowy S.A.")
				w.put("OpisRachunku", "rachunek do rozliczeń w "+d.currency)
			})
		}
		if p.factor != nil {
			w.in("RachunekBankowyFaktora", func() { w.put("NrRB", p.factor.account) })
		}
	})
}
