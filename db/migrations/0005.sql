-- What is read of an invoice since version 2 of the reader: the further forms
-- (FA(1), FA_RR, PEF and PEF_KOR) and the lists of all of them. Rows with an
-- older parser_version have none of it until they are read again.

ALTER TABLE invoices ADD COLUMN net_pln_minor INTEGER;          -- FA_RR in another currency
ALTER TABLE invoices ADD COLUMN gross_pln_minor INTEGER;        -- likewise
ALTER TABLE invoices ADD COLUMN tax_currency TEXT;              -- PEF: of tax_currency_vat_minor
ALTER TABLE invoices ADD COLUMN tax_currency_vat_minor INTEGER; -- hundredths of tax_currency
ALTER TABLE invoices ADD COLUMN lines_net_minor INTEGER;        -- PEF and FA(1): the net sum of the lines, as stated
ALTER TABLE invoices ADD COLUMN order_value_minor INTEGER;      -- of the order that an advance is paid for, gross
ALTER TABLE invoices ADD COLUMN prepaid_minor INTEGER;          -- PEF: paid before; to_pay_minor does not hold it
ALTER TABLE invoices ADD COLUMN intermediary INTEGER;           -- supplied in a chain by the intermediary (art. 22(2d))
ALTER TABLE invoices ADD COLUMN payment_method_code TEXT;       -- as written: FormaPlatnosci; PEF: UNCL 4461
ALTER TABLE invoices ADD COLUMN payment_reference TEXT;         -- PEF: what the payment is to quote
ALTER TABLE invoices ADD COLUMN delivery_terms TEXT;            -- such as Incoterms
ALTER TABLE invoices ADD COLUMN contract_exchange_rate TEXT;
ALTER TABLE invoices ADD COLUMN contract_currency TEXT;

DROP VIEW v_invoices;
DROP VIEW v_lines;

ALTER TABLE parties ADD COLUMN trade_name TEXT; -- under which it trades, beside its name
ALTER TABLE parties ADD COLUMN legal_id TEXT;   -- PEF: the number in the register of companies, or what is written there
ALTER TABLE parties ADD COLUMN endpoint TEXT;   -- PEF: the electronic address with its scheme, as Peppol writes it

-- It says no more than the bucket does.
ALTER TABLE vat_summary DROP COLUMN source_field;

-- The rows of an invoice, and of the order that an advance invoice is for. Their
-- index was twice as large with all that is unique in a row.
ALTER TABLE invoice_lines RENAME TO invoice_lines_before;
CREATE TABLE invoice_lines(
  id                INTEGER PRIMARY KEY,
  invoice_id        INTEGER NOT NULL REFERENCES invoices(id) ON DELETE CASCADE,
  kind              TEXT NOT NULL, -- line or order
  position          INTEGER NOT NULL, -- 1.. in file order within the kind: unique in both
  line_number       INTEGER,       -- as issued: may repeat
  line_uid          TEXT,
  before_correction INTEGER NOT NULL, -- 1: the state before; subtract it
  sale_date         TEXT,
  name              TEXT,
  item_code         TEXT,
  gtin              TEXT,
  pkwiu             TEXT,
  cn                TEXT,
  pkob              TEXT,
  quality_class     TEXT,          -- FA_RR
  unit              TEXT,
  quantity          TEXT,
  unit_price_net    TEXT,
  price_quantity    TEXT,          -- PEF: how many units unit_price_net is for; NULL: one
  unit_price_gross  TEXT,
  discount          TEXT,
  net_minor         INTEGER,
  gross_minor       INTEGER,
  vat_minor         INTEGER,
  vat_rate          TEXT,          -- as written: 23, 8, 0 WDT, zw, np I, …; PEF: the percentage, or a category of UNCL 5305 but S
  oss_rate          TEXT,
  annex15           INTEGER NOT NULL,
  excise_minor      INTEGER,
  gtu               TEXT,
  procedure         TEXT,
  exchange_rate     TEXT
) STRICT;
INSERT INTO invoice_lines(
  invoice_id, kind, position, line_number, line_uid, before_correction, sale_date, name, item_code, gtin, pkwiu, cn, pkob,
  unit, quantity, unit_price_net, unit_price_gross, discount, net_minor, gross_minor, vat_minor, vat_rate, oss_rate,
  annex15, excise_minor, gtu, procedure, exchange_rate)
SELECT
  invoice_id, kind, position, line_number, line_uid, before_correction, sale_date, name, item_code, gtin, pkwiu, cn, pkob,
  unit, quantity, unit_price_net, unit_price_gross, discount, net_minor, gross_minor, vat_minor, vat_rate, oss_rate,
  annex15, excise_minor, gtu, procedure, exchange_rate
