package db

import (
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ksefmirror/parse"
)

// TestOfficialSamples compares the rows of the invoices that the Ministry of Finance
// publishes as examples with an independent reading: every key of it, for every form.
func TestOfficialSamples(t *testing.T) {
	slow(t)
	folder := "../../shared/ksef/samples"
	content, err := os.ReadFile(filepath.Join(folder, "expected.json"))
	if err != nil {
		t.Skipf("the official samples are not here: %v", err)
	}
	var expected map[string]map[string]any
	if err := json.Unmarshal(content, &expected); err != nil {
		t.Fatal(err)
	}
	d := newTest(t)
	for file, want := range expected {
		t.Run(file, func(t *testing.T) {
			in := testInvoice(int(hashOf([]byte(file))[0])<<8 | int(hashOf([]byte(file))[1]))
			if in.XML, err = os.ReadFile(filepath.Join(folder, filepath.FromSlash(file))); err != nil {
				t.Fatal(err)
			}
			in.KSeFNumber, in.Hash = file, hashOf(in.XML)
			if in.Document, err = parse.Parse(in.XML); err != nil {
				t.Fatal(err)
			}
			// What KSeF says of an invoice must not stand in for what is compared.
			in.SellerNIP, in.SellerName, in.BuyerIDType, in.BuyerID, in.BuyerName = "", "", "", "", ""
			in.InvoiceNumber, in.IssueDate, in.Currency, in.FormCode = "", "", "", ""
			commit(t, d, Batch{Role: "buyer", Invoices: []Invoice{in}})
			if status := value[string](t, d, "SELECT parse_status FROM invoices WHERE ksef_number = ?", file); status != "ok" {
				t.Fatalf("parse_status %s", status)
			}
			columns := faColumns()
			switch in.Document.Form {
			case "FA_RR":
				columns = rrColumns()
			case "PEF", "PEF_KOR":
				columns = pefColumns(in.Document.Form)
			}
			got := map[string]any{}
			for key := range want {
				expression, ok := columns[key]
				if !ok {
					t.Errorf("nothing in the database is compared with %s", key)
					continue
				}
				text := value[*string](t, d, "SELECT json_array(json("+expression+")) FROM v_invoices i WHERE i.ksef_number = ?", file)
				var list []any
				if err := json.Unmarshal([]byte(*text), &list); err != nil {
					t.Fatalf("%s: %v", key, err)
				}
				got[key] = list[0]
			}
			writeAlike(want)
			writeAlike(got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-expected +stored:\n%s", diff)
			}
		})
	}
	if len(expected) < 35 {
		t.Errorf("only %d samples", len(expected))
	}
}

// writeAlike makes equal what is written differently: see the test of the same name
// in package parse.
func writeAlike(keys map[string]any) {
	for sum, parts := range map[string]string{"net_total": "net_by_field", "vat_total": "vat_by_field"} {
		if fields, ok := keys[parts].(map[string]any); ok && len(fields) == 0 {
			keys[sum] = nil
		}
	}
	for _, key := range []string{"buyer_jst", "buyer_gv"} {
		if v, ok := keys[key]; ok {
			keys[key] = v == true
		}
	}
	if line, ok := keys["first_line"].(map[string]any); ok {
		for field, v := range line {
			switch number, isNumber := new(big.Rat).SetString(fmt.Sprint(v)); {
			case v == nil || v == "":
				delete(line, field)
			case isNumber:
				line[field] = number.RatString()
			}
		}
	}
	if list, ok := keys["tax_subtotals"].([]any); ok {
		sums := map[string]any{}
		for _, item := range list {
			subtotal := item.(map[string]any)
			percent, _ := new(big.Rat).SetString(subtotal["percent"].(string))
			for _, field := range []string{"taxable", "tax"} {
				key := fmt.Sprint(subtotal["category"], " ", percent.RatString(), " ", field)
				sum, _ := new(big.Rat).SetString(subtotal[field].(string))
				if before, ok := sums[key].(string); ok {
					earlier, _ := new(big.Rat).SetString(before)
					sum.Add(sum, earlier)
				}
				sums[key] = sum.FloatString(2)
			}
		}
		keys["tax_subtotals"] = sums
	}
}

