package cli

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"ksefmirror/internal/ksef"
)

// nothing is a log of requests that nobody reads.
type nothing struct{}

func (nothing) StartRequest(_ context.Context, _ string, _ int64, _ []int64, admit ksef.Admit) (int64, error) {
	if admit(nil, nil).IsZero() {
		return 0, nil
	}
	return 1, nil
}

func (nothing) EndRequest(context.Context, int64, time.Time) error                { return nil }
func (nothing) BlockGroup(context.Context, string, time.Time) error               { return nil }
func (nothing) Requests(context.Context, time.Time) ([]ksef.LoggedRequest, error) { return nil, nil }
func (nothing) Blocks(context.Context) (map[string]time.Time, error)              { return nil, nil }

func TestSimulatorLetsCertificatesOfTheCompanyIn(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, owner := range []string{"nip:6824515772", "internalId:6824515772-12343"} {
		for nip, want := range map[string]int{"6824515772": 0, "1111111111": 415} {
			t.Run(owner+" by "+nip, func(t *testing.T) {
				_, address, _, err := simulated{listen: "127.0.0.1:0", context: owner, span: "1d", limits: "off"}.start(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				certificate, err := ksef.SelfSignedCertificate(nip, "Firma", key, time.Now())
				if err != nil {
					t.Fatal(err)
				}
				owner, err := parseContext(owner)
				if err != nil {
					t.Fatal(err)
				}
				client := &ksef.Client{
					BaseURL: address, Context: owner, Limiter: ksef.NewLimiter(nothing{}, nil),
					Certificate: func() (crypto.Signer, *x509.Certificate, error) { return key, certificate, nil },
				}
				err = client.Login(t.Context())
				if failed, _ := errors.AsType[*ksef.LoginError](err); want == 0 && err != nil || want != 0 && (failed == nil || failed.Status != want) {
					t.Errorf("got %v, want status %d", err, want)
				}
			})
		}
	}
}
