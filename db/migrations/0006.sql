-- Which stored invoice a reference means. It is found as soon as both are stored,
-- whichever came first, and never guessed: reference_candidates says what fits, and
-- target_id is the candidate where there is exactly one.
--
-- target_id follows from the other columns of this table and of invoices, and is
-- changed in the transaction that changes them: the triggers below do it where
-- references are inserted and where an invoice is read again; the commit of new
-- invoices does it for what names them, all at once, because with a trigger storing
-- any invoice would take nearly a tenth longer. Invoices are never deleted.
ALTER TABLE invoice_references ADD COLUMN target_id INTEGER REFERENCES invoices(id) ON DELETE SET NULL; -- NULL: none fits, or several do

-- Ordinary invoices are in none of these.
CREATE INDEX invoice_references_ksef_number ON invoice_references(ksef_number) WHERE ksef_number IS NOT NULL;
CREATE INDEX invoice_references_number ON invoice_references(number) WHERE ksef_number IS NULL;
CREATE INDEX invoice_references_target ON invoice_references(target_id, relation) WHERE target_id IS NOT NULL;
CREATE INDEX invoices_corrected_offline_hash ON invoices(corrected_offline_hash) WHERE corrected_offline_hash IS NOT NULL;

-- Every stored invoice that fits a reference. A number of KSeF's decides alone.
-- Without one it is the issuer's number, with the date, the seller, and the type, as
-- far as the type of an invoice tells that of the one it corrects or settles: KSeF
-- takes a number again for another type. Where FA names an advance invoice by its
-- number alone, its type stands in for the date. CROSS JOIN keeps the order.
CREATE VIEW reference_candidates AS
SELECT r.invoice_id, r.relation, r.position, t.id AS candidate_id
FROM invoice_references r CROSS JOIN invoices i ON i.id = r.invoice_id CROSS JOIN invoices t ON t.id <> i.id AND (
  t.ksef_number = r.ksef_number
  OR (r.ksef_number IS NULL AND t.seller_nip = i.seller_nip AND t.invoice_number = r.number
    AND CASE
      WHEN r.issue_date IS NOT NULL THEN t.issue_date = r.issue_date
      ELSE r.relation = 'settles_advance' AND t.invoice_type = 'ZAL' AND t.issue_date <= i.issue_date
    END
    AND CASE
      WHEN t.invoice_type IS NULL THEN 1 -- it could not be read
      WHEN i.form IN ('PEF', 'PEF_KOR') THEN t.form IN ('PEF', 'PEF_KOR')
      WHEN r.relation = 'settles_advance' THEN t.invoice_type = 'ZAL'
      WHEN i.invoice_type IN ('KOR_ZAL', 'KOR_ROZ', 'KOR_VAT_RR') THEN t.invoice_type IN (i.invoice_type, substr(i.invoice_type, 5))
      ELSE t.invoice_type IN ('VAT', 'UPR', 'KOR')
    END));

CREATE TRIGGER invoice_references_insert AFTER INSERT ON invoice_references BEGIN
  UPDATE invoice_references SET target_id = (
    SELECT iif(count(*) = 1, max(c.candidate_id), NULL) FROM reference_candidates c
    WHERE c.invoice_id = NEW.invoice_id AND c.relation = NEW.relation AND c.position = NEW.position)
  WHERE invoice_id = NEW.invoice_id AND relation = NEW.relation AND position = NEW.position;
END;

-- The invoice's own references, and those that named it or do so now.
CREATE TRIGGER invoices_update AFTER UPDATE OF form, invoice_type, seller_nip, invoice_number, issue_date ON invoices
WHEN (OLD.form, OLD.invoice_type, OLD.seller_nip, OLD.invoice_number, OLD.issue_date)
  IS NOT (NEW.form, NEW.invoice_type, NEW.seller_nip, NEW.invoice_number, NEW.issue_date)
BEGIN
  UPDATE invoice_references SET target_id = (
    SELECT iif(count(*) = 1, max(c.candidate_id), NULL) FROM reference_candidates c
    WHERE c.invoice_id = invoice_references.invoice_id AND c.relation = invoice_references.relation AND c.position = invoice_references.position)
  WHERE invoice_id = NEW.id OR (ksef_number IS NULL AND number IN (OLD.invoice_number, NEW.invoice_number));
