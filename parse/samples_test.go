package parse

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestOfficialSamples compares with an independent reading of the invoices that
// the Ministry of Finance publishes as examples: every key of it, for every form.
func TestOfficialSamples(t *testing.T) {
	folder := "../../shared/ksef/samples"
	content, err := os.ReadFile(filepath.Join(folder, "expected.json"))
	if err != nil {
		t.Skipf("the official samples are not here: %v", err)
	}
	var expected map[string]map[string]any
	if err := json.Unmarshal(content, &expected); err != nil {
		t.Fatal(err)
	}
	read := 0
	for file, want := range expected {
		t.Run(file, func(t *testing.T) {
			xml, err := os.ReadFile(filepath.Join(folder, filepath.FromSlash(file)))
			if err != nil {
				t.Fatal(err)
			}
			doc := mustParse(t, string(xml))
			got := common(doc)
			switch doc.Form {
			case "FA":
				maps.Copy(got, fa(doc))
			case "FA_RR":
				maps.Copy(got, rr(doc))
			default:
				maps.Copy(got, pef(doc))
			}
			for key, value := range want {
				if _, ok := got[key]; !ok {
					t.Errorf("nothing of the Document is compared with %s: %v", key, value)
				}
			}
			for key := range got {
				if _, ok := want[key]; !ok {
					delete(got, key) // FA_RR has fewer keys than FA, for the same fields
				}
			}
			equalToADocument(want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-expected +parsed:\n%s", diff)
			}
			if file != "fa3/cs_fa3_multi_subject3.xml" { // which breaks its schema
				noWarnings(t, doc)
			}
		})
		read++
	}
	if read < 35 {
		t.Errorf("only %d samples", read)
	}
}

// equalToADocument makes equal what is written differently in expected.json.
func equalToADocument(want map[string]any) {
	// It sums nothing to 0.00; a Document does not state it.
	for sum, parts := range map[string]string{"net_total": "net_by_field", "vat_total": "vat_by_field"} {
		if fields, ok := want[parts].(map[string]any); ok && len(fields) == 0 {
			want[sum] = nil
		}
	}
	// A Document does not tell "2" from "not stated".
	for _, key := range []string{"buyer_jst", "buyer_gv"} {
		if value, ok := want[key]; ok {
			want[key] = value == true
		}
	}
	// The first line is as written: "1626.0" and "1626.00" are the same price.
	if line, ok := want["first_line"].(map[string]any); ok {
		for field, value := range line {
			line[field] = number(value.(string))
		}
	}
	// Of two subtotals of one category and rate, a Document has the sum.
	if list, ok := want["tax_subtotals"].([]any); ok {
		want["tax_subtotals"] = subtotals(list)
	}
}

// subtotals adds up those of one category and rate: "25" and "25.0" are one.
func subtotals(list []any) map[string][2]string {
	sums := map[string][2]*big.Rat{}
	for _, item := range list {
		subtotal := item.(map[string]any)
		key := "ubl:" + subtotal["category"].(string) + ":" + number(subtotal["percent"].(string))
		if _, ok := sums[key]; !ok {
			sums[key] = [2]*big.Rat{new(big.Rat), new(big.Rat)}
		}
		for i, field := range []string{"taxable", "tax"} {
			amount, _ := new(big.Rat).SetString(subtotal[field].(string))
			sums[key][i].Add(sums[key][i], amount)
		}
	}
	texts := map[string][2]string{}
	for key, sum := range sums {
		texts[key] = [2]string{sum[0].FloatString(2), sum[1].FloatString(2)}
	}
	return texts
}

