package ksefsim

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"ksefmirror/internal/ksef"
)

// GenerateOptions say what [Generate] makes.
type GenerateOptions struct {
	Count    int          // of invoices
	Context  ksef.Context // whose invoices: a NIP in any role, or a unit within a company as third party
	From, To time.Time    // between which they are permanently stored
	Seed     uint64       // the same options make the same invoices
}

// Generate makes valid FA(3) invoices of one company, in the order of permanent
// storage: sales and purchases, some where it is a third party or authorized,
// with corrections, advances and their settlements that refer to earlier ones by
// KSeF number, several rates of VAT and foreign currencies. Some are stored at
// one and the same instant. People and companies in them do not exist.
func Generate(options GenerateOptions) []Invoice {
	g := newGenerator(options)
	instants := g.instants(options)
	invoices := make([]Invoice, 0, len(instants))
	for some := range slices.Chunk(instants, 1000) { // a draft takes as much memory as its XML
		drafts := make([]*draft, len(some))
		for i, at := range some {
			drafts[i] = g.draft(at)
		}
		written := make([]Invoice, len(some))
		inParallel(len(some), func(i int) {
			written[i] = Invoice{XML: []byte(drafts[i].xml()), Number: drafts[i].number, Stored: some[i]}
		})
		invoices = append(invoices, written...)
	}
	return invoices
}

// company is a party of generated invoices.
type company struct {
	nip, name, street, town string
	country, vatID          string // of a foreign one, which has no NIP
	unit                    string // internal identifier, of a unit within a company
	email, phone, account   string
	register                string // KRS number, "" for a sole trader
	regon                   string
	role                    int // as a third party
}

// item is a line of an invoice. Amounts are in hundredths of the currency,
// quantities in thousandths.
type item struct {
	name, unit, code string // code: PKWiU
	id, index        string // UU_ID and the seller's own code
	quantity, price  int64
	rate             string // as P_12
	replaced         bool   // StanPrzed: the state before the correction
	group            string // GTU
	sold             time.Time
}

// draft is an invoice before it is written as XML.
type draft struct {
	number                      ksef.Number
	serial                      string // P_2
	kind                        string // RodzajFaktury
	made, issued                time.Time
	sold, periodFrom, periodTo  time.Time // zero: not stated
	seller, buyer               company
	third                       []company
	authorized                  *company
	currency                    string
	exchange                    int64 // PLN per unit, in ten-thousandths; 0: PLN
	items, order                []item
	net, vat                    map[string]int64 // by rate
	gross, orderGross           int64
	selfInvoicing, splitPayment bool
	corrected                   *draft
	reason                      string
	effect                      int // TypKorekty
	advance                     *draft
	payment                     payment
	customer, contract          string
	notes                       [][2]string // DodatkowyOpis: key and value
	footnotes                   []string
	anonymous                   bool // the buyer by its NIP alone, as on a simplified invoice
	settled                     bool // an advance that a later invoice settles
	withoutTax                  bool // a simplified invoice that states no net and no VAT
}

// payment is the Platnosc block; a zero due date means paid on issue.
type payment struct {
	method int
	due    time.Time
	part   int64 // already paid
	factor *company
}

type generator struct {
	random   *rand.Rand
	us       company
	unit     bool // the context is a unit within us
	partners []company
	foreign  []company
	serials  map[string]int // invoices per issuer and month
	numbers  map[ksef.Number]bool
	sales    []*draft // that a correction can refer to
	advances []*draft
}

