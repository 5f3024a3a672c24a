-- Why each stream's last run went the way it did, and when its role first ran, as
-- long as KSeF has never listed an invoice for it: such a role is asked less often.
ALTER TABLE streams ADD COLUMN reason TEXT;
ALTER TABLE streams ADD COLUMN idle_since TEXT;

-- When an export was given up: a few such in a day, and no more are asked for.
-- The row stays for that day.
ALTER TABLE exports ADD COLUMN abandoned_at TEXT;
