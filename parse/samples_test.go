package parse

import (
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// notInDocument are the keys of expected.json that Document has no field for: the
// parts of an invoice that are not read yet, facts about the XML rather than the
// invoice, and keys that follow from others.
var notInDocument = []string{
	"root", "form_variant", "net_plus_vat_equals_gross",
	"corrected_invoices", "advance_invoices", "advance_parts", "order_value",
	"warehouse_docs", "orders", "contracts", "notes", "footer",
	"attachment_blocks", "attachment_tables",
	"payment.partial_flag", "payment.partial_payments", "payment.due_descriptions",
	"payment.bank_accounts", "payment.factor_accounts", "payment.method_code",
}

// TestOfficialSamples compares with an independent reading of the invoices that
// the Ministry of Finance publishes as examples.
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
			if !strings.HasPrefix(file, "fa2/") && !strings.HasPrefix(file, "fa3/") {
				doc, err := Parse(xml)
				if err == nil || doc.Namespace != want["namespace"] || doc.Form == "UNKNOWN" {
					t.Errorf("form %s, namespace %s, error %v", doc.Form, doc.Namespace, err)
				}
				return
			}
			doc := mustParse(t, string(xml))
			got := asExpected(doc)
			for _, key := range notInDocument {
				object, inner, nested := strings.Cut(key, ".")
				if nested {
					delete(want[object].(map[string]any), inner)
				} else {
					delete(want, key)
				}
			}
			// expected.json sums nothing to 0.00; a Document does not state it.
			for sum, parts := range map[string]string{"net_total": "net_by_field", "vat_total": "vat_by_field"} {
				if len(want[parts].(map[string]any)) == 0 {
					want[sum] = nil
				}
			}
			// A Document does not tell "2" from "not stated".
			for _, key := range []string{"buyer_jst", "buyer_gv"} {
				want[key] = want[key] == true
			}
			// first_line is as written: "1626.0" and "1626.00" are the same price.
			if line, ok := want["first_line"].(map[string]any); ok {
				for field, value := range line {
					line[field] = number(value.(string))
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-expected +parsed:\n%s", diff)
			}
			if file != "fa3/cs_fa3_multi_subject3.xml" { // which breaks its schema
				noWarnings(t, doc)
			}
		})
		read++
	}
	if read < 30 {
		t.Errorf("only %d samples", read)
	}
}