func newGenerator(options GenerateOptions) *generator {
	g := &generator{
		random:  rand.New(rand.NewPCG(options.Seed, 0x6b736566)), // #nosec G404 -- repeatable sample data, not secrets
		serials: make(map[string]int),
		numbers: make(map[ksef.Number]bool),
	}
	nip, unit, _ := strings.Cut(options.Context.Value, "-")
	g.us = g.company()
	g.us.nip, g.us.name = nip, "Przykładowa Firma Sp. z o.o."
	if options.Context.Type == ksef.ContextInternalID && unit != "" {
		g.unit, g.us.unit = true, options.Context.Value
	}
	for range 40 {
		g.partners = append(g.partners, g.company())
	}
	for _, each := range []company{
		{name: "Müller Maschinenbau GmbH", street: "Industriestraße 12", town: "70565 Stuttgart", country: "DE", vatID: "811907980"},
		{name: "Novák Trading s.r.o.", street: "Vinohradská 48", town: "120 00 Praha 2", country: "CZ", vatID: "25123891"},
		{name: "Société Lefèvre & Fils", street: "14 rue de la République", town: "69002 Lyon", country: "FR", vatID: "40303265045"},
		{name: "Jansen Logistiek B.V.", street: "Havenweg 7", town: "3011 AA Rotterdam", country: "NL", vatID: "004495445B01"},
	} {
		each.email, each.phone = "accounts@example.com", "0049711000000"
		g.foreign = append(g.foreign, each)
	}
	return g
}

// instants draws when the invoices are stored, ascending. About one in ten
// starts a burst that shares its instant, as a batch sent to KSeF does.
func (g *generator) instants(options GenerateOptions) []time.Time {
	span := max(1, options.To.Sub(options.From).Microseconds())
	var all []time.Time
	for len(all) < options.Count {
		at := options.From.UTC().Truncate(time.Microsecond).Add(time.Duration(g.random.Int64N(span)) * time.Microsecond)
		copies := 1
		if g.chance(10) {
			copies += 1 + g.random.IntN(6)
		}
		for range min(copies, options.Count-len(all)) {
			all = append(all, at)
		}
	}
	slices.SortFunc(all, time.Time.Compare)
	return all
}

func (g *generator) chance(percent int) bool { return g.random.IntN(100) < percent }

func pick[T any](g *generator, from []T) T { return from[g.random.IntN(len(from))] }

// company makes up a Polish one.
func (g *generator) company() company {
	surname := pick(g, []string{"Nowak", "Kowalczyk", "Wiśniewski", "Wójcik", "Kamińska", "Lewandowski", "Zielińska", "Szymański", "Dąbrowska", "Kozłowski", "Jankowska", "Mazur", "Krawczyk", "Piotrowska", "Grabowski", "Pawłowska", "Michalski", "Król", "Wróblewska", "Jabłoński", "Łuczak", "Ćwikła", "Żak", "Śliwińska"})
	trade := pick(g, []string{"Hurtownia Elektryczna", "Zakład Stolarski", "Usługi Transportowe", "Biuro Rachunkowe", "Drukarnia", "Piekarnia", "Serwis Komputerowy", "Przedsiębiorstwo Budowlane", "Ogrodnictwo", "Meble Biurowe", "Auto-Części", "Firma Szkoleniowa"})
	town := pick(g, []string{"00-950 Warszawa", "30-001 Kraków", "90-001 Łódź", "50-001 Wrocław", "61-001 Poznań", "80-001 Gdańsk", "70-001 Szczecin", "85-001 Bydgoszcz", "20-001 Lublin", "40-001 Katowice", "15-001 Białystok", "26-600 Radom"})
	street := pick(g, []string{"Kwiatowa", "Polna", "Leśna", "Słoneczna", "Krótka", "Szkolna", "Ogrodowa", "Lipowa", "Łąkowa", "Brzozowa", "Kościuszki", "Żeromskiego"})
	c := company{
		nip:     g.nip(),
		street:  fmt.Sprintf("ul. %s %d", street, 1+g.random.IntN(140)),
		town:    town,
		country: "PL",
		phone:   fmt.Sprintf("48%09d", 500_000_000+g.random.IntN(300_000_000)),
		account: g.account(),
		regon:   fmt.Sprintf("%09d", 100_000_000+g.random.IntN(800_000_000)),
	}
	c.email = fmt.Sprintf("biuro%d@example.pl", g.random.IntN(10_000))
	if g.chance(60) {
		c.name = trade + " " + surname + pick(g, []string{" Sp. z o.o.", " S.A.", " Sp. j.", " Sp. z o.o. Sp. k."})
		c.register = fmt.Sprintf("%010d", 100_000+g.random.IntN(900_000))
	} else {
		c.name = trade + " " + pick(g, []string{"Anna", "Piotr", "Katarzyna", "Tomasz", "Małgorzata", "Łukasz", "Agnieszka", "Paweł"}) + " " + surname
	}
	return c
}

