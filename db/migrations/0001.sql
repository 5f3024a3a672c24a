-- Version 1: invoices with their parties, lines and VAT summary, where each
-- stream stands, the request log, the quarantine and exports in flight.
--
-- The views v_* at the end are what other programs read; they stay compatible.
-- A reader opens the file with mode=ro and a busy timeout of some seconds.
-- The tables below them may change with any version. One expression that the
-- reader's SQLite does not know makes the whole database unreadable for it, so
-- this file keeps to what SQLite 3.37 of 2021 knows, the first with STRICT.
--
-- Columns *_minor are INTEGER hundredths of the currency unit, whatever the
-- currency; NULL: not stated. Dates are TEXT YYYY-MM-DD. Moments are TEXT,
-- RFC 3339 in UTC with seven fractional digits, so that the order of the text is
-- the order in time; where a column says so they are INTEGER Unix milliseconds.
-- Flags are 0 or 1. Decimals with more than two places are TEXT without
-- exponent and trailing zeros.
--
-- What comes from an invoice's XML has no CHECK: an issuer's odd value must not
-- keep the invoice out.

-- What this database mirrors: one row, written when the database is created.
CREATE TABLE mirror(
  id            INTEGER PRIMARY KEY CHECK(id = 1),
  environment   TEXT NOT NULL,
  context_type  TEXT NOT NULL,   -- KSeF's ContextIdentifier: nip, internalId, nipVatUe or peppolId
  context_value TEXT NOT NULL,
  tree_id       TEXT NOT NULL,   -- the id in the marker file of the folder tree that belongs to this database
  limits        TEXT             -- KSeF's last answer to GET /rate-limits, as JSON; NULL: none yet
) STRICT;