END;

UPDATE invoice_references SET target_id = (
  SELECT iif(count(*) = 1, max(c.candidate_id), NULL) FROM reference_candidates c
  WHERE c.invoice_id = invoice_references.invoice_id AND c.relation = invoice_references.relation AND c.position = invoice_references.position);

-- The views follow. Behind each column: what it means; its unit; where it comes from;
-- what NULL means, in the words of migration 7.

CREATE VIEW v_corrections AS
-- One row for each invoice that a correction names, whether the mirror has it or not.
-- A month: tax_month = '2026-11'
SELECT
  i.id AS invoice_id, -- v_invoices.id of the correction; -; ksefmirror; never NULL
  i.ksef_number AS ksef_number, -- KSeF's number of the correction; -; v_invoices.ksef_number; never NULL
  i.invoice_number AS invoice_number, -- the issuer's number of the correction; -; v_invoices.invoice_number; NULL: not known
  i.invoice_type AS invoice_type, -- kind of the correction, as in v_invoices; -; v_invoices.invoice_type; NULL: not stated
  i.issue_date AS issue_date, -- date of issue of the correction; date; v_invoices.issue_date; NULL: not known
  substr(coalesce(i.tax_date, i.issue_date), 1, 7) AS tax_month, -- month of the tax_date of the correction; indexed; YYYY-MM; v_invoices.tax_month;
    -- NULL: no date is known
  i.seller_nip AS seller_nip, -- NIP of the seller, as the correction has it; -; v_invoices.seller_nip; NULL: not known
  i.seller_name AS seller_name, -- name of the seller, likewise; -; v_invoices.seller_name; NULL: not known
  i.buyer_nip AS buyer_nip, -- NIP of the buyer, likewise; -; v_invoices.buyer_nip; NULL: it has another identifier, or none
  i.buyer_name AS buyer_name, -- name of the buyer, likewise; -; v_invoices.buyer_name; NULL: not stated
  i.correction_reason AS correction_reason, -- why it was corrected; -; v_invoices.correction_reason; NULL: not stated
  i.correction_effect AS correction_effect, -- in which period the correction counts: 1 that of the original, 2 that of the correction, 3 another; -;
    -- v_invoices.correction_effect; NULL: not stated
  i.currency AS currency, -- currency of the three amounts that follow; ISO 4217; v_invoices.currency; NULL: not known
  i.net_minor AS net_minor, -- difference in net, of all the invoices that the correction names together; hundredths of currency; v_invoices.net_minor;
    -- NULL: not stated
  i.vat_minor AS vat_minor, -- difference in VAT, likewise; hundredths of currency; v_invoices.vat_minor; NULL: not stated
  i.gross_minor AS gross_minor, -- difference in gross, likewise; hundredths of currency; v_invoices.gross_minor; NULL: not stated
  EXISTS(SELECT 1 FROM invoice_references o WHERE o.invoice_id = r.invoice_id AND o.relation = r.relation AND o.position <> r.position) AS collective,
    -- 1: the correction names several invoices, and no amount is of this one alone; 0: only this one; 0 or 1; FA Fa/DaneFaKorygowanej, RR
    -- FakturaRR/DaneFaKorygowanej, PEF BillingReference/InvoiceDocumentReference; never NULL
  r.position AS position, -- place of the corrected invoice among those that the correction names, from 1: with ksef_number the key; -; order of FA
    -- Fa/DaneFaKorygowanej, RR FakturaRR/DaneFaKorygowanej, PEF BillingReference/InvoiceDocumentReference; never NULL
  r.ksef_number AS stated_ksef_number, -- KSeF's number of the corrected invoice, as the correction states it; -; FA
    -- Fa/DaneFaKorygowanej/NrKSeFFaKorygowanej, RR FakturaRR/DaneFaKorygowanej/NrKSeFFaKorygowanej, PEF BillingReference/InvoiceDocumentReference/ID
    -- where it has the form of one; NULL: not stated
  r.number AS stated_number, -- the issuer's number of the corrected invoice, likewise; -; FA Fa/DaneFaKorygowanej/NrFaKorygowanej, RR
    -- FakturaRR/DaneFaKorygowanej/NrFaKorygowanej, PEF BillingReference/InvoiceDocumentReference/ID where it has another form; NULL: not stated
  r.issue_date AS stated_issue_date, -- date of issue of the corrected invoice, likewise; date; FA Fa/DaneFaKorygowanej/DataWystFaKorygowanej, RR
    -- FakturaRR/DaneFaKorygowanej/DataWystFaKorygowanej, PEF BillingReference/InvoiceDocumentReference/IssueDate; NULL: not stated
  r.outside_ksef AS outside_ksef, -- 1: the correction says that the corrected invoice is not in KSeF; 0: it does not, as always in PEF; 0 or 1; FA
    -- Fa/DaneFaKorygowanej/NrKSeFN, RR FakturaRR/DaneFaKorygowanej/NrKSeFN; never NULL
  CASE
    WHEN r.target_id IS NOT NULL THEN 1
    WHEN r.ksef_number IS NOT NULL THEN 0
    ELSE (SELECT count(*) FROM reference_candidates c WHERE c.invoice_id = r.invoice_id AND c.relation = r.relation AND c.position = r.position)
  END AS candidates, -- how many stored invoices fit; 1: the columns corrected_* are of that one; 0: it is not here, or not yet; more: it may be any of
    -- them, and none is chosen; count; ksefmirror; never NULL
  t.id AS corrected_id, -- v_invoices.id of the corrected invoice; -; ksefmirror; NULL: candidates is not 1
  t.ksef_number AS corrected_ksef_number, -- KSeF's number of the corrected invoice; -; v_invoices.ksef_number; NULL: candidates is not 1
  t.invoice_number AS corrected_invoice_number, -- the issuer's number of the corrected invoice; -; v_invoices.invoice_number; NULL: candidates is not
    -- 1, or not known
  t.invoice_type AS corrected_invoice_type, -- kind of the corrected invoice, which may be a correction itself; -; v_invoices.invoice_type; NULL:
    -- candidates is not 1, not stated, or its document could not be read
  t.issue_date AS corrected_issue_date, -- date of issue of the corrected invoice; date; v_invoices.issue_date; NULL: candidates is not 1, or not known
  t.currency AS corrected_currency, -- currency of the three amounts that follow; ISO 4217; v_invoices.currency; NULL: candidates is not 1, or not known
  t.net_minor AS corrected_net_minor, -- net amount of the corrected invoice; hundredths of corrected_currency; v_invoices.net_minor; NULL: candidates
    -- is not 1, not stated, or its document could not be read
  t.vat_minor AS corrected_vat_minor, -- VAT of the corrected invoice; hundredths of corrected_currency; v_invoices.vat_minor; NULL: candidates is not
    -- 1, not stated, or its document could not be read
  t.gross_minor AS corrected_gross_minor -- gross amount of the corrected invoice; hundredths of corrected_currency; v_invoices.gross_minor; NULL:
    -- candidates is not 1, not stated, or its document could not be read