// common renders a Document with the keys and types of expected.json: those that
// all forms have.
func common(d *Document) map[string]any {
	forms := map[string]string{namespaceFA1: "FA1", namespaceFA2: "FA2", namespaceFA3: "FA3", namespaceRR: "RR", namespacePEF: "PEF", namespacePEFKOR: "PEF_KOR"}
	return map[string]any{
		"form": forms[d.Namespace], "root": map[string]string{"FA": "Faktura", "FA_RR": "Faktura", "PEF": "Invoice", "PEF_KOR": "CreditNote"}[d.Form],
		"form_code": d.FormCode, "form_variant": strings.Trim(d.FormCode, "FA_R ()"), "schema_version": d.FormVersion, "namespace": d.Namespace,
		"created_at": d.CreatedAt, "system_info": orNil(d.SystemInfo), "invoice_type": d.InvoiceType, "invoice_number": d.InvoiceNumber,
		"issue_date": d.IssueDate, "sale_date": orNil(d.SaleDate), "period_from": orNil(d.PeriodFrom), "period_to": orNil(d.PeriodTo), "currency": d.Currency,
		"gross": orNilMinor(d.Gross), "net_total": orNilMinor(d.Net), "vat_total": orNilMinor(d.VAT),
		"corrected_invoices": references(d, "corrects"),
	}
}

func references(d *Document, relation string) []any {
	list := []any{}
	for _, r := range d.References {
		reference := map[string]any{"ksef_number": orNil(r.KSeFNumber), "number": orNil(r.Number), "issue_date": orNil(r.IssueDate), "outside_ksef": r.OutsideKSeF}
		if relation == "settles_advance" {
			delete(reference, "issue_date") // FA has none there
		}
		if d.Form == "PEF_KOR" {
			reference = map[string]any{"id": firstOf(r.KSeFNumber, r.Number), "issue_date": r.IssueDate}
		}
		if r.Relation == relation {
			list = append(list, reference)
		}
	}
	return list
}

// list renders those of the items that keep, as expected.json has lists.
func list[T any](items []T, keep func(T) bool, value func(T) any) []any {
	values := []any{}
	for _, item := range items {
		if keep(item) {
			values = append(values, value(item))
		}
	}
	return values
}

func partyOf(d *Document, kind string) Party {
	for _, p := range d.Parties {
		if p.Kind == kind {
			return p
		}
	}
	return Party{}
}

func accounts(d *Document, owner string) []any {
	return list(d.Accounts, func(a Account) bool { return a.Owner == owner }, func(a Account) any { return a.Number })
}

func payments(d *Document, kind string) []any {
	return list(d.Payments, func(p Payment) bool { return p.Kind == kind }, func(p Payment) any {
		return map[string]any{"amount": orNilMinor(p.Amount), "date": orNil(p.Date)}
	})
}

func related(d *Document, kind string) []any {
	return list(d.RelatedDocuments, func(r RelatedDocument) bool { return r.Kind == kind }, func(r RelatedDocument) any { return r.Number })
}

func dueDates(d *Document) []any {
	return list(d.DueDates, func(due DueDate) bool { return due.Date != "" }, func(due DueDate) any { return due.Date })
}

func descriptions(d *Document) []any {
	return list(d.Notes, func(n Note) bool { return n.Kind == "note" }, func(n Note) any {
		line := any(nil)
		if n.Line > 0 {
			line = strconv.Itoa(n.Line)
		}
		return map[string]any{"line": line, "key": n.Key, "value": n.Value}
	})
}

