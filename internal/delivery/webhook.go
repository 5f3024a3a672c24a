package delivery

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	webhookLimit   = 100
	webhookTimeout = 30 * time.Second
	// maxAnswer is how much of an answer's body is read, only to use the connection
	// again.
	maxAnswer = 64 << 10
)

// Webhook is a receiver that is told by HTTP, as Standard Webhooks says
// (standardwebhooks.com): a POST with JSON that is signed.
type Webhook struct {
	immediate
	URL string
	// Secret gives the signing secret as [ParseSecret] takes it. It is asked before
	// every attempt.
	Secret    func() (string, error)
	UserAgent string
	Client    *http.Client
	Timeout   time.Duration    // for the whole answer
	Now       func() time.Time // nil: time.Now
}

// WebhookName is the name of the webhook among the receivers.
const WebhookName = "webhook"

// NewWebhook gives a webhook that does not follow redirects, which would tell
// someone else.
func NewWebhook(address, userAgent string, secret func() (string, error)) *Webhook {
	return &Webhook{URL: address, UserAgent: userAgent, Secret: secret, Timeout: webhookTimeout, Client: &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, IdleConnTimeout: webhookTimeout,
			MaxResponseHeaderBytes: maxAnswer,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Name gives [WebhookName].
func (w *Webhook) Name() string { return WebhookName }

// Limit is a hundred invoices in one request, some 80 KB.
func (w *Webhook) Limit() int { return webhookLimit }

// webhookMessage is the body of a request.
type webhookMessage struct {
	Type      string `json:"type"`
	Timestamp string `json:"timestamp"` // when the last of them was stored in the mirror
	Data      struct {
		Mirror      string           `json:"mirror"`
		Environment string           `json:"environment"`
		Context     string           `json:"context"`
		Invoices    []invoiceMessage `json:"invoices"`
	} `json:"data"`
}

// Take posts a batch. It was taken if the answer's status is 2xx.
func (w *Webhook) Take(ctx context.Context, b Batch) error {
	secret, err := w.Secret()
	if err != nil {
		return err
	}
	key, err := ParseSecret(secret)
	if err != nil {
		return err
	}
	last := b.Invoices[len(b.Invoices)-1]
	message := webhookMessage{Type: "invoices.stored", Timestamp: last.FirstSeenAt.UTC().Format(time.RFC3339Nano)}
	message.Data.Mirror, message.Data.Environment, message.Data.Context = b.Mirror, b.Environment, b.Context
	for _, invoice := range b.Invoices {
		message.Data.Invoices = append(message.Data.Invoices, messageOf(b.Mirror, invoice))
	}
	body, err := json.Marshal(message)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, w.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(body))
	if err != nil {
		return errors.New("its address cannot be used; see config check") // err quotes it, and it may hold a secret
	}
	now := time.Now
	if w.Now != nil {
		now = w.Now
	}
	timestamp := strconv.FormatInt(now().Unix(), 10)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", w.UserAgent)
	request.Header.Set("Webhook-Id", b.ID)
	request.Header.Set("Webhook-Timestamp", timestamp)
	request.Header.Set("Webhook-Signature", sign(key, b.ID, timestamp, body))
	answer, err := w.Client.Do(request)
	if err != nil {
		var outer *url.Error
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("no answer within %s", w.Timeout)
		case errors.As(err, &outer):
			return outer.Err // without the address
		}
		return err
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, maxAnswer)) // the status has said all
	// Its body, and the words of its status, are not repeated: they may quote the
	// request.
	said := strings.TrimSpace(fmt.Sprintf("it answered %d %s", answer.StatusCode, http.StatusText(answer.StatusCode)))
	switch {
	case answer.StatusCode >= 200 && answer.StatusCode < 300:
		return nil
	case answer.StatusCode >= 300 && answer.StatusCode < 400:
		return errors.New(said + ": redirects are not followed; configure the address that it leads to")
	case answer.StatusCode == http.StatusGone:
		return fmt.Errorf("%s: %w", said, ErrGone)
	}
	return errors.New(said)
}

// sign gives the signature of a message under the symmetric scheme of Standard
// Webhooks: HMAC-SHA256 over the ID, the time in Unix seconds and the body.
func sign(key []byte, id, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, key)
	_, _ = fmt.Fprintf(mac, "%s.%s.%s", id, timestamp, body) // a hash never fails
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// ParseSecret reads the secret of a webhook as Standard Webhooks writes it: 24 to
// 64 bytes in base64 behind whsec_, which may be left out. The error does not hold
// it.
func ParseSecret(text string) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(text, "whsec_"))
	if err != nil || len(key) < 24 || len(key) > 64 {
		return nil, errors.New("want a signing secret: whsec_ and then 24 to 64 random bytes in base64")
	}
	return key, nil
}