FROM invoice_references r JOIN invoices i ON i.id = r.invoice_id LEFT JOIN invoices t ON t.id = r.target_id
WHERE r.relation = 'corrects';

-- The partition has all columns of the original, which are one and the same, so that
-- SQLite takes a condition on any of them into the query.
CREATE VIEW v_chain AS
-- One row for each corrected invoice and for each of its corrections, those of its
-- corrections included, in the order of their dates, with what the amounts are after
-- each. Invoices that nothing corrects are not in it, nor are corrections of an
-- invoice that the mirror does not have: v_corrections has those.
SELECT
  original_id AS original_id, -- v_invoices.id of the corrected invoice; -; ksefmirror; never NULL
  original_ksef_number AS original_ksef_number, -- KSeF's number of the corrected invoice; -; v_invoices.ksef_number; never NULL
  original_invoice_number AS original_invoice_number, -- the issuer's number of the corrected invoice; -; v_invoices.invoice_number; NULL: not known
  original_issue_date AS original_issue_date, -- date of issue of the corrected invoice; date; v_invoices.issue_date; NULL: not known
  original_seller_nip AS original_seller_nip, -- NIP of the seller of the corrected invoice; -; v_invoices.seller_nip; NULL: not known
  step AS step, -- 0: the corrected invoice itself; 1 and up: its corrections by their issue dates, on one day as KSeF accepted them; -;
    -- v_invoices.issue_date and acquired_at; never NULL
  is_last AS is_last, -- 1: no correction follows: the amounts after this row are those after all; 0: one does; 0 or 1; ksefmirror; never NULL
  invoice_id AS invoice_id, -- v_invoices.id of this row's invoice; -; ksefmirror; never NULL
  ksef_number AS ksef_number, -- KSeF's number of this row's invoice; -; v_invoices.ksef_number; never NULL
  invoice_number AS invoice_number, -- the issuer's number of this row's invoice; -; v_invoices.invoice_number; NULL: not known
  invoice_type AS invoice_type, -- kind of this row's invoice, as in v_invoices; -; v_invoices.invoice_type; NULL: not stated, or the document could not
    -- be read
  issue_date AS issue_date, -- date of issue of this row's invoice; date; v_invoices.issue_date; NULL: not known
  currency AS currency, -- currency of all amounts of this row; ISO 4217; v_invoices.currency; NULL: not known
  net_minor AS net_minor, -- net amount, of a correction the difference; hundredths of currency; v_invoices.net_minor; NULL: not stated, or the document
    -- could not be read
  vat_minor AS vat_minor, -- VAT, likewise; hundredths of currency; v_invoices.vat_minor; NULL: not stated, or the document could not be read
  gross_minor AS gross_minor, -- gross amount, likewise; hundredths of currency; v_invoices.gross_minor; NULL: not stated, or the document could not be
    -- read
  counts AS counts, -- 1: the amounts are of this chain; 0: they are not, as the correction also names other invoices, is in another currency than the
    -- original, or is no correction by its invoice_type; 0 or 1; ksefmirror; never NULL
  iif(all_count AND net_stated = step + 1, net_sum, NULL) AS net_after_minor, -- sum of net_minor from the original up to this row; hundredths of
    -- currency; v_invoices.net_minor; NULL: an amount up to here is not stated or does not count
  iif(all_count AND vat_stated = step + 1, vat_sum, NULL) AS vat_after_minor, -- sum of vat_minor, likewise; hundredths of currency;
    -- v_invoices.vat_minor; NULL: likewise
  iif(all_count AND gross_stated = step + 1, gross_sum, NULL) AS gross_after_minor, -- sum of gross_minor, likewise; hundredths of currency;
    -- v_invoices.gross_minor; NULL: likewise
  stated_gross_before_minor AS stated_gross_before_minor, -- gross amount before the correction as itself states it, in FA those of advances and
    -- settlements; hundredths of currency; v_invoices.amount_before_minor; NULL: not stated
  stated_net_after_minor AS stated_net_after_minor, -- net amount after the correction as itself states it; hundredths of currency; PEF
    -- LegalMonetaryTotal/TaxExclusiveAmount where there is a diff; NULL: not stated
  stated_vat_after_minor AS stated_vat_after_minor, -- VAT after the correction, likewise; hundredths of currency; PEF TaxTotal/TaxAmount where there is
    -- a diff; NULL: not stated
  stated_gross_after_minor AS stated_gross_after_minor -- gross amount after the correction, likewise; hundredths of currency; PEF
    -- LegalMonetaryTotal/TaxInclusiveAmount where there is a diff; NULL: not stated
