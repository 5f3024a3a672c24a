package ksefsim_test

import (
	"crypto"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"ksefmirror/internal/ksef"
	"ksefmirror/internal/ksefsim"
	"ksefmirror/internal/ksefsim/contract"
)

// The scenarios of authentication, by this program's own client against the
// simulator. Their numbers are those of the list that the project keeps.

// lastHour is any query.
var lastHour = ksef.Query{SubjectType: ksef.Seller, From: ksef.NewTimestamp(start.Add(-time.Hour))}

// tokenClient is this program's own client, with a KSeF token.
func (s *sim) tokenClient() *ksef.Client {
	c := s.client(company, credential{})
	c.Certificate, c.Token = nil, func() (ksef.Secret, error) { return ksef.NewSecret(token), nil }
	return c
}

// bothClients runs a test with a token and with a certificate.
func bothClients(t *testing.T, test func(t *testing.T, s *sim, c *ksef.Client)) {
	t.Run("token", func(t *testing.T) {
		s := newSim(t, ksefsim.Options{}, contract.Wrap)
		test(t, s, s.tokenClient())
	})
	t.Run("certificate", func(t *testing.T) {
		s := newSim(t, ksefsim.Options{}, contract.Wrap)
		test(t, s, s.client(company, certify(t, ecKey(t, elliptic.P256()), seal)))
	})
}

func (s *sim) wantLogins(logins, refreshes int) {
	s.t.Helper()
	if got := s.Stats(); got.Logins != logins || got.Refreshes != refreshes {
		s.t.Errorf("%d logins and %d refreshes, want %d and %d", got.Logins, got.Refreshes, logins, refreshes)
	}
}

