//go:build linux

package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"ksefmirror/internal/ksef"
	"ksefmirror/internal/ksefsim"
)

// company is whose invoices are mirrored: it is their buyer.
var company = ksef.Context{Type: ksef.ContextNIP, Value: "5265877635"}

// shape is the form of the invoices of a package.
type shape struct {
	Lines      int
	Attachment int  // bytes of text that compress as badly as a scanned document
	Related    bool // among them are corrections, advances and settlements
}

// The shapes that are measured. Their sizes hold within a tenth.
var (
	shape6K   = shape{Lines: 5}                       // 6 KB
	shape60K  = shape{Lines: 123}                     // 60 KB
	shape130K = shape{Lines: 50, Attachment: 100_000} // 130 KB: 10,000 of them make the 1 GB, compressed, that KSeF allows
)

// shapeRelated is shape6K as companies have them: of a hundred invoices five are
// corrections, one an advance and one a settlement.
var shapeRelated = shape{Lines: 5, Related: true}

// span is the time before now over which the invoices of a simulator are spread.
// It fits into one window of KSeF's, so that there are no empty packages before.
const span = 24 * 24 * time.Hour

// invoices makes count invoices of a shape, stored before now at even intervals.
func invoices(count int, s shape, now time.Time) []ksefsim.Invoice {
	all := make([]identity, count)
	for i := range all {
		all[i] = identify(i, now.Add(-span).Add(span/time.Duration(count)*time.Duration(i)))
		if s.Related {
			all[i].relate(all[:i], count/500*100+10)
		}
	}
	made := make([]ksefsim.Invoice, count)
	var writers errgroup.Group
	for i := range made {
		writers.Go(func() error {
			made[i] = ksefsim.Invoice{XML: invoice(all[i], s), Number: all[i].ksefNumber(), Stored: all[i].issued}
			return nil
		})
	}
	_ = writers.Wait() // they do not fail
	return made
}

// identity is what one invoice is named by, and which others it names.
type identity struct {
	n                       int
	kind, sellerNIP, number string
	issued                  time.Time
	corrects                []reference
	settles                 *identity
}

// reference names an invoice: by its KSeF number, or by the issuer's with the date.
type reference struct {
	*identity
	byNumber bool
}

// identify makes the identity of invoice n, which names no other.
func identify(n int, issued time.Time) identity {
	return identity{
		n: n, kind: "VAT", issued: issued, sellerNIP: fmt.Sprintf("52%08d", 10_000_000+newWriter(n).random.IntN(400)),
		number: fmt.Sprintf("FV/%d/%s", n, issued.Format("01/2006")),
	}
}

// relate makes a correction or settlement of others, or an advance: those are back
// invoices before it, or a few more; back is 10 and a multiple of 100. Most corrections
// state the KSeF number, a fifth only the issuer's, and a fifth names several invoices,
// one of them issued before there was KSeF.
func (i *identity) relate(earlier []identity, back int) {
	switch {
	case i.n%100 == 1:
		i.kind = "ZAL"
	case i.n%100 == 51 && i.n >= back+40:
		advance := &earlier[i.n-back-40]
		i.kind, i.sellerNIP, i.settles = "ROZ", advance.sellerNIP, advance
	case i.n%20 == 19 && i.n >= back+20: // those that it names are ordinary ones
		corrected := &earlier[i.n-back]
		i.kind, i.sellerNIP, i.corrects = "KOR", corrected.sellerNIP, []reference{{identity: corrected, byNumber: i.n%100 == 79}}
		if i.n%100 == 99 {
			old := identify(i.n, corrected.issued.AddDate(-8, 0, 0))
			i.corrects = append(i.corrects, reference{identity: &earlier[i.n-back-20]}, reference{identity: &old, byNumber: true})
		}
	}
}

func (i *identity) date() string { return i.issued.Format(time.DateOnly) }

func (i *identity) ksefNumber() ksef.Number {
	number, err := ksef.NewNumber(fmt.Sprintf("%s-%s-0100%08X", i.sellerNIP, i.issued.Format("20060102"), i.n+1))
	if err != nil {
		panic(err) // the clock says that there is no KSeF yet
	}
	return number
}