-- One row for each invoice, whatever the number of roles in which it is seen.
CREATE TABLE invoices(
  id                     INTEGER PRIMARY KEY,
  ksef_number            TEXT NOT NULL UNIQUE,
  -- what KSeF states about the invoice
  api_invoice_type       TEXT,
  invoicing_mode         TEXT,     -- Online or Offline
  invoicing_at           TEXT,     -- accepted for processing
  acquired_at            TEXT,     -- the number was given
  stored_at              TEXT NOT NULL, -- permanent storage: the order in which the mirror advances
  received_date          TEXT,     -- the date of acquired_at in Poland
  api_net_minor          INTEGER,
  api_vat_pln_minor      INTEGER,  -- always in PLN, unlike the two beside it
  api_gross_minor        INTEGER,
  invoice_hash           TEXT NOT NULL, -- SHA-256 of the XML in base64
  corrected_offline_hash TEXT,     -- the rejected offline invoice that this one technically corrects
  -- header of the document
  form                   TEXT NOT NULL, -- FA, FA_RR, PEF, PEF_KOR or UNKNOWN
  form_code              TEXT,     -- such as FA (3)
  form_version           TEXT,
  xml_namespace          TEXT,
  invoice_type           TEXT,     -- RodzajFaktury: VAT, KOR, ZAL, …
  is_correction          INTEGER NOT NULL DEFAULT 0,
  invoice_number         TEXT,     -- P_2; not unique
  issue_date             TEXT,
  issue_place            TEXT,
  created_at             TEXT,     -- by the issuer's clock, as written
  system_info            TEXT,
  sale_date              TEXT,
  period_from            TEXT,
  period_to              TEXT,
  tax_date               TEXT,     -- the first stated of sale date, period end, latest line date, issue date
  currency               TEXT,
  exchange_rate          TEXT,     -- of the header only; lines may have their own
  -- totals; of a correction they are differences
  gross_minor            INTEGER,
  net_minor              INTEGER,
  vat_minor              INTEGER,
  vat_pln_minor          INTEGER,
  to_pay_minor           INTEGER,
  to_settle_minor        INTEGER,
  charges_minor          INTEGER,
  deductions_minor       INTEGER,
  -- the two main parties; all that is known of them is in parties
  seller_nip             TEXT,
  seller_name            TEXT,
  seller_country         TEXT,
  buyer_id_type          TEXT,     -- Nip, VatUe, Other or None
  buyer_id               TEXT,
  buyer_id_country       TEXT,
  buyer_nip              TEXT,     -- only with buyer_id_type Nip
  buyer_name             TEXT,
  buyer_country          TEXT,
  -- annotations; NULL where the document could not be read
  cash_method            INTEGER,
  self_billing           INTEGER,
  reverse_charge         INTEGER,
  split_payment          INTEGER,
  exempt                 INTEGER,
  exempt_basis           TEXT,
  new_transport          INTEGER,
  triangular             INTEGER,
  margin_scheme          TEXT,     -- travel, used_goods, art or antiques
  cash_register          INTEGER,
  related_parties        INTEGER,
  excise_refund          INTEGER,
  buyer_local_gov        INTEGER,
  buyer_vat_group        INTEGER,
  -- correction
  correction_reason      TEXT,
  correction_effect      INTEGER,  -- TypKorekty 1 to 3
  correction_period      TEXT,
  corrected_number_fixed TEXT,     -- the right number, when the number is what is corrected
  amount_before_minor    INTEGER,
  exchange_rate_before   TEXT,
  -- payment, as the issuer claims it
  payment_status         TEXT,     -- paid, partial, unpaid or unknown
  paid_date              TEXT,
  payment_method         TEXT,
  payment_method_text    TEXT,
  first_due_date         TEXT,
  last_due_date          TEXT,
  payment_ksef_id        TEXT,
  payment_link           TEXT,
  discount_terms         TEXT,
  discount_amount        TEXT,     -- text: issuers write percentages and amounts
  line_count             INTEGER NOT NULL DEFAULT 0,
  has_attachment         INTEGER NOT NULL DEFAULT 0,
  -- our side
  xml_path               TEXT NOT NULL, -- the file in the tree, relative to it, with slashes
  parse_status           TEXT NOT NULL CHECK(parse_status IN ('ok', 'unsupported', 'error')),
  parse_error            TEXT,     -- also the fields that could not be read of a document that otherwise could
  parser_version         INTEGER NOT NULL DEFAULT 1, -- rises when the reader learns more: tells which rows to read again
  metadata_json          TEXT NOT NULL, -- as KSeF sent it
  first_seen_at          TEXT NOT NULL,
  updated_at             TEXT NOT NULL
) STRICT;
CREATE INDEX invoices_seller ON invoices(seller_nip, issue_date);
CREATE INDEX invoices_buyer ON invoices(buyer_nip, issue_date);
CREATE INDEX invoices_stored ON invoices(stored_at);
CREATE INDEX invoices_number ON invoices(seller_nip, invoice_number, issue_date);
CREATE INDEX invoices_due ON invoices(first_due_date) WHERE payment_status <> 'paid';
CREATE INDEX invoices_unparsed ON invoices(parse_status) WHERE parse_status <> 'ok';

-- The roles in which the mirrored company sees an invoice.
CREATE TABLE invoice_roles(
  invoice_id INTEGER NOT NULL REFERENCES invoices(id) ON DELETE CASCADE,
  role       TEXT NOT NULL CHECK(role IN ('seller', 'buyer', 'third_party', 'authorized')),
  PRIMARY KEY(invoice_id, role)
) STRICT, WITHOUT ROWID;
CREATE INDEX invoice_roles_role ON invoice_roles(role);

-- The zstd dictionaries that documents were compressed with: the database can
-- be read without the program that wrote it.
CREATE TABLE dictionaries(
  id      INTEGER PRIMARY KEY,
  sha256  BLOB NOT NULL UNIQUE,
  content BLOB NOT NULL
) STRICT;

-- The second copy of every invoice: its bytes as received, compressed.
CREATE TABLE documents(
  invoice_id INTEGER PRIMARY KEY REFERENCES invoices(id) ON DELETE CASCADE,
  dictionary INTEGER NOT NULL REFERENCES dictionaries(id),
  size       INTEGER NOT NULL,     -- bytes of the XML
  sha256     BLOB NOT NULL,        -- of the XML
  xml_zstd   BLOB NOT NULL         -- one zstd frame; last, so that the columns before it are read without it
) STRICT;

