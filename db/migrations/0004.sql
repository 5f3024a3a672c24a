-- KSeF's metadata of an invoice, as sent, are kept in the frame of its document
-- from now on, where they take a tenth of the room: documents.xml_zstd holds the
-- XML, of documents.size bytes, and behind it the metadata. The rows that are there
-- keep theirs in invoices.metadata_json, which is '' in all others.
DROP VIEW v_invoices;

-- One row for each invoice: all that is known of it, its roles, and its totals
-- as decimal text.
CREATE VIEW v_invoices AS
SELECT
  i.id, i.ksef_number,
  (SELECT group_concat(o.role) FROM (SELECT r.role FROM invoice_roles r WHERE r.invoice_id = i.id ORDER BY r.role) o) AS roles,
  i.api_invoice_type, i.invoicing_mode, i.invoicing_at, i.acquired_at, i.stored_at, i.received_date,
  i.api_net_minor, i.api_vat_pln_minor, i.api_gross_minor, i.invoice_hash, i.corrected_offline_hash,
  i.form, i.form_code, i.form_version, i.xml_namespace, i.invoice_type, i.is_correction,
  i.invoice_number, i.issue_date, i.issue_place, i.created_at, i.system_info,
  i.sale_date, i.period_from, i.period_to, i.tax_date, i.currency, i.exchange_rate,
  i.gross_minor, i.net_minor, i.vat_minor, i.vat_pln_minor,
  i.to_pay_minor, i.to_settle_minor, i.charges_minor, i.deductions_minor,
  i.seller_nip, i.seller_name, i.seller_country,
  i.buyer_id_type, i.buyer_id, i.buyer_id_country, i.buyer_nip, i.buyer_name, i.buyer_country,
  i.cash_method, i.self_billing, i.reverse_charge, i.split_payment, i.exempt, i.exempt_basis,
  i.new_transport, i.triangular, i.margin_scheme, i.cash_register, i.related_parties, i.excise_refund,
  i.buyer_local_gov, i.buyer_vat_group,
  i.correction_reason, i.correction_effect, i.correction_period, i.corrected_number_fixed,
  i.amount_before_minor, i.exchange_rate_before,
  i.payment_status, i.paid_date, i.payment_method, i.payment_method_text, i.first_due_date, i.last_due_date,
  i.payment_ksef_id, i.payment_link, i.discount_terms, i.discount_amount,
  i.line_count, i.has_attachment, i.xml_path,
  (SELECT d.size FROM documents d WHERE d.invoice_id = i.id) AS xml_size,
  (SELECT lower(hex(d.sha256)) FROM documents d WHERE d.invoice_id = i.id) AS xml_sha256,
  i.parse_status, i.parse_error, i.parser_version, i.first_seen_at, i.updated_at,
  CASE WHEN i.gross_minor IS NOT NULL THEN printf('%s%d.%02d', iif(i.gross_minor < 0, '-', ''), abs(i.gross_minor) / 100, abs(i.gross_minor) % 100) END AS gross,
  CASE WHEN i.net_minor IS NOT NULL THEN printf('%s%d.%02d', iif(i.net_minor < 0, '-', ''), abs(i.net_minor) / 100, abs(i.net_minor) % 100) END AS net,
  CASE WHEN i.vat_minor IS NOT NULL THEN printf('%s%d.%02d', iif(i.vat_minor < 0, '-', ''), abs(i.vat_minor) / 100, abs(i.vat_minor) % 100) END AS vat
FROM invoices i;