// nip makes a NIP with a valid check digit.
func (g *generator) nip() string {
	for {
		digits := fmt.Sprintf("%09d", 111_000_000+g.random.IntN(880_000_000))
		sum := 0
		for i, weight := range []int{6, 5, 7, 2, 3, 4, 5, 6, 7} {
			sum += weight * int(digits[i]-'0')
		}
		if nip := fmt.Sprintf("%s%d", digits, sum%11); sum%11 != 10 && nipOnly.MatchString(nip) {
			return nip
		}
	}
}

// account makes a Polish account number with valid check digits.
func (g *generator) account() string {
	rest := fmt.Sprintf("%08d%016d", 10_200_000+g.random.IntN(90_000_000), g.random.Int64N(10_000_000_000_000_000))
	remainder := 0
	for _, digit := range rest + "252100" { // PL as 25 21, check digits as 00 (ISO 13616)
		remainder = (remainder*10 + int(digit-'0')) % 97
	}
	return fmt.Sprintf("%02d%s", 98-remainder, rest)
}

// ksefNumber makes a number that no other generated invoice has.
func (g *generator) ksefNumber(nip string, at time.Time) ksef.Number {
	for {
		number, err := ksef.NewNumber(fmt.Sprintf("%s-%s-%012X", nip, at.Format("20060102"), g.random.Uint64N(1<<40)|1<<40))
		if err != nil {
			panic(err) // the caller gave no NIP as Context, or a date before 2020
		}
		if !g.numbers[number] {
			g.numbers[number] = true
			return number
		}
	}
}

// draft makes the next invoice, stored at at.
func (g *generator) draft(at time.Time) *draft {
	d := &draft{kind: "VAT", currency: "PLN", seller: g.us, buyer: pick(g, g.partners)}
	d.made = at.Add(-time.Duration(10+g.random.IntN(300)) * time.Second).Truncate(time.Second)
	d.issued = d.made.Truncate(24 * time.Hour)
	switch roll := g.random.IntN(100); {
	case g.unit || roll >= 90 && roll < 96: // we are a third party
		d.seller, d.buyer = g.two()
		us := g.us
		us.role = 2
		if !g.unit && g.chance(50) {
			us.role = 6
		}
		d.third = []company{us}
	case roll >= 96: // we are authorized
		d.seller, d.buyer = g.two()
		us := g.us
		d.authorized = &us
	case roll >= 47: // we buy
		d.seller, d.buyer = d.buyer, g.us
		d.selfInvoicing = g.chance(2)
		if g.chance(4) {
			us := g.us
			us.role = 2
			d.third = []company{us} // buyer and recipient at once
		}
	}
	g.fill(d)
	month := d.seller.nip + d.issued.Format("2006/01")
	g.serials[month]++
	prefix := map[string]string{"VAT": "FV", "KOR": "KOR", "ZAL": "ZAL", "ROZ": "ROZ", "UPR": "PAR"}[d.kind]
	// Several branches of one issuer may number alike in the same month, so the
	// serial counts all that the generator made for it.
	d.serial = fmt.Sprintf("%s/%d/%s", prefix, g.serials[month], d.issued.Format("01/2006"))
	d.number = g.ksefNumber(d.seller.nip, at)
	if g.chance(30) {
		d.customer = fmt.Sprintf("K-%05d", g.random.IntN(100_000))
	}
	if g.chance(60) {
		d.contract = fmt.Sprintf("ZAM/%d/%d", d.issued.Year(), 1+g.random.IntN(5000))
	}
	for _, each := range [][2]string{
		{"Osoba wystawiająca", pick(g, []string{"Anna Wróblewska", "Piotr Łuczak", "Katarzyna Żak"})},
		{"Opiekun klienta", "dział obsługi, tel. +48 22 000 00 00, w dni robocze od 8:00 do 16:00"},
		{"Miejsce wydania", "magazyn główny, rampa " + fmt.Sprint(1+g.random.IntN(9))},
		{"Sposób dostawy", pick(g, []string{"odbiór własny", "kurier", "transport sprzedawcy"})},
	} {
		if g.chance(75) {
			d.notes = append(d.notes, each)
		}
	}
	for _, each := range []string{
		"Dziękujemy za współpracę.",
		"Reklamacje przyjmujemy na piśmie w ciągu 14 dni od dostawy. Towar pozostaje własnością sprzedawcy do chwili zapłaty całej należności.",
		"Za opóźnienie w zapłacie naliczamy odsetki ustawowe za opóźnienie w transakcjach handlowych oraz rekompensatę za koszty odzyskiwania należności.",
	} {
		if g.chance(70) {
			d.footnotes = append(d.footnotes, each)
		}
	}
	return d
}

