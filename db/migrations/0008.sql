-- Telling others of new invoices: how far each receiver has been told. The ids of
-- invoices grow in the order in which they are stored, without gaps, and none is
-- ever removed; so one number says it, whatever the number of invoices.
CREATE TABLE deliveries(
  receiver        TEXT PRIMARY KEY, -- command, webhook or digest
  since           TEXT NOT NULL,    -- when it was first configured
  last_id         INTEGER NOT NULL, -- of invoices: it has acknowledged everything up to here
  offered_id      INTEGER,          -- likewise: the end of what it was offered and has not acknowledged; NULL: nothing
  failures        INTEGER NOT NULL DEFAULT 0, -- attempts in a row
  last_error      TEXT,             -- of the last attempt; NULL: it succeeded, or there was none
  next_attempt_at TEXT,             -- after a failure; NULL: there was none, or only a new start tries again
  last_success_at TEXT
) STRICT, WITHOUT ROWID;
