package ksef

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"testing"
)

// What a certificate is decided by must be in the answers.
func TestCertificateAnswersAreChecked(t *testing.T) {
	const serial = "0123456789ABCDEF"
	der := base64.StdEncoding.EncodeToString(signerOf(t, oidSerialNumber, "PNOPL-88102341294").certificate.Raw)
	retrieve := func(c *Client, ctx context.Context) error {
		_, err := c.RetrieveCertificate(ctx, serial)
		return err
	}
	enroll := func(c *Client, ctx context.Context) error {
		_, err := c.Enroll(ctx, "Lustro", []byte("csr"))
		return err
	}
	status := func(c *Client, ctx context.Context) error {
		_, err := c.Enrollment(ctx, "EH-1")
		return err
	}
	data := func(c *Client, ctx context.Context) error {
		_, err := c.EnrollmentData(ctx)
		return err
	}
	const retrieveEndpoint, enrollEndpoint = "POST /certificates/retrieve", "POST /certificates/enrollments"
	const statusEndpoint, dataEndpoint = "GET /certificates/enrollments/EH-1", "GET /certificates/enrollments/data"
	tests := []struct {
		name, endpoint, answer string
		call                   func(*Client, context.Context) error
		good                   bool
	}{
		{"certificate", retrieveEndpoint, fmt.Sprintf(`{"certificates":[{"certificate":%q,"certificateSerialNumber":%q,"new":1}]}`, der, serial), retrieve, true},
		{"another certificate", retrieveEndpoint, fmt.Sprintf(`{"certificates":[{"certificate":%q,"certificateSerialNumber":"FEDCBA9876543210"}]}`, der), retrieve, false},
		{"no certificate", retrieveEndpoint, `{"certificates":[]}`, retrieve, false},
		{"nothing", retrieveEndpoint, `{}`, retrieve, false},
		{"not a certificate", retrieveEndpoint, fmt.Sprintf(`{"certificates":[{"certificate":"AAAA","certificateSerialNumber":%q}]}`, serial), retrieve, false},
		{"not base64", retrieveEndpoint, fmt.Sprintf(`{"certificates":[{"certificate":"!","certificateSerialNumber":%q}]}`, serial), retrieve, false},
		{"reference", enrollEndpoint, `{"referenceNumber":"EH-1"}`, enroll, true},
		{"no reference", enrollEndpoint, `{}`, enroll, false},
		{"in progress", statusEndpoint, `{"status":{"code":100}}`, status, true},
		{"issued", statusEndpoint, `{"status":{"code":200},"certificateSerialNumber":"` + serial + `"}`, status, true},
		{"issued without a number", statusEndpoint, `{"status":{"code":200}}`, status, false},
		{"no status", statusEndpoint, `{}`, status, false},
		{"data", dataEndpoint, `{"commonName":"Firma","countryName":"PL","surname":null}`, data, true},
		{"no data", dataEndpoint, `{}`, data, false},
		{"not JSON", dataEndpoint, `<html>`, data, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStub(t)
			s.on(tt.endpoint, answer(200, "application/json", tt.answer))
			err := tt.call(s.client, t.Context())
			if (err == nil) != tt.good {
				t.Errorf("got %v, want an error %t", err, !tt.good)
			}
			if _, ok := errors.AsType[*Error](err); err != nil && !ok {
				t.Errorf("got %T, want an Error", err)
			}
			s.wantCounts(t, map[string]int{tt.endpoint: 1})
		})
	}
}
