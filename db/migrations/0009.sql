-- Audits of the folder tree, and invoices that a new database takes over from it.

-- Where the audits are: one row once the first has begun.
CREATE TABLE audit(
  id          INTEGER PRIMARY KEY CHECK(id = 1),
  pass        INTEGER NOT NULL, -- counts the audits
  reached     INTEGER NOT NULL, -- every invoices.id up to here was looked at
  restored    INTEGER NOT NULL, -- files that this audit wrote anew
  previous_at TEXT,             -- when the one before began; NULL: this is the first
  started_at  TEXT NOT NULL,
  finished_at TEXT              -- NULL: under way
) STRICT;

-- 1: this database took the place of another, so the tree may hold invoices that
-- have no row yet. Set when it is created or restored, 0 when every role is
-- complete again.
ALTER TABLE mirror ADD COLUMN adopts INTEGER NOT NULL DEFAULT 0;
