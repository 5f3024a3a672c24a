package ksef

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
)

// The calls about KSeF certificates (certyfikaty-KSeF.md). They concern whoever is
// logged in, not the context, and each costs requests of [GroupOther]. A session
// begun with a KSeF token may not apply or revoke: that answers with an [Error] of
// code 25001 or 25002, or with ErrForbidden.

// CertificateLimits says how many certificates may still be had (open-api,
// CertificateLimitsResponse).
type CertificateLimits struct {
	CanRequest   bool             `json:"canRequest"`
	Enrollments  CertificateLimit `json:"enrollment"`  // applications, ever
	Certificates CertificateLimit `json:"certificate"` // active at a time
}

// CertificateLimit is one of the [CertificateLimits].
type CertificateLimit struct {
	Limit     int `json:"limit"`
	Remaining int `json:"remaining"`
}

// CertificateLimits gives the limits of whoever is logged in.
func (c *Client) CertificateLimits(ctx context.Context) (CertificateLimits, error) {
	var limits CertificateLimits
	return limits, c.call(ctx, request{op: "read certificate limits", method: http.MethodGet, path: "/certificates/limits"}, nil, &limits)
}

// EnrollmentData is who the certificate will name. An application that says
// anything else is refused (open-api, CertificateEnrollmentDataResponse); see
// [NewCertificateRequest]. What the owner has not is "".
type EnrollmentData struct {
	CommonName             string `json:"commonName"`
	CountryName            string `json:"countryName"`
	GivenName              string `json:"givenName"`
	Surname                string `json:"surname"`
	SerialNumber           string `json:"serialNumber"` // of a person, such as PNOPL-88102341294
	UniqueIdentifier       string `json:"uniqueIdentifier"`
	OrganizationName       string `json:"organizationName"`
	OrganizationIdentifier string `json:"organizationIdentifier"` // such as VATPL-5265877635
}

// EnrollmentData gives what KSeF read from the certificate of this login.
func (c *Client) EnrollmentData(ctx context.Context) (EnrollmentData, error) {
	const op = "read the data for a certificate"
	var data EnrollmentData
	if err := c.call(ctx, request{op: op, method: http.MethodGet, path: "/certificates/enrollments/data"}, nil, &data); err != nil {
		return EnrollmentData{}, err
	}
	if data.CommonName == "" || data.CountryName == "" {
		return EnrollmentData{}, &Error{Op: op, Err: errors.New("the answer lacks commonName or countryName")}
	}
	return data, nil
}

// Enroll applies for a certificate of type Authentication, that is, for logging in.
// name is what KSeF's lists will call it: 5 to 100 letters, digits, blanks, hyphens
// and underscores. csr is of [NewCertificateRequest]. It is not to be repeated
// blindly: every application counts. reference is for [Client.Enrollment].
func (c *Client) Enroll(ctx context.Context, name string, csr []byte) (reference string, err error) {
	const op = "apply for a certificate"
	var answer struct {
		Reference string `json:"referenceNumber"`
	}
	err = c.call(ctx, request{op: op, method: http.MethodPost, path: "/certificates/enrollments"},
		map[string]any{"certificateName": name, "certificateType": "Authentication", "csr": csr}, &answer)
	if err == nil && answer.Reference == "" {
		err = &Error{Op: op, Err: errors.New("the answer lacks the reference number")}
	}
	return answer.Reference, err
}

// Enrollment is what has become of an application (open-api,
// CertificateEnrollmentStatusResponse).
type Enrollment struct {
	Status       int      // 100: in progress; 200: issued; 400: refused; 500 and 550: failed at KSeF
	Details      []string // why, in KSeF's words, cleaned
	SerialNumber string   // of the certificate, 16 hexadecimal digits; "" until it is issued
}

// Enrollment tells what has become of an application.
func (c *Client) Enrollment(ctx context.Context, reference string) (Enrollment, error) {
	const op = "check the application for a certificate"
	var answer struct {
		Status struct {
			Code    int      `json:"code"`
			Details []string `json:"details"`
		} `json:"status"`
		SerialNumber string `json:"certificateSerialNumber"`
	}
	err := c.call(ctx, request{op: op, method: http.MethodGet, path: "/certificates/enrollments/" + url.PathEscape(reference)}, nil, &answer)
	if err != nil {
		return Enrollment{}, err
	}
	if answer.Status.Code == 0 || answer.Status.Code == 200 && answer.SerialNumber == "" {
		return Enrollment{}, &Error{Op: op, Err: errors.New("the answer lacks the status, or the serial number of an issued certificate")}
	}
	var texts Error
	texts.addDetails(answer.Status.Details...)
	return Enrollment{answer.Status.Code, texts.Details, answer.SerialNumber}, nil
}