// The functions below write SQL expressions of JSON values, about the row i of
// v_invoices.

func text1(column string) string { return "json_quote(" + column + ")" }
func truth(condition string) string {
	return "iif(" + condition + ", 'true', 'false')"
}

func amount(column string) string {
	return fmt.Sprintf("json_quote(CASE WHEN %[1]s IS NOT NULL THEN printf('%%s%%d.%%02d', iif(%[1]s < 0, '-', ''), abs(%[1]s) / 100, abs(%[1]s) %% 100) END)", column)
}

// query is a value of one row of another table, all is a list of them. The rest may
// have a condition and an order.
func query(element, table, rest string) string {
	return "(SELECT " + element + " FROM " + table + " x WHERE x.invoice_id = i.id " + rest + ")"
}

func all(element, table, rest string) string {
	return "(SELECT json_group_array(json(e)) FROM (SELECT " + element + " AS e FROM " + table + " x WHERE x.invoice_id = i.id " + rest + "))"
}

func distinct(column string) string {
	return "(SELECT json_group_array(e) FROM (SELECT DISTINCT " + column + " AS e FROM invoice_lines x WHERE x.invoice_id = i.id AND x.kind = 'line' AND " + column + " IS NOT NULL ORDER BY 1))"
}

// notes are the rows of invoice_notes with their long texts.
const notes = "(SELECT n.invoice_id, n.kind, n.position, n.line_number, n.key, coalesce(n.value, t.value) AS value FROM invoice_notes n LEFT JOIN texts t ON t.id = n.text_id)"

func commonColumns() map[string]string {
	columns := map[string]string{
		"root":         `json_quote(CASE i.form WHEN 'PEF' THEN 'Invoice' WHEN 'PEF_KOR' THEN 'CreditNote' ELSE 'Faktura' END)`,
		"form":         `json_quote(CASE i.form WHEN 'FA' THEN 'FA' || substr(i.form_code, 5, 1) WHEN 'FA_RR' THEN 'RR' ELSE i.form END)`,
		"form_variant": "json_quote(substr(i.form_code, 5, 1))", "schema_version": text1("i.form_version"),
		"namespace": text1("i.xml_namespace"),
		"gross":     amount("i.gross_minor"), "net_total": amount("i.net_minor"), "vat_total": amount("i.vat_minor"), "vat_pln_total": amount("i.vat_pln_minor"),
		"corrected_invoices": all("json_object('number', x.number, 'issue_date', x.issue_date, 'ksef_number', x.ksef_number, 'outside_ksef', json("+truth("x.outside_ksef")+"))", "invoice_references", "AND x.relation = 'corrects' ORDER BY x.position"),
		"line_count":         "(SELECT count(*) FROM invoice_lines x WHERE x.invoice_id = i.id AND x.kind = 'line')",
		"line_sale_dates":    distinct("x.sale_date"),
		"notes":              all("json_object('line', CAST(x.line_number AS TEXT), 'key', x.key, 'value', x.value)", notes, "AND x.kind = 'note' ORDER BY x.position"),
		"third_parties":      all("json_object('id_kind', x.id_type, 'id', x.id_value, 'id_country', x.id_country, 'name', x.name, 'role', CAST(x.role_code AS TEXT), 'role_other', x.role_text, 'share', x.share_percent)", "parties", "AND x.party = 'third' ORDER BY x.position"),
	}
	for _, column := range []string{
		"form_code", "created_at", "system_info", "invoice_type", "invoice_number", "issue_date", "issue_place", "sale_date", "period_from", "period_to", "currency",
		"seller_nip", "seller_name", "seller_country", "buyer_id", "buyer_id_country", "buyer_name", "buyer_country", "correction_reason", "correction_period", "corrected_number_fixed",
	} {
		columns[column] = text1("i." + column)
	}
	columns["buyer_id_kind"] = text1("i.buyer_id_type")
	return columns
}

func accountsOf(owner string) string {
	return all("json_quote(x.account)", "bank_accounts", "AND x.owner = '"+owner+"' ORDER BY x.position")
}

