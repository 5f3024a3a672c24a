-- Who reads whole rows of the register pays for the codes of the lines three times, as an
-- invoice has a row for each rate, and that was half of it all. So an invoice has its
-- codes GTU beside its amounts, and of codes of procedures, which are rare, there is an
-- index.

-- The codes of all lines without their GTU_, such as 02,12: each once, in order. '': none.
-- NULL: look at the lines, as one has another code, or an invoice was stored before.
ALTER TABLE invoices ADD COLUMN gtu_codes TEXT;

-- Ordinary invoices are not in it.
CREATE INDEX invoice_lines_procedure ON invoice_lines(invoice_id, procedure) WHERE procedure IS NOT NULL;

DROP VIEW v_register;

CREATE VIEW v_register AS
-- One row for each invoice, role of the company and kind of VAT rate: what registers
-- of sales and purchases add up. An invoice without amounts by rate has one row,
-- without amounts.
-- A month: tax_month = '2026-11'
SELECT
  CASE r.role WHEN 'seller' THEN 'sale' WHEN 'buyer' THEN 'purchase' ELSE r.role END AS direction, -- sale or purchase, by the company's role and
    -- whoever issued the invoice; third_party or authorized in the other roles; -; the list of KSeF in which it was found; never NULL
  i.id AS invoice_id, -- v_invoices.id; -; ksefmirror; never NULL
  i.ksef_number, i.invoice_number, i.form, i.invoice_type, i.is_correction, i.issue_date, i.sale_date,
  coalesce(i.tax_date, i.issue_date) AS tax_date, i.received_date,
  substr(coalesce(i.tax_date, i.issue_date), 1, 7) AS tax_month, substr(i.issue_date, 1, 7) AS issue_month, substr(i.received_date, 1, 7) AS received_month,
  CASE r.role WHEN 'seller' THEN i.buyer_id_type WHEN 'buyer' THEN 'Nip' END AS counterparty_id_type, -- kind of counterparty_id: Nip, VatUe,
    -- Other, or None; -; buyer_id_type of a sale, the seller of a purchase has a NIP; NULL: not known, or the role is another
  CASE r.role WHEN 'seller' THEN i.buyer_id WHEN 'buyer' THEN i.seller_nip END AS counterparty_id, -- identifier of the buyer of a sale or the
    -- seller of a purchase; -; buyer_id or seller_nip; NULL: it has none, or the role is another
  CASE r.role WHEN 'seller' THEN i.buyer_id_country END AS counterparty_id_country, -- country of counterparty_id; as buyer_id_country;
    -- buyer_id_country; NULL: a NIP, or not stated
  CASE r.role WHEN 'seller' THEN i.buyer_name WHEN 'buyer' THEN i.seller_name END AS counterparty_name, -- its name; -; buyer_name or seller_name;
    -- NULL: not stated, or the role is another
  i.currency,
  s.bucket, -- kind of rate of this row: standard (23, 22 %), reduced1 (8, 7), reduced2 (5), taxi (4, 3), oss (VAT of other countries),
    -- zero_domestic, zero_eu, zero_export, exempt, outside (np I), outside_services_eu (np II), reverse_charge, margin; zero of FA(1); rr
    -- the farmer's refund; of PEF category and percentage, such as ubl:S:23; -; FA which of Fa/P_13_1 to P_13_11, PEF
    -- TaxTotal/TaxSubtotal/TaxCategory; NULL: the document states no amounts by rate, or could not be read: one row all the same
  s.net_minor, -- net amount of the bucket; of a correction the difference: add them all up; hundredths of currency; FA Fa/P_13_*, RR
    -- FakturaRR/P_11_1, PEF TaxSubtotal/TaxableAmount or that of diff; NULL: not stated
  s.vat_minor, -- its VAT, of the bucket oss that of other countries; hundredths of currency; FA Fa/P_14_*, RR FakturaRR/P_11_2, PEF TaxSubtotal/TaxAmount or that of diff; NULL: not
    -- stated: buckets without VAT have none
  CASE WHEN i.currency = 'PLN' THEN s.net_minor WHEN s.bucket = 'rr' THEN i.net_pln_minor END AS net_pln_minor, -- net amount in PLN; hundredths of PLN;
    -- net_minor of an invoice in PLN, RR FakturaRR/P_11_1W; NULL: not stated in PLN: it is never converted
  CASE WHEN i.currency = 'PLN' THEN s.vat_minor ELSE s.vat_pln_minor END AS vat_pln_minor, -- VAT in PLN; hundredths of PLN; vat_minor of an
    -- invoice in PLN, FA Fa/P_14_1W to P_14_4W, RR FakturaRR/P_11_2W; NULL: not stated in PLN: it is never converted; PEF states
    -- invoice_vat_pln_minor alone
  CASE WHEN i.currency = 'PLN' THEN i.vat_minor ELSE i.vat_pln_minor END AS invoice_vat_pln_minor, -- VAT of the whole invoice in PLN; the same
    -- in all its rows: do not add it up; hundredths of PLN; v_invoices.vat_minor or vat_pln_minor; NULL: not stated in PLN
  i.gross_minor AS invoice_gross_minor, -- gross amount of the whole invoice; the same in all its rows: do not add it up; hundredths of currency;
    -- v_invoices.gross_minor; NULL: not stated, or the document could not be read
  i.self_billing, i.cash_method, i.split_payment, i.reverse_charge, i.margin_scheme, i.cash_register, i.related_parties,
  CASE
    WHEN i.gtu_codes IS NULL THEN (SELECT group_concat(g.gtu) FROM (
      SELECT DISTINCT l.gtu FROM invoice_lines l WHERE l.invoice_id = i.id AND l.gtu IS NOT NULL ORDER BY l.gtu) g)
    WHEN i.gtu_codes <> '' THEN 'GTU_' || replace(i.gtu_codes, ',', ',GTU_')
  END AS gtu,
    -- codes GTU of its lines, separated by commas; -; FA Fa/FaWiersz/GTU, Fa/Zamowienie/ZamowienieWiersz/GTUZ; NULL: none
  (SELECT group_concat(p.procedure) FROM (
    SELECT DISTINCT l.procedure FROM invoice_lines l WHERE l.invoice_id = i.id AND l.procedure IS NOT NULL ORDER BY l.procedure) p) AS procedures,
    -- codes of procedures of its lines, separated by commas; -; FA Fa/FaWiersz/Procedura, Fa/Zamowienie/ZamowienieWiersz/ProceduraZ; NULL: none
  i.parse_status
FROM invoices i JOIN invoice_roles r ON r.invoice_id = i.id LEFT JOIN vat_summary s ON s.invoice_id = i.id;
