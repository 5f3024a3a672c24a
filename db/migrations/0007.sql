-- The views as the contract with readers: each column says beside it what it means,
-- in which unit, where it comes from and what NULL means. The reference
-- db/VIEWS.md is made from these words. Search over all invoices, the indexes of
-- what the views are asked for, and the room for both.

DROP VIEW v_invoices;
DROP VIEW v_lines;
DROP VIEW v_differences;

-- Parties are only ever found by their invoice: they are kept in its order, which saves
-- two indexes.
CREATE TABLE parties_by_invoice(
  invoice_id      INTEGER NOT NULL REFERENCES invoices(id) ON DELETE CASCADE,
  party           TEXT NOT NULL,   -- seller, buyer, third, authorized, seller_before, buyer_before or carrier; PEF: also payee, delivery, issuer, recipient
  position        INTEGER NOT NULL, -- 1.. within the kind of party
  id_type         TEXT,            -- Nip, VatUe, Other, None or InternalId
  id_value        TEXT,
  id_country      TEXT,
  nip             TEXT GENERATED ALWAYS AS ( -- not kept twice
    CASE id_type WHEN 'Nip' THEN id_value WHEN 'InternalId' THEN iif(substr(id_value, 1, 10) GLOB '[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]', substr(id_value, 1, 10), NULL) END
  ) VIRTUAL,
  eori            TEXT,
  name            TEXT,
  trade_name      TEXT,            -- under which it trades, beside its name
  country         TEXT,
  address1        TEXT,
  address2        TEXT,
  gln             TEXT,
  legal_id        TEXT,            -- PEF: the number in the register of companies, or what is written there
  endpoint        TEXT,            -- PEF: the electronic address with its scheme, as Peppol writes it
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
  PRIMARY KEY(invoice_id, party, position)
) STRICT, WITHOUT ROWID;
INSERT INTO parties_by_invoice SELECT
  invoice_id, party, position, id_type, id_value, id_country, eori, name, trade_name, country, address1, address2, gln,
  legal_id, endpoint, mail_country, mail_address1, mail_address2, email, phone, contacts_json, role_code, role_text,
  share_percent, customer_number, link_key, taxpayer_status
FROM parties ORDER BY invoice_id, party, position;
DROP TABLE parties;
ALTER TABLE parties_by_invoice RENAME TO parties;

-- The months by which the views are asked. An invoice whose document could not be
-- read is in the month of the date that KSeF states.
CREATE INDEX invoices_tax_month ON invoices(substr(coalesce(tax_date, issue_date), 1, 7));
CREATE INDEX invoices_issue_month ON invoices(substr(issue_date, 1, 7));
CREATE INDEX invoices_received_month ON invoices(substr(received_date, 1, 7));

-- What one buyer got, whatever its identifier, and what one seller issued: a number has
-- few dates.
DROP INDEX invoices_seller;
DROP INDEX invoices_buyer;
DROP INDEX invoices_number;
CREATE INDEX invoices_buyer ON invoices(buyer_id);
CREATE INDEX invoices_number ON invoices(seller_nip, invoice_number);

-- Without a word about payment an invoice may be due as well.
DROP INDEX invoices_due;
CREATE INDEX invoices_due ON invoices(first_due_date) WHERE payment_status IS NOT 'paid';

-- What is searched of an invoice. The search folds case and diacritics, but ł has
-- none to fold: a text that has it is there a second time with l, so that it is found
-- by both.
CREATE VIEW search_texts AS
SELECT i.id AS id, (
  SELECT group_concat(t.text || iif(t.text <> replace(replace(t.text, 'ł', 'l'), 'Ł', 'L'), ' ' || replace(replace(t.text, 'ł', 'l'), 'Ł', 'L'), ''), ' ')
  FROM (
    SELECT i.invoice_number AS text UNION ALL SELECT i.seller_name UNION ALL SELECT i.buyer_name
    UNION ALL SELECT p.name FROM parties p WHERE p.invoice_id = i.id AND p.party NOT IN ('seller', 'buyer')
    UNION ALL SELECT p.trade_name FROM parties p WHERE p.invoice_id = i.id
    UNION ALL SELECT l.name FROM invoice_lines l WHERE l.invoice_id = i.id
  ) t) AS text
FROM invoices i;

-- The full-text index: for each word the invoices that have it, and nothing else. It
-- reads a text that it is to forget from the view: an invoice is deleted from it
-- before its rows change, and inserted afterwards.
CREATE VIRTUAL TABLE invoice_search USING fts5(
  text, content='search_texts', content_rowid='id', detail=none, columnsize=0, tokenize='unicode61 remove_diacritics 2'
);
INSERT INTO invoice_search(invoice_search) VALUES('rebuild');

-- The views follow. Behind each column: what it means; its unit; where it comes from;
-- what NULL means. A column without a text has that of the view that it is taken from,
-- or of v_invoices. "A month" is the condition by which an index finds one. Paths are
-- below the root of the document: FA below /Faktura, of FA(3) where the versions
-- differ; RR is FA_RR; PEF is UBL below /Invoice or /CreditNote, where diff stands for
-- the InvoiceCorrection of PEF_KOR.

