-- Settlements are few among the invoices and what they name: a question about those of
-- a month goes through them alone.
CREATE INDEX invoice_references_settlements ON invoice_references(invoice_id) WHERE relation = 'settles_advance' AND position = 1;

-- Amounts beyond 9 000 000 000 000.00, of any currency, are not read any more: two that
-- are absurd overflow sum(), which fails then, and a view with it. The invoices that have
-- one are read again.
UPDATE invoices SET parser_version = 0 WHERE id IN (
  SELECT id FROM invoices WHERE net_minor NOT BETWEEN -900000000000000 AND 900000000000000
    OR vat_minor NOT BETWEEN -900000000000000 AND 900000000000000
    OR gross_minor NOT BETWEEN -900000000000000 AND 900000000000000
    OR net_pln_minor NOT BETWEEN -900000000000000 AND 900000000000000
    OR vat_pln_minor NOT BETWEEN -900000000000000 AND 900000000000000
  UNION ALL SELECT invoice_id FROM vat_summary WHERE net_minor NOT BETWEEN -900000000000000 AND 900000000000000
    OR vat_minor NOT BETWEEN -900000000000000 AND 900000000000000
    OR vat_pln_minor NOT BETWEEN -900000000000000 AND 900000000000000
  UNION ALL SELECT invoice_id FROM payments WHERE amount_minor NOT BETWEEN -900000000000000 AND 900000000000000);