-- Every party that an invoice names, with its data before a correction.
CREATE TABLE parties(
  id              INTEGER PRIMARY KEY,
  invoice_id      INTEGER NOT NULL REFERENCES invoices(id) ON DELETE CASCADE,
  party           TEXT NOT NULL,   -- seller, buyer, third, authorized, seller_before or buyer_before
  position        INTEGER NOT NULL, -- 1.. within the kind of party
  id_type         TEXT,            -- Nip, VatUe, Other, None or InternalId
  id_value        TEXT,
  id_country      TEXT,
  nip             TEXT,
  eori            TEXT,
  name            TEXT,
  country         TEXT,
  address1        TEXT,
  address2        TEXT,
  gln             TEXT,
  mail_country    TEXT,
  mail_address1   TEXT,
  mail_address2   TEXT,
  email           TEXT,            -- the first one stated
  phone           TEXT,            -- the first one stated
  contacts_json   TEXT,            -- all contacts, where there are several
  role_code       INTEGER,         -- Rola or RolaPU; NULL with role_text: another role
  role_text       TEXT,
  share_percent   TEXT,
  customer_number TEXT,
  link_key        TEXT,            -- IDNabywcy: pairs a buyer with its data before the correction
  taxpayer_status INTEGER,         -- StatusInfoPodatnika 1 to 4
  UNIQUE(invoice_id, party, position)
) STRICT;
CREATE INDEX parties_nip ON parties(nip);

-- The rows of an invoice, and of the order that an advance invoice is for.
CREATE TABLE invoice_lines(
  id                INTEGER PRIMARY KEY,
  invoice_id        INTEGER NOT NULL REFERENCES invoices(id) ON DELETE CASCADE,
  kind              TEXT NOT NULL, -- line or order
  position          INTEGER NOT NULL, -- 1.. in file order within the kind
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
  unit              TEXT,
  quantity          TEXT,
  unit_price_net    TEXT,
  unit_price_gross  TEXT,
  discount          TEXT,
  net_minor         INTEGER,
  gross_minor       INTEGER,
  vat_minor         INTEGER,
  vat_rate          TEXT,          -- as written: 23, 8, 0 WDT, zw, np I, …
  oss_rate          TEXT,
  annex15           INTEGER NOT NULL,
  excise_minor      INTEGER,
  gtu               TEXT,
  procedure         TEXT,
  exchange_rate     TEXT,
  UNIQUE(invoice_id, kind, position)
) STRICT;

-- Net and VAT by kind of rate, as the header states them. They need not agree
-- with the lines: advances and settlements do not.
CREATE TABLE vat_summary(
  invoice_id    INTEGER NOT NULL REFERENCES invoices(id) ON DELETE CASCADE,
  bucket        TEXT NOT NULL,     -- standard, reduced1, …, margin
  source_field  TEXT NOT NULL,     -- such as P_13_1
  net_minor     INTEGER,
  vat_minor     INTEGER,
  vat_pln_minor INTEGER,           -- stated on invoices in another currency
  PRIMARY KEY(invoice_id, bucket)
) STRICT, WITHOUT ROWID;

-- Where each stream stands: one row for each role that ever ran.
CREATE TABLE streams(
  role            TEXT PRIMARY KEY CHECK(role IN ('seller', 'buyer', 'third_party', 'authorized')),
  watermark       TEXT,            -- everything before it is stored; the server's string, verbatim
  position        TEXT,            -- up to where KSeF was asked; ahead of the watermark while something waits in quarantine
  hwm             TEXT,            -- up to where KSeF calls its list complete; verbatim
  last_run_at     TEXT,
  last_success_at TEXT,
  last_error      TEXT             -- of the last run; NULL: it succeeded
) STRICT;

