-- Why each stream's last run went the way it did, and when KSeF last listed
-- something for it: a role that is always empty is asked less often.
ALTER TABLE streams ADD COLUMN reason TEXT;
ALTER TABLE streams ADD COLUMN last_listed_at TEXT;

-- When an export was given up: a few such in a day, and no more are asked for.
-- The row stays for that day.
ALTER TABLE exports ADD COLUMN abandoned_at TEXT;
