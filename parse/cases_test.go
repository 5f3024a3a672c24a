package parse

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fa3 is an FA(3) invoice with the given parties (and what else stands outside of
// Fa) and the given content of Fa.
func fa3(parties, fa string) string {
	return `<Faktura xmlns="` + namespaceFA3 + `"><Naglowek><KodFormularza kodSystemowy="FA (3)" wersjaSchemy="1-0E">FA</KodFormularza></Naglowek>` +
		parties + `<Fa>` + fa + `</Fa></Faktura>`
}

func mustParse(t testing.TB, xml string) *Document {
	t.Helper()
	doc, err := Parse([]byte(xml))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func equal[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: -want +got:\n%s", what, diff)
	}
}

func stated(hundredths int64) Minor { return Minor{hundredths, true} }

func noWarnings(t *testing.T, doc *Document) {
	t.Helper()
	equal(t, "warnings", doc.Warnings, nil)
}

func TestPrefixesAndNamespaces(t *testing.T) {
	const body = `<Naglowek/><Fa><P_2>A/1</P_2></Fa>`
	t.Run("default namespace", func(t *testing.T) {
		equal(t, "number", mustParse(t, fa3("", "<P_2>A/1</P_2>")).InvoiceNumber, "A/1")
	})
	t.Run("prefix on every element", func(t *testing.T) {
		doc := mustParse(t, `<q:Faktura xmlns:q="`+namespaceFA3+`"><q:Fa><q:P_2>A/1</q:P_2></q:Fa></q:Faktura>`)
		equal(t, "number", doc.InvoiceNumber, "A/1")
	})
	t.Run("several prefixes for one namespace", func(t *testing.T) {
		doc := mustParse(t, `<q:Faktura xmlns:q="`+namespaceFA3+`" xmlns:r="`+namespaceFA3+`"><r:Fa xmlns="urn:x"><q:P_2>A/1</q:P_2><P_2>no</P_2></r:Fa></q:Faktura>`)
		equal(t, "number", doc.InvoiceNumber, "A/1")
	})
	t.Run("prefix used for another namespace inside", func(t *testing.T) {
		doc := mustParse(t, `<q:Faktura xmlns:q="`+namespaceFA3+`"><q:Fa><q:P_2>A/1</q:P_2><x xmlns:q="urn:x"><q:P_2>no</q:P_2></x><q:P_2 xmlns:q="urn:x">no</q:P_2></q:Fa></q:Faktura>`)
		equal(t, "number", doc.InvoiceNumber, "A/1")
	})
	t.Run("unused declarations", func(t *testing.T) {
		doc := mustParse(t, `<Faktura xmlns="`+namespaceFA3+`" xmlns:etd="urn:etd" xmlns:xsi="urn:xsi">`+body+`</Faktura>`)
		equal(t, "number", doc.InvoiceNumber, "A/1")
	})
	t.Run("elements of another namespace are ignored", func(t *testing.T) {
		doc := mustParse(t, fa3("", `<P_15>1.00</P_15><P_15 xmlns="urn:x">2.00</P_15><Zamowienie xmlns="urn:x"><P_15>3.00</P_15></Zamowienie>`))
		equal(t, "gross", doc.Gross, stated(100))
	})
}

func TestForms(t *testing.T) {
	header := `<Naglowek><KodFormularza kodSystemowy=" FA  (9) " wersjaSchemy="7-7">x</KodFormularza></Naglowek>`
	tests := []struct {
		name, xml               string
		form, code, version, ns string
		supported               bool
	}{
		{"FA(3) by namespace alone", `<Faktura xmlns="` + namespaceFA3 + `"/>`, "FA", "FA (3)", "", namespaceFA3, true},
		{"FA(2) by namespace alone", `<Faktura xmlns="` + namespaceFA2 + `"/>`, "FA", "FA (2)", "", namespaceFA2, true},
		{"FA(3) that says another code", `<Faktura xmlns="` + namespaceFA3 + `">` + header + `</Faktura>`, "FA", "FA (9)", "7-7", namespaceFA3, true},
		{"FA(1)", `<Faktura xmlns="http://crd.gov.pl/wzor/2021/11/29/11089/"/>`, "FA", "FA (1)", "", "http://crd.gov.pl/wzor/2021/11/29/11089/", true},
		{"FA_RR", `<Faktura xmlns="http://crd.gov.pl/wzor/2026/03/06/14189/"/>`, "FA_RR", "FA_RR (1)", "", "http://crd.gov.pl/wzor/2026/03/06/14189/", true},
		{"FA_RR, older namespace", `<Faktura xmlns="http://crd.gov.pl/wzor/2026/02/17/14164/"/>`, "FA_RR", "FA_RR (1)", "", "http://crd.gov.pl/wzor/2026/02/17/14164/", true},
		{"PEF", `<i:Invoice xmlns:i="urn:oasis:names:specification:ubl:schema:xsd:Invoice-2"/>`, "PEF", "PEF (3)", "", "urn:oasis:names:specification:ubl:schema:xsd:Invoice-2", true},
		{"PEF correction", `<cn:CreditNote xmlns:cn="urn:oasis:names:specification:ubl:schema:xsd:CreditNote-2"/>`, "PEF_KOR", "PEF_KOR (3)", "", "urn:oasis:names:specification:ubl:schema:xsd:CreditNote-2", true},
		{"FA of the future", `<Faktura xmlns="urn:future">` + header + `</Faktura>`, "UNKNOWN", "FA (9)", "7-7", "urn:future", false},
		{"no namespace", `<Faktura>` + header + `</Faktura>`, "UNKNOWN", "FA (9)", "7-7", "", false},
		{"another root in the namespace of FA(3)", `<Rachunek xmlns="` + namespaceFA3 + `"/>`, "UNKNOWN", "", "", namespaceFA3, false},
		{"namespace with a space", `<Faktura xmlns="` + namespaceFA3 + ` "/>`, "UNKNOWN", "", "", namespaceFA3 + " ", false},
		{"receipt of KSeF (UPO)", `<Potwierdzenie xmlns="http://upo.schematy.mf.gov.pl/KSeF/v4-3"/>`, "UNKNOWN", "", "", "http://upo.schematy.mf.gov.pl/KSeF/v4-3", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			doc, err := Parse([]byte(test.xml))
			if supported := err == nil; supported != test.supported || errors.Is(err, ErrUnsupported) == supported {
				t.Errorf("error %v", err)
			}
			equal(t, "form, code, version, namespace",
				[]string{doc.Form, doc.FormCode, doc.FormVersion, doc.Namespace},
				[]string{test.form, test.code, test.version, test.ns})
		})
	}
}