// invoice writes an invoice as FA(3), as many programs do: indented, with some
// rates of VAT, terms of payment and texts that are the same on each. What differs
// between real invoices is drawn. The same arguments make the same invoice.
func invoice(it identity, s shape) []byte {
	w := newWriter(it.n)
	issued, date := it.issued, it.date()
	w.printf(`<?xml version="1.0" encoding="UTF-8"?>
<Faktura xmlns="http://crd.gov.pl/wzor/2025/06/25/13775/">
    <Naglowek>
        <KodFormularza kodSystemowy="FA (3)" wersjaSchemy="1-0E">FA</KodFormularza>
        <WariantFormularza>3</WariantFormularza>
        <DataWytworzeniaFa>%s</DataWytworzeniaFa>
        <SystemInfo>Ogrodnik 12.4</SystemInfo>
    </Naglowek>
`, issued.Format(time.RFC3339))
	w.party("Podmiot1", it.sellerNIP, "")
	w.party("Podmiot2", company.Value, "        <JST>2</JST>\n        <GV>2</GV>\n")
	net := [3]int{w.amount(), w.amount(), w.amount()}
	if it.kind == "KOR" { // the difference
		net = [3]int{-net[0] / 10, -net[1] / 10, -net[2] / 10}
	}
	vat := [3]int{net[0] * 23 / 100, net[1] * 8 / 100, net[2] * 5 / 100}
	w.printf(`    <Fa>
        <KodWaluty>PLN</KodWaluty>
        <P_1>%[1]s</P_1>
        <P_1M>%[2]s</P_1M>
        <P_2>%[3]s</P_2>
        <P_6>%[1]s</P_6>
        <P_13_1>%[4]s</P_13_1>
        <P_14_1>%[5]s</P_14_1>
        <P_13_2>%[6]s</P_13_2>
        <P_14_2>%[7]s</P_14_2>
        <P_13_3>%[8]s</P_13_3>
        <P_14_3>%[9]s</P_14_3>
        <P_15>%[10]s</P_15>
        <Adnotacje>
            <P_16>2</P_16>
            <P_17>2</P_17>
            <P_18>2</P_18>
            <P_18A>2</P_18A>
            <Zwolnienie>
                <P_19N>1</P_19N>
            </Zwolnienie>
            <NoweSrodkiTransportu>
                <P_22N>1</P_22N>
            </NoweSrodkiTransportu>
            <P_23>2</P_23>
            <PMarzy>
                <P_PMarzyN>1</P_PMarzyN>
            </PMarzy>
        </Adnotacje>
        <RodzajFaktury>%[12]s</RodzajFaktury>
%[13]s        <DodatkowyOpis>
            <Klucz>Sposób dostawy</Klucz>
            <Wartosc>%[11]s</Wartosc>
        </DodatkowyOpis>
        <DodatkowyOpis>
            <Klucz>Opiekun klienta</Klucz>
            <Wartosc>dział obsługi, tel. 22 000 00 00, w dni robocze od 8 do 16</Wartosc>
        </DodatkowyOpis>
`, date, w.word(), it.number, money(net[0]), money(vat[0]), money(net[1]), money(vat[1]), money(net[2]), money(vat[2]),
		money(net[0]+net[1]+net[2]+vat[0]+vat[1]+vat[2]), w.words(2), it.kind, it.correction())
	w.printf("%s", it.settlement())
	for line := range s.Lines {
		price, quantity := w.amount()/100, 1+w.random.IntN(40)
		before := ""
		if it.corrects != nil && line%2 == 0 {
			before = "            <StanPrzed>1</StanPrzed>\n"
		}
		w.printf(`        <FaWiersz>
            <NrWierszaFa>%d</NrWierszaFa>
            <UU_ID>%016x%016x</UU_ID>
            <P_7>%s, %d g</P_7>
            <Indeks>%s-%06d</Indeks>
            <PKWiU>%02d.%02d.%02d.0</PKWiU>
            <P_8A>szt.</P_8A>
            <P_8B>%d</P_8B>
            <P_9A>%s</P_9A>
            <P_11>%s</P_11>
            <P_12>%d</P_12>
            <GTU>GTU_%02d</GTU>
%s        </FaWiersz>
`, line+1, w.random.Uint64(), w.random.Uint64(), w.words(3), 50*(1+w.random.IntN(20)), strings.ToUpper(w.word()[:1]), w.random.IntN(1e6),
			10+w.random.IntN(80), 10+w.random.IntN(80), 10+w.random.IntN(80), quantity, money(price), money(price*quantity), [3]int{23, 8, 5}[line%3], 1+w.random.IntN(13), before)
	}
	w.printf(`        <Platnosc>
            <TerminPlatnosci>
                <Termin>%s</Termin>
            </TerminPlatnosci>
            <FormaPlatnosci>6</FormaPlatnosci>
            <RachunekBankowy>
                <NrRB>%08d%09d%09d</NrRB>
                <NazwaBanku>Bank Przykładowy S.A.</NazwaBanku>
                <OpisRachunku>rachunek do rozliczeń w PLN</OpisRachunku>
            </RachunekBankowy>
        </Platnosc>
        <WarunkiTransakcji>
            <Zamowienia>
                <DataZamowienia>%s</DataZamowienia>
                <NrZamowienia>ZAM/%d</NrZamowienia>
            </Zamowienia>
        </WarunkiTransakcji>
%s    </Fa>
    <Stopka>
        <Informacje>
            <StopkaFaktury>Towar pozostaje własnością sprzedawcy do chwili zapłaty całej ceny. Za opóźnienie w zapłacie naliczamy odsetki ustawowe za opóźnienie w transakcjach handlowych. Reklamacje przyjmujemy w ciągu 14 dni od dnia dostawy, na piśmie lub pocztą elektroniczną.</StopkaFaktury>
        </Informacje>
        <Rejestry>
            <KRS>0000%06d</KRS>
            <BDO>000%06d</BDO>
        </Rejestry>
    </Stopka>
`, issued.AddDate(0, 0, 14).Format(time.DateOnly), w.random.IntN(1e8), w.random.IntN(1e9), w.random.IntN(1e9),
		issued.AddDate(0, 0, -3).Format(time.DateOnly), w.random.IntN(10_000), it.order(), w.random.IntN(1e6), w.random.IntN(1e6))
	if s.Attachment > 0 {
		w.attachment(s.Attachment)
	}
	w.printf("</Faktura>\n")
	return w.Bytes()
}