-- What was done lately, for people: rows older than 90 days are removed.
CREATE TABLE runs(
  id          INTEGER PRIMARY KEY,
  role        TEXT NOT NULL,
  route       TEXT,
  started_at  TEXT NOT NULL,
  finished_at TEXT NOT NULL,
  window_from TEXT,
  window_to   TEXT,
  listed      INTEGER NOT NULL,
  added       INTEGER NOT NULL,
  known       INTEGER NOT NULL,
  waiting     INTEGER NOT NULL,    -- in quarantine, holding the watermark
  requests    INTEGER NOT NULL,
  error       TEXT
) STRICT;
CREATE INDEX runs_finished ON runs(finished_at);

-- The memory of the request budget. A row is committed before its request is
-- sent, so that a crash can make the count too high, never too low.
CREATE TABLE requests(
  id             INTEGER PRIMARY KEY,
  endpoint_group TEXT NOT NULL,
  started_at     INTEGER NOT NULL, -- Unix milliseconds
  ended_at       INTEGER           -- Unix milliseconds; NULL: under way, or the program ended before the answer
) STRICT;
CREATE INDEX requests_ended ON requests(ended_at);

-- Endpoint groups that KSeF told us to leave alone for a time.
CREATE TABLE blocks(
  endpoint_group TEXT PRIMARY KEY,
  blocked_until  INTEGER NOT NULL  -- Unix milliseconds
) STRICT;

-- What KSeF listed and could not be mirrored: its bytes failed their checks, or
-- KSeF did not serve them.
CREATE TABLE quarantine(
  id            INTEGER PRIMARY KEY,
  ksef_number   TEXT NOT NULL,
  invoice_hash  TEXT NOT NULL,     -- that KSeF stated, in base64
  role          TEXT NOT NULL,
  reason        TEXT NOT NULL,     -- of the last attempt
  path          TEXT,              -- where the bytes are kept; NULL when none arrived
  stored_at     TEXT,              -- KSeF's date of permanent storage, verbatim
  holds         INTEGER NOT NULL,  -- 1: the watermark waits for it; 0: only an alarm
  first_seen_at TEXT NOT NULL,
  last_tried_at TEXT,
  released_at   TEXT,              -- the invoice was stored after all
  UNIQUE(ksef_number, role, invoice_hash)
) STRICT;
CREATE INDEX quarantine_open ON quarantine(id) WHERE released_at IS NULL;

-- One row for each export that KSeF was asked for and whose package is not stored
-- yet. KSeF has no list of exports, so what is not here is lost to us: the row is
-- written before the request is sent, and gets its reference right after.
CREATE TABLE exports(
  id            INTEGER PRIMARY KEY,
  role          TEXT NOT NULL,
  window_from   TEXT NOT NULL,    -- KSeF's string, verbatim
  window_to     TEXT,             -- NULL: until now
  reference     TEXT,             -- NULL: the answer to the request never arrived
  key           BLOB NOT NULL,    -- of AES-256, for this package alone; gone with the row
  iv            BLOB NOT NULL,
  created_at    TEXT NOT NULL
) STRICT;
CREATE INDEX exports_role ON exports(role, id);

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
  i.parse_status, i.parse_error, i.parser_version, i.metadata_json, i.first_seen_at, i.updated_at,
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
  l.unit, l.quantity, l.unit_price_net, l.unit_price_gross, l.discount,
  l.net_minor, l.gross_minor, l.vat_minor, l.vat_rate, l.oss_rate, l.annex15, l.excise_minor,
  l.gtu, l.procedure, l.exchange_rate,
  CASE WHEN l.net_minor IS NOT NULL THEN printf('%s%d.%02d', iif(l.net_minor < 0, '-', ''), abs(l.net_minor) / 100, abs(l.net_minor) % 100) END AS net,
  CASE WHEN l.gross_minor IS NOT NULL THEN printf('%s%d.%02d', iif(l.gross_minor < 0, '-', ''), abs(l.gross_minor) / 100, abs(l.gross_minor) % 100) END AS gross,
  CASE WHEN l.vat_minor IS NOT NULL THEN printf('%s%d.%02d', iif(l.vat_minor < 0, '-', ''), abs(l.vat_minor) / 100, abs(l.vat_minor) % 100) END AS vat
FROM invoice_lines l JOIN invoices i ON i.id = l.invoice_id;