// 51. Access token expires mid-scan: it is refreshed, no page is lost or doubled.
func TestScenario51AccessTokenExpiresMidScan(t *testing.T) {
	bothClients(t, func(t *testing.T, s *sim, c *ksef.Client) {
		want := s.add(start.Add(-40*time.Minute), 30)
		var got []ksef.Number
		for page := range 3 {
			answer, err := c.QueryMetadata(t.Context(), lastHour, page, 10)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, numbersOf(answer)...)
			if page == 0 {
				s.clock.add(16 * time.Minute) // the client knows that it has ended
			} else {
				s.Fault(ksefsim.Answer("/invoices/query/metadata", 1, 401, nil, "")) // and here it does not
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		s.wantLogins(1, 2)
	})
}

// 52. Refresh refused: one full login; that refused too: nothing more is sent.
func TestScenario52RefreshIsRefused(t *testing.T) {
	bothClients(t, func(t *testing.T, s *sim, c *ksef.Client) {
		if err := c.Login(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.RevokeRefreshTokens()
		s.clock.add(20 * time.Minute)
		if err := c.Login(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.wantLogins(2, 0)
		for i, status := range []int{415, 425, 450, 460, 470, 480} {
			s.SetLoginOutcome(ksefsim.LoginOutcome{Status: status})
			restarted := &ksef.Client{
				BaseURL: c.BaseURL, Context: c.Context, Limiter: c.Limiter, Now: c.Now, Sleep: c.Sleep,
				Certificate: c.Certificate, Token: c.Token,
			}
			first := restarted.Login(t.Context())
			sent := s.Stats().Requests
			for range 5 {
				if err := restarted.Login(t.Context()); !refusedWith(err, status) || !errors.Is(err, first) {
					t.Errorf("got %v, want status %d", err, status)
				}
			}
			if got := s.Stats(); got.Requests != sent || got.Logins != 3+i {
				t.Errorf("after status %d, %d requests and %d logins; want none more, %d", status, got.Requests-sent, got.Logins, 3+i)
			}
		}
	})
}

// 53. A crash between the answer with the tokens and their use costs a login.
func TestScenario53CrashAfterRedeem(t *testing.T) {
	bothClients(t, func(t *testing.T, s *sim, c *ksef.Client) {
		s.Fault(ksefsim.LoseAnswer("/auth/token/redeem", 1))
		if err := c.Login(t.Context()); err == nil {
			t.Fatal("the tokens were lost, and the login says it worked")
		}
		if err := c.Login(t.Context()); err != nil {
			t.Error(err)
		}
		if got := s.Stats(); got.Logins != 2 || got.Redeems != 2 {
			t.Errorf("%d logins, %d redeems; want 2, 2", got.Logins, got.Redeems)
		}
	})
}

// slowSigner is a key in a device that is slow at first.
type slowSigner struct {
	crypto.Signer
	before func()
}

func (s slowSigner) Sign(random io.Reader, digest []byte, options crypto.SignerOpts) ([]byte, error) {
	s.before()
	return s.Signer.Sign(random, digest, options)
}

// 54. Challenge older than 10 minutes: another is asked for, once.
func TestScenario54SlowSigner(t *testing.T) {
	for slow, want := range map[int]int{1: 0, 2: 21111} {
		t.Run(fmt.Sprintf("slow %d times", slow), func(t *testing.T) {
			s := newSim(t, ksefsim.Options{}, contract.Wrap)
			with := certify(t, ecKey(t, elliptic.P256()), seal)
			c := s.client(company, with)
			left := slow
			c.Certificate = func() (crypto.Signer, *x509.Certificate, error) {
				return slowSigner{with.key, func() {
					if left--; left >= 0 {
						s.clock.add(11 * time.Minute)
					}
				}}, with.certificate, nil
			}
			err := c.Login(t.Context())
			refused, _ := errors.AsType[*ksef.Error](err)
			if want == 0 && err != nil || want != 0 && (refused == nil || refused.Code != want) {
				t.Errorf("got %v, want code %d", err, want)
			}
			if n := s.Stats().ByPath["POST /auth/challenge"]; n != 2 {
				t.Errorf("asked for %d challenges, want 2", n)
			}
			if err := c.Login(t.Context()); err != nil {
				t.Errorf("later: %v", err)
			}
		})
	}
}

// 55. Public key rotation: planned, recertified, emergency, at login and at export.
func TestScenario55PublicKeysRotate(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.Wrap)
	c := s.tokenClient()
	const keys = "GET /security/public-key-certificates"
	again := func(name string, lists int) {
		t.Helper()
		s.RevokeRefreshTokens()
		s.clock.add(20 * time.Minute)
		before := s.Stats()
		if err := c.Login(t.Context()); err != nil {
			t.Errorf("%s: login: %v", name, err)
		}
		if _, err := c.StartExport(t.Context(), lastHour, false, ksef.NewExportKey()); err != nil {
			t.Errorf("%s: export: %v", name, err)
		}
		if got := s.Stats().ByPath[keys] - before.ByPath[keys]; got != lists {
			t.Errorf("%s: the list of keys was read %d times, want %d", name, got, lists)
		}
	}
	again("at first", 1)
	s.AddKey()
	again("planned, both valid", 0)
	s.Recertify()
	again("certified again, the same key", 0)
	s.RotateKeys()
	again("in an emergency", 1)
	s.clock.add(25 * time.Hour)
	again("a day later", 1)

	// Only the export notices.
	s.RotateKeys()
	before := s.Stats()
	if _, err := c.StartExport(t.Context(), lastHour, false, ksef.NewExportKey()); err != nil {
		t.Error(err)
	}
	after := s.Stats()
	if after.ByPath[keys]-before.ByPath[keys] != 1 || after.ByPath["POST /invoices/exports"]-before.ByPath["POST /invoices/exports"] != 2 || after.Logins != before.Logins {
		t.Errorf("before %+v, after %+v; want the list once, the export twice, no login", before, after)
	}
}

// 59. What the permissions do not cover is refused, and nothing else suffers.
func TestScenario59MissingPermission(t *testing.T) {
	bothClients(t, func(t *testing.T, s *sim, c *ksef.Client) {
		s.Fault(ksefsim.Forbidden("/invoices/exports", 0, "missing-permissions"))
		if _, err := c.StartExport(t.Context(), lastHour, false, ksef.NewExportKey()); !errors.Is(err, ksef.ErrForbidden) {
			t.Errorf("got %v, want ErrForbidden", err)
		}
		if _, err := c.QueryMetadata(t.Context(), lastHour, 0, 10); err != nil {
			t.Error(err)
		}
		s.wantLogins(1, 0)
	})
}

// A login that the firewall blocks is not tried again for half an hour.
func TestFirewallBlocksLogin(t *testing.T) {
	for _, path := range []string{"/auth/challenge", "/auth/ksef-token", "/auth/xades-signature", "/auth/token/redeem", "/auth/token/refresh"} {
		t.Run(path, func(t *testing.T) {
			s := newSim(t, ksefsim.Options{}, contract.Wrap)
			c := s.client(company, certify(t, ecKey(t, elliptic.P256()), seal))
			if path == "/auth/ksef-token" {
				c = s.tokenClient()
			}
			if path == "/auth/token/refresh" {
				if err := c.Login(t.Context()); err != nil {
					t.Fatal(err)
				}
				s.clock.add(20 * time.Minute)
			}
			s.Fault(ksefsim.Firewall(path, 1))
			if err := c.Login(t.Context()); err == nil {
				t.Fatal("the login was blocked, and says it worked")
			}
			sent := s.Stats().Requests
			for range 20 {
				s.clock.add(time.Minute)
				if _, ok := errors.AsType[*ksef.BudgetError](c.Login(t.Context())); !ok || s.Stats().Requests != sent {
					t.Fatalf("%d requests were sent while blocked", s.Stats().Requests-sent)
				}
			}
			s.clock.add(11 * time.Minute)
			if err := c.Login(t.Context()); err != nil {
				t.Errorf("half an hour later: %v", err)
			}
		})
	}
}

func TestOneLoginInFlight(t *testing.T) {
	bothClients(t, func(t *testing.T, s *sim, c *ksef.Client) {
		s.SetLoginOutcome(ksefsim.LoginOutcome{Pending: 3})
		var workers sync.WaitGroup
		for range 8 {
			workers.Go(func() {
				if err := c.Login(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		workers.Wait()
		s.wantLogins(1, 0)
	})
}