// correction is what a correction says of that, and of the invoices that it corrects.
func (i *identity) correction() string {
	var w writer
	if i.corrects != nil {
		w.printf("        <PrzyczynaKorekty>zwrot części towaru</PrzyczynaKorekty>\n        <TypKorekty>2</TypKorekty>\n")
	}
	for _, r := range i.corrects {
		inKSeF := "<NrKSeFN>1</NrKSeFN>"
		if !r.byNumber {
			inKSeF = fmt.Sprintf("<NrKSeF>1</NrKSeF>\n            <NrKSeFFaKorygowanej>%s</NrKSeFFaKorygowanej>", r.ksefNumber())
		}
		w.printf(`        <DaneFaKorygowanej>
            <DataWystFaKorygowanej>%s</DataWystFaKorygowanej>
            <NrFaKorygowanej>%s</NrFaKorygowanej>
            %s
        </DaneFaKorygowanej>
`, r.date(), r.number, inKSeF)
	}
	return w.String()
}

// settlement is what a settlement says of its advance.
func (i *identity) settlement() string {
	if i.settles == nil {
		return ""
	}
	return fmt.Sprintf("        <FakturaZaliczkowa>\n            <NrKSeFFaZaliczkowej>%s</NrKSeFFaZaliczkowej>\n        </FakturaZaliczkowa>\n", i.settles.ksefNumber())
}