// asExpected renders a Document with the keys and types of expected.json.
func asExpected(d *Document) map[string]any {
	party := func(kind string) Party {
		for _, p := range d.Parties {
			if p.Kind == kind {
				return p
			}
		}
		return Party{}
	}
	count := func(kind string) float64 {
		return float64(len(slices.DeleteFunc(kinds(d), func(k string) bool { return k != kind })))
	}
	seller, buyer := party("seller"), party("buyer")
	lines := func(kind string) []Line {
		return slices.DeleteFunc(slices.Clone(d.Lines), func(l Line) bool { return l.Kind != kind })
	}
	before := func(kind string) float64 {
		return float64(len(slices.DeleteFunc(lines(kind), func(l Line) bool { return !l.BeforeCorrection })))
	}
	texts := func(field func(Line) string, sorted bool) []any {
		list := []any{}
		for _, l := range lines("line") {
			if v := field(l); v != "" && !slices.Contains(list, any(v)) {
				list = append(list, v)
			}
		}
		if sorted {
			slices.SortFunc(list, func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
		}
		return list
	}
	sum := func(field func(Line) Minor) string {
		var total int64
		for _, l := range lines("line") {
			total += field(l).Value
		}
		return render(total)
	}
	net, vat, vatPLN := map[string]any{}, map[string]any{}, map[string]any{}
	for _, row := range d.VATRows {
		field := strings.Replace(row.Field, "P_13", "P_14", 1)
		for _, amount := range []struct {
			to   map[string]any
			name string
			Minor
		}{{net, row.Field, row.Net}, {vat, field, row.VAT}, {vatPLN, field + "W", row.VATPLN}} {
			if amount.Stated {
				amount.to[amount.name] = render(amount.Value)
			}
		}
	}
	third := []any{}
	for _, p := range d.Parties {
		if p.Kind == "third" {
			role := any(nil)
			if p.RoleCode > 0 {
				role = strconv.Itoa(p.RoleCode)
			}
			third = append(third, map[string]any{"id_kind": p.IDType, "id": p.ID, "id_country": orNil(p.IDCountry), "name": p.Name, "role": role, "role_other": orNil(p.RoleText), "share": orNil(p.SharePercent)})
		}
	}
	authorized := any(nil)
	if p := party("authorized"); p.Kind != "" {
		authorized = fmt.Sprint(p)
	}
	annex15 := 0.0
	for _, l := range d.Lines {
		if l.Annex15 {
			annex15++
		}
	}
	var dueDates = []any{}
	for _, date := range []string{d.FirstDueDate, d.LastDueDate} {
		if date != "" && !slices.Contains(dueDates, any(date)) {
			dueDates = append(dueDates, date)
		}
	}
	effect := any(nil)
	if d.CorrectionEffect > 0 {
		effect = strconv.Itoa(d.CorrectionEffect)
	}
	return map[string]any{
		"form": map[string]string{namespaceFA2: "FA2", namespaceFA3: "FA3"}[d.Namespace], "form_code": d.FormCode, "schema_version": d.FormVersion, "namespace": d.Namespace,
		"created_at": d.CreatedAt, "system_info": orNil(d.SystemInfo), "invoice_type": d.InvoiceType, "invoice_number": d.InvoiceNumber,
		"issue_date": d.IssueDate, "issue_place": orNil(d.IssuePlace), "sale_date": orNil(d.SaleDate), "period_from": orNil(d.PeriodFrom), "period_to": orNil(d.PeriodTo),
		"line_sale_dates": texts(func(l Line) string { return l.SaleDate }, true), "currency": d.Currency,
		"gross": orNilMinor(d.Gross), "net_by_field": net, "vat_by_field": vat, "vat_pln_by_field": vatPLN,
		"net_total": orNilMinor(d.Net), "vat_total": orNilMinor(d.VAT), "vat_pln_total": orNilMinor(d.VATPLN),
		"exchange_rate_header": orNil(d.ExchangeRate), "exchange_rates_lines": texts(func(l Line) string { return l.ExchangeRate }, true),
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
		"has_seller_before": count("seller_before") > 0, "buyers_before": count("buyer_before"), "amount_before_correction": orNilMinor(d.AmountBefore),
		"order_line_count": float64(len(lines("order"))), "order_lines_before": before("order"),
		"line_count": float64(len(lines("line"))), "lines_before": before("line"),
		"line_net_sum": sum(func(l Line) Minor { return l.Net }), "line_gross_sum": sum(func(l Line) Minor { return l.Gross }),
		"first_line": firstLine(lines("line")), "vat_rates": texts(func(l Line) string { return l.VATRate }, true),
		"gtu": texts(func(l Line) string { return l.GTU }, true), "procedures": texts(func(l Line) string { return l.Procedure }, true), "annex15_lines": annex15,
		"payment": map[string]any{
			"paid": d.PaymentStatus == "paid", "paid_date": orNil(d.PaidDate), "due_dates": dueDates,
			"method": orNil(d.PaymentMethod), "method_other": orNil(d.PaymentMethodText), "discount_terms": orNil(d.DiscountTerms), "ipksef": orNil(d.PaymentKSeFID),
		},
		"settlement": map[string]any{
			"charges": orNilMinor(d.Charges), "deductions": orNilMinor(d.Deductions), "to_pay": orNilMinor(d.ToPay), "to_settle": orNilMinor(d.ToSettle),
		},
		"has_attachment": d.HasAttachment,
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