FROM invoice_lines_before ORDER BY id;
DROP TABLE invoice_lines_before;
CREATE INDEX invoice_lines_invoice ON invoice_lines(invoice_id);

-- The invoices that an invoice corrects, and the advance invoices that it settles,
-- as it names them.
CREATE TABLE invoice_references(
  invoice_id   INTEGER NOT NULL REFERENCES invoices(id) ON DELETE CASCADE,
  relation     TEXT NOT NULL,      -- corrects or settles_advance
  position     INTEGER NOT NULL,   -- 1.. within the relation
  ksef_number  TEXT,
  number       TEXT,               -- the issuer's
  issue_date   TEXT,
  outside_ksef INTEGER NOT NULL,   -- 1: the issuer says that it is not in KSeF
  PRIMARY KEY(invoice_id, relation, position)
) STRICT, WITHOUT ROWID;

-- The totals before and after a correction, which PEF_KOR states beside the
-- difference.
CREATE TABLE correction_states(
  invoice_id             INTEGER NOT NULL REFERENCES invoices(id) ON DELETE CASCADE,
  state                  TEXT NOT NULL,  -- before or after
  bucket                 TEXT NOT NULL,  -- as in vat_summary; '': the whole document
  net_minor              INTEGER,
  vat_minor              INTEGER,
  gross_minor            INTEGER,        -- of the whole document only, as those below
  lines_net_minor        INTEGER,
  prepaid_minor          INTEGER,
  to_pay_minor           INTEGER,
  tax_currency_vat_minor INTEGER,
  PRIMARY KEY(invoice_id, state, bucket)
) STRICT, WITHOUT ROWID;

-- Payments that were made before an invoice was issued.
CREATE TABLE payments(
  invoice_id    INTEGER NOT NULL REFERENCES invoices(id) ON DELETE CASCADE,
  kind          TEXT NOT NULL,     -- paid: part of the amount due; advance_part: one of the receipts of an advance; document: of a payment to a farmer
  position      INTEGER NOT NULL,  -- 1.. within the kind
  date          TEXT,
  amount_minor  INTEGER,
  method        TEXT,              -- as invoices.payment_method
  method_text   TEXT,
  document      TEXT,              -- number of the document
  exchange_rate TEXT,
  PRIMARY KEY(invoice_id, kind, position)
) STRICT, WITHOUT ROWID;

-- Terms of payment, where an invoice has several dates or describes a term; the one
-- date of all others is first_due_date. No term has an amount of its own.
CREATE TABLE due_dates(
  invoice_id  INTEGER NOT NULL REFERENCES invoices(id) ON DELETE CASCADE,
  position    INTEGER NOT NULL,
  date        TEXT,
  description TEXT,                -- such as: 14 days from delivery; not computed
  PRIMARY KEY(invoice_id, position)
) STRICT, WITHOUT ROWID;

-- The bank accounts that an invoice names. Where there is a factor's, that is the
-- one to pay to.
CREATE TABLE bank_accounts(
  invoice_id   INTEGER NOT NULL REFERENCES invoices(id) ON DELETE CASCADE,
  owner        TEXT NOT NULL,      -- seller, factor, farmer or buyer
  position     INTEGER NOT NULL,   -- 1.. within the owner
  account      TEXT,               -- as stated
  swift        TEXT,
  bank_name    TEXT,
  description  TEXT,
  bank_own     INTEGER,            -- RachunekWlasnyBanku 1 to 3
  account_norm TEXT GENERATED ALWAYS AS ( -- without spaces, in capitals, and PL before the 26 digits of Poland
    iif(length(replace(account, ' ', '')) = 26 AND replace(account, ' ', '') NOT GLOB '*[^0-9]*', 'PL', '') || upper(replace(account, ' ', ''))
  ) VIRTUAL,
  PRIMARY KEY(invoice_id, owner, position)
) STRICT, WITHOUT ROWID;

-- Amounts that are added or taken off, with their reasons.
CREATE TABLE adjustments(
  invoice_id    INTEGER NOT NULL REFERENCES invoices(id) ON DELETE CASCADE,
  kind          TEXT NOT NULL,     -- charge, deduction: of the amount to pay, not in gross_minor; net_charge, net_allowance: of PEF, in the net amount already
  position      INTEGER NOT NULL,  -- 1.. within the kind
  line_position INTEGER,           -- of the line that it belongs to; NULL: the document
  amount_minor  INTEGER,
  reason        TEXT,
  PRIMARY KEY(invoice_id, kind, position)
) STRICT, WITHOUT ROWID;