// The 22 cases that readers of invoices get wrong.
func TestTrickyCases(t *testing.T) {
	t.Run("1 prefixes and namespaces", func(t *testing.T) { // more of them in TestPrefixesAndNamespaces
		plain := fixture(t, "pef_invoice.xml")
		prefixed := mustParse(t, strings.NewReplacer("<cbc:", "<x:", "</cbc:", "</x:", "xmlns:cbc=", `xmlns:unused="urn:x" xmlns:x=`, "<Invoice xmlns=", "<i:Invoice xmlns:i=", "</Invoice>", "</i:Invoice>").Replace(string(fixtureXML(t, "pef_invoice.xml"))))
		equal(t, "PEF with other prefixes", prefixed, plain)
		doc, err := Parse([]byte(`<Faktura><Fa><P_2>A/1</P_2></Fa></Faktura>`))
		if !errors.Is(err, ErrUnsupported) || doc.Form != "UNKNOWN" || doc.InvoiceNumber != "" {
			t.Errorf("without a namespace: form %s, number %s, %v", doc.Form, doc.InvoiceNumber, err)
		}
	})
	t.Run("2 byte order mark", func(t *testing.T) {
		doc := mustParse(t, "\ufeff"+`<?xml version="1.0" encoding="UTF-8"?>`+fa3("", "<P_2>A/1</P_2>"))
		equal(t, "number", doc.InvoiceNumber, "A/1")
	})
	t.Run("3 another encoding", func(t *testing.T) { // more of them in TestHostile
		for name, xml := range map[string]string{
			"declared alone":     `<?xml version="1.0" encoding="windows-1250"?>` + fa3("", "<P_1M>Łódź</P_1M>"),
			"of the bytes alone": fa3("", "<P_1M>\xa3\xf3d\x9f</P_1M>"),
		} {
			if doc, err := Parse([]byte(xml)); err == nil || errors.Is(err, ErrUnsupported) || doc.IssuePlace != "" {
				t.Errorf("%s: place %s, %v", name, doc.IssuePlace, err)
			}
		}
	})
	t.Run("4 document types, entities, depth", func(t *testing.T) { // more of them in TestHostile
		for name, xml := range map[string]string{
			"document type":     `<!DOCTYPE Faktura [<!ENTITY a "b">]>` + fa3("", "<P_2>&a;</P_2>"),
			"undeclared entity": fa3("", "<P_2>&a;</P_2>"),
			"depth":             fa3("", strings.Repeat("<a>", 10_000)+strings.Repeat("</a>", 10_000)),
		} {
			if _, err := Parse([]byte(xml)); err == nil || errors.Is(err, ErrUnsupported) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	t.Run("5 text in pieces", func(t *testing.T) {
		doc := mustParse(t, fa3("", `<P_2>a<!-- no -->b<![CDATA[ <c> ]]>&amp;&#x141;<?no pi?>d<x>no</x></P_2><P_15><![CDATA[1]]>2<!---->.<?pi?>50</P_15>`))
		equal(t, "number", doc.InvoiceNumber, "ab <c> &Łd")
		equal(t, "gross", doc.Gross, stated(1250))
	})
	t.Run("5 instructions and comments between elements", func(t *testing.T) {
		doc := mustParse(t, "<!--a--><?b c?>\n"+fa3("<!--a--><?b c='d'?>", `<?b?><P_2><!--x--><?y?>A/1</P_2><?b?><P_15>1</P_15><!--c--><RodzajFaktury>VAT</RodzajFaktury>`)+"<?e?><!--f-->\n")
		equal(t, "number, gross, type", []any{doc.InvoiceNumber, doc.Gross, doc.InvoiceType}, []any{"A/1", stated(100), "VAT"})
	})
	t.Run("6 white space", func(t *testing.T) {
		doc := mustParse(t, fa3("", "<P_2>\r\n  FV \t 1 \u00a0/ 2\n</P_2><P_1>\n2026-01-02 </P_1><P_15> 1 </P_15><FP> 1\n</FP><P_1M>   </P_1M>"))
		equal(t, "number", doc.InvoiceNumber, "FV 1 \u00a0/ 2")
		equal(t, "date, gross, flag, place", []any{doc.IssueDate, doc.Gross, doc.CashRegister, doc.IssuePlace}, []any{"2026-01-02", stated(100), true, ""})
		noWarnings(t, doc)
	})
	t.Run("6 lines of a footer", func(t *testing.T) {
		doc := mustParse(t, strings.Replace(fa3("", ""), "</Faktura>", "<Stopka><Informacje><StopkaFaktury>\r\n  one \t 1\r\n\r\n<![CDATA[ two ]]>&#10;three\n</StopkaFaktury></Informacje><Informacje><StopkaFaktury> </StopkaFaktury></Informacje></Stopka></Faktura>", 1))
		equal(t, "notes", doc.Notes, []Note{{Kind: "footer", Position: 1, Value: "one 1\n\ntwo\nthree"}})
	})
	t.Run("7 numbers", func(t *testing.T) {
		for value, want := range map[string]Minor{"-200": stated(-20000), "13560": stated(1356000), "3118.80": stated(311880), "-15993.6": stated(-1599360), "0.00": stated(0), " 1 ": stated(100), "2.000": {}, "1e3": {}, "NaN": {}, ".5": {}, "+1": {}, "1,00": {}} {
			doc := mustParse(t, fa3("", "<P_15>"+value+"</P_15>"))
			equal(t, "FA "+value, doc.Gross, want)
			equal(t, value+" warned", len(doc.Warnings) == 1, !want.Stated)
		}
		// UBL has xsd:decimal, which allows more ways to write one number.
		for value, want := range map[string]Minor{"-200": stated(-20000), "2.000": stated(200), ".5": stated(50), "-.5": stated(-50), "+1": stated(100), "5.": stated(500), " 1 ": stated(100), "2.005": {}, "1e3": {}, "NaN": {}, "1,00": {}, ".": {}, "-": {}, "+-1": {}, "--1": {}, "": {}} {
			doc := mustParse(t, pefInvoice("<cac:LegalMonetaryTotal><cbc:TaxInclusiveAmount>"+value+"</cbc:TaxInclusiveAmount></cac:LegalMonetaryTotal>"))
			equal(t, "PEF "+value, doc.Gross, want)
			equal(t, value+" warned", len(doc.Warnings) == 1, !want.Stated)
		}
	})
	t.Run("8 dates", func(t *testing.T) {
		for value, want := range map[string]string{
			"2026-02-28": "2026-02-28", "2026-02-28Z": "2026-02-28", "2026-02-28+02:00": "2026-02-28",
			"2026-02-29": "", "2024-02-29": "2024-02-29", "26-02-28": "", "2026-2-28": "", "2026-02-28T00:00:00": "", "": "", "2026-02-28ZZ": "",
		} {
			doc := mustParse(t, fa3("", "<P_1>"+value+"</P_1>"))
			equal(t, value, doc.IssueDate, want)
			equal(t, value+" warned", len(doc.Warnings) == 1, want == "")
		}
		for value, ok := range map[string]bool{
			"2026-02-01T00:00:00Z": true, "2026-02-01T00:00:00": true, "2026-02-01T00:00:00.1234567": true, "2025-05-27T12:07:41.197234Z": true,
			"2026-02-01T00:00:00+02:00": true, "2026-02-01T00:00:00.5-05:00": true, "2026-02-01": false, "2026-02-01T25:00:00Z": false, "2026-02-01T00:00:00CET": false, "": false,
		} {
			doc := mustParse(t, strings.Replace(fa3("", ""), "</Naglowek>", "<DataWytworzeniaFa>"+value+"</DataWytworzeniaFa></Naglowek>", 1))
			want := ""
			if ok {
				want = value
			}
			equal(t, value, doc.CreatedAt, want)
			equal(t, value+" warned", len(doc.Warnings) == 1, !ok)
		}
	})
	t.Run("9 everything optional absent", func(t *testing.T) {
		doc := fixture(t, "simplified.xml")
		equal(t, "gross", doc.Gross, stated(36900))
		equal(t, "net and VAT", []Minor{doc.Net, doc.VAT, doc.VATPLN}, []Minor{{}, {}, {}})
		equal(t, "payment status", doc.PaymentStatus, "")
		equal(t, "tax date", doc.TaxDate, doc.IssueDate)
		equal(t, "line amounts", []Minor{doc.Lines[0].Net, doc.Lines[0].Gross}, []Minor{{}, {}})
		noWarnings(t, doc)
		empty := mustParse(t, `<Faktura xmlns="`+namespaceFA3+`"/>`)
		equal(t, "document that says nothing", empty, &Document{Form: "FA", FormCode: "FA (3)", Namespace: namespaceFA3})
	})
	t.Run("10 identifiers of buyers", func(t *testing.T) {
		for _, test := range []struct {
			name, xml string
			want      Party
		}{
			{"EU VAT number like a NIP", "<KodUE>DE</KodUE><NrVatUE>5213000001</NrVatUE>", Party{IDType: "VatUe", ID: "5213000001", IDCountry: "DE"}},
			{"other with a country", "<KodKraju>US</KodKraju><NrID>9-9</NrID>", Party{IDType: "Other", ID: "9-9", IDCountry: "US"}},
			{"other without a country", "<NrID>9-9</NrID>", Party{IDType: "Other", ID: "9-9"}},
			{"none", "<BrakID>1</BrakID>", Party{IDType: "None"}},
			{"internal", "<IDWew>5213000001-00017</IDWew>", Party{IDType: "InternalId", ID: "5213000001-00017", NIP: "5213000001"}},
			{"internal, malformed", "<IDWew>52130-17</IDWew>", Party{IDType: "InternalId", ID: "52130-17"}},
			{"NIP", "<NIP>5213000001</NIP>", Party{IDType: "Nip", ID: "5213000001", NIP: "5213000001"}},
			{"nothing", "<Nazwa>X</Nazwa>", Party{Name: "X"}},
		} {
			doc := mustParse(t, fa3("<Podmiot2><DaneIdentyfikacyjne>"+test.xml+"</DaneIdentyfikacyjne></Podmiot2>", ""))
			test.want.Kind, test.want.Position = "buyer", 1
			equal(t, test.name, doc.Parties, []Party{test.want})
			noWarnings(t, doc)
		}
	})
	t.Run("11 foreign currency", func(t *testing.T) {
		doc := fixture(t, "foreign_currency.xml")
		equal(t, "net, VAT, VAT in PLN, gross", []Minor{doc.Net, doc.VAT, doc.VATPLN, doc.Gross}, []Minor{stated(142000), stated(7850), stated(29325), stated(149850)})
		equal(t, "header rate", doc.ExchangeRate, "")
		equal(t, "line rates", []string{doc.Lines[0].ExchangeRate, doc.Lines[1].ExchangeRate, doc.Lines[2].ExchangeRate}, []string{"4.25", "", "4.301"})
		equal(t, "tax date is the latest line's", doc.TaxDate, "2026-01-20")
		doc = mustParse(t, fa3("", "<KodWaluty>EUR</KodWaluty><P_13_1>1</P_13_1><P_14_1>0.23</P_14_1><KursWalutyZ>4.20</KursWalutyZ>"))
		equal(t, "VAT in PLN is not computed", doc.VATPLN, Minor{})
		equal(t, "header rate", doc.ExchangeRate, "4.2")
	})
	t.Run("12 state before and after a correction", func(t *testing.T) {
		doc := fixture(t, "correction_pairs.xml")
		var effect int64
		for _, line := range doc.Lines {
			if line.BeforeCorrection {
				effect -= line.Net.Value
			} else {
				effect += line.Net.Value
			}
		}
		equal(t, "effect of the lines", stated(effect), doc.Net)
		equal(t, "gross", doc.Gross, stated(-2460))
		equal(t, "kinds of parties", kinds(doc), []string{"seller", "buyer", "seller_before", "buyer_before"})
		equal(t, "number that was wrong", doc.CorrectedNumberFixed, "FV/1/01/2026/A")
		order := fixture(t, "advance_correction.xml")
		equal(t, "order lines", []bool{order.Lines[0].BeforeCorrection, order.Lines[1].BeforeCorrection}, []bool{true, false})
		equal(t, "amount before", order.AmountBefore, stated(123000))
	})
	t.Run("12 mixed signs and zero", func(t *testing.T) {
		doc := fixture(t, "correction_difference.xml")
		equal(t, "net, VAT, gross", []Minor{doc.Net, doc.VAT, doc.Gross}, []Minor{stated(-1389), stated(1389), stated(0)})
		doc = fixture(t, "correction_data_only.xml")
		equal(t, "net, VAT, gross", []Minor{doc.Net, doc.VAT, doc.Gross}, []Minor{{}, {}, stated(0)})
		equal(t, "is a correction", doc.IsCorrection, true)
	})
	t.Run("12 fifty thousand corrected invoices", func(t *testing.T) {
		doc := mustParse(t, fa3("", "<RodzajFaktury>KOR</RodzajFaktury>"+strings.Repeat("<DaneFaKorygowanej><DataWystFaKorygowanej>2026-01-01</DataWystFaKorygowanej><NrFaKorygowanej>1</NrFaKorygowanej><NrKSeFN>1</NrKSeFN></DaneFaKorygowanej>", 50_000)+"<P_15ZK>7.00</P_15ZK>"))
		equal(t, "amount before", doc.AmountBefore, stated(700))
		equal(t, "references", len(doc.References), 50_000)
		equal(t, "the last", doc.References[49_999], Reference{Relation: "corrects", Position: 50_000, Number: "1", IssueDate: "2026-01-01", OutsideKSeF: true})
		noWarnings(t, doc)
	})
	t.Run("12 collective correction without lines", func(t *testing.T) {
		doc := mustParse(t, fa3("", "<RodzajFaktury>KOR</RodzajFaktury>"+strings.Repeat("<DaneFaKorygowanej><DataWystFaKorygowanej>2026-01-01</DataWystFaKorygowanej><NrFaKorygowanej>1</NrFaKorygowanej><NrKSeFN>1</NrKSeFN></DaneFaKorygowanej>", 283)+"<OkresFaKorygowanej>2025</OkresFaKorygowanej>"))
		equal(t, "references, lines, period", []any{len(doc.References), len(doc.Lines), doc.CorrectionPeriod}, []any{283, 0, "2025"})
	})
	t.Run("12 wrong number", func(t *testing.T) {
		doc := mustParse(t, fa3("", "<DaneFaKorygowanej><NrFaKorygowanej>wrong</NrFaKorygowanej><NrKSeF>1</NrKSeF><NrKSeFFaKorygowanej>M123456789-20260101-0A0B0C0D0E0F-1B</NrKSeFFaKorygowanej></DaneFaKorygowanej><NrFaKorygowany>right</NrFaKorygowany>"))
		equal(t, "reference", doc.References, []Reference{{Relation: "corrects", Position: 1, KSeFNumber: "M123456789-20260101-0A0B0C0D0E0F-1B", Number: "wrong"}})
		equal(t, "right number", doc.CorrectedNumberFixed, "right")
	})
	t.Run("12 signs of PEF corrections", func(t *testing.T) {
		doc := fixture(t, "pef_correction.xml")
		equal(t, "difference", []Minor{doc.Net, doc.VAT, doc.Gross}, []Minor{stated(-20000), stated(-4600), stated(-24600)})
		equal(t, "effect of the lines", doc.Lines[1].Net.Value-doc.Lines[0].Net.Value, doc.Net.Value)
		equal(t, "state before", []bool{doc.Lines[0].BeforeCorrection, doc.Lines[1].BeforeCorrection}, []bool{true, false})
		equal(t, "amount before", doc.AmountBefore, stated(123000))
		doc = fixture(t, "pef_credit_note.xml") // without the data that Poland adds
		equal(t, "difference", []Minor{doc.Net, doc.VAT, doc.Gross, doc.Lines[0].Net}, []Minor{stated(-20000), stated(-4600), stated(-24600), stated(-20000)})
	})
	t.Run("12 tax date of a correction", func(t *testing.T) {
		doc := mustParse(t, fa3("", "<P_1>2026-03-01</P_1><FaWiersz><P_6A>2026-02-20</P_6A><StanPrzed>1</StanPrzed></FaWiersz><FaWiersz><P_6A>2026-02-10</P_6A></FaWiersz>"))
		equal(t, "tax date", doc.TaxDate, "2026-02-10")
	})
	t.Run("13 several third parties", func(t *testing.T) {
		doc := fixture(t, "parties.xml")
		var positions []int
		var roles []string
		for _, party := range doc.Parties {
			if party.Kind == "third" {
				positions = append(positions, party.Position)
				roles = append(roles, fmt.Sprint(party.RoleCode, " ", party.RoleText, " ", party.SharePercent))
			}
		}
		equal(t, "positions", positions, []int{1, 2, 3, 4, 5, 6, 7})
		equal(t, "roles", roles, []string{"1  ", "4  33.33", "8  ", "2  ", "6  ", "0 odbiorca próbek ", "5  "})
		equal(t, "self-billing", doc.SelfBilling, true)
		equal(t, "seller is still Podmiot1", doc.Parties[0].NIP, "5213000001")
		noWarnings(t, doc)
	})
	t.Run("14 due dates", func(t *testing.T) {
		doc := fixture(t, "several_rates.xml")
		equal(t, "first, last", []string{doc.FirstDueDate, doc.LastDueDate}, []string{"2026-03-16", "2026-04-15"})
		for _, test := range []struct{ name, xml, status string }{
			{"paid", "<Zaplacono>1</Zaplacono>", "paid"},
			{"paid in parts", "<ZnacznikZaplatyCzesciowej>2</ZnacznikZaplatyCzesciowej>", "paid"},
			{"part paid", "<ZnacznikZaplatyCzesciowej>1</ZnacznikZaplatyCzesciowej><TerminPlatnosci><Termin>2026-01-01</Termin></TerminPlatnosci>", "partial"},
			{"date", "<TerminPlatnosci><Termin>2026-01-01</Termin></TerminPlatnosci>", "unpaid"},
			{"description as in FA(2)", "<TerminPlatnosci><TerminOpis>14 dni</TerminOpis></TerminPlatnosci>", "unpaid"},
			{"description as in FA(3)", "<TerminPlatnosci><TerminOpis><Ilosc>14</Ilosc></TerminOpis></TerminPlatnosci>", "unpaid"},
			{"dated, then empty", "<TerminPlatnosci><Termin>2026-01-01</Termin></TerminPlatnosci><TerminPlatnosci/>", "unpaid"},
			{"empty term", "<TerminPlatnosci> <TerminOpis> </TerminOpis></TerminPlatnosci>", "unknown"},
			{"method alone", "<FormaPlatnosci>6</FormaPlatnosci>", "unknown"},
		} {
			equal(t, test.name, mustParse(t, fa3("", "<Platnosc>"+test.xml+"</Platnosc>")).PaymentStatus, test.status)
		}
		for i, method := range []string{"cash", "card", "voucher", "cheque", "credit", "transfer", "mobile"} {
			equal(t, method, mustParse(t, fa3("", fmt.Sprintf("<Platnosc><FormaPlatnosci>%d</FormaPlatnosci></Platnosc>", i+1))).PaymentMethod, method)
		}
	})
	t.Run("14 accounts", func(t *testing.T) {
		doc := fixture(t, "terms.xml")
		var accounts []string
		for _, a := range doc.Accounts {
			accounts = append(accounts, fmt.Sprint(a.Owner, " ", a.Position, " ", a.Number))
		}
		equal(t, "accounts", accounts, []string{"seller 1 61109010140000071219812874", "seller 2 DE02120300000000202051", "factor 1 PL83101010230000261395100000"})
	})
	t.Run("15 attachment with empty cells", func(t *testing.T) {
		doc := mustParse(t, strings.Replace(fa3("", "<P_2>A/1</P_2>"), "</Faktura>", "<Zalacznik><BlokDanych><Tabela>"+strings.Repeat("<Wiersz><WKom/><WKom>1</WKom><WKom></WKom></Wiersz>", 20_000)+"</Tabela></BlokDanych></Zalacznik></Faktura>", 1))
		equal(t, "has attachment", doc.HasAttachment, true)
		rows := doc.Attachments[0].Block.Tables[0].Rows
		equal(t, "rows, the last", []any{len(rows), rows[19_999]}, []any{20_000, []string{"", "1", ""}})
	})
	t.Run("15 embedded files", func(t *testing.T) {
		embedded := func(content string) *Document {
			return mustParse(t, pefInvoice(`<cac:AdditionalDocumentReference><cbc:ID>1</cbc:ID><cac:Attachment><cbc:EmbeddedDocumentBinaryObject mimeCode="image/png" filename="a.png">`+content+`</cbc:EmbeddedDocumentBinaryObject></cac:Attachment></cac:AdditionalDocumentReference>`))
		}
		const sum = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" // of "abc"
		for _, content := range []string{"YWJj", " Y W\tJ\r\nj\n", "<![CDATA[YW]]><!---->Jj"} {
			doc := embedded(content)
			equal(t, content, doc.Attachments, []Attachment{{Kind: "ubl_embedded", Position: 1, MIME: "image/png", Filename: "a.png", Size: 3, SHA256: sum}})
			noWarnings(t, doc)
		}
		for _, content := range []string{"YWJ", "YWJj=", "zażółć"} {
			doc := embedded(content)
			equal(t, content, doc.Attachments, []Attachment{{Kind: "ubl_embedded", Position: 1, MIME: "image/png", Filename: "a.png"}})
			equal(t, "warnings", doc.Warnings, []string{"EmbeddedDocumentBinaryObject: not base64"})
		}
	})
	t.Run("16 ten thousand lines", func(t *testing.T) {
		const line = "<FaWiersz><NrWierszaFa>%d</NrWierszaFa><P_7>x</P_7><P_11>0.01</P_11></FaWiersz>"
		var lines strings.Builder
		for i := range 10_000 {
			fmt.Fprintf(&lines, line, i+1)
		}
		doc := mustParse(t, fa3("", lines.String()))
		var sum int64
		for i, line := range doc.Lines {
			sum += line.Net.Value
			if line.Position != i+1 || line.Number != i+1 {
				t.Fatalf("line %d has position %d and number %d", i+1, line.Position, line.Number)
			}
		}
		equal(t, "sum", sum, 10_000)
		noWarnings(t, doc)

		// More than the schema allows: read up to there, and said so.
		doc = mustParse(t, fa3("", lines.String()+"<FaWiersz/><FaWiersz/><P_15>1.00</P_15>"))
		equal(t, "lines", len(doc.Lines), 10_000)
		equal(t, "gross behind them", doc.Gross, stated(100))
		equal(t, "warnings", doc.Warnings, []string{"FaWiersz: only the first 10000 are read"})
	})
	t.Run("17 line numbers", func(t *testing.T) {
		doc := mustParse(t, fa3("", "<FaWiersz><NrWierszaFa>000010</NrWierszaFa></FaWiersz><FaWiersz><NrWierszaFa>10</NrWierszaFa></FaWiersz><Zamowienie><ZamowienieWiersz><NrWierszaZam>10</NrWierszaZam></ZamowienieWiersz></Zamowienie>"))
		equal(t, "lines", doc.Lines, []Line{{Kind: "line", Position: 1, Number: 10}, {Kind: "line", Position: 2, Number: 10}, {Kind: "order", Position: 1, Number: 10}})
	})
	t.Run("18 two identifiers", func(t *testing.T) {
		doc := mustParse(t, fa3("<Podmiot3><DaneIdentyfikacyjne><NIP>9570000005</NIP><IDWew>9570000005-00011</IDWew></DaneIdentyfikacyjne></Podmiot3>", ""))
		equal(t, "id", []string{doc.Parties[0].IDType, doc.Parties[0].ID}, []string{"Nip", "9570000005"})
		equal(t, "warnings", doc.Warnings, []string{"Podmiot3 1/DaneIdentyfikacyjne: several identifiers; Nip is used"})
	})
	t.Run("18 what else breaks the schema", func(t *testing.T) {
		doc := mustParse(t, fa3("<Podmiot2><DaneIdentyfikacyjne><PESEL>44051401359</PESEL><Nazwa>Jan</Nazwa></DaneIdentyfikacyjne><JST>2</JST></Podmiot2>", "<Platnosc><TerminPlatnosci><TerminOpis>14 dni</TerminOpis></TerminPlatnosci></Platnosc><P_2>A/1</P_2>"))
		equal(t, "buyer", doc.Parties, []Party{{Kind: "buyer", Position: 1, Name: "Jan"}})
		equal(t, "due, number", []any{doc.DueDates, doc.InvoiceNumber}, []any{[]DueDate{{Position: 1, Description: "14 dni"}}, "A/1"})
	})
	t.Run("18 parts that are there twice", func(t *testing.T) {
		doc := mustParse(t, strings.Replace(fa3("", "<P_13_1>1.00</P_13_1>"), "</Fa>", "</Fa><Fa><P_13_1>2.00</P_13_1></Fa>", 1))
		equal(t, "VAT rows, warnings", []any{doc.VATRows, doc.Warnings}, []any{[]VATRow{{Bucket: "standard", Net: stated(100)}}, []string{"Fa: only the first 1 are read"}})
		doc = mustParse(t, fa3("", "<WarunkiTransakcji><Transport><Przewoznik/><Przewoznik/></Transport><Transport><Przewoznik/></Transport></WarunkiTransakcji>"))
		equal(t, "carriers", doc.Parties, []Party{{Kind: "carrier", Position: 1}, {Kind: "carrier", Position: 2}})
	})
	t.Run("19 receipts of KSeF are not invoices", func(t *testing.T) {
		for _, version := range []string{"v4-2", "v4-3"} {
			doc, err := Parse([]byte(`<Potwierdzenie xmlns="http://upo.schematy.mf.gov.pl/KSeF/` + version + `"><NazwaPodmiotuPrzyjmujacego>środowisko testowe (TE)</NazwaPodmiotuPrzyjmujacego><Dokument/><Dokument/></Potwierdzenie>`))
			if !errors.Is(err, ErrUnsupported) || doc.Form != "UNKNOWN" {
				t.Errorf("%s: form %s, %v", version, doc.Form, err)
			}
		}
	})
	numbers := func(t *testing.T, numbers ...string) { // they are data here: who writes files or CSV protects those
		t.Helper()
		for _, number := range numbers {
			doc := mustParse(t, fa3("", "<P_2>"+strings.ReplaceAll(number, `"`, "&quot;")+"</P_2>"))
			equal(t, "number", doc.InvoiceNumber, number)
		}
	}
	t.Run("20 numbers that are no file names", func(t *testing.T) {
		numbers(t, `..\..//FV/"7"*?`, "..", strings.Repeat("Ż", 256))
		equal(t, "file name", fixture(t, "pef_invoice.xml").Attachments[0].Filename, "../protokół.csv")
	})
	t.Run("21 numbers that are formulas", func(t *testing.T) {
		numbers(t, "=cmd|' /C calc'!A0", "+1", "@x", "-1")
	})
	t.Run("22 numbers that differ little", func(t *testing.T) {
		numbers(t, "fv/1", "FV/1", "FV /1", "FV/01")
	})
}

// pefInvoice is a PEF invoice with the given content.
func pefInvoice(content string) string {
	return `<Invoice xmlns="` + namespacePEF + `" xmlns:cac="` + ublBody[0] + `" xmlns:cbc="` + ublBody[1] + `">` + content + `</Invoice>`
}

func kinds(doc *Document) []string {
	var kinds []string
	for _, party := range doc.Parties {
		kinds = append(kinds, party.Kind)
	}
	return kinds
}

func TestVATSummary(t *testing.T) {
	t.Run("every bucket", func(t *testing.T) {
		var fa strings.Builder
		var net, vat, pln int64
		want := make([]VATRow, len(vatBuckets))
		for i, b := range vatBuckets {
			row := VATRow{Bucket: b.bucket, Net: stated(int64(i+1) * 100)}
			net += row.Net.Value
			fmt.Fprintf(&fa, "<%s>%d.00</%[1]s>", b.net, i+1)
			if b.vat != "" {
				row.VAT = stated(int64(i+1) * 10)
				vat += row.VAT.Value
				fmt.Fprintf(&fa, "<%s>%.2f</%[1]s>", b.vat, float64(i+1)/10)
			}
			if b.vatPLN != "" {
				row.VATPLN = stated(int64(i + 1))
				pln += row.VATPLN.Value
				fmt.Fprintf(&fa, "<%s>0.%02d</%[1]s>", b.vatPLN, i+1)
			}
			want[i] = row
		}
		doc := mustParse(t, fa3("", fa.String()))
		equal(t, "rows", doc.VATRows, want)
		equal(t, "sums", []Minor{doc.Net, doc.VAT, doc.VATPLN}, []Minor{stated(net), stated(vat), stated(pln)})
		noWarnings(t, doc)
	})
	tests := []struct {
		name, fa      string
		net, vat, pln Minor
		warnings      []string
	}{
		{"never from the amount due", "<P_15>123.00</P_15><P_14_1>23.00</P_14_1>", Minor{}, stated(2300), Minor{}, nil},
		{"zero is stated", "<P_13_1>0.00</P_13_1>", stated(0), Minor{}, Minor{}, nil},
		{"negative and positive", "<P_13_1>-1.00</P_13_1><P_13_2>3.00</P_13_2>", stated(200), Minor{}, Minor{}, nil},
		{"a sum with an unreadable part is not stated", "<P_13_1>1.00</P_13_1><P_13_2>2,00</P_13_2><P_14_1>0.23</P_14_1>", Minor{}, stated(23), Minor{}, []string{"P_13_2: not a decimal number"}},
		{"neither is one that overflows", "<P_13_1>9000000000000.00</P_13_1><P_13_2>0.01</P_13_2>", Minor{}, Minor{}, Minor{}, nil},
		{"nor one that overflows below zero", "<P_13_1>-9000000000000.00</P_13_1><P_13_2>-0.01</P_13_2>", Minor{}, Minor{}, Minor{}, nil},
		{"the largest amount that is read", "<P_13_1>8999999999999.99</P_13_1><P_13_2>0.01</P_13_2>", stated(MaxAmount), Minor{}, Minor{}, nil},
		{"the largest amounts of the schema are not", "<P_13_1>9999999999999999.99</P_13_1><P_13_2>1.00</P_13_2>", Minor{}, Minor{}, Minor{}, []string{"P_13_1: too large"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			doc := mustParse(t, fa3("", test.fa))
			equal(t, "net, VAT, VAT in PLN", []Minor{doc.Net, doc.VAT, doc.VATPLN}, []Minor{test.net, test.vat, test.pln})
			equal(t, "warnings", doc.Warnings, test.warnings)
		})
	}
}

func TestAnnotations(t *testing.T) {
	flags := func(d *Document) []bool {
		return []bool{d.CashMethod, d.SelfBilling, d.ReverseCharge, d.SplitPayment, d.Exempt, d.NewTransport, d.Triangular, d.CashRegister, d.RelatedParties, d.ExciseRefund}
	}
	elements := []string{"P_16", "P_17", "P_18", "P_18A", "Zwolnienie/P_19", "NoweSrodkiTransportu/P_22", "P_23"}
	xml := func(element, value string) string {
		outer, inner, nested := strings.Cut(element, "/")
		switch {
		case element[0] == 'F' || element[0] == 'T' || element == "ZwrotAkcyzy":
			return fa3("", "<"+element+">"+value+"</"+element+">")
		case nested:
			return fa3("", "<Adnotacje><"+outer+"><"+inner+">"+value+"</"+inner+"></"+outer+"></Adnotacje>")
		default:
			return fa3("", "<Adnotacje><"+outer+">"+value+"</"+outer+"></Adnotacje>")
		}
	}
	for i, element := range append(elements, "FP", "TP", "ZwrotAkcyzy") {
		for _, value := range []string{"1", "2", "", "true", "01"} {
			want := make([]bool, 10)
			want[i] = value == "1"
			equal(t, element+" "+value, flags(mustParse(t, xml(element, value))), want)
		}
	}
	for element, scheme := range map[string]string{"P_PMarzy_2": "travel", "P_PMarzy_3_1": "used_goods", "P_PMarzy_3_2": "art", "P_PMarzy_3_3": "antiques", "P_PMarzyN": ""} {
		equal(t, element, mustParse(t, xml("PMarzy/"+element, "1")).MarginScheme, scheme)
		equal(t, element, mustParse(t, xml("PMarzy/"+element, "2")).MarginScheme, "")
	}
}

func TestWarningsAreBoundedAndDiscreet(t *testing.T) {
	doc := mustParse(t, fa3("", strings.Repeat("<FaWiersz><P_11>SECRET</P_11><P_12/></FaWiersz>", 100)))
	if len(doc.Warnings) != maxWarnings+1 || doc.Warnings[maxWarnings] != "68 more warnings" {
		t.Errorf("%d warnings, the last %q", len(doc.Warnings), doc.Warnings[len(doc.Warnings)-1])
	}
	equal(t, "the second", doc.Warnings[1], "FaWiersz 2/P_11: not a decimal number")
	if slices.ContainsFunc(doc.Warnings, func(w string) bool { return strings.Contains(w, "SECRET") }) {
		t.Error("warnings quote the document")
	}
}

func TestIsKSeFNumber(t *testing.T) {
	for _, number := range []string{"5265877635-20260201-0100A0D6723E-C2", "1010000000-20200101-000000-000000-00", "M123456789-20260201-0100A0D6723E-C2", "ABC1234567-20260201-0100A0D6723E-C2"} {
		if !isKSeFNumber(number) {
			t.Errorf("%s is a number of KSeF", number)
		}
	}
	for _, number := range []string{"", "FV/1/2026", "5265877635-20260201-0100A0D6723E", "5265877635-20260201-0100a0d6723e-c2", "5265877635-2026021-0100A0D6723E-C2", "526587763-20260201-0100A0D6723E-C2", "5265877635-20260201-0100A0D6723E-C2-1", "5265877635-20260201-0100A0D6723G-C2", "52658 7635-20260201-0100A0D6723E-C2"} {
		if isKSeFNumber(number) {
			t.Errorf("%s is no number of KSeF", number)
		}
	}
}

func TestHundredths(t *testing.T) {
	good := map[string]int64{
		"0": 0, "-0.00": 0, "1": 100, "-200": -20000, "13560": 1356000, "3118.80": 311880, "-15993.6": -1599360, "0.07": 7, "-0.5": -50, "007.10": 710,
		"9000000000000": 900000000000000, "-9000000000000.00": -900000000000000,
	}
	for s, want := range good {
		if got, err := hundredths(s); err != nil || got != want {
			t.Errorf("hundredths(%q) = %d, %v; want %d", s, got, err, want)
		}
	}
	bad := map[string]error{
		"": errNotDecimal, "-": errNotDecimal, ".": errNotDecimal, ".5": errNotDecimal, "5.": errNotDecimal, "+1": errNotDecimal, "1,00": errNotDecimal, "1e3": errNotDecimal,
		"NaN": errNotDecimal, "INF": errNotDecimal, "0x10": errNotDecimal, "1 000": errNotDecimal, "--1": errNotDecimal, "1.2.3": errNotDecimal, "1_0": errNotDecimal, "١": errNotDecimal,
		"1.000": errNotCents, "0.005": errNotCents, "9000000000000.01": errTooLarge, "-9000000000000.01": errTooLarge, "9999999999999999.99": errTooLarge, "92233720368547758.08": errTooLarge, "99999999999999999999": errTooLarge,
	}
	for s, want := range bad {
		if got, err := hundredths(s); !errors.Is(err, want) {
			t.Errorf("hundredths(%q) = %d, %v; want %v", s, got, err, want)
		}
	}
}

func TestCanonicalDecimal(t *testing.T) {
	for s, want := range map[string]string{
		"2.000": "2", "0": "0", "-0.0": "0", "00.50": "0.5", "-0012.3400": "-12.34", "1000": "1000", "0.000001": "0.000001",
		"12345678901234567890.123456": "12345678901234567890.123456",
		"":                            "", "1e3": "", "+1": "", ".5": "", "1.": "", "1,5": "", "-": "",
	} {
		got, err := canonicalDecimal(s)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("canonicalDecimal(%q) = %q, %v; want %q", s, got, err, want)
		}
	}
}