func paymentsOf(kind string) string {
	return all("json_object('amount', json("+amount("x.amount_minor")+"), 'date', x.date)", "payments", "AND x.kind = '"+kind+"' ORDER BY x.position")
}

func relatedOf(kind string) string {
	return all("json_quote(x.number)", "related_documents", "AND x.kind = '"+kind+"' ORDER BY x.position")
}

// dueDatesOf unites the one date of most invoices with the terms of the others.
func dueDatesOf() string {
	return "CASE WHEN EXISTS(SELECT 1 FROM due_dates x WHERE x.invoice_id = i.id) THEN " + all("json_quote(x.date)", "due_dates", "AND x.date IS NOT NULL ORDER BY x.position") +
		" WHEN i.first_due_date IS NOT NULL THEN json_array(i.first_due_date) ELSE json_array() END"
}

func faColumns() map[string]string {
	columns := commonColumns()
	field := "CASE x.bucket WHEN 'standard' THEN '1' WHEN 'reduced1' THEN '2' WHEN 'reduced2' THEN '3' WHEN 'taxi' THEN '4' WHEN 'oss' THEN '5' WHEN 'zero' THEN '6' WHEN 'zero_domestic' THEN '6_1' WHEN 'zero_eu' THEN '6_2' WHEN 'zero_export' THEN '6_3' WHEN 'exempt' THEN '7' WHEN 'outside' THEN '8' WHEN 'outside_services_eu' THEN '9' WHEN 'reverse_charge' THEN '10' WHEN 'margin' THEN '11' END"
	summary := func(prefix, column, suffix string) string {
		return query("json_group_object('"+prefix+"' || "+field+" || '"+suffix+"', json("+amount(column)+"))", "vat_summary", "AND "+column+" IS NOT NULL")
	}
	lines := func(kind, rest string) string {
		return query("count(*)", "invoice_lines", "AND x.kind = '"+kind+"' "+rest)
	}
	for key, expression := range map[string]string{
		"net_by_field": summary("P_13_", "x.net_minor", ""), "vat_by_field": summary("P_14_", "x.vat_minor", ""), "vat_pln_by_field": summary("P_14_", "x.vat_pln_minor", "W"),
		"net_plus_vat_equals_gross": truth("coalesce(i.net_minor, 0) + coalesce(i.vat_minor, 0) = i.gross_minor"),
		"exchange_rate_header":      text1("i.exchange_rate"), "exchange_rates_lines": distinct("x.exchange_rate"),
		"seller_prefix": query("json_quote(x.id_country)", "parties", "AND x.party = 'seller'"), "customer_number": query("json_quote(x.customer_number)", "parties", "AND x.party = 'buyer'"),
		"buyer_jst": truth("i.buyer_local_gov"), "buyer_gv": truth("i.buyer_vat_group"),
		"authorized_party": query("json_quote(max(x.name))", "parties", "AND x.party = 'authorized'"),
		"annotations": "json_object('cash_method', json(" + truth("i.cash_method") + "), 'self_invoicing', json(" + truth("i.self_billing") + "), 'reverse_charge', json(" + truth("i.reverse_charge") + "), 'split_payment', json(" + truth("i.split_payment") +
			"), 'exempt', json(" + truth("i.exempt") + "), 'exempt_basis', i.exempt_basis, 'new_transport', json(" + truth("i.new_transport") + "), 'triangular', json(" + truth("i.triangular") + "), 'margin', json(" + truth("i.margin_scheme IS NOT NULL") +
			"), 'margin_kind', CASE i.margin_scheme WHEN 'travel' THEN 'P_PMarzy_2' WHEN 'used_goods' THEN 'P_PMarzy_3_1' WHEN 'art' THEN 'P_PMarzy_3_2' WHEN 'antiques' THEN 'P_PMarzy_3_3' END)",
		"fp": truth("i.cash_register"), "tp": truth("i.related_parties"), "excise_refund": truth("i.excise_refund"),
		"correction_type":   "json_quote(CAST(i.correction_effect AS TEXT))",
		"has_seller_before": truth("EXISTS(SELECT 1 FROM parties x WHERE x.invoice_id = i.id AND x.party = 'seller_before')"),
		"buyers_before":     query("count(*)", "parties", "AND x.party = 'buyer_before'"), "amount_before_correction": amount("i.amount_before_minor"),
		"advance_invoices": all("json_object('number', x.number, 'ksef_number', x.ksef_number, 'outside_ksef', json("+truth("x.outside_ksef")+"))", "invoice_references", "AND x.relation = 'settles_advance' ORDER BY x.position"),
		"advance_parts":    paymentsOf("advance_part"), "order_value": amount("i.order_value_minor"),
		"order_line_count": lines("order", ""), "order_lines_before": lines("order", "AND x.before_correction"), "lines_before": lines("line", "AND x.before_correction"),
		"line_net_sum":   "(SELECT " + amount("s") + " FROM (SELECT coalesce(sum(x.net_minor), 0) AS s FROM invoice_lines x WHERE x.invoice_id = i.id AND x.kind = 'line'))",
		"line_gross_sum": "(SELECT " + amount("s") + " FROM (SELECT coalesce(sum(x.gross_minor), 0) AS s FROM invoice_lines x WHERE x.invoice_id = i.id AND x.kind = 'line'))",
		"first_line": query("json_object('NrWierszaFa', CAST(x.line_number AS TEXT), 'UU_ID', x.line_uid, 'P_7', x.name, 'Indeks', x.item_code, 'GTIN', x.gtin, 'PKWiU', x.pkwiu, 'CN', x.cn, 'PKOB', x.pkob, 'P_8A', x.unit, 'P_8B', x.quantity, 'P_9A', x.unit_price_net, 'P_9B', x.unit_price_gross, 'P_10', x.discount, "+
			"'P_11', json("+amount("x.net_minor")+"), 'P_11A', json("+amount("x.gross_minor")+"), 'P_11Vat', json("+amount("x.vat_minor")+"), 'P_12', x.vat_rate, 'P_12_XII', x.oss_rate, 'GTU', x.gtu, 'Procedura', x.procedure, 'KwotaAkcyzy', json("+amount("x.excise_minor")+"), 'StanPrzed', iif(x.before_correction, '1', ''), 'P_12_Zal_15', iif(x.annex15, '1', ''))",
			"invoice_lines", "AND x.kind = 'line' AND x.position = 1"),
		"vat_rates": distinct("x.vat_rate"), "gtu": distinct("x.gtu"), "procedures": distinct("x.procedure"), "annex15_lines": query("count(*)", "invoice_lines", "AND x.annex15"),
		"payment": "json_object('paid', json(" + truth("i.payment_status = 'paid'") + "), 'paid_date', i.paid_date, 'partial_flag', iif(i.payment_status = 'partial', '1', NULL), 'partial_payments', json(" + paymentsOf("paid") + "), 'due_dates', json(" + dueDatesOf() +
			"), 'due_descriptions', json(" + all("json_quote(x.description)", "due_dates", "AND x.description IS NOT NULL ORDER BY x.position") + "), 'method_code', i.payment_method_code, 'method', i.payment_method, 'method_other', i.payment_method_text, 'bank_accounts', json(" + accountsOf("seller") + "), 'factor_accounts', json(" + accountsOf("factor") +
			"), 'discount_terms', i.discount_terms, 'ipksef', i.payment_ksef_id)",
		"settlement":     "json_object('charges', json(" + amount("i.charges_minor") + "), 'deductions', json(" + amount("i.deductions_minor") + "), 'to_pay', json(" + amount("i.to_pay_minor") + "), 'to_settle', json(" + amount("i.to_settle_minor") + "))",
		"warehouse_docs": relatedOf("warehouse"), "orders": relatedOf("order"), "contracts": relatedOf("contract"),
		"footer":         all("json_quote(x.value)", notes, "AND x.kind = 'footer' ORDER BY x.position"),
		"has_attachment": truth("i.has_attachment"), "attachment_blocks": query("count(*)", "attachments", ""),
		"attachment_tables": query("coalesce(sum(json_array_length(x.content_json, '$.tables')), 0)", "attachments", ""),
	} {
		columns[key] = expression
	}
	return columns
}

