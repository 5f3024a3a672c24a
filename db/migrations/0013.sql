-- Whoever reads whole rows of the lines or the register pays for each row for what is the
-- same in all rows of an invoice: its roles and the codes of its lines took a quarter and
-- more than half of the time. An invoice has them beside its amounts now; of codes of
-- procedures, which are rare, there is an index.

-- The roles in invoice_roles, sorted, separated by commas. An invoice is stored with its
-- first; the trigger knows of more. NULL: it was stored before there was this column.
ALTER TABLE invoices ADD COLUMN roles TEXT;
CREATE TRIGGER invoice_roles_insert AFTER INSERT ON invoice_roles
WHEN (SELECT i.roles FROM invoices i WHERE i.id = NEW.invoice_id) IS NOT NEW.role
BEGIN
  UPDATE invoices SET roles = (
    SELECT group_concat(o.role) FROM (SELECT r.role FROM invoice_roles r WHERE r.invoice_id = NEW.invoice_id ORDER BY r.role) o)
  WHERE id = NEW.invoice_id;
END;

-- The codes GTU of all lines without their GTU_, such as 02,12: each once, in order. '': none.
-- NULL: look at the lines, as one has another code, or the invoice was stored before.
ALTER TABLE invoices ADD COLUMN gtu_codes TEXT;

-- Ordinary invoices are not in it.
CREATE INDEX invoice_lines_procedure ON invoice_lines(invoice_id, procedure) WHERE procedure IS NOT NULL;

DROP VIEW v_lines;
DROP VIEW v_register;

