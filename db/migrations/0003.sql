-- Reconciling: KSeF is asked again for what is already below the watermark.

-- When reconciling first found that KSeF no longer lists the invoice in this role;
-- NULL: it does, as far as is known. The invoice stays as it is.
ALTER TABLE invoice_roles ADD COLUMN not_seen_since TEXT;
CREATE INDEX invoice_roles_not_seen ON invoice_roles(not_seen_since) WHERE not_seen_since IS NOT NULL;

-- What KSeF listed below the watermark although it had not been there before. The
-- row is written before the invoice is stored, and stays.
CREATE TABLE late_invoices(
  ksef_number TEXT NOT NULL,
  role        TEXT NOT NULL,
  found_at    TEXT NOT NULL,
  PRIMARY KEY(ksef_number, role)
) STRICT, WITHOUT ROWID;
CREATE INDEX late_invoices_found ON late_invoices(found_at);

-- The comparisons of a role with what KSeF lists: rows older than 90 days are
-- removed.
CREATE TABLE reconciliations(
  id          INTEGER PRIMARY KEY,
  role        TEXT NOT NULL,
  span        INTEGER NOT NULL, -- seconds before the watermark that were to be compared
  range_from  TEXT NOT NULL,    -- KSeF's dates of permanent storage, verbatim; inclusive
  range_to    TEXT NOT NULL,    -- exclusive
  reached     TEXT NOT NULL,    -- compared up to here, exclusive: one that was interrupted goes on from here
  started_at  TEXT NOT NULL,
  finished_at TEXT,             -- NULL: under way, or interrupted, or what was missing is not stored yet
  listed      INTEGER NOT NULL DEFAULT 0,
  late        INTEGER NOT NULL DEFAULT 0, -- listed, and had not been there
  not_listed  INTEGER NOT NULL DEFAULT 0, -- there, and not listed
  error       TEXT              -- why it ended before its end; NULL: it did not
) STRICT;
CREATE INDEX reconciliations_role ON reconciliations(role, id);

-- One row for each difference between KSeF's list and the mirror: an invoice that
-- came late (it is stored, or waits in quarantine), or one that KSeF no longer
-- lists (it is kept).
CREATE VIEW v_differences AS
SELECT l.ksef_number, l.role, 'late' AS difference, l.found_at AS found_at FROM late_invoices l
UNION ALL
SELECT i.ksef_number, r.role, 'not_listed', r.not_seen_since
FROM invoice_roles r JOIN invoices i ON i.id = r.invoice_id WHERE r.not_seen_since IS NOT NULL;