CREATE VIEW v_invoices AS
-- One row for each invoice: all that is known of it.
-- A month: tax_month = '2026-11'
SELECT
  i.id, -- number of the row, for joins within one query: it may change when the database is made anew; -; ksefmirror; never NULL
  i.ksef_number, -- KSeF's number of the invoice: its key; -; metadata ksefNumber; never NULL
  (SELECT group_concat(o.role) FROM (SELECT r.role FROM invoice_roles r WHERE r.invoice_id = i.id ORDER BY r.role) o) AS roles,
    -- roles in which the company sees it, separated by commas: seller, buyer, third_party, authorized; -; the lists of KSeF in which it was found; never NULL
  i.api_invoice_type, -- kind of invoice as KSeF states it, such as Vat, Kor, VatRr, KorPef; -; metadata invoiceType; NULL: KSeF did not state it
  i.invoicing_mode, -- Online or Offline; -; metadata invoicingMode; NULL: KSeF did not state it
  i.invoicing_at, -- KSeF accepted it for processing; RFC 3339, UTC; metadata invoicingDate; NULL: KSeF did not state it
  i.acquired_at, -- KSeF gave it its number: a buyer has received it; RFC 3339, UTC; metadata acquisitionDate; NULL: KSeF did not state it
  i.stored_at, -- KSeF stored it for good: the order in which the mirror advances; RFC 3339, UTC; metadata permanentStorageDate; never NULL
  i.received_date, -- day of acquired_at; date in Poland; metadata acquisitionDate; NULL: KSeF did not state it
  i.api_net_minor, -- net amount as KSeF states it; hundredths of currency; metadata netAmount; NULL: KSeF did not state it
  i.api_vat_pln_minor, -- VAT as KSeF states it, in PLN whatever the currency; hundredths of PLN; metadata vatAmount; NULL: KSeF did not state it
  i.api_gross_minor, -- gross amount as KSeF states it; hundredths of currency; metadata grossAmount; NULL: KSeF did not state it
  i.invoice_hash, -- SHA-256 of the XML; base64; metadata invoiceHash; never NULL
  i.corrected_offline_hash, -- SHA-256 of the rejected offline invoice that this one corrects technically; base64; metadata
    -- hashOfCorrectedInvoice; NULL: it corrects none so
  i.form, -- FA, FA_RR, PEF, PEF_KOR or UNKNOWN; -; namespace and root element of the document; never NULL
  i.form_code, -- code of the form, such as FA (3); -; FA and RR Naglowek/KodFormularza/@kodSystemowy, PEF from the namespace, else metadata
    -- formCode; NULL: not known
  i.form_version, -- version of the schema, such as 1-0E; -; FA and RR Naglowek/KodFormularza/@wersjaSchemy; NULL: not stated
  coalesce(i.xml_namespace, CASE WHEN i.form <> 'UNKNOWN' THEN CASE i.form_code
    WHEN 'FA (3)' THEN 'http://crd.gov.pl/wzor/2025/06/25/13775/'
    WHEN 'FA (2)' THEN 'http://crd.gov.pl/wzor/2023/06/29/12648/'
    WHEN 'FA (1)' THEN 'http://crd.gov.pl/wzor/2021/11/29/11089/'
    WHEN 'FA_RR (1)' THEN 'http://crd.gov.pl/wzor/2026/03/06/14189/'
    WHEN 'PEF (3)' THEN 'urn:oasis:names:specification:ubl:schema:xsd:Invoice-2'
    WHEN 'PEF_KOR (3)' THEN 'urn:oasis:names:specification:ubl:schema:xsd:CreditNote-2'
  END END) AS xml_namespace, -- namespace of the document; -; the root element; NULL: the form is unknown and has none
  i.invoice_type, -- kind of invoice: VAT, KOR, ZAL, ROZ, UPR, KOR_ZAL, KOR_ROZ, VAT_RR, KOR_VAT_RR, of PEF a code of UNTDID 1001; -; FA
    -- Fa/RodzajFaktury, RR FakturaRR/RodzajFaktury, PEF InvoiceTypeCode or CreditNoteTypeCode; NULL: the document could not be read
  i.is_correction, -- 1: a correction, whose amounts are differences; 0 also where the document could not be read; 0 or 1; invoice_type; never NULL
  i.invoice_number, -- the issuer's number; not unique; -; FA Fa/P_2, RR FakturaRR/P_4C, PEF ID, else metadata invoiceNumber; NULL: not known
  i.issue_date, -- date of issue; date; FA Fa/P_1, RR FakturaRR/P_4B, PEF IssueDate, else metadata issueDate; NULL: not known
  i.issue_place, -- place of issue; -; FA Fa/P_1M, RR FakturaRR/P_1M; NULL: not stated, or the document could not be read
  i.created_at, -- when the file was made, by the issuer's clock; xsd:dateTime as written; FA and RR Naglowek/DataWytworzeniaFa; NULL: not
    -- stated, or the document could not be read
  i.system_info, -- the issuer's program; -; FA and RR Naglowek/SystemInfo; NULL: not stated, or the document could not be read
  i.sale_date, -- date of the sale, where all lines have one; date; FA Fa/P_6, RR FakturaRR/P_4A, PEF Delivery/ActualDeliveryDate; NULL: not
    -- stated, or the document could not be read
  i.period_from, -- first day of the period that is invoiced; date; FA Fa/OkresFa/P_6_Od, PEF InvoicePeriod/StartDate; NULL: not stated, or the
    -- document could not be read
  i.period_to, -- last day of it; date; FA Fa/OkresFa/P_6_Do, PEF InvoicePeriod/EndDate; NULL: not stated, or the document could not be read
  coalesce(i.tax_date, i.issue_date) AS tax_date, -- the first stated of PEF's tax point, sale date, end of the period, latest date of a line,
    -- date of issue: an aid, no ruling on when tax is due; date; PEF TaxPointDate, sale_date, period_to, FA Fa/FaWiersz/P_6A, issue_date;
    -- NULL: none is known
  substr(coalesce(i.tax_date, i.issue_date), 1, 7) AS tax_month, -- month of tax_date; indexed; YYYY-MM; tax_date; NULL: none is known
  substr(i.issue_date, 1, 7) AS issue_month, -- month of issue_date; indexed; YYYY-MM; issue_date; NULL: not known
  substr(i.received_date, 1, 7) AS received_month, -- month of received_date; indexed; YYYY-MM; received_date; NULL: KSeF did not state it
  i.currency, -- currency of the amounts; ISO 4217; FA Fa/KodWaluty, RR FakturaRR/KodWaluty, PEF DocumentCurrencyCode, else metadata currency;
    -- NULL: not known
  i.exchange_rate, -- rate of the header; lines may have their own; decimal, PLN for one unit; FA Fa/KursWalutyZ, PEF
    -- TaxExchangeRate/CalculationRate; NULL: not stated, or the document could not be read
  i.gross_minor, -- amount due; of ROZ what is left to pay, of a correction the difference; need not be net and VAT together; hundredths of
    -- currency; FA Fa/P_15, RR FakturaRR/P_12_1, PEF LegalMonetaryTotal/TaxInclusiveAmount or that of diff; NULL: not stated, or the
    -- document could not be read
  i.net_minor, -- net amount; hundredths of currency; FA sum of Fa/P_13_*, RR FakturaRR/P_11_1, PEF LegalMonetaryTotal/TaxExclusiveAmount or that
    -- of diff; NULL: not stated, or the document could not be read
  i.vat_minor, -- VAT, with that of other countries (OSS); of RR the flat-rate refund; hundredths of currency; FA sum of Fa/P_14_1 to P_14_5, RR
    -- FakturaRR/P_11_2, PEF TaxTotal/TaxAmount or that of diff; NULL: not stated, or the document could not be read
  i.vat_pln_minor, -- VAT in PLN, of an invoice in another currency; hundredths of PLN; FA sum of Fa/P_14_1W to P_14_4W, RR FakturaRR/P_11_2W,
    -- PEF TaxTotal/TaxAmount in PLN; NULL: not stated: it is never converted
  i.net_pln_minor, -- net amount in PLN, of an RR in another currency; hundredths of PLN; RR FakturaRR/P_11_1W; NULL: not stated: it is never
    -- converted
  i.gross_pln_minor, -- gross amount in PLN, likewise; hundredths of PLN; RR FakturaRR/P_12_1W; NULL: not stated: it is never converted
  i.tax_currency, -- currency of tax_currency_vat_minor; ISO 4217; PEF TaxCurrencyCode; NULL: not stated
  i.tax_currency_vat_minor, -- VAT in that currency; hundredths of tax_currency; PEF TaxTotal/TaxAmount in that currency, or that of diff; NULL:
    -- not stated
  i.lines_net_minor, -- net sum of the lines as the document states it; hundredths of currency; PEF LegalMonetaryTotal/LineExtensionAmount or
    -- that of diff, FA(1) Fa/FaWiersze/WartoscWierszyFaktury1; NULL: not stated
  i.order_value_minor, -- gross value of the order that an advance is paid for; hundredths of currency; FA Fa/Zamowienie/WartoscZamowienia; NULL:
    -- not stated, or the document could not be read
  i.to_pay_minor, -- amount to pay with charges and deductions; PEF: without what was prepaid; hundredths of currency; FA
    -- Fa/Rozliczenie/DoZaplaty, RR FakturaRR/Rozliczenie/DoZaplaty, PEF LegalMonetaryTotal/PayableAmount or that of diff; NULL: not stated,
    -- or the document could not be read
  i.to_settle_minor, -- amount overpaid, to be settled or returned; hundredths of currency; FA Fa/Rozliczenie/DoRozliczenia, RR likewise; NULL:
    -- not stated, or the document could not be read
  i.charges_minor, -- sum of the charges beside the gross amount; hundredths of currency; FA Fa/Rozliczenie/SumaObciazen, RR likewise; NULL: not
    -- stated, or the document could not be read
  i.deductions_minor, -- sum of the deductions beside it; hundredths of currency; FA Fa/Rozliczenie/SumaOdliczen, RR likewise; NULL: not stated,
    -- or the document could not be read
  i.prepaid_minor, -- what of the gross amount was paid before; hundredths of currency; PEF LegalMonetaryTotal/PrepaidAmount or that of diff;
    -- NULL: not stated
  i.seller_nip, -- NIP of the seller, also where the buyer issued the invoice; -; FA and RR Podmiot1/DaneIdentyfikacyjne/NIP, else and for PEF
    -- metadata seller.nip; NULL: not known
  i.seller_name, -- name of the seller; -; FA and RR Podmiot1/DaneIdentyfikacyjne/Nazwa, PEF
    -- AccountingSupplierParty/Party/PartyLegalEntity/RegistrationName or PartyName/Name, else metadata seller.name; NULL: not known
  i.seller_country, -- country of the seller's address; ISO 3166; FA and RR Podmiot1/Adres/KodKraju, PEF
    -- PostalAddress/Country/IdentificationCode; NULL: not stated, or the document could not be read
  i.buyer_id_type, -- kind of the buyer's identifier: Nip, VatUe, Other, or None for a buyer without; -; FA and RR Podmiot2/DaneIdentyfikacyjne,
    -- PEF AccountingCustomerParty, else metadata buyer.identifier.type; NULL: not known
  i.buyer_id, -- identifier of the buyer without its country; -; FA and RR Podmiot2/DaneIdentyfikacyjne/NIP, NrVatUE or NrID, PEF
    -- PartyTaxScheme/CompanyID, else metadata buyer.identifier.value; NULL: the buyer has none
  i.buyer_id_country, -- country of the identifier; ISO 3166, of a VAT number EU's prefix; FA Podmiot2/DaneIdentyfikacyjne/KodUE or KodKraju, PEF
    -- PartyTaxScheme/CompanyID; NULL: not stated, as with a NIP
  i.buyer_nip, -- NIP of the buyer; -; buyer_id; NULL: it has another identifier, or none
  i.buyer_name, -- name of the buyer; -; FA and RR Podmiot2/DaneIdentyfikacyjne/Nazwa, PEF
    -- AccountingCustomerParty/Party/PartyLegalEntity/RegistrationName or PartyName/Name, else metadata buyer.name; NULL: not stated, as
    -- simplified invoices may
  i.buyer_country, -- country of the buyer's address; ISO 3166; FA and RR Podmiot2/Adres/KodKraju, PEF PostalAddress/Country/IdentificationCode;
    -- NULL: not stated, or the document could not be read
  i.cash_method, -- 1: VAT is due when paid (metoda kasowa); 0 or 1; FA Fa/Adnotacje/P_16; NULL: the document could not be read
  i.self_billing, -- 1: issued by the buyer (samofakturowanie); the seller is the seller all the same; 0 or 1; FA Fa/Adnotacje/P_17, PEF
    -- InvoiceTypeCode 389 or 261; NULL: the document could not be read
  i.reverse_charge, -- 1: the buyer accounts for VAT; 0 or 1; FA Fa/Adnotacje/P_18, PEF a TaxCategory AE; NULL: the document could not be read
  i.split_payment, -- 1: to be paid by split payment (MPP); 0 or 1; FA Fa/Adnotacje/P_18A; NULL: the document could not be read
  i.exempt, -- 1: something on it is exempt from VAT; 0 or 1; FA Fa/Adnotacje/Zwolnienie/P_19, PEF a TaxCategory E; NULL: the document could not
    -- be read
  i.exempt_basis, -- why it is exempt; -; FA Fa/Adnotacje/Zwolnienie/P_19A, P_19B or P_19C, PEF TaxCategory/TaxExemptionReason or
    -- TaxExemptionReasonCode; NULL: not stated, or the document could not be read
  i.new_transport, -- 1: a new means of transport was sold to another country of the EU; 0 or 1; FA Fa/Adnotacje/NoweSrodkiTransportu/P_22; NULL:
    -- the document could not be read
  i.triangular, -- 1: simplified triangular sale, issued by the second of the three; 0 or 1; FA Fa/Adnotacje/P_23; NULL: the document could not
    -- be read
  i.margin_scheme, -- margin scheme: travel, used_goods, art or antiques; -; FA Fa/Adnotacje/PMarzy/P_PMarzy_2, _3_1, _3_2, _3_3; NULL: none, or
    -- the document could not be read
  i.cash_register, -- 1: issued for a sale that is on a cash register (FP); 0 or 1; FA Fa/FP; NULL: the document could not be read
  i.related_parties, -- 1: seller and buyer are related (TP); 0 or 1; FA Fa/TP; NULL: the document could not be read
  i.excise_refund, -- 1: with data for the refund of excise to farmers; 0 or 1; FA Fa/ZwrotAkcyzy; NULL: the document could not be read
  i.buyer_local_gov, -- 1: the buyer is a unit of a local government; 0 or 1; FA(3) Podmiot2/JST; NULL: the document could not be read
  i.buyer_vat_group, -- 1: the buyer is a member of a VAT group; 0 or 1; FA(3) Podmiot2/GV; NULL: the document could not be read
  i.intermediary, -- 1: supplied in a chain by the intermediary (art. 22(2d)); 0 or 1; FA Fa/WarunkiTransakcji/PodmiotPosredniczacy; NULL: the
    -- document could not be read
  i.correction_reason, -- why it was corrected; -; FA Fa/PrzyczynaKorekty, RR FakturaRR/PrzyczynaKorekty, PEF DiscrepancyResponse/Description;
    -- NULL: no correction, or not stated
  i.correction_effect, -- in which period the correction counts: 1 that of the original, 2 that of the correction, 3 another; -; FA
    -- Fa/TypKorekty, RR FakturaRR/TypKorekty; NULL: no correction, or not stated
  i.correction_period, -- period that a collective correction is for; as written; FA Fa/OkresFaKorygowanej; NULL: no collective correction, or
    -- not stated
  i.corrected_number_fixed, -- the right number, where the number is what is corrected; -; FA Fa/NrFaKorygowany, RR FakturaRR/NrFaKorygowany;
    -- NULL: it is not
  i.amount_before_minor, -- amount before the correction, as stated on it; hundredths of currency; FA Fa/P_15ZK, PEF
    -- OriginalInvoiceData/LegalMonetaryTotal/TaxInclusiveAmount; NULL: no correction, or not stated
  i.exchange_rate_before, -- rate before the correction; decimal; FA Fa/KursWalutyZK; NULL: no correction, or not stated
  i.payment_status, -- what the issuer said of payment when issuing: paid, partial, unpaid or unknown; -; FA Fa/Platnosc/Zaplacono,
    -- ZnacznikZaplatyCzesciowej, TerminPlatnosci, RR FakturaRR/Platnosc, PEF PrepaidAmount, DueDate, PaymentMeans; NULL: not a word about
    -- payment, or the document could not be read
  i.paid_date, -- when it was paid; date; FA Fa/Platnosc/DataZaplaty; NULL: not stated, or the document could not be read
  i.payment_method, -- cash, card, voucher, cheque, credit, transfer or mobile; -; FA Fa/Platnosc/FormaPlatnosci, RR
    -- FakturaRR/Platnosc/FormaPlatnosci, PEF PaymentMeans/PaymentMeansCode; NULL: another, or not stated
  i.payment_method_code, -- the same as written; code of the form, PEF of UNCL 4461; as payment_method; NULL: not stated, or the document could
    -- not be read
  i.payment_method_text, -- another way to pay, in words; -; FA Fa/Platnosc/OpisPlatnosci, PEF PaymentMeansCode/@name; NULL: not stated, or the
    -- document could not be read
  i.payment_reference, -- what the payment is to quote; -; PEF PaymentMeans/PaymentID; NULL: not stated
  i.first_due_date, -- first date on which something is due; date; FA Fa/Platnosc/TerminPlatnosci/Termin, PEF DueDate or
    -- PaymentMeans/PaymentDueDate; NULL: none stated; terms in words are not computed
  i.last_due_date, -- last such date; date; as first_due_date; NULL: none stated
  i.payment_ksef_id, -- identifier of the payment (IPKSeF); -; FA(3) Fa/Platnosc/IPKSeF; NULL: not stated, or the document could not be read
  i.payment_link, -- link for paying; URL, as the issuer wrote it; FA(3) Fa/Platnosc/LinkDoPlatnosci; NULL: not stated, or the document could not
    -- be read
  i.discount_terms, -- when a discount for early payment is given; -; FA Fa/Platnosc/Skonto/WarunkiSkonta; NULL: not stated, or the document
    -- could not be read
  i.discount_amount, -- that discount; text: issuers write percentages and amounts; FA Fa/Platnosc/Skonto/WysokoscSkonta; NULL: not stated, or
    -- the document could not be read
  i.delivery_terms, -- terms of delivery, such as Incoterms; -; FA Fa/WarunkiTransakcji/WarunkiDostawy, PEF DeliveryTerms/SpecialTerms; NULL: not
    -- stated, or the document could not be read
  i.contract_exchange_rate, -- agreed rate, by which amounts in PLN on the invoice were converted; decimal; FA Fa/WarunkiTransakcji/KursUmowny;
    -- NULL: not stated, or the document could not be read
  i.contract_currency, -- currency of that rate; ISO 4217; FA Fa/WarunkiTransakcji/WalutaUmowna; NULL: not stated, or the document could not be read
  i.line_count, -- lines of kind line that were read; count; FA Fa/FaWiersz, RR FakturaRR/FakturaRRWiersz, PEF InvoiceLine or CreditNoteLine;
    -- never NULL
  i.has_attachment, -- 1: the document has an attachment; 0 also where it could not be read; 0 or 1; FA(3) Zalacznik, PEF
    -- AdditionalDocumentReference/Attachment; never NULL
  i.xml_path, -- the file, below the folder invoices; path with slashes; ksefmirror; never NULL
  (SELECT d.size FROM documents d WHERE d.invoice_id = i.id) AS xml_size, -- size of the XML; bytes; the XML as received; never NULL
  (SELECT lower(hex(d.sha256)) FROM documents d WHERE d.invoice_id = i.id) AS xml_sha256, -- SHA-256 of the XML; hexadecimal; the XML as
    -- received; never NULL
  i.parse_status, -- ok; unsupported: a form that this version does not read; error: the document could not be read; -; ksefmirror; never NULL
  i.parse_error, -- why it could not be read, or which fields could not; one a line; -; ksefmirror; NULL: all was read
  i.parser_version, -- version of the reader that read it; -; ksefmirror; never NULL
  i.first_seen_at, -- when the mirror stored it; RFC 3339, UTC; ksefmirror; never NULL
  i.updated_at, -- when it was last read; RFC 3339, UTC; ksefmirror; never NULL
  CASE WHEN i.gross_minor IS NOT NULL THEN printf('%s%d.%02d', iif(i.gross_minor < 0, '-', ''), abs(i.gross_minor) / 100, abs(i.gross_minor) % 100) END AS gross, -- gross_minor as text; decimal text, such
    -- as -162.60; gross_minor; NULL: as gross_minor
  CASE WHEN i.net_minor IS NOT NULL THEN printf('%s%d.%02d', iif(i.net_minor < 0, '-', ''), abs(i.net_minor) / 100, abs(i.net_minor) % 100) END AS net, -- net_minor as text; decimal text;
    -- net_minor; NULL: as net_minor
  CASE WHEN i.vat_minor IS NOT NULL THEN printf('%s%d.%02d', iif(i.vat_minor < 0, '-', ''), abs(i.vat_minor) / 100, abs(i.vat_minor) % 100) END AS vat -- vat_minor as text; decimal text;
    -- vat_minor; NULL: as vat_minor