FROM (
  SELECT
    original_id, original_ksef_number, original_invoice_number, original_issue_date, original_seller_nip,
    row_number() OVER chain - 1 AS step, lead(0, 1, 1) OVER chain AS is_last,
    invoice_id, ksef_number, invoice_number, invoice_type, issue_date, currency,
    net_minor, vat_minor, gross_minor, counts, min(counts) OVER chain AS all_count,
    count(net_minor) OVER chain AS net_stated, count(vat_minor) OVER chain AS vat_stated, count(gross_minor) OVER chain AS gross_stated,
    sum(net_minor) OVER chain AS net_sum, sum(vat_minor) OVER chain AS vat_sum, sum(gross_minor) OVER chain AS gross_sum,
    stated_gross_before_minor, stated_net_after_minor, stated_vat_after_minor, stated_gross_after_minor
  FROM (
    SELECT
      o.id AS original_id, o.ksef_number AS original_ksef_number, o.invoice_number AS original_invoice_number,
      o.issue_date AS original_issue_date, o.seller_nip AS original_seller_nip,
      i.id AS invoice_id, i.ksef_number, i.invoice_number, i.invoice_type, i.issue_date, i.acquired_at, i.currency,
      i.net_minor, i.vat_minor, i.gross_minor,
      i.id = o.id OR (i.is_correction AND i.currency IS o.currency AND NOT EXISTS(
        SELECT 1 FROM invoice_references r WHERE r.invoice_id = i.id AND r.relation = 'corrects' AND (r.target_id IS NULL OR r.target_id NOT IN (
          WITH RECURSIVE member(id) AS (
            SELECT o.id UNION SELECT n.invoice_id FROM member m JOIN invoice_references n ON n.target_id = m.id AND n.relation = 'corrects')
          SELECT id FROM member)))) AS counts,
      i.amount_before_minor AS stated_gross_before_minor, s.net_minor AS stated_net_after_minor,
      s.vat_minor AS stated_vat_after_minor, s.gross_minor AS stated_gross_after_minor
    FROM invoices o
    JOIN invoices i ON i.id IN (
      WITH RECURSIVE member(id) AS (
        SELECT o.id UNION SELECT n.invoice_id FROM member m JOIN invoice_references n ON n.target_id = m.id AND n.relation = 'corrects')
      SELECT id FROM member)
    LEFT JOIN correction_states s ON s.invoice_id = i.id AND s.state = 'after' AND s.bucket = ''
    WHERE NOT o.is_correction AND o.id IN (SELECT target_id FROM invoice_references WHERE target_id IS NOT NULL AND relation = 'corrects'))
  WINDOW chain AS (
    PARTITION BY original_id, original_ksef_number, original_invoice_number, original_issue_date, original_seller_nip
    ORDER BY invoice_id <> original_id, issue_date, acquired_at, ksef_number));

