-- What kind of trouble last_error is, for those that only a person can mend: login
-- (KSeF does not accept the credentials) or permission (it does, but they may not
-- read invoices). NULL: another, or none.
ALTER TABLE streams ADD COLUMN trouble TEXT;
