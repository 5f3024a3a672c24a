// Package ksef is a client of KSeF 2.0, Poland's national e-invoicing system:
// authentication, invoice metadata, single invoices, exports of many invoices as
// encrypted packages, and the limits on requests. It knows nothing of mirrors,
// folders or databases.
//
// Sources are cited as the official documents of the API name them: open-api
// is the OpenAPI specification (2.7.0), the .md files are the guide beside it.
//
// Words of the law keep one English name here:
//
//   - invoice: faktura ustrukturyzowana;
//   - KSeF number: numer KSeF, given to every accepted invoice;
//   - NIP: the Polish tax identification number, ten digits;
//   - permanent storage date: the moment an invoice became visible to queries;
//   - high water mark (HWM): the permanent storage date up to which KSeF
//     guarantees that nothing more will appear.
package ksef