// order is what an advance is paid for.
func (i *identity) order() string {
	if i.kind != "ZAL" {
		return ""
	}
	return `        <Zamowienie>
            <WartoscZamowienia>50000.00</WartoscZamowienia>
            <ZamowienieWiersz>
                <NrWierszaZam>1</NrWierszaZam>
                <P_7Z>Regały na zamówienie</P_7Z>
                <P_8AZ>szt.</P_8AZ>
                <P_8BZ>10</P_8BZ>
                <P_9AZ>4065.04</P_9AZ>
                <P_11NettoZ>40650.40</P_11NettoZ>
                <P_11VatZ>9349.60</P_11VatZ>
                <P_12Z>23</P_12Z>
            </ZamowienieWiersz>
        </Zamowienie>
`
}

// writer writes one invoice.
type writer struct {
	bytes.Buffer
	random *rand.Rand
}

// newWriter makes the writer of invoice n.
func newWriter(n int) *writer {
	return &writer{random: rand.New(rand.NewPCG(uint64(n), 0x62656e6368))} //nolint:gosec // repeatable sample data, not secrets
}

func (w *writer) printf(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) } // memory does not fail

func (w *writer) party(element, nip, more string) {
	w.printf(`    <%s>
        <DaneIdentyfikacyjne>
            <NIP>%s</NIP>
            <Nazwa>%s Sp. z o.o.</Nazwa>
        </DaneIdentyfikacyjne>
        <Adres>
            <KodKraju>PL</KodKraju>
            <AdresL1>ul. %s %d</AdresL1>
            <AdresL2>%02d-%03d %s</AdresL2>
        </Adres>
        <DaneKontaktowe>
            <Email>biuro%d@example.pl</Email>
            <Telefon>48%09d</Telefon>
        </DaneKontaktowe>
%s    </%[1]s>
`, element, nip, w.words(2), w.word(), 1+w.random.IntN(140), w.random.IntN(100), w.random.IntN(1000), w.word(), w.random.IntN(10_000), w.random.IntN(1e9), more)
}

// attachment writes text of base64's alphabet, of which a compressor saves a
// quarter.
func (w *writer) attachment(size int) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	w.printf("    <Zalacznik>\n        <BlokDanych>\n            <Tekst>\n")
	for paragraph := make([]byte, 500); size > 0; size -= len(paragraph) {
		for i := range paragraph {
			paragraph[i] = alphabet[w.random.IntN(len(alphabet))]
		}
		w.printf("                <Akapit>%s</Akapit>\n", paragraph)
	}
	w.printf("            </Tekst>\n        </BlokDanych>\n    </Zalacznik>\n")
}

// amount draws hundredths of a złoty.
func (w *writer) amount() int { return 100 + w.random.IntN(900_000) }

func money(hundredths int) string {
	if hundredths < 0 {
		return "-" + money(-hundredths)
	}
	return fmt.Sprintf("%d.%02d", hundredths/100, hundredths%100)
}

func (w *writer) word() string {
	words := [...]string{
		"Herbata", "Miód", "Mąka", "Lipowa", "Polna", "Szkolenie", "Ekspozytor", "Drewniany", "Składany", "Żytnia", "Kwiatowa", "Słoneczna",
		"Hurtownia", "Zakład", "Usługi", "Transport", "Drukarnia", "Piekarnia", "Serwis", "Meble", "Ogrodnictwo", "Łopata", "Gwoździe", "Śruby",
		"Papier", "Toner", "Kabel", "Zasilacz", "Monitor", "Krzesło", "Biurko", "Lampa", "Warszawa", "Kraków", "Łódź", "Wrocław",
		"Poznań", "Gdańsk", "Szczecin", "Lublin", "Opakowanie", "Paleta", "Dostawa", "Montaż", "Przegląd", "Naprawa", "Abonament", "Licencja",
		"Oprogramowanie", "Książka", "Zeszyt", "Długopis", "Farba", "Pędzel", "Cement", "Cegła", "Dachówka", "Okno", "Drzwi", "Zamek",
	}
	return words[w.random.IntN(len(words))]
}

func (w *writer) words(n int) string {
	all := make([]string, n)
	for i := range all {
		all[i] = w.word()
	}
	return strings.Join(all, " ")
}