FROM invoices i;

CREATE VIEW v_lines AS
-- One row for each line, with the invoice that it belongs to.
-- A month: tax_month = '2026-11'
SELECT
  i.id AS invoice_id, -- v_invoices.id; -; ksefmirror; never NULL
  i.ksef_number, i.invoice_number, i.invoice_type, i.is_correction, i.issue_date,
  coalesce(i.tax_date, i.issue_date) AS tax_date, substr(coalesce(i.tax_date, i.issue_date), 1, 7) AS tax_month,
  (SELECT group_concat(o.role) FROM (SELECT r.role FROM invoice_roles r WHERE r.invoice_id = i.id ORDER BY r.role) o) AS roles,
  i.seller_nip, i.seller_name, i.buyer_nip, i.buyer_id, i.buyer_name, i.currency,
  l.kind, -- line; order: a row of the order that an advance invoice is for; -; FA Fa/FaWiersz or Fa/Zamowienie/ZamowienieWiersz, RR
    -- FakturaRR/FakturaRRWiersz, PEF InvoiceLine or CreditNoteLine; never NULL
  l.position, -- place in the document within the kind, from 1: with ksef_number and kind the key; -; order in the file; never NULL
  l.line_number, -- number as the issuer gave it; may repeat; -; FA NrWierszaFa or NrWierszaZam, RR NrWierszaFa, PEF ID where it is a
    -- number, else position; NULL: not stated
  l.line_uid, -- the issuer's identifier of the line; -; FA UU_ID or UU_IDZ, RR UU_ID, PEF ID where it is no number; NULL: not stated
  l.before_correction, -- 1: the state before a correction: subtract it; 0 or 1; FA StanPrzed or StanPrzedZ, RR StanPrzed, PEF
    -- OriginalInvoiceData/InvoiceLine; never NULL
  l.sale_date, -- date of this sale, where the lines differ; date; FA P_6A, RR P_4AA; NULL: not stated
  l.name, -- what was sold; -; FA P_7 or P_7Z, RR P_5, PEF Item/Name; NULL: not stated
  l.item_code, -- the issuer's code of it; -; FA Indeks or IndeksZ, PEF Item/SellersItemIdentification/ID; NULL: not stated
  l.gtin, -- GTIN; -; FA GTIN or GTINZ, RR GTIN, PEF Item/StandardItemIdentification/ID; NULL: not stated
  l.pkwiu, -- PKWiU; -; FA PKWiU or PKWiUZ, RR PKWiU; NULL: not stated
  l.cn, -- code of the combined nomenclature; -; FA CN or CNZ, RR CN; NULL: not stated
  l.pkob, -- PKOB; -; FA PKOB or PKOBZ; NULL: not stated
  l.quality_class, -- class of quality; -; RR P_6C; NULL: not stated
  l.unit, -- unit of the quantity; as written, PEF a code of UN/ECE; FA P_8A or P_8AZ, RR P_6A, PEF InvoicedQuantity/@unitCode; NULL: not stated
  l.quantity, -- quantity; decimal; FA P_8B or P_8BZ, RR P_6B, PEF InvoicedQuantity or CreditedQuantity; NULL: not stated
  l.unit_price_net, -- net price; decimal; FA P_9A or P_9AZ, RR P_7, PEF Price/PriceAmount; NULL: not stated
  l.price_quantity, -- how many units the price is for; decimal; PEF Price/BaseQuantity; NULL: one
  l.unit_price_gross, -- gross price; decimal; FA P_9B; NULL: not stated
  l.discount, -- discount; decimal; FA P_10; NULL: not stated
  l.net_minor, -- net value; hundredths of currency; FA P_11 or P_11NettoZ, RR P_8, PEF LineExtensionAmount; NULL: not stated: issuers may state
    -- gross values alone
  l.gross_minor, -- gross value; hundredths of currency; FA P_11A, RR P_11; NULL: not stated: issuers may state net values alone
  l.vat_minor, -- VAT; of RR the flat-rate refund; hundredths of currency; FA P_11Vat or P_11VatZ, RR P_10; NULL: not stated: FA states it in few
    -- cases
  l.vat_rate, -- rate: 23, 8, 0 WDT, zw, np I, …; PEF the percentage, or the category of UNCL 5305 where it is not S; as written; FA P_12 or
    -- P_12Z, RR P_9, PEF Item/ClassifiedTaxCategory; NULL: not stated
  l.oss_rate, -- rate of another country (OSS); decimal percent; FA P_12_XII or P_12Z_XII; NULL: not stated
  l.annex15, -- 1: of annex 15 of the VAT Act; 0 or 1; FA P_12_Zal_15 or P_12Z_Zal_15; never NULL
  l.excise_minor, -- excise in the price; hundredths of currency; FA KwotaAkcyzy or KwotaAkcyzyZ; NULL: not stated
  l.gtu, -- code GTU_01 to GTU_13; -; FA GTU or GTUZ; NULL: not stated
  l.procedure, -- code of a procedure, such as WSTO_EE; -; FA Procedura or ProceduraZ; NULL: not stated
  l.exchange_rate, -- rate of this line; decimal, PLN for one unit; FA KursWaluty, RR KursWaluty; NULL: not stated
  CASE WHEN l.net_minor IS NOT NULL THEN printf('%s%d.%02d', iif(l.net_minor < 0, '-', ''), abs(l.net_minor) / 100, abs(l.net_minor) % 100) END AS net, -- net_minor as text; decimal text;
    -- net_minor; NULL: as net_minor
  CASE WHEN l.gross_minor IS NOT NULL THEN printf('%s%d.%02d', iif(l.gross_minor < 0, '-', ''), abs(l.gross_minor) / 100, abs(l.gross_minor) % 100) END AS gross, -- gross_minor as text; decimal text;
    -- gross_minor; NULL: as gross_minor
  CASE WHEN l.vat_minor IS NOT NULL THEN printf('%s%d.%02d', iif(l.vat_minor < 0, '-', ''), abs(l.vat_minor) / 100, abs(l.vat_minor) % 100) END AS vat -- vat_minor as text; decimal text;
    -- vat_minor; NULL: as vat_minor
