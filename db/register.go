package db

import (
	"context"
	"iter"
)

// selectRegister gives a range of dates in one role, an invoice a row. The buckets of
// PEF are counted to those of FA with the same meaning (UNCL 5305). An invoice that
// could not be read has KSeF's totals, and no rates: it must not be missing.
const selectRegister = `WITH stated AS (
	SELECT i.*, r.role, s.net_minor AS rate_net, s.vat_minor AS rate_vat,
		CASE ?2 WHEN 'issued' THEN i.issue_date WHEN 'received' THEN i.received_date ELSE coalesce(i.tax_date, i.issue_date) END AS day,
		CASE
		WHEN s.bucket IN ('ubl:S:23', 'ubl:S:22') THEN 'standard'
		WHEN s.bucket IN ('ubl:S:8', 'ubl:S:7') THEN 'reduced1'
		WHEN s.bucket = 'ubl:S:5' THEN 'reduced2'
		WHEN s.bucket = 'ubl:Z:0' THEN 'zero_domestic'
		WHEN s.bucket = 'ubl:K:0' THEN 'zero_eu'
		WHEN s.bucket = 'ubl:G:0' THEN 'zero_export'
		WHEN s.bucket GLOB 'ubl:E:*' THEN 'exempt'
		WHEN s.bucket GLOB 'ubl:O:*' THEN 'outside'
		WHEN s.bucket GLOB 'ubl:AE:*' THEN 'reverse_charge'
		WHEN s.bucket GLOB 'ubl:*' OR s.bucket = 'zero' THEN 'other'
		ELSE s.bucket END AS rate
	FROM invoice_roles r JOIN invoices i ON i.id = r.invoice_id LEFT JOIN vat_summary s ON s.invoice_id = i.id
	WHERE r.role = ?1)
SELECT ksef_number, invoice_number, coalesce(invoice_type, api_invoice_type) AS invoice_type,
	issue_date, coalesce(sale_date, period_to) AS sale_date, coalesce(tax_date, issue_date) AS tax_date, received_date,
	iif(role = 'seller', coalesce(buyer_nip, coalesce(buyer_id_country, '') || buyer_id), seller_nip) AS counterparty_id,
	iif(role = 'seller', buyer_name, seller_name) AS counterparty_name, currency,
	sum(rate_net) FILTER (WHERE rate = 'standard') AS standard_net_minor, sum(rate_vat) FILTER (WHERE rate = 'standard') AS standard_vat_minor,
	sum(rate_net) FILTER (WHERE rate = 'reduced1') AS reduced1_net_minor, sum(rate_vat) FILTER (WHERE rate = 'reduced1') AS reduced1_vat_minor,
	sum(rate_net) FILTER (WHERE rate = 'reduced2') AS reduced2_net_minor, sum(rate_vat) FILTER (WHERE rate = 'reduced2') AS reduced2_vat_minor,
	sum(rate_net) FILTER (WHERE rate = 'taxi') AS taxi_net_minor, sum(rate_vat) FILTER (WHERE rate = 'taxi') AS taxi_vat_minor,
	sum(rate_net) FILTER (WHERE rate = 'zero_domestic') AS zero_domestic_net_minor,
	sum(rate_net) FILTER (WHERE rate = 'zero_eu') AS zero_eu_net_minor,
	sum(rate_net) FILTER (WHERE rate = 'zero_export') AS zero_export_net_minor,
	sum(rate_net) FILTER (WHERE rate = 'exempt') AS exempt_net_minor,
	sum(rate_net) FILTER (WHERE rate = 'outside') AS outside_net_minor,
	sum(rate_net) FILTER (WHERE rate = 'outside_services_eu') AS outside_services_eu_net_minor,
	sum(rate_net) FILTER (WHERE rate = 'reverse_charge') AS reverse_charge_net_minor,
	sum(rate_net) FILTER (WHERE rate = 'margin') AS margin_net_minor,
	sum(rate_net) FILTER (WHERE rate = 'oss') AS oss_net_minor, sum(rate_vat) FILTER (WHERE rate = 'oss') AS oss_vat_minor,
	sum(rate_net) FILTER (WHERE rate = 'rr') AS rr_net_minor, sum(rate_vat) FILTER (WHERE rate = 'rr') AS rr_vat_minor,
	sum(rate_net) FILTER (WHERE rate = 'other') AS other_net_minor, sum(rate_vat) FILTER (WHERE rate = 'other') AS other_vat_minor,
	iif(parse_status = 'ok', net_minor, api_net_minor) AS net_minor, vat_minor,
	iif(parse_status = 'ok', gross_minor, api_gross_minor) AS gross_minor,
	CASE WHEN parse_status <> 'ok' THEN api_vat_pln_minor WHEN currency <> 'PLN' THEN vat_pln_minor
		ELSE sum(rate_vat) FILTER (WHERE rate <> 'oss') END AS vat_pln_minor,
	split_payment, cash_method, self_billing, margin_scheme,
	(SELECT group_concat(g.gtu) FROM (SELECT DISTINCT l.gtu FROM invoice_lines l WHERE l.invoice_id = stated.id AND l.gtu IS NOT NULL ORDER BY 1) g) AS gtu,
	parse_status
FROM stated WHERE day BETWEEN ?3 AND ?4 GROUP BY id ORDER BY day, stored_at, id`

// Register gives the register of one role, seller or buyer: its invoices whose tax,
// issued or received date, as by says, is not before from and not after to, by that
// date. The columns are those of selectRegister: for each rate of VAT the net amount
// and the VAT, as the document states them, in its currency; vat_pln_minor in PLN.
// After an error it gives nothing more.
//
// All of it is of one instant, so it must be read at once.
func (d *DB) Register(ctx context.Context, role, by, from, to string) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		rows, err := d.read.QueryContext(ctx, selectRegister, role, by, from, to)
		if err != nil {
			yield(Record{}, d.explain("read the register from", err))
			return
		}
		defer rows.Close()
		columns, err := rows.Columns()
		for err == nil && rows.Next() {
			var row Record
			if row, err = scanRecord(rows, columns); err == nil && !yield(row, nil) {
				return
			}
		}
		if err == nil {
			err = rows.Err()
		}
		if err != nil {
			yield(Record{}, d.explain("read the register from", err))
		}
	}
}