CREATE VIEW v_lines AS
-- One row for each line, with the invoice that it belongs to.
-- A month: tax_month = '2026-11'
SELECT
  i.id AS invoice_id, -- v_invoices.id; -; ksefmirror; never NULL
  i.ksef_number, i.invoice_number, i.invoice_type, i.is_correction, i.issue_date,
  coalesce(i.tax_date, i.issue_date) AS tax_date, substr(coalesce(i.tax_date, i.issue_date), 1, 7) AS tax_month,
  coalesce(i.roles, (SELECT group_concat(o.role) FROM (SELECT r.role FROM invoice_roles r WHERE r.invoice_id = i.id ORDER BY r.role) o)) AS roles,
  i.seller_nip, i.seller_name, i.buyer_nip, i.buyer_id, i.buyer_name, i.currency,
  l.kind, -- line; order: a row of the order that an advance invoice is for; -; FA Fa/FaWiersz or Fa/Zamowienie/ZamowienieWiersz, RR
    -- FakturaRR/FakturaRRWiersz, PEF InvoiceLine or CreditNoteLine; never NULL
  l.position, -- place in the document within the kind, from 1: with ksef_number and kind the key; -; order in the file; never NULL
  l.line_number, -- number as the issuer gave it; may repeat; -; FA NrWierszaFa or NrWierszaZam, RR NrWierszaFa, PEF ID where it is a
    -- number, else position; NULL: not stated
  l.line_uid, -- the issuer's identifier of the line; -; FA UU_ID or UU_IDZ, RR UU_ID, PEF ID where it is no number; NULL: not stated
  l.before_correction, -- 1: the state before a correction: subtract it; 0 or 1; FA StanPrzed or StanPrzedZ, RR StanPrzed, PEF
    -- OriginalInvoiceData/InvoiceLine; never NULL
  l.sale_date, -- date of this sale, where the lines differ; date; FA P_6A, RR P_4AA; NULL: not stated
  l.name, -- what was sold; -; FA P_7 or P_7Z, RR P_5, PEF Item/Name; NULL: not stated
  l.item_code, -- the issuer's code of it; -; FA Indeks or IndeksZ, PEF Item/SellersItemIdentification/ID; NULL: not stated
  l.gtin, -- GTIN; -; FA GTIN or GTINZ, RR GTIN, PEF Item/StandardItemIdentification/ID; NULL: not stated
  l.pkwiu, -- PKWiU; -; FA PKWiU or PKWiUZ, RR PKWiU; NULL: not stated
  l.cn, -- code of the combined nomenclature; -; FA CN or CNZ, RR CN; NULL: not stated
  l.pkob, -- PKOB; -; FA PKOB or PKOBZ; NULL: not stated
  l.quality_class, -- class of quality; -; RR P_6C; NULL: not stated
  l.unit, -- unit of the quantity; as written, PEF a code of UN/ECE; FA P_8A or P_8AZ, RR P_6A, PEF InvoicedQuantity/@unitCode; NULL: not stated
  l.quantity, -- quantity; decimal; FA P_8B or P_8BZ, RR P_6B, PEF InvoicedQuantity or CreditedQuantity; NULL: not stated
  l.unit_price_net, -- net price; decimal; FA P_9A or P_9AZ, RR P_7, PEF Price/PriceAmount; NULL: not stated
  l.price_quantity, -- how many units the price is for; decimal; PEF Price/BaseQuantity; NULL: one
  l.unit_price_gross, -- gross price; decimal; FA P_9B; NULL: not stated
  l.discount, -- discount; decimal; FA P_10; NULL: not stated
  l.net_minor, -- net value; hundredths of currency; FA P_11 or P_11NettoZ, RR P_8, PEF LineExtensionAmount; NULL: not stated: issuers may state
    -- gross values alone
  l.gross_minor, -- gross value; hundredths of currency; FA P_11A, RR P_11; NULL: not stated: issuers may state net values alone
  l.vat_minor, -- VAT; of RR the flat-rate refund; hundredths of currency; FA P_11Vat or P_11VatZ, RR P_10; NULL: not stated: FA states it in few
    -- cases
  l.vat_rate, -- rate: 23, 8, 0 WDT, zw, np I, …; PEF the percentage, or the category of UNCL 5305 where it is not S; as written; FA P_12 or
    -- P_12Z, RR P_9, PEF Item/ClassifiedTaxCategory; NULL: not stated
  l.oss_rate, -- rate of another country (OSS); decimal percent; FA P_12_XII or P_12Z_XII; NULL: not stated
  l.annex15, -- 1: of annex 15 of the VAT Act; 0 or 1; FA P_12_Zal_15 or P_12Z_Zal_15; never NULL
  l.excise_minor, -- excise in the price; hundredths of currency; FA KwotaAkcyzy or KwotaAkcyzyZ; NULL: not stated
  l.gtu, -- code GTU_01 to GTU_13; -; FA GTU or GTUZ; NULL: not stated
  l.procedure, -- code of a procedure, such as WSTO_EE; -; FA Procedura or ProceduraZ; NULL: not stated
  l.exchange_rate, -- rate of this line; decimal, PLN for one unit; FA KursWaluty, RR KursWaluty; NULL: not stated
  CASE WHEN l.net_minor IS NOT NULL THEN printf('%s%d.%02d', iif(l.net_minor < 0, '-', ''), abs(l.net_minor) / 100, abs(l.net_minor) % 100) END AS net, -- net_minor as text; decimal text;
    -- net_minor; NULL: as net_minor
  CASE WHEN l.gross_minor IS NOT NULL THEN printf('%s%d.%02d', iif(l.gross_minor < 0, '-', ''), abs(l.gross_minor) / 100, abs(l.gross_minor) % 100) END AS gross, -- gross_minor as text; decimal text;
    -- gross_minor; NULL: as gross_minor
  CASE WHEN l.vat_minor IS NOT NULL THEN printf('%s%d.%02d', iif(l.vat_minor < 0, '-', ''), abs(l.vat_minor) / 100, abs(l.vat_minor) % 100) END AS vat -- vat_minor as text; decimal text;
    -- vat_minor; NULL: as vat_minor
FROM invoices i JOIN invoice_lines l ON l.invoice_id = i.id;

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