FROM invoices i JOIN invoice_lines l ON l.invoice_id = i.id;

CREATE VIEW v_register AS
-- One row for each invoice, role of the company and kind of VAT rate: what registers
-- of sales and purchases add up. An invoice without amounts by rate has one row,
-- without amounts.
-- A month: tax_month = '2026-11'
SELECT
  CASE r.role WHEN 'seller' THEN 'sale' WHEN 'buyer' THEN 'purchase' ELSE r.role END AS direction, -- sale or purchase, by the company's role and
    -- whoever issued the invoice; third_party or authorized in the other roles; -; the list of KSeF in which it was found; never NULL
  i.id AS invoice_id, -- v_invoices.id; -; ksefmirror; never NULL
  i.ksef_number, i.invoice_number, i.form, i.invoice_type, i.is_correction, i.issue_date, i.sale_date,
  coalesce(i.tax_date, i.issue_date) AS tax_date, i.received_date,
  substr(coalesce(i.tax_date, i.issue_date), 1, 7) AS tax_month, substr(i.issue_date, 1, 7) AS issue_month, substr(i.received_date, 1, 7) AS received_month,
  CASE r.role WHEN 'seller' THEN i.buyer_id_type WHEN 'buyer' THEN 'Nip' END AS counterparty_id_type, -- kind of counterparty_id: Nip, VatUe,
    -- Other, or None; -; buyer_id_type of a sale, the seller of a purchase has a NIP; NULL: not known, or the role is another
  CASE r.role WHEN 'seller' THEN i.buyer_id WHEN 'buyer' THEN i.seller_nip END AS counterparty_id, -- identifier of the buyer of a sale or the
    -- seller of a purchase; -; buyer_id or seller_nip; NULL: it has none, or the role is another
  CASE r.role WHEN 'seller' THEN i.buyer_id_country END AS counterparty_id_country, -- country of counterparty_id; as buyer_id_country;
    -- buyer_id_country; NULL: a NIP, or not stated
  CASE r.role WHEN 'seller' THEN i.buyer_name WHEN 'buyer' THEN i.seller_name END AS counterparty_name, -- its name; -; buyer_name or seller_name;
    -- NULL: not stated, or the role is another
  i.currency,
  s.bucket, -- kind of rate of this row: standard (23, 22 %), reduced1 (8, 7), reduced2 (5), taxi (4, 3), oss (VAT of other countries),
    -- zero_domestic, zero_eu, zero_export, exempt, outside (np I), outside_services_eu (np II), reverse_charge, margin; zero of FA(1); rr
    -- the farmer's refund; of PEF category and percentage, such as ubl:S:23; -; FA which of Fa/P_13_1 to P_13_11, PEF
    -- TaxTotal/TaxSubtotal/TaxCategory; NULL: the document states no amounts by rate, or could not be read: one row all the same
  s.net_minor, -- net amount of the bucket; of a correction the difference: add them all up; hundredths of currency; FA Fa/P_13_*, RR
    -- FakturaRR/P_11_1, PEF TaxSubtotal/TaxableAmount or that of diff; NULL: not stated
  s.vat_minor, -- its VAT, of the bucket oss that of other countries; hundredths of currency; FA Fa/P_14_*, RR FakturaRR/P_11_2, PEF TaxSubtotal/TaxAmount or that of diff; NULL: not
    -- stated: buckets without VAT have none
  CASE WHEN i.currency = 'PLN' THEN s.net_minor WHEN s.bucket = 'rr' THEN i.net_pln_minor END AS net_pln_minor, -- net amount in PLN; hundredths of PLN;
    -- net_minor of an invoice in PLN, RR FakturaRR/P_11_1W; NULL: not stated in PLN: it is never converted
  CASE WHEN i.currency = 'PLN' THEN s.vat_minor ELSE s.vat_pln_minor END AS vat_pln_minor, -- VAT in PLN; hundredths of PLN; vat_minor of an
    -- invoice in PLN, FA Fa/P_14_1W to P_14_4W, RR FakturaRR/P_11_2W; NULL: not stated in PLN: it is never converted; PEF states
    -- invoice_vat_pln_minor alone
  CASE WHEN i.currency = 'PLN' THEN i.vat_minor ELSE i.vat_pln_minor END AS invoice_vat_pln_minor, -- VAT of the whole invoice in PLN; the same
    -- in all its rows: do not add it up; hundredths of PLN; v_invoices.vat_minor or vat_pln_minor; NULL: not stated in PLN
  i.gross_minor AS invoice_gross_minor, -- gross amount of the whole invoice; the same in all its rows: do not add it up; hundredths of currency;
    -- v_invoices.gross_minor; NULL: not stated, or the document could not be read
  i.self_billing, i.cash_method, i.split_payment, i.reverse_charge, i.margin_scheme, i.cash_register, i.related_parties,
  (SELECT group_concat(g.gtu) FROM (
    SELECT DISTINCT l.gtu FROM invoice_lines l WHERE l.invoice_id = i.id AND l.gtu IS NOT NULL ORDER BY l.gtu) g) AS gtu,
    -- codes GTU of its lines, separated by commas; -; FA Fa/FaWiersz/GTU, Fa/Zamowienie/ZamowienieWiersz/GTUZ; NULL: none
  (SELECT group_concat(p.procedure) FROM (
    SELECT DISTINCT l.procedure FROM invoice_lines l WHERE l.invoice_id = i.id AND l.procedure IS NOT NULL ORDER BY l.procedure) p) AS procedures,
    -- codes of procedures of its lines, separated by commas; -; FA Fa/FaWiersz/Procedura, Fa/Zamowienie/ZamowienieWiersz/ProceduraZ; NULL: none
  i.parse_status