CREATE VIEW v_advances AS
-- One row for each advance invoice that a settlement names, whether the mirror has it
-- or not.
SELECT
  i.id AS invoice_id, -- v_invoices.id of the settlement; -; ksefmirror; never NULL
  i.ksef_number AS ksef_number, -- KSeF's number of the settlement; -; v_invoices.ksef_number; never NULL
  i.invoice_number AS invoice_number, -- the issuer's number of the settlement; -; v_invoices.invoice_number; NULL: not known
  i.invoice_type AS invoice_type, -- kind of the settlement, as in v_invoices; -; v_invoices.invoice_type; NULL: not stated
  i.issue_date AS issue_date, -- date of issue of the settlement; date; v_invoices.issue_date; NULL: not known
  r.position AS position, -- place of the advance among those that the settlement names, from 1: with ksef_number the key; -; order of FA
    -- Fa/FakturaZaliczkowa, FA(1) Fa/NrFaZaliczkowej, PEF BillingReference/InvoiceDocumentReference; never NULL
  r.ksef_number AS stated_ksef_number, -- KSeF's number of the advance, as the settlement states it; -; FA Fa/FakturaZaliczkowa/NrKSeFFaZaliczkowej,
    -- FA(1) Fa/NrFaZaliczkowej and PEF BillingReference/InvoiceDocumentReference/ID where they have the form of one; NULL: not stated
  r.number AS stated_number, -- the issuer's number of the advance, likewise; -; FA Fa/FakturaZaliczkowa/NrFaZaliczkowej, FA(1) Fa/NrFaZaliczkowej and
    -- PEF BillingReference/InvoiceDocumentReference/ID where they have another form; NULL: not stated
  r.issue_date AS stated_issue_date, -- date of issue of the advance, likewise; date; PEF BillingReference/InvoiceDocumentReference/IssueDate; NULL: not
    -- stated, as always in FA
  r.outside_ksef AS outside_ksef, -- 1: the settlement says that the advance is not in KSeF; 0: it does not, as always in PEF; 0 or 1; FA
    -- Fa/FakturaZaliczkowa/NrKSeFZN; never NULL
  CASE
    WHEN r.target_id IS NOT NULL THEN 1
    WHEN r.ksef_number IS NOT NULL THEN 0
    ELSE (SELECT count(*) FROM reference_candidates c WHERE c.invoice_id = r.invoice_id AND c.relation = r.relation AND c.position = r.position)
  END AS candidates, -- how many stored invoices fit; 1: the columns advance_* are of that one; 0: it is not here, or not yet; more: it may be any of
    -- them, and none is chosen; count; ksefmirror; never NULL
  t.id AS advance_id, -- v_invoices.id of the advance; -; ksefmirror; NULL: candidates is not 1
  t.ksef_number AS advance_ksef_number, -- KSeF's number of the advance; -; v_invoices.ksef_number; NULL: candidates is not 1
  t.invoice_number AS advance_invoice_number, -- the issuer's number of the advance; -; v_invoices.invoice_number; NULL: candidates is not 1, or not
    -- known
  t.invoice_type AS advance_invoice_type, -- kind of the advance, as in v_invoices; -; v_invoices.invoice_type; NULL: candidates is not 1, not stated,
    -- or its document could not be read
  t.issue_date AS advance_issue_date, -- date of issue of the advance; date; v_invoices.issue_date; NULL: candidates is not 1, or not known
  t.currency AS advance_currency, -- currency of the two amounts that follow; ISO 4217; v_invoices.currency; NULL: candidates is not 1, or not known
  t.gross_minor AS advance_gross_minor, -- what the advance says was paid, before any correction of it; hundredths of advance_currency;
    -- v_invoices.gross_minor; NULL: candidates is not 1, not stated, or its document could not be read
  t.order_value_minor AS advance_order_value_minor -- gross value of the order, as the advance states it; hundredths of advance_currency;
    -- v_invoices.order_value_minor; NULL: candidates is not 1, not stated, or its document could not be read