func (g *generator) two() (company, company) {
	i := g.random.IntN(len(g.partners))
	return g.partners[i], g.partners[(i+1+g.random.IntN(len(g.partners)-1))%len(g.partners)]
}

// fill decides what kind of invoice it is, and gives it lines and amounts.
func (g *generator) fill(d *draft) {
	ours := d.seller.nip == g.us.nip
	plain := len(d.third) == 0 && d.authorized == nil && !d.selfInvoicing
	switch roll := g.random.IntN(100); {
	case roll < 10 && plain && g.correct(d):
		return
	case roll < 15 && plain:
		g.takeAdvance(d)
		return
	case roll < 20 && plain && g.settle(d):
		return
	case roll < 25 && plain:
		g.simplify(d)
		return
	case roll < 29 && ours && plain: // abroad
		d.buyer = pick(g, g.foreign)
		d.currency, d.exchange = "EUR", 42_000+g.random.Int64N(3_000)
		d.items = g.lines("np I")
	case roll < 33: // at home, in a foreign currency
		d.currency = pick(g, []string{"EUR", "USD", "CZK"})
		d.exchange = map[string]int64{"EUR": 43_000, "USD": 39_000, "CZK": 1_700}[d.currency] + g.random.Int64N(150)
		d.items = g.lines("23")
	case roll < 37:
		d.items = g.lines("oo")
	case roll < 42:
		d.items = g.lines("zw")
	case roll < 70:
		d.items = g.lines("23")
	default:
		d.items = g.lines("23", "23", "23", "8", "8", "5", "0 KR")
	}
	switch roll := g.random.IntN(10); {
	case roll < 5:
		d.sold = d.issued.AddDate(0, 0, -g.random.IntN(6))
	case roll < 7:
		d.periodFrom = d.issued.AddDate(0, -1, 0)
		d.periodTo = d.issued
	case roll < 8:
		for i := range d.items {
			d.items[i].sold = d.issued.AddDate(0, 0, -g.random.IntN(10))
		}
	}
	d.sum()
	g.pay(d)
	if plain && g.chance(5) {
		factor := pick(g, g.partners)
		factor.role = 1
		d.third = append(d.third, factor)
		d.payment.factor = &factor
	}
	if plain && d.currency == "PLN" && d.buyer.nip != "" {
		g.sales = append(g.sales, d)
	}
}