FROM invoices i JOIN invoice_roles r ON r.invoice_id = i.id LEFT JOIN vat_summary s ON s.invoice_id = i.id;

CREATE VIEW v_sales AS
-- The rows of v_register in which the company is the seller.
-- A month: tax_month = '2026-11'
SELECT
  invoice_id, ksef_number, invoice_number, form, invoice_type, is_correction, issue_date, sale_date, tax_date, received_date,
  tax_month, issue_month, received_month, counterparty_id_type, counterparty_id, counterparty_id_country, counterparty_name,
  currency, bucket, net_minor, vat_minor, net_pln_minor, vat_pln_minor, invoice_vat_pln_minor, invoice_gross_minor,
  self_billing, cash_method, split_payment, reverse_charge, margin_scheme, cash_register, related_parties, gtu, procedures, parse_status
FROM v_register WHERE direction = 'sale';

CREATE VIEW v_purchases AS
-- The rows of v_register in which the company is the buyer, also of what it issued
-- itself.
-- A month: tax_month = '2026-11'
SELECT
  invoice_id, ksef_number, invoice_number, form, invoice_type, is_correction, issue_date, sale_date, tax_date, received_date,
  tax_month, issue_month, received_month, counterparty_id_type, counterparty_id, counterparty_id_country, counterparty_name,
  currency, bucket, net_minor, vat_minor, net_pln_minor, vat_pln_minor, invoice_vat_pln_minor, invoice_gross_minor,
  self_billing, cash_method, split_payment, reverse_charge, margin_scheme, cash_register, related_parties, gtu, procedures, parse_status