// fa renders what FA(1), FA(2) and FA(3) have.
func fa(d *Document) map[string]any {
	seller, buyer := partyOf(d, "seller"), partyOf(d, "buyer")
	linesOf := func(kind string) []Line {
		return slices.DeleteFunc(slices.Clone(d.Lines), func(l Line) bool { return l.Kind != kind })
	}
	before := func(kind string) float64 {
		return float64(len(slices.DeleteFunc(linesOf(kind), func(l Line) bool { return !l.BeforeCorrection })))
	}
	texts := func(field func(Line) string) []any {
		list := []any{}
		for _, l := range linesOf("line") {
			if v := field(l); v != "" && !slices.Contains(list, any(v)) {
				list = append(list, v)
			}
		}
		slices.SortFunc(list, func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
		return list
	}
	sum := func(field func(Line) Minor) string {
		var total int64
		for _, l := range linesOf("line") {
			total += field(l).Value
		}
		return render(total)
	}
	net, vat, vatPLN := map[string]any{}, map[string]any{}, map[string]any{}
	for _, row := range d.VATRows {
		for _, fields := range vatBuckets {
			for _, amount := range []struct {
				to   map[string]any
				name string
				Minor
			}{{net, fields.net, row.Net}, {vat, fields.vat, row.VAT}, {vatPLN, fields.vatPLN, row.VATPLN}} {
				if amount.Stated && fields.bucket == row.Bucket {
					amount.to[amount.name] = render(amount.Value)
				}
			}
		}
	}
	third := list(d.Parties, func(p Party) bool { return p.Kind == "third" }, func(p Party) any {
		role := any(nil)
		if p.RoleCode > 0 {
			role = strconv.Itoa(p.RoleCode)
		}
		return map[string]any{"id_kind": p.IDType, "id": p.ID, "id_country": orNil(p.IDCountry), "name": p.Name, "role": role, "role_other": orNil(p.RoleText), "share": orNil(p.SharePercent)}
	})
	authorized := any(nil)
	if p := partyOf(d, "authorized"); p.Kind != "" {
		authorized = fmt.Sprint(p)
	}
	annex15 := 0.0
	for _, l := range d.Lines {
		if l.Annex15 {
			annex15++
		}
	}
	effect, partial := any(nil), any(nil)
	if d.CorrectionEffect > 0 {
		effect = strconv.Itoa(d.CorrectionEffect)
	}
	if d.PaymentStatus == "partial" {
		partial = "1"
	}
	tables := 0
	for _, a := range d.Attachments {
		tables += len(a.Block.Tables)
	}
	return map[string]any{
		"issue_place": orNil(d.IssuePlace), "line_sale_dates": texts(func(l Line) string { return l.SaleDate }),
		"net_by_field": net, "vat_by_field": vat, "vat_pln_by_field": vatPLN, "vat_pln_total": orNilMinor(d.VATPLN),
		"net_plus_vat_equals_gross": d.Net.Value+d.VAT.Value == d.Gross.Value,
		"exchange_rate_header":      orNil(d.ExchangeRate), "exchange_rates_lines": texts(func(l Line) string { return l.ExchangeRate }),
		"seller_nip": seller.NIP, "seller_prefix": orNil(seller.IDCountry), "seller_name": seller.Name, "seller_country": orNil(seller.Country),
		"buyer_id_kind": buyer.IDType, "buyer_id": orNil(buyer.ID), "buyer_id_country": orNil(buyer.IDCountry), "buyer_name": orNil(buyer.Name), "buyer_country": orNil(buyer.Country),
		"buyer_jst": d.BuyerLocalGov, "buyer_gv": d.BuyerVATGroup, "customer_number": orNil(buyer.CustomerNumber),
		"third_parties": third, "authorized_party": authorized,
		"annotations": map[string]any{
			"cash_method": d.CashMethod, "self_invoicing": d.SelfBilling, "reverse_charge": d.ReverseCharge, "split_payment": d.SplitPayment,
			"exempt": d.Exempt, "exempt_basis": orNil(d.ExemptBasis), "new_transport": d.NewTransport, "triangular": d.Triangular,
			"margin":      d.MarginScheme != "",
			"margin_kind": orNil(map[string]string{"travel": "P_PMarzy_2", "used_goods": "P_PMarzy_3_1", "art": "P_PMarzy_3_2", "antiques": "P_PMarzy_3_3"}[d.MarginScheme]),
		},
		"fp": d.CashRegister, "tp": d.RelatedParties, "excise_refund": d.ExciseRefund,
		"correction_reason": orNil(d.CorrectionReason), "correction_type": effect, "correction_period": orNil(d.CorrectionPeriod), "corrected_number_fixed": orNil(d.CorrectedNumberFixed),
		"has_seller_before": partyOf(d, "seller_before").Kind != "", "amount_before_correction": orNilMinor(d.AmountBefore),
		"buyers_before":    float64(len(list(d.Parties, func(p Party) bool { return p.Kind == "buyer_before" }, func(p Party) any { return p }))),
		"advance_invoices": references(d, "settles_advance"), "advance_parts": payments(d, "advance_part"),
		"order_value": orNilMinor(d.OrderValue), "order_line_count": float64(len(linesOf("order"))), "order_lines_before": before("order"),
		"line_count": float64(len(linesOf("line"))), "lines_before": before("line"),
		"line_net_sum": sum(func(l Line) Minor { return l.Net }), "line_gross_sum": sum(func(l Line) Minor { return l.Gross }),
		"first_line": firstLine(linesOf("line")), "vat_rates": texts(func(l Line) string { return l.VATRate }),
		"gtu": texts(func(l Line) string { return l.GTU }), "procedures": texts(func(l Line) string { return l.Procedure }), "annex15_lines": annex15,
		"payment": map[string]any{
			"paid": d.PaymentStatus == "paid", "paid_date": orNil(d.PaidDate), "partial_flag": partial, "partial_payments": payments(d, "paid"), "due_dates": dueDates(d),
			"due_descriptions": list(d.DueDates, func(due DueDate) bool { return due.Description != "" }, func(due DueDate) any { return due.Description }),
			"method_code":      orNil(d.PaymentMethodCode), "method": orNil(d.PaymentMethod), "method_other": orNil(d.PaymentMethodText),
			"bank_accounts": accounts(d, "seller"), "factor_accounts": accounts(d, "factor"),
			"discount_terms": orNil(d.DiscountTerms), "ipksef": orNil(d.PaymentKSeFID),
		},
		"settlement": map[string]any{
			"charges": orNilMinor(d.Charges), "deductions": orNilMinor(d.Deductions), "to_pay": orNilMinor(d.ToPay), "to_settle": orNilMinor(d.ToSettle),
		},
		"warehouse_docs": related(d, "warehouse"), "orders": related(d, "order"), "contracts": related(d, "contract"),
		"notes":          descriptions(d),
		"footer":         list(d.Notes, func(n Note) bool { return n.Kind == "footer" }, func(n Note) any { return n.Value }),
		"has_attachment": d.HasAttachment, "attachment_blocks": float64(len(d.Attachments)), "attachment_tables": float64(tables),
	}
}

// rr renders what FA_RR has, part of it as FA.
func rr(d *Document) map[string]any {
	keys := fa(d)
	l := d.Lines[0]
	maps.Copy(keys, map[string]any{
		"net_pln": orNilMinor(d.NetPLN), "gross_pln": orNilMinor(d.GrossPLN),
		"amount_words": list(d.Notes, func(n Note) bool { return n.Kind == "amount_in_words" }, func(n Note) any { return n.Value })[0],
		"first_line": map[string]any{
			"NrWierszaFa": strconv.Itoa(l.Number), "P_5": l.Name, "P_6A": l.Unit, "P_6B": number(l.Quantity), "P_6C": l.QualityClass, "P_7": number(l.UnitPriceNet),
			"P_8": number(render(l.Net.Value)), "P_9": number(l.VATRate), "P_10": number(render(l.VAT.Value)), "P_11": number(render(l.Gross.Value)),
		},
		"payment": map[string]any{
			"method_code": orNil(d.PaymentMethodCode), "farmer_accounts": accounts(d, "farmer"), "buyer_accounts": accounts(d, "buyer"), "documents": payments(d, "document"),
		},
	})
	return keys
}

// pef renders what PEF and PEF_KOR have. expected.json holds the body of the
// document, which in PEF_KOR is the state after the correction.
func pef(d *Document) map[string]any {
	party := func(kind string) map[string]any {
		p := partyOf(d, kind)
		return map[string]any{"name": p.Name, "tax_id": p.IDCountry + p.ID, "legal_id": p.LegalID, "endpoint": p.Endpoint[strings.Index(p.Endpoint, ":")+1:], "country": p.Country}
	}
	text := func(kind string) any {
		for _, n := range d.Notes {
			if n.Kind == kind {
				return n.Value
			}
		}
		return nil
	}
	net, vat, gross, lines, prepaid, toPay, taxVAT := d.Net, d.VAT, d.Gross, d.LinesNet, d.Prepaid, d.ToPay, d.TaxCurrencyVAT
	taxes := map[string][2]string{}
	for _, row := range d.VATRows {
		taxes[row.Bucket] = [2]string{render(row.Net.Value), render(row.VAT.Value)}
	}
	for _, s := range d.CorrectionStates {
		switch {
		case s.State == "before":
		case s.Bucket == "":
			net, vat, gross, lines, prepaid, toPay, taxVAT = s.Net, s.VAT, s.Gross, s.LinesNet, s.Prepaid, s.ToPay, s.TaxCurrencyVAT
		default:
			taxes[s.Bucket] = [2]string{render(s.Net.Value), render(s.VAT.Value)}
		}
	}
	return map[string]any{
		"customization_id": text("customization"), "profile_id": text("profile"), "type_code": d.InvoiceType, "due_dates": dueDates(d),
		"tax_point_date": d.TaxDate, "tax_currency": d.TaxCurrency, "seller": party("seller"), "buyer": party("buyer"),
		"buyer_reference": related(d, "buyer_reference")[0], "order_reference": related(d, "order")[0],
		"net_total": orNilMinor(net), "gross": orNilMinor(gross), "payable": orNilMinor(toPay), "prepaid": orNilMinor(prepaid), "line_extension": orNilMinor(lines),
		"vat_by_currency": map[string]any{d.Currency: orNilMinor(vat), d.TaxCurrency: orNilMinor(taxVAT)}, "tax_subtotals": taxes,
		"line_count":    float64(len(list(d.Lines, func(l Line) bool { return !l.BeforeCorrection }, func(l Line) any { return l }))),
		"payment_codes": []any{d.PaymentMethodCode}, "bank_accounts": accounts(d, "seller"),
		"embedded_attachments": list(d.Attachments, func(a Attachment) bool { return a.Kind == "ubl_embedded" }, func(a Attachment) any {
			return map[string]any{"filename": a.Filename, "mime": a.MIME, "b64_chars": float64(base64.StdEncoding.EncodedLen(a.Size))}
		}),
	}
}

// firstLine renders what expected.json keeps of the first line: its date and rate
// have keys of their own.
func firstLine(lines []Line) any {
	if len(lines) == 0 {
		return nil
	}
	l := lines[0]
	fields := map[string]any{}
	for field, value := range map[string]string{
		"NrWierszaFa": strconv.Itoa(l.Number), "UU_ID": l.UID, "P_7": l.Name, "Indeks": l.ItemCode, "GTIN": l.GTIN, "PKWiU": l.PKWiU, "CN": l.CN, "PKOB": l.PKOB,
		"P_8A": l.Unit, "P_8B": l.Quantity, "P_9A": l.UnitPriceNet, "P_9B": l.UnitPriceGross, "P_10": l.Discount,
		"P_12": l.VATRate, "P_12_XII": l.OSSRate, "GTU": l.GTU, "Procedura": l.Procedure,
	} {
		if value != "" {
			fields[field] = number(value)
		}
	}
	for field, amount := range map[string]Minor{"P_11": l.Net, "P_11A": l.Gross, "P_11Vat": l.VAT, "KwotaAkcyzy": l.Excise} {
		if amount.Stated {
			fields[field] = number(render(amount.Value))
		}
	}
	for field, set := range map[string]bool{"StanPrzed": l.BeforeCorrection, "P_12_Zal_15": l.Annex15} {
		if set {
			fields[field] = "1"
		}
	}
	return fields
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// number makes equal numbers equal texts, and leaves other texts alone.
func number(s string) string {
	if r, ok := new(big.Rat).SetString(s); ok {
		return r.RatString()
	}
	return s
}

func orNil(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func orNilMinor(m Minor) any {
	if !m.Stated {
		return nil
	}
	return render(m.Value)
}

// render writes hundredths as expected.json does: always two decimals.
func render(hundredths int64) string {
	sign := ""
	if hundredths < 0 {
		sign, hundredths = "-", -hundredths
	}
	return fmt.Sprintf("%s%d.%02d", sign, hundredths/100, hundredths%100)
}