-- Documents other than invoices, and numbers to quote, that an invoice names.
CREATE TABLE related_documents(
  invoice_id  INTEGER NOT NULL REFERENCES invoices(id) ON DELETE CASCADE,
  kind        TEXT NOT NULL,       -- contract, order or warehouse; PEF: also sales_order, despatch, receipt, tender, project, additional, buyer_reference, accounting_cost
  position    INTEGER NOT NULL,    -- 1.. within the kind
  number      TEXT,
  date        TEXT,
  description TEXT,
  PRIMARY KEY(invoice_id, kind, position)
) STRICT, WITHOUT ROWID;

-- Transports of the goods. The carrier is the party carrier of the same position.
CREATE TABLE transports(
  invoice_id   INTEGER NOT NULL REFERENCES invoices(id) ON DELETE CASCADE,
  position     INTEGER NOT NULL,
  mode         INTEGER,            -- RodzajTransportu: 1 sea, 2 rail, 3 road, 4 air, 5 post, 7 pipeline or grid, 8 inland water
  mode_text    TEXT,               -- of another mode
  order_number TEXT,
  cargo        INTEGER,            -- OpisLadunku 1 to 20
  cargo_text   TEXT,               -- of another cargo
  packaging    TEXT,
  departed_at  TEXT,               -- as written, with or without a time zone
  arrived_at   TEXT,               -- likewise
  from_address TEXT,               -- in one line
  via_address  TEXT,               -- one a line
  to_address   TEXT,
  PRIMARY KEY(invoice_id, position)
) STRICT, WITHOUT ROWID;

-- Long texts, such as footers, that many invoices share: each is kept once.
CREATE TABLE texts(
  id    INTEGER PRIMARY KEY,       -- the first 63 bits of the SHA-256 of value
  value TEXT NOT NULL
) STRICT;

-- Texts that have no column of their own.
CREATE TABLE invoice_notes(
  invoice_id  INTEGER NOT NULL REFERENCES invoices(id) ON DELETE CASCADE,
  kind        TEXT NOT NULL,       -- note (DodatkowyOpis; PEF: cbc:Note), footer, registry, batch, new_transport, line_info, amount_in_words; PEF: item, customization, profile, classification
  position    INTEGER NOT NULL,    -- 1.. within the kind
  line_number INTEGER,             -- as invoice_lines.line_number; NULL: the document
  key         TEXT,                -- the issuer's, or the name of a field
  value       TEXT,
  text_id     INTEGER REFERENCES texts(id), -- of a long text, which is there instead of in value
  PRIMARY KEY(invoice_id, kind, position)
) STRICT, WITHOUT ROWID;

-- What an invoice has attached. Embedded files stay in the XML.
CREATE TABLE attachments(
  id           INTEGER PRIMARY KEY,
  invoice_id   INTEGER NOT NULL REFERENCES invoices(id) ON DELETE CASCADE,
  position     INTEGER NOT NULL,
  kind         TEXT NOT NULL,      -- fa_block, ubl_embedded or ubl_link
  title        TEXT,
  mime         TEXT,
  filename     TEXT,               -- as stated: not safe to write a file by
  size         INTEGER,            -- bytes of an embedded file
  sha256       TEXT,               -- of an embedded file, in hexadecimal
  uri          TEXT,
  content_json TEXT,               -- of an fa_block: metadata, paragraphs and tables with columns, rows and sums
  UNIQUE(invoice_id, position)
) STRICT;

-- invoices.xml_namespace is NULL where it is the one of the form.