// lines draws up to twelve lines with the given rates.
func (g *generator) lines(rates ...string) []item {
	count := 1 + g.random.IntN(4) + g.random.IntN(5)
	if g.chance(10) {
		count = 9 + g.random.IntN(4)
	}
	var all []item
	for range count {
		one := pick(g, goods(pick(g, rates)))
		one.id = fmt.Sprintf("%016x%016x", g.random.Uint64(), g.random.Uint64())
		one.index = fmt.Sprintf("%s-%06d", pick(g, []string{"TOW", "USL", "MAT"}), g.random.IntN(1_000_000))
		one.price += g.random.Int64N(one.price/2 + 1)
		one.quantity = 1000 * (1 + g.random.Int64N(12))
		if one.unit == "kg" || one.unit == "h" || one.unit == "m" {
			one.quantity += 250 * g.random.Int64N(4)
		}
		all = append(all, one)
	}
	return all
}

// goods are what is sold at a rate; prices are the lowest.
func goods(rate string) []item {
	var all []item
	switch rate {
	case "23":
		all = []item{
			{name: "Przewód YDYp 3x2,5 mm² 450/750 V", unit: "m", price: 310, code: "27.32.13.0"},
			{name: "Usługa serwisowa – przegląd okresowy", unit: "h", price: 14_000, code: "33.12.19.0"},
			{name: "Monitor LED 27\" QHD", unit: "szt.", price: 89_900, group: "GTU_06"},
			{name: "Krzesło biurowe obrotowe „Ergo”", unit: "szt.", price: 45_500},
			{name: "Transport krajowy do 3,5 t", unit: "usł.", price: 38_000},
			{name: "Papier ksero A4 80 g/m²", unit: "ryza", price: 1_849},
			{name: "Obsługa księgowa – abonament miesięczny", unit: "mies.", price: 65_000},
			{name: "Śruby M8×40 ocynk", unit: "op.", price: 2_290},
			{name: "Licencja na oprogramowanie <rok>", unit: "szt.", price: 119_900},
		}
	case "8":
		all = []item{
			{name: "Usługa montażu drzwi w lokalu mieszkalnym", unit: "usł.", price: 32_000},
			{name: "Nocleg ze śniadaniem", unit: "doba", price: 24_000},
			{name: "Nawóz ogrodniczy uniwersalny", unit: "kg", price: 890},
		}
	case "5":
		all = []item{
			{name: "Chleb żytni na zakwasie", unit: "szt.", price: 620},
			{name: "Książka „Prawo podatkowe w praktyce”", unit: "szt.", price: 5_900},
			{name: "Jabłka deserowe kl. I", unit: "kg", price: 290},
		}
	case "0 KR":
		all = []item{{name: "Sprzęt komputerowy dla placówki oświatowej", unit: "szt.", price: 210_000}}
	case "zw":
		all = []item{
			{name: "Szkolenie BHP okresowe", unit: "os.", price: 18_000},
			{name: "Badania okresowe pracowników", unit: "os.", price: 12_000},
		}
	case "oo":
		all = []item{
			{name: "Uprawnienia do emisji CO₂", unit: "szt.", price: 31_000},
			{name: "Gaz ziemny wysokometanowy", unit: "MWh", price: 17_500},
		}
	default: // np I
		all = []item{
			{name: "Usługi programistyczne", unit: "h", price: 6_500},
			{name: "Doradztwo techniczne", unit: "h", price: 8_900},
		}
	}
	for i := range all {
		all[i].rate = rate
	}
	return all
}

// value is the net value of a line, rounded half away from zero.
func (i item) value() int64 { return divide(i.quantity*i.price, 1000) }

// tax is the VAT on a net amount at a rate.
func tax(net int64, rate string) int64 {
	percent := map[string]int64{"23": 23, "8": 8, "5": 5}[rate]
	return divide(net*percent, 100)
}

// divide rounds half away from zero.
func divide(a, b int64) int64 {
	if a < 0 {
		return -divide(-a, b)
	}
	return (a + b/2) / b
}

// sum fills the totals from the lines: the tax is that of each rate's sum, and a
// line that shows the state before a correction counts against the others.
func (d *draft) sum() {
	d.net, d.vat, d.gross = make(map[string]int64), make(map[string]int64), 0
	for _, one := range d.items {
		if one.replaced {
			d.net[one.rate] -= one.value()
		} else {
			d.net[one.rate] += one.value()
		}
	}
	for rate, net := range d.net {
		d.vat[rate] = tax(net, rate)
		d.gross += net + d.vat[rate]
	}
}