FROM invoice_references r JOIN invoices i ON i.id = r.invoice_id LEFT JOIN invoices t ON t.id = r.target_id
WHERE r.relation = 'settles_advance';

CREATE VIEW v_settlements AS
-- One row for each invoice that settles advances, but corrections of such: what it
-- leaves to pay, as it states itself, and as the order and the advances add up.
SELECT
  invoice_id AS invoice_id, -- v_invoices.id of the settlement; -; ksefmirror; never NULL
  ksef_number AS ksef_number, -- KSeF's number of the settlement; -; v_invoices.ksef_number; never NULL
  invoice_number AS invoice_number, -- the issuer's number of the settlement; -; v_invoices.invoice_number; NULL: not known
  invoice_type AS invoice_type, -- kind of the settlement, as in v_invoices; -; v_invoices.invoice_type; NULL: not stated
  issue_date AS issue_date, -- date of issue of the settlement; date; v_invoices.issue_date; NULL: not known
  seller_nip AS seller_nip, -- NIP of the seller; -; v_invoices.seller_nip; NULL: not known
  buyer_nip AS buyer_nip, -- NIP of the buyer; -; v_invoices.buyer_nip; NULL: it has another identifier, or none
  currency AS currency, -- currency of the settlement; ISO 4217; v_invoices.currency; NULL: not known
  advances AS advances, -- how many advances the settlement names; count; FA Fa/FakturaZaliczkowa, FA(1) Fa/NrFaZaliczkowej, PEF
    -- BillingReference/InvoiceDocumentReference; never NULL
  advances_found AS advances_found, -- how many of them are here; count; v_advances.advance_id; never NULL
  iif(advances_found = advances, order_value_minor, NULL) AS order_value_minor, -- gross value of the order, as all advances state it; hundredths of the
    -- currency of the advances; v_advances.advance_order_value_minor; NULL: not all are here, one does not state it, or they differ
  iif(advances_found = advances, advances_gross_minor, NULL) AS advances_gross_minor, -- what was paid by all advances, with their corrections up to the
    -- settlement's date; hundredths of currency; v_invoices.gross_minor of the advances and their corrections; NULL: not all are here, or an amount is
    -- not stated, in another currency, or of other invoices as well
  left_minor AS left_minor, -- what is left to pay, as the settlement states it; hundredths of currency; FA v_invoices.gross_minor, PEF
    -- v_invoices.to_pay_minor; NULL: not stated
  iif(advances_found = advances, order_value_minor - advances_gross_minor, NULL) AS computed_left_minor -- order_value_minor less advances_gross_minor;
    -- hundredths of currency; order_value_minor and advances_gross_minor; NULL: one of them is