// RetrieveCertificate gives an issued certificate by its serial number.
func (c *Client) RetrieveCertificate(ctx context.Context, serialNumber string) (*x509.Certificate, error) {
	const op = "fetch the certificate"
	var answer struct {
		Certificates []struct {
			Certificate  []byte `json:"certificate"`
			SerialNumber string `json:"certificateSerialNumber"`
		} `json:"certificates"`
	}
	err := c.call(ctx, request{op: op, method: http.MethodPost, path: "/certificates/retrieve"},
		map[string]any{"certificateSerialNumbers": []string{serialNumber}}, &answer)
	if err != nil {
		return nil, err
	}
	for _, each := range answer.Certificates {
		if each.SerialNumber != serialNumber {
			continue
		}
		certificate, err := x509.ParseCertificate(each.Certificate)
		if err != nil {
			return nil, &Error{Op: op, Err: err}
		}
		return certificate, nil
	}
	return nil, &Error{Op: op, Err: fmt.Errorf("KSeF has no certificate %s of this owner", clean(serialNumber, 40))}
}

// CertificateInfo is a row of KSeF's list of certificates (open-api,
// CertificateListItem).
type CertificateInfo struct {
	SerialNumber string    `json:"certificateSerialNumber"` // 16 hexadecimal digits
	Name         string    `json:"name"`
	Type         string    `json:"type"` // Authentication or Offline
	CommonName   string    `json:"commonName"`
	Status       string    `json:"status"` // Active, Blocked, Revoked or Expired
	ValidFrom    Timestamp `json:"validFrom"`
	ValidTo      Timestamp `json:"validTo"`
	LastUsed     Timestamp `json:"lastUseDate"` // "": never
}

// certificatesPage is the largest page that KSeF gives of its list.
const certificatesPage = 50

// Certificates lists every KSeF certificate of whoever is logged in, those that
// have ended included, the last applied for first.
func (c *Client) Certificates(ctx context.Context) ([]CertificateInfo, error) {
	var all []CertificateInfo
	for page := 0; ; page++ {
		var answer struct {
			Certificates []CertificateInfo `json:"certificates"`
			HasMore      bool              `json:"hasMore"`
		}
		options := url.Values{"pageSize": {strconv.Itoa(certificatesPage)}, "pageOffset": {strconv.Itoa(page)}}
		err := c.call(ctx, request{op: "list certificates", method: http.MethodPost, path: "/certificates/query?" + options.Encode()}, struct{}{}, &answer)
		if err != nil {
			return nil, err
		}
		all = append(all, answer.Certificates...)
		// A page that says there is more and holds nothing would never end.
		if !answer.HasMore || len(answer.Certificates) == 0 {
			return all, nil
		}
	}
}

// Why a certificate is revoked (open-api, CertificateRevocationReason).
const (
	RevokedUnspecified   = "Unspecified"
	RevokedSuperseded    = "Superseded"    // another one has taken its place
	RevokedKeyCompromise = "KeyCompromise" // someone else may have its key
)

// RevokeCertificate ends a certificate for good, for one of the reasons above. The
// sessions begun with it go on.
func (c *Client) RevokeCertificate(ctx context.Context, serialNumber, reason string) error {
	return c.call(ctx, request{op: "revoke the certificate", method: http.MethodPost, path: "/certificates/" + url.PathEscape(serialNumber) + "/revoke"},
		map[string]string{"revocationReason": reason}, nil)
}

// call sends a request of GroupOther in the session: body, if not nil, as JSON. The
// JSON of the answer goes into result; nil expects none.
func (c *Client) call(ctx context.Context, r request, body, result any) error {
	r.group, r.accept, r.maxBody = GroupOther, jsonTypes, maxSmall
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("%s: %w", r.op, err)
		}
		r.body = encoded
	}
	answer, err := c.sendInSession(ctx, r)
	if err != nil || result == nil {
		return err
	}
	if err := json.Unmarshal(answer.body, result); err != nil {
		return &Error{Op: r.op, HTTPStatus: answer.status, Err: fmt.Errorf("decode the answer: %w", err)}
	}
	return nil
}