// pay decides how the invoice is paid.
func (g *generator) pay(d *draft) {
	d.payment.method = 6
	switch roll := g.random.IntN(10); {
	case roll < 7:
		d.payment.due = d.issued.AddDate(0, 0, pick(g, []int{7, 14, 14, 21, 30, 60}))
		if roll == 0 && d.gross > 1000 {
			d.payment.part = d.gross / 4
		}
	case roll < 9:
		d.payment.method = pick(g, []int{1, 2, 6})
	}
	d.splitPayment = d.currency == "PLN" && d.gross > 1_500_000 && !d.payment.due.IsZero()
}

// correct makes a correction of an earlier invoice between the same parties, in
// one of the two styles: pairs of lines before and after, or lines that state
// the difference. It reports whether there was one to correct.
func (g *generator) correct(d *draft) bool {
	if len(g.sales) == 0 {
		return false
	}
	old := pick(g, g.sales)
	d.kind, d.corrected, d.seller, d.buyer = "KOR", old, old.seller, old.buyer
	d.reason, d.effect = pick(g, []string{"Rabat po sprzedaży", "Zwrot towaru", "Pomyłka w cenie", "Reklamacja uznana"}), 1+g.random.IntN(3)
	d.sold = old.sold
	before := pick(g, old.items)
	before.sold = time.Time{}
	after := before
	if g.chance(50) && before.quantity > 1000 {
		after.quantity -= 1000
	} else {
		after.price -= after.price / 10
	}
	if g.chance(60) {
		before.replaced = true
		d.items = []item{before, after}
	} else {
		difference := after
		if after.quantity != before.quantity {
			difference.quantity -= before.quantity
		} else {
			difference.price -= before.price
		}
		d.items = []item{difference}
	}
	d.sum()
	d.payment = payment{method: 6, due: d.issued.AddDate(0, 0, 14)}
	return true
}

// takeAdvance makes an invoice for part of an order, paid before delivery.
func (g *generator) takeAdvance(d *draft) {
	d.kind = "ZAL"
	d.order = g.lines("23")
	for _, one := range d.order {
		d.orderGross += one.value() + tax(one.value(), "23")
	}
	d.gross = divide(d.orderGross*int64(20+10*g.random.IntN(4)), 100)
	net := divide(d.gross*100, 123)
	d.net, d.vat = map[string]int64{"23": net}, map[string]int64{"23": d.gross - net}
	d.sold = d.issued
	d.payment = payment{method: 6}
	g.advances = append(g.advances, d)
}

// settle makes the invoice that follows an advance: all lines of the order, and
// what remains to be paid. It reports whether an advance was waiting.
func (g *generator) settle(d *draft) bool {
	waiting := slices.IndexFunc(g.advances, func(a *draft) bool { return !a.settled })
	if waiting < 0 {
		return false
	}
	advance := g.advances[waiting]
	advance.settled = true
	d.kind, d.advance, d.seller, d.buyer = "ROZ", advance, advance.seller, advance.buyer
	d.items, d.sold = advance.order, d.issued
	d.sum()
	d.net["23"] -= advance.net["23"]
	d.vat["23"] -= advance.vat["23"]
	d.gross = d.net["23"] + d.vat["23"]
	d.payment = payment{method: 6, due: d.issued.AddDate(0, 0, 14)}
	return true
}

// simplify makes a receipt that names the buyer by NIP alone and is at most
// 450 zł, half of the time without stating the tax.
func (g *generator) simplify(d *draft) {
	d.kind, d.anonymous, d.sold = "UPR", true, d.issued
	one := goods("23")[5]
	one.quantity = 1000 * (1 + g.random.Int64N(15))
	d.items = []item{one}
	d.sum()
	d.withoutTax = g.chance(50)
	d.payment = payment{method: cmp.Or(g.random.IntN(3), 1)}
}
