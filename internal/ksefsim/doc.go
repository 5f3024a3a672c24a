// Package ksefsim is a simulator of KSeF 2.0: an [http.Handler] that logs in,
// lists, serves and exports invoices, counts requests against the limits and refuses
// what KSeF refuses, in the words in which KSeF refuses it. Tests measure the
// client by it, and the commands simulate and demo run it.
//
// It is meant to be stricter than KSeF, never more lenient: whatever a client
// sends that the specification does not allow is refused where KSeF would
// refuse it and counted in [Stats] in any case. It keeps everything in memory
// and forgets it on exit. Sessions for sending invoices are answered 501.
//
// A login with a certificate is verified cryptographically. As on KSeF's TEST,
// whoever's certificate it is may sign it himself.
//
// Sources are cited as the official documents name them: open-api is the
// OpenAPI specification, the .md files are the guide beside it.
package ksefsim
