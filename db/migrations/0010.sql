-- Which invoices an older reader has read is asked at every start.
CREATE INDEX invoices_reader ON invoices(parser_version);