FROM v_register WHERE direction = 'purchase';

CREATE VIEW v_month_totals AS
-- The sums of v_register by month, currency and kind of rate. Corrections are in
-- them as differences.
-- A month: tax_month = '2026-11'
SELECT
  direction, tax_month, currency, bucket,
  count(*) AS invoices, -- invoices with this kind of rate; count; v_register; never NULL
  sum(net_minor) AS net_minor, -- sum of their net amounts; hundredths of currency; v_register.net_minor; NULL: none states one
  sum(vat_minor) AS vat_minor, -- sum of their VAT; hundredths of currency; v_register.vat_minor; NULL: none states any
  sum(net_pln_minor) AS net_pln_minor, -- sum of the net amounts in PLN; hundredths of PLN; v_register.net_pln_minor; NULL: none is stated in PLN
  sum(vat_pln_minor) AS vat_pln_minor, -- sum of the VAT in PLN; hundredths of PLN; v_register.vat_pln_minor; NULL: none is stated in PLN
  count(*) FILTER (WHERE vat_minor <> 0 AND vat_pln_minor IS NULL) AS vat_pln_unstated -- invoices whose VAT is not in vat_pln_minor, because
    -- they do not state it in PLN; count; v_register; never NULL
FROM v_register GROUP BY direction, tax_month, currency, bucket;