FROM (
  SELECT
    i.id AS invoice_id, i.ksef_number, i.invoice_number, i.invoice_type, i.issue_date, i.seller_nip, i.buyer_nip, i.currency,
    iif(i.form = 'PEF', i.to_pay_minor, i.gross_minor) AS left_minor,
    (SELECT count(*) FROM invoice_references r WHERE r.invoice_id = i.id AND r.relation = 'settles_advance') AS advances,
    (SELECT count(r.target_id) FROM invoice_references r WHERE r.invoice_id = i.id AND r.relation = 'settles_advance') AS advances_found,
    (SELECT iif(count(*) = count(a.order_value_minor) AND min(a.order_value_minor) = max(a.order_value_minor), max(a.order_value_minor), NULL)
      FROM invoice_references r JOIN invoices a ON a.id = r.target_id
      WHERE r.invoice_id = i.id AND r.relation = 'settles_advance' AND NOT a.is_correction) AS order_value_minor,
    (WITH RECURSIVE member(id) AS (
        SELECT r.target_id FROM invoice_references r WHERE r.invoice_id = i.id AND r.relation = 'settles_advance' AND r.target_id IS NOT NULL
        UNION SELECT n.invoice_id FROM member m JOIN invoice_references n ON n.target_id = m.id AND n.relation = 'corrects'
          JOIN invoices c ON c.id = n.invoice_id AND c.issue_date <= i.issue_date)
      SELECT iif(count(*) = count(a.gross_minor) AND min(a.currency IS i.currency AND NOT EXISTS(
          SELECT 1 FROM invoice_references r WHERE r.invoice_id = a.id AND r.relation = 'corrects'
            AND (r.target_id IS NULL OR r.target_id NOT IN (SELECT id FROM member)))), sum(a.gross_minor), NULL)
      FROM member m JOIN invoices a ON a.id = m.id) AS advances_gross_minor
  FROM invoices i
  WHERE NOT i.is_correction AND i.id IN (SELECT invoice_id FROM invoice_references WHERE relation = 'settles_advance' AND position = 1));

-- The month finds the other invoice by an index of migration 7.
CREATE VIEW v_technical_corrections AS
-- One row for each technical correction: an invoice that was sent in the place of one
-- that was issued offline and that KSeF did not accept (open-api:
-- hashOfCorrectedInvoice). It stands for itself: what it corrects was not in KSeF, and
-- its amounts are no differences.
SELECT
  i.id AS invoice_id, -- v_invoices.id of the technical correction; -; ksefmirror; never NULL
  i.ksef_number AS ksef_number, -- KSeF's number of the technical correction; -; v_invoices.ksef_number; never NULL
  i.invoice_number AS invoice_number, -- the issuer's number of the technical correction; -; v_invoices.invoice_number; NULL: not known
  i.issue_date AS issue_date, -- date of issue of the technical correction; date; v_invoices.issue_date; NULL: not known
  i.seller_nip AS seller_nip, -- NIP of the seller; -; v_invoices.seller_nip; NULL: not known
  i.corrected_offline_hash AS corrected_hash, -- SHA-256 of the XML that was not accepted; base64; metadata hashOfCorrectedInvoice; never NULL
  t.id AS corrected_id, -- v_invoices.id of the invoice with that hash, from the same seller and date; -; ksefmirror; NULL: not here, which is the rule
  t.ksef_number AS corrected_ksef_number -- KSeF's number of that invoice; -; v_invoices.ksef_number; NULL: likewise
FROM invoices i LEFT JOIN invoices t ON substr(t.issue_date, 1, 7) = substr(i.issue_date, 1, 7)
  AND +t.seller_nip = i.seller_nip AND t.issue_date = i.issue_date AND t.invoice_hash = i.corrected_offline_hash AND t.id <> i.id
WHERE i.corrected_offline_hash IS NOT NULL;