func rrColumns() map[string]string {
	columns := commonColumns()
	columns["net_pln"], columns["gross_pln"] = amount("i.net_pln_minor"), amount("i.gross_pln_minor")
	columns["amount_words"] = query("json_quote(x.value)", notes, "AND x.kind = 'amount_in_words'")
	columns["first_line"] = query("json_object('NrWierszaFa', CAST(x.line_number AS TEXT), 'P_5', x.name, 'P_6A', x.unit, 'P_6B', x.quantity, 'P_6C', x.quality_class, 'P_7', x.unit_price_net, 'P_8', json("+amount("x.net_minor")+"), 'P_9', x.vat_rate, 'P_10', json("+amount("x.vat_minor")+"), 'P_11', json("+amount("x.gross_minor")+"))",
		"invoice_lines", "AND x.position = 1")
	columns["payment"] = "json_object('method_code', i.payment_method_code, 'farmer_accounts', json(" + accountsOf("farmer") + "), 'buyer_accounts', json(" + accountsOf("buyer") + "), 'documents', json(" + paymentsOf("document") + "))"
	return columns
}

// pefColumns gives the body of the document, which in PEF_KOR is the state after
// the correction.
func pefColumns(form string) map[string]string {
	columns := commonColumns()
	party := func(kind string) string {
		return query("json_object('name', x.name, 'tax_id', coalesce(x.id_country, '') || x.id_value, 'legal_id', x.legal_id, 'endpoint', substr(x.endpoint, instr(x.endpoint, ':') + 1), 'country', x.country)", "parties", "AND x.party = '"+kind+"'")
	}
	total := func(column string) string {
		if form == "PEF_KOR" {
			return query(amount("x."+column), "correction_states", "AND x.state = 'after' AND x.bucket = ''")
		}
		return amount("i." + column)
	}
	subtotals, rest := "vat_summary", ""
	if form == "PEF_KOR" {
		subtotals, rest = "correction_states", "AND x.state = 'after' AND x.bucket <> ''"
	}
	for key, expression := range map[string]string{
		"customization_id": query("json_quote(x.value)", notes, "AND x.kind = 'customization'"), "profile_id": query("json_quote(x.value)", notes, "AND x.kind = 'profile'"),
		"type_code": text1("i.invoice_type"), "due_dates": dueDatesOf(), "tax_point_date": text1("i.tax_date"), "tax_currency": text1("i.tax_currency"),
		"seller": party("seller"), "buyer": party("buyer"),
		"buyer_reference": query("json_quote(x.number)", "related_documents", "AND x.kind = 'buyer_reference'"), "order_reference": query("json_quote(x.number)", "related_documents", "AND x.kind = 'order'"),
		"net_total": total("net_minor"), "gross": total("gross_minor"), "payable": total("to_pay_minor"), "prepaid": total("prepaid_minor"), "line_extension": total("lines_net_minor"),
		"vat_by_currency":      "json_object(i.currency, json(" + total("vat_minor") + "), i.tax_currency, json(" + total("tax_currency_vat_minor") + "))",
		"tax_subtotals":        all("json_object('category', substr(x.bucket, 5, 1), 'percent', substr(x.bucket, 7), 'taxable', json("+amount("x.net_minor")+"), 'tax', json("+amount("x.vat_minor")+"))", subtotals, rest),
		"line_count":           query("count(*)", "invoice_lines", "AND NOT x.before_correction"),
		"payment_codes":        "json_array(i.payment_method_code)",
		"bank_accounts":        accountsOf("seller"),
		"corrected_invoices":   all("json_object('id', coalesce(x.ksef_number, x.number), 'issue_date', x.issue_date)", "invoice_references", "AND x.relation = 'corrects'"),
		"embedded_attachments": all("json_object('filename', x.filename, 'mime', x.mime, 'b64_chars', (x.size + 2) / 3 * 4)", "attachments", "AND x.kind = 'ubl_embedded'"),
	} {
		columns[key] = expression
	}
	return columns
}