CREATE VIEW v_counterparties AS
-- One row for each counterparty, month and currency: what was sold to it or bought
-- from it.
-- A month: tax_month = '2026-11'
SELECT
  CASE r.role WHEN 'seller' THEN 'sale' WHEN 'buyer' THEN 'purchase' ELSE r.role END AS direction, -- sale: the counterparty is the buyer;
    -- purchase: it is the seller; third_party, authorized: one row for all; -; the list of KSeF in which it was found; never NULL
  substr(coalesce(i.tax_date, i.issue_date), 1, 7) AS tax_month, -- month, as in v_register; YYYY-MM; tax_date; NULL: no date is known
  CASE r.role WHEN 'seller' THEN i.buyer_id_type WHEN 'buyer' THEN 'Nip' END AS counterparty_id_type, -- kind of counterparty_id: Nip, VatUe,
    -- Other, or None; -; as in v_register; NULL: not known, or the role is another
  CASE r.role WHEN 'seller' THEN i.buyer_id WHEN 'buyer' THEN i.seller_nip END AS counterparty_id, -- identifier of the counterparty; -; as in
    -- v_register; NULL: it has none: then there is one row for each name
  CASE r.role WHEN 'seller' THEN i.buyer_id_country END AS counterparty_id_country, -- country of counterparty_id; as buyer_id_country;
    -- buyer_id_country; NULL: a NIP, or not stated
  CASE r.role WHEN 'seller' THEN i.buyer_name WHEN 'buyer' THEN i.seller_name END AS counterparty_name, -- its name on the latest of the invoices;
    -- -; as in v_register; NULL: not stated, or the role is another
  i.currency, -- currency of the sums; ISO 4217; v_invoices.currency; NULL: not known
  count(*) AS invoices, -- invoices, corrections among them; count; v_invoices; never NULL
  sum(i.is_correction) AS corrections, -- corrections among them; count; v_invoices.is_correction; never NULL
  sum(i.net_minor) AS net_minor, -- sum of the net amounts; hundredths of currency; v_invoices.net_minor; NULL: none states one
  sum(i.vat_minor) AS vat_minor, -- sum of the VAT; hundredths of currency; v_invoices.vat_minor; NULL: none states any
  sum(i.gross_minor) AS gross_minor, -- sum of the gross amounts; hundredths of currency; v_invoices.gross_minor; NULL: none states one
  max(i.issue_date) AS last_issue_date -- date of the latest of the invoices; date; v_invoices.issue_date; NULL: not known
FROM invoices i JOIN invoice_roles r ON r.invoice_id = i.id
GROUP BY 1, 2, 3, 4, 5, i.currency, CASE WHEN r.role = 'seller' AND i.buyer_id IS NULL THEN i.buyer_name END;