-- One row for each invoice: all that is known of it, its roles, and its totals
-- as decimal text.
CREATE VIEW v_invoices AS
SELECT
  i.id, i.ksef_number,
  (SELECT group_concat(o.role) FROM (SELECT r.role FROM invoice_roles r WHERE r.invoice_id = i.id ORDER BY r.role) o) AS roles,
  i.api_invoice_type, i.invoicing_mode, i.invoicing_at, i.acquired_at, i.stored_at, i.received_date,
  i.api_net_minor, i.api_vat_pln_minor, i.api_gross_minor, i.invoice_hash, i.corrected_offline_hash,
  i.form, i.form_code, i.form_version,
  coalesce(i.xml_namespace, CASE WHEN i.form <> 'UNKNOWN' THEN CASE i.form_code
    WHEN 'FA (3)' THEN 'http://crd.gov.pl/wzor/2025/06/25/13775/'
    WHEN 'FA (2)' THEN 'http://crd.gov.pl/wzor/2023/06/29/12648/'
    WHEN 'FA (1)' THEN 'http://crd.gov.pl/wzor/2021/11/29/11089/'
    WHEN 'FA_RR (1)' THEN 'http://crd.gov.pl/wzor/2026/03/06/14189/'
    WHEN 'PEF (3)' THEN 'urn:oasis:names:specification:ubl:schema:xsd:Invoice-2'
    WHEN 'PEF_KOR (3)' THEN 'urn:oasis:names:specification:ubl:schema:xsd:CreditNote-2'
  END END) AS xml_namespace,
  i.invoice_type, i.is_correction,
  i.invoice_number, i.issue_date, i.issue_place, i.created_at, i.system_info,
  i.sale_date, i.period_from, i.period_to, i.tax_date, i.currency, i.exchange_rate,
  i.gross_minor, i.net_minor, i.vat_minor, i.vat_pln_minor,
  i.net_pln_minor, i.gross_pln_minor, i.tax_currency, i.tax_currency_vat_minor, i.lines_net_minor, i.order_value_minor,
  i.to_pay_minor, i.to_settle_minor, i.charges_minor, i.deductions_minor, i.prepaid_minor,
  i.seller_nip, i.seller_name, i.seller_country,
  i.buyer_id_type, i.buyer_id, i.buyer_id_country, i.buyer_nip, i.buyer_name, i.buyer_country,
  i.cash_method, i.self_billing, i.reverse_charge, i.split_payment, i.exempt, i.exempt_basis,
  i.new_transport, i.triangular, i.margin_scheme, i.cash_register, i.related_parties, i.excise_refund,
  i.buyer_local_gov, i.buyer_vat_group, i.intermediary,
  i.correction_reason, i.correction_effect, i.correction_period, i.corrected_number_fixed,
  i.amount_before_minor, i.exchange_rate_before,
  i.payment_status, i.paid_date, i.payment_method, i.payment_method_code, i.payment_method_text, i.payment_reference,
  i.first_due_date, i.last_due_date,
  i.payment_ksef_id, i.payment_link, i.discount_terms, i.discount_amount,
  i.delivery_terms, i.contract_exchange_rate, i.contract_currency,
  i.line_count, i.has_attachment, i.xml_path,
  (SELECT d.size FROM documents d WHERE d.invoice_id = i.id) AS xml_size,
  (SELECT lower(hex(d.sha256)) FROM documents d WHERE d.invoice_id = i.id) AS xml_sha256,
  i.parse_status, i.parse_error, i.parser_version, i.first_seen_at, i.updated_at,
  CASE WHEN i.gross_minor IS NOT NULL THEN printf('%s%d.%02d', iif(i.gross_minor < 0, '-', ''), abs(i.gross_minor) / 100, abs(i.gross_minor) % 100) END AS gross,
  CASE WHEN i.net_minor IS NOT NULL THEN printf('%s%d.%02d', iif(i.net_minor < 0, '-', ''), abs(i.net_minor) / 100, abs(i.net_minor) % 100) END AS net,
  CASE WHEN i.vat_minor IS NOT NULL THEN printf('%s%d.%02d', iif(i.vat_minor < 0, '-', ''), abs(i.vat_minor) / 100, abs(i.vat_minor) % 100) END AS vat
FROM invoices i;

-- One row for each line, with the invoice that it belongs to.
CREATE VIEW v_lines AS
SELECT
  l.invoice_id, i.ksef_number, i.invoice_number, i.invoice_type, i.is_correction, i.issue_date, i.tax_date,
  i.seller_nip, i.seller_name, i.buyer_nip, i.buyer_id, i.buyer_name, i.currency,
  l.kind, l.position, l.line_number, l.line_uid, l.before_correction, l.sale_date,
  l.name, l.item_code, l.gtin, l.pkwiu, l.cn, l.pkob,
  l.quality_class, l.unit, l.quantity, l.unit_price_net, l.price_quantity, l.unit_price_gross, l.discount,
  l.net_minor, l.gross_minor, l.vat_minor, l.vat_rate, l.oss_rate, l.annex15, l.excise_minor,
  l.gtu, l.procedure, l.exchange_rate,
  CASE WHEN l.net_minor IS NOT NULL THEN printf('%s%d.%02d', iif(l.net_minor < 0, '-', ''), abs(l.net_minor) / 100, abs(l.net_minor) % 100) END AS net,
  CASE WHEN l.gross_minor IS NOT NULL THEN printf('%s%d.%02d', iif(l.gross_minor < 0, '-', ''), abs(l.gross_minor) / 100, abs(l.gross_minor) % 100) END AS gross,
  CASE WHEN l.vat_minor IS NOT NULL THEN printf('%s%d.%02d', iif(l.vat_minor < 0, '-', ''), abs(l.vat_minor) / 100, abs(l.vat_minor) % 100) END AS vat
FROM invoice_lines l JOIN invoices i ON i.id = l.invoice_id;
