package main

// metadata is a row of KSeF's metadata as the API sends it (open-api,
// InvoiceMetadata), which is compressed with the invoice that it is about. What
// the two share needs no dictionary.
const metadata = `{"ksefNumber":"5265877635-20260302-0100A04F1B2C-7E","invoiceNumber":"FV/12/03/2026","issueDate":"2026-03-02",` +
	`"invoicingDate":"2026-03-02T08:15:30.1234567+00:00","acquisitionDate":"2026-03-02T08:15:31.1234567+00:00",` +
	`"permanentStorageDate":"2026-03-02T08:15:32.123456+00:00","seller":{"nip":"5265877635","name":"Przykładowa Firma Sp. z o.o."},` +
	`"buyer":{"identifier":{"type":"Nip","value":"7791000002"},"name":"Sklep Spożywczy Anna Nowak"},` +
	`"netAmount":1000.00,"vatAmount":230.00,"grossAmount":1230.00,"currency":"PLN","invoicingMode":"Online","invoiceType":"Vat",` +
	`"formCode":{"systemCode":"FA (3)","schemaVersion":"1-0E","value":"FA"},"isSelfInvoicing":false,"hasAttachment":false,` +
	`"invoiceHash":"mkht+3m5trnfxlTYhq3QFn74LkEO69MFNlsMAkCDSPA=","hashOfCorrectedInvoice":null,` +
	`"thirdSubjects":[{"identifier":{"type":"Nip","value":"5252000003"},"name":"Magazyn","role":2}],"authorizedSubject":null}`