-- The plus before role keeps SQLite from going through all invoices of a role.
CREATE VIEW v_due AS
-- One row for each invoice that its issuer did not call paid: what is to come in or
-- to go out. Payments made later are not known here.
-- A month: due_date BETWEEN '2026-11-01' AND '2026-11-30'
SELECT
  CASE r.role WHEN 'seller' THEN 'receivable' ELSE 'payable' END AS side, -- receivable: the company is the seller; payable: it is the buyer; -;
    -- the list of KSeF in which it was found; never NULL
  i.id AS invoice_id, -- v_invoices.id; -; ksefmirror; never NULL
  i.ksef_number, i.invoice_number, i.invoice_type, i.is_correction, i.issue_date,
  CASE r.role WHEN 'seller' THEN i.buyer_id ELSE i.seller_nip END AS counterparty_id, -- identifier of who pays or is paid; -; buyer_id or
    -- seller_nip; NULL: it has none
  CASE r.role WHEN 'seller' THEN i.buyer_name ELSE i.seller_name END AS counterparty_name, -- its name; -; buyer_name or seller_name; NULL: not stated
  i.first_due_date AS due_date, -- first date on which something is due; indexed; date; v_invoices.first_due_date; NULL: none stated: look at
    -- v_invoices and the document
  i.last_due_date, -- last such date; date; v_invoices.last_due_date; NULL: none stated
  i.currency,
  coalesce(i.to_pay_minor, -i.to_settle_minor, i.gross_minor)
    - coalesce((SELECT sum(p.amount_minor) FROM payments p WHERE p.invoice_id = i.id AND p.kind = 'paid'), 0) AS open_minor, -- to_pay_minor, else what is overpaid as a
    -- negative amount, else gross_minor; less the parts that the invoice says were paid; negative: to be returned; hundredths of currency;
    -- v_invoices, FA Fa/Platnosc/ZaplataCzesciowa/KwotaZaplatyCzesciowej; NULL: no amount is stated
  coalesce(i.payment_status, 'unknown') AS payment_status, -- partial, unpaid or unknown; -; v_invoices.payment_status; never NULL
  i.payment_method, -- cash, card, voucher, cheque, credit, transfer or mobile; -; v_invoices.payment_method; NULL: another, or not stated
  i.split_payment,
  (SELECT b.account_norm FROM bank_accounts b WHERE b.invoice_id = i.id AND b.owner IN ('factor', 'farmer', 'seller')
    ORDER BY b.owner <> 'factor', b.position LIMIT 1) AS pay_to_account, -- account to pay to: the factor's, else the first of the seller's;
    -- text without spaces, with PL before 26 digits; FA Fa/Platnosc/RachunekBankowyFaktora or RachunekBankowy/NrRB, RR
    -- FakturaRR/Platnosc/RachunekBankowy1/NrRB, PEF PaymentMeans/PayeeFinancialAccount/ID; NULL: none stated
  i.payment_reference
FROM invoices i JOIN invoice_roles r ON r.invoice_id = i.id
WHERE i.payment_status IS NOT 'paid' AND +r.role IN ('seller', 'buyer');

CREATE VIEW v_files AS
-- One row for each file of the folder invoices, with what it must be.
-- A month: stored_at >= '2026-11-01' AND stored_at < '2026-12-01'
SELECT
  i.ksef_number,
  i.xml_path AS path, -- the file, below the folder invoices; path with slashes; ksefmirror; never NULL
  d.size, -- size of the file; bytes; the XML as received; never NULL
  lower(hex(d.sha256)) AS sha256, -- SHA-256 of the file; hexadecimal; the XML as received; never NULL
  i.stored_at, -- KSeF stored it for good; indexed; RFC 3339, UTC; metadata permanentStorageDate; never NULL
  i.first_seen_at
FROM invoices i JOIN documents d ON d.invoice_id = i.id;

CREATE VIEW v_sync AS
-- One row for each role that was ever mirrored: how complete it is.
SELECT
  s.role, -- seller, buyer, third_party or authorized; -; ksefmirror; never NULL
  s.watermark, -- every invoice that KSeF stored before this moment, and listed, is here; RFC 3339 as KSeF wrote it; metadata
    -- permanentStorageHwmDate; NULL: nothing is complete yet
  CAST(strftime('%s', 'now') AS INTEGER) - CAST(strftime('%s', s.watermark) AS INTEGER) AS lag_seconds, -- how long ago that is, by the reader's
    -- clock; seconds; watermark; NULL: nothing is complete yet
  s.position, -- up to where KSeF was asked: ahead of the watermark while an invoice waits in quarantine; RFC 3339 as KSeF wrote it; ksefmirror;
    -- NULL: not yet asked
  s.hwm, -- up to where KSeF calls its own list complete; RFC 3339 as KSeF wrote it; permanentStorageHwmDate; NULL: never stated
  (SELECT count(*) FROM quarantine q WHERE q.role = s.role AND q.holds AND q.released_at IS NULL) AS waiting, -- invoices in quarantine that hold the
    -- watermark; count; ksefmirror; never NULL
  (SELECT count(*) FROM quarantine q WHERE q.role = s.role AND NOT q.holds AND q.released_at IS NULL) AS alarms, -- invoices that are here and that KSeF
    -- lists with other bytes; count; ksefmirror; never NULL
  s.last_run_at, -- end of the last run; RFC 3339, UTC; ksefmirror; NULL: it never ran
  s.last_success_at, -- end of the last run that succeeded; RFC 3339, UTC; ksefmirror; NULL: none did
  s.last_error, -- why the last run failed; -; ksefmirror; NULL: it succeeded
  s.reason, -- why the last run went the way it did; -; ksefmirror; NULL: not known
  s.idle_since, -- first run of a role for which KSeF has never listed an invoice; RFC 3339, UTC; ksefmirror; NULL: it has
  (SELECT max(r.finished_at) FROM reconciliations r WHERE r.role = s.role AND r.error IS NULL) AS reconciled_at -- last time that KSeF's list was compared
    -- with what is here; RFC 3339, UTC; ksefmirror; NULL: not in the last 90 days
FROM streams s;

CREATE VIEW v_differences AS
-- One row for each difference between KSeF's list and the mirror that reconciling
-- found.
-- A month: found_at >= '2026-11-01' AND found_at < '2026-12-01'
SELECT
  l.ksef_number AS ksef_number, -- KSeF's number of the invoice; -; metadata ksefNumber; never NULL
  l.role AS role, -- the role for which KSeF was asked; -; ksefmirror; never NULL
  'late' AS difference, -- late: it was listed only after everything of its time had been, and is stored or waits in quarantine; not_listed: KSeF
    -- lists it no longer, and it is kept; -; ksefmirror; never NULL
  l.found_at AS found_at -- when that was found; RFC 3339, UTC; ksefmirror; never NULL
FROM late_invoices l
UNION ALL
SELECT i.ksef_number, r.role, 'not_listed', r.not_seen_since
FROM invoice_roles r JOIN invoices i ON i.id = r.invoice_id WHERE r.not_seen_since IS NOT NULL;
