package ksef

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"
)

// BaseURL is where the API of an environment is: "test", "demo" or "prod"
// (srodowiska.md). It reports false for any other name.
func BaseURL(environment string) (string, bool) {
	base, ok := map[string]string{
		"test": "https://api-test.ksef.mf.gov.pl/v2",
		"demo": "https://api-demo.ksef.mf.gov.pl/v2",
		"prod": "https://api.ksef.mf.gov.pl/v2",
	}[environment]
	return base, ok
}

// Bounds of one request.
const (
	requestTimeout = time.Minute // of one attempt, from dialling to the last byte
	maxPage        = 8 << 20     // a page of metadata: 250 rows of about 2 KB, with room
	maxInvoice     = 16 << 20    // 3 MB with attachments, but KSeF raises that for some contexts
	maxSmall       = 1 << 20     // challenges, tokens, keys, limits
	maxErrorBody   = 64 << 10

	securityBlock     = 30 * time.Minute // KSeF's firewall does not say how long it blocks
	unknownRetryAfter = 5 * time.Minute  // a 429 without a readable Retry-After
)

// Client speaks to KSeF for one context. It keeps its session in memory, logs in
// by itself and never repeats a request, except once after a 401: what failed is
// for the caller's next cycle. Set the fields before the first call; the methods
// may be called by several goroutines at once.
//
// Errors are [*Error] for what KSeF or the network refused, [*LoginError] when
// there is no session, [*BudgetError] when a limit would be exceeded or KSeF has
// blocked us (errors.As finds it inside an Error of status 429 or 403), and the
// context's own error when it ended.
type Client struct {
	BaseURL string // without trailing slash
	Context Context
	// Certificate gives a KSeF certificate of type Authentication, or a qualified
	// one, and the key that belongs to it. Token gives a KSeF token. One of the two is
	// required; Certificate is used if both are set. They are called at each full
	// login, so that a replaced file needs no restart.
	Certificate func() (crypto.Signer, *x509.Certificate, error)
	// CertificateTried, if not nil, is told whether KSeF accepted a certificate or
	// refused it for good, and says of a refused one whether Certificate gives
	// another now, which is then tried at once.
	CertificateTried func(certificate *x509.Certificate, accepted bool) (another bool)
	Token            func() (Secret, error)
	// Requested, if not nil, is told of every request that was sent: its operation,
	// one of a few fixed phrases such as "query metadata", and the HTTP status of the
	// answer; 0 when none came. It may be called from several goroutines.
	Requested func(operation string, status int)

	Limiter    *Limiter                                   // required
	HTTPClient *http.Client                               // nil: one of NewHTTPClient
	UserAgent  string                                     // "": ksefmirror
	Log        *slog.Logger                               // nil: nothing is logged
	Now        func() time.Time                           // nil: time.Now
	Sleep      func(context.Context, time.Duration) error // nil: real

	timeout time.Duration // 0: requestTimeout; tests shorten it

	mu      sync.Mutex // held throughout a login, so that there is one at a time
	session session
	keys    []publicKey
	keysAt  time.Time // when keys were fetched
	refused refusal

	warnedMu sync.Mutex
	warned   map[string]bool // X-System-Warning texts that were logged
}

// NewHTTPClient gives an HTTP client that sends exactly what it is told to.
// net/http repeats a GET by itself when a kept-alive or HTTP/2 connection turns
// out to be dead; such a repetition would go past the limiter. So every request
// has a connection of its own: at 64 invoices an hour the handshakes are nothing.
// Redirects are not followed. The proxy is that of the environment.
func NewHTTPClient() *http.Client {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: 15 * time.Second}).DialContext,
			TLSHandshakeTimeout:    15 * time.Second,
			ResponseHeaderTimeout:  45 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
			DisableKeepAlives:      true,
			DisableCompression:     true, // the bytes as served; no decompression bombs
			Protocols:              &protocols,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Login makes sure that there is a session, logging in or refreshing if needed,
// and that KSeF's time is known to the limiter.
func (c *Client) Login(ctx context.Context) error {
	_, err := c.accessToken(ctx, Secret{})
	return err
}

// QueryMetadata gives a page of the invoices that q selects, in ascending order
// of permanent storage date. page counts from 0, pageSize is 10 to 250. It costs
// one request of [GroupMetadata]. ErrNothingNew means that q begins after the
// high water mark.
func (c *Client) QueryMetadata(ctx context.Context, q Query, page, pageSize int) (MetadataPage, error) {
	const op = "query metadata"
	if page < 0 || pageSize < 10 || pageSize > 250 {
		return MetadataPage{}, fmt.Errorf("%s: page %d of size %d: want a page from 0 and a size from 10 to 250", op, page, pageSize)
	}
	body, err := json.Marshal(q)
	if err != nil {
		return MetadataPage{}, fmt.Errorf("%s: %w", op, err)
	}
	options := url.Values{
		"sortOrder":  {"Asc"},
		"pageOffset": {strconv.Itoa(page)}, // an index of pages, not of rows (open-api)
		"pageSize":   {strconv.Itoa(pageSize)},
	}
	answer, err := c.sendInSession(ctx, request{
		op: op, method: http.MethodPost, path: "/invoices/query/metadata?" + options.Encode(),
		group: GroupMetadata, body: body, accept: jsonTypes, maxBody: maxPage,
	})
	if err != nil {
		return MetadataPage{}, err
	}
	result, err := decodeMetadataPage(answer.body)
	if err != nil {
		return MetadataPage{}, &Error{Op: op, HTTPStatus: answer.status, Err: err}
	}
	return result, nil
}

// decodeMetadataPage refuses JSON without the fields that say whether there is
// more: decoded leniently, {} would pass for "no invoices, and complete".
func decodeMetadataPage(body []byte) (MetadataPage, error) {
	var present struct {
		HasMore     *bool            `json:"hasMore"`
		IsTruncated *bool            `json:"isTruncated"`
		Invoices    *json.RawMessage `json:"invoices"`
	}
	if err := json.Unmarshal(body, &present); err != nil {
		return MetadataPage{}, fmt.Errorf("decode the page: %w", err)
	}
	if present.HasMore == nil || present.IsTruncated == nil || present.Invoices == nil {
		return MetadataPage{}, errors.New("the page lacks hasMore, isTruncated or invoices")
	}
	var page MetadataPage
	if err := json.Unmarshal(body, &page); err != nil {
		return MetadataPage{}, fmt.Errorf("decode the page: %w", err)
	}
	return page, nil
}

// Invoice gives the XML of an invoice, byte for byte as KSeF served it. It costs
// one request of [GroupDownload]. When KSeF sends the hash along (open-api,
// x-ms-meta-hash), the bytes match it or come together with ErrHashMismatch;
// any other error comes without bytes. ErrNotFound and ErrNotAvailableYet are as
// they say. The error does not name the invoice.
func (c *Client) Invoice(ctx context.Context, n Number) ([]byte, error) {
	const op = "download invoice"
	answer, err := c.sendInSession(ctx, request{
		op: op, method: http.MethodGet, path: "/invoices/ksef/" + url.PathEscape(string(n)),
		group: GroupDownload, accept: xmlTypes, maxBody: maxInvoice,
	})
	if err != nil {
		return nil, err
	}
	if len(answer.body) == 0 {
		return nil, &Error{Op: op, HTTPStatus: answer.status, Err: errors.New("the answer is empty")}
	}
	sum := sha256.Sum256(answer.body)
	if hash := answer.header.Get("x-ms-meta-hash"); hash != "" && hash != base64.StdEncoding.EncodeToString(sum[:]) {
		return answer.body, &Error{Op: op, HTTPStatus: answer.status, Err: ErrHashMismatch}
	}
	return answer.body, nil
}

// Budget tells how many requests of the group the limits allow right now and, if
// none, when the next may be: see [Limiter.Budget].
func (c *Client) Budget(group Group) (left int, next time.Time) { return c.Limiter.Budget(group) }

// RateLimits gives the limits in force for this context, and hands them to the
// Limiter. It costs one request of [GroupOther].
func (c *Client) RateLimits(ctx context.Context) (Limits, error) {
	const op = "read rate limits"
	answer, err := c.sendInSession(ctx, request{
		op: op, method: http.MethodGet, path: "/rate-limits",
		group: GroupOther, accept: jsonTypes, maxBody: maxSmall,
	})
	if err != nil {
		return nil, err
	}
	limits, err := decodeLimits(answer.body)
	if err != nil {
		return nil, &Error{Op: op, HTTPStatus: answer.status, Err: err}
	}
	c.Limiter.SetLimits(limits)
	return limits, nil
}

// decodeLimits keeps the groups that say something. One that is of another shape,
// negative, or wholly zero is left out, and so keeps its published limit: read as
// "no limits" it could get us banned.
func decodeLimits(body []byte) (Limits, error) {
	var groups map[Group]json.RawMessage
	if err := json.Unmarshal(body, &groups); err != nil {
		return nil, fmt.Errorf("decode the limits: %w", err)
	}
	limits := Limits{}
	for group, raw := range groups {
		var limit Limit
		if json.Unmarshal(raw, &limit) == nil && limit != (Limit{}) &&
			min(limit.PerSecond, limit.PerMinute, limit.PerHour) >= 0 {
			limits[group] = limit
		}
	}
	if len(limits) == 0 {
		return nil, errors.New("the answer holds no limits")
	}
	return limits, nil
}

// What an answer may come as. A gateway's or captive portal's page is text/html.
var (
	jsonTypes = []string{"application/json"}
	xmlTypes  = []string{"application/xml", "text/xml", "application/octet-stream"}
)

// request is one request to KSeF.
type request struct {
	op          string
	method      string
	path        string // after BaseURL
	group       Group
	body        []byte      // nil: none
	contentType string      // of body; "": JSON
	header      http.Header // besides those that every request has; nil: none
	bearer      Secret      // zero: none
	accept      []string
	maxBody     int64
}

// response is a whole answer. Status 0 means that none came.
type response struct {
	status int
	header http.Header
	body   []byte
	took   time.Duration // from just before it was sent
}

// sendInSession sends a request with an access token. After a 401 it gets another
// token and repeats the request, once.
func (c *Client) sendInSession(ctx context.Context, r request) (response, error) {
	token, err := c.accessToken(ctx, Secret{})
	if err != nil {
		return response{}, err
	}
	r.bearer = token
	answer, err := c.send(ctx, r)
	if answer.status != http.StatusUnauthorized {
		return answer, err
	}
	if r.bearer, err = c.accessToken(ctx, token); err != nil {
		return response{}, err
	}
	return c.send(ctx, r)
}

// send sends a request within the limits, once. Its error is nil only for a whole
// answer of status 2xx and an accepted type.
func (c *Client) send(ctx context.Context, r request) (response, error) {
	permit, err := c.Limiter.acquire(ctx, r.group)
	if err != nil {
		return response{}, fmt.Errorf("%s: %w", r.op, err)
	}
	answer, err := c.attempt(ctx, r)
	if err := permit.end(context.WithoutCancel(ctx), answer.status != 0); err != nil {
		// The limiter counts the request all the same; only the next process will
		// take it for one that never ended.
		c.log().Warn("request log not written", "err", err)
	}
	c.log().Debug("request", "op", r.op, "status", answer.status, "duration", answer.took)
	c.requested(r.op, answer.status)
	c.warn(answer.header)

	switch {
	case answer.status != 0 && (answer.status < 200 || answer.status > 299):
		return answer, c.refusal(ctx, r, answer)
	case err != nil && ctx.Err() != nil:
		return answer, fmt.Errorf("%s: %w", r.op, ctx.Err())
	case err != nil:
		return answer, &Error{Op: r.op, HTTPStatus: answer.status, Err: err}
	}
	if answer.status == http.StatusNoContent {
		return answer, nil
	}
	if got := mediaType(answer.header.Get("Content-Type")); !slices.Contains(r.accept, got) {
		return answer, &Error{Op: r.op, HTTPStatus: answer.status, Err: fmt.Errorf("the answer is of type %q, not %s; something between here and KSeF may have sent it", clean(got, 50), r.accept[0])}
	}
	return answer, nil
}

// attempt sends one HTTP request and reads the answer. A response with a status
// and an error is one whose body did not come whole.
func (c *Client) attempt(ctx context.Context, r request) (answer response, err error) {
	timeout := c.timeout
	if timeout == 0 {
		timeout = requestTimeout
	}
	// The attempt's own end must not look like the caller's context ending.
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no whole answer within %s", timeout))
	defer cancel()
	began := c.Limiter.now()
	defer func() {
		answer.took = c.Limiter.now().Sub(began)
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}()

	var body io.Reader // a nil *bytes.Reader would not be a nil io.Reader
	if r.body != nil {
		body = bytes.NewReader(r.body)
	}
	hr, err := http.NewRequestWithContext(ctx, r.method, c.BaseURL+r.path, body)
	if err != nil {
		return answer, withoutURL(err)
	}
	maps.Copy(hr.Header, r.header)
	if r.body != nil {
		hr.Header.Set("Content-Type", cmp.Or(r.contentType, jsonTypes[0]))
	}
	if !r.bearer.IsZero() {
		hr.Header.Set("Authorization", "Bearer "+r.bearer.Reveal())
	}
	hr.Header.Set("Accept", r.accept[0]+", application/problem+json")
	hr.Header.Set("X-Error-Format", "problem-details") // open-api, in every operation
	hr.Header.Set("User-Agent", c.userAgent())

	res, err := c.http().Do(hr)
	if err != nil {
		return answer, withoutURL(err)
	}
	defer func() { _ = res.Body.Close() }() // nothing is reused and nothing is left to learn
	answer.status, answer.header = res.StatusCode, res.Header

	limit := r.maxBody
	if res.StatusCode > 299 {
		limit = maxErrorBody
	}
	// Reading a body that is shorter than its Content-Length is an error already.
	answer.body, err = io.ReadAll(io.LimitReader(res.Body, limit+1))
	switch {
	case err != nil:
		return answer, fmt.Errorf("read the answer: %w", err)
	case int64(len(answer.body)) > limit:
		return answer, fmt.Errorf("the answer is longer than %d bytes", limit)
	}
	return answer, nil
}

// withoutURL takes the URL out of an error of net/http: it can hold a KSeF
// number, and so a NIP.
func withoutURL(err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		return wrapped.Err
	}
	return err
}

// refusal makes an error of an answer other than 2xx, and obeys what it says
// about further requests. The body may be missing: a 429 is one all the same.
func (c *Client) refusal(ctx context.Context, r request, answer response) error {
	contentType := answer.header.Get("Content-Type")
	e := parseError(r.op, answer.status, contentType, answer.body)
	wait, told := parseRetryAfter(answer.header.Get("Retry-After"), c.Limiter.serverTime())
	e.RetryAfter = wait

	group := r.group
	switch {
	case answer.status == http.StatusTooManyRequests:
		if !told {
			wait = unknownRetryAfter
		}
		// KSeF lengthens the block of those who come back early (limity-api.md), and
		// seconds may have been rounded down.
		wait += time.Second
	case answer.status == http.StatusForbidden && (e.Reason == reasonSecurityBlocked || e.Reason == "" && e.Code == 0):
		// The firewall in front of KSeF has blocked us as a whole. KSeF itself gives
		// a reason; the firewall may answer with an HTML page.
		group, wait = groupAll, max(securityBlock, wait)
	case answer.status < 400:
		e.Err = errors.New("KSeF answered with a redirect, which is not followed")
		return e
	default:
		return e
	}
	// The block must be on record even if the caller has given up meanwhile.
	until, err := c.Limiter.block(context.WithoutCancel(ctx), group, wait)
	if err != nil {
		c.log().Warn("block not written; it holds until this process ends", "err", err)
	}
	c.log().Warn("KSeF blocked further requests", "op", r.op, "status", answer.status, "group", group, "until", until, "reference", e.Reference)
	e.Err = &BudgetError{Group: group, Until: until}
	return e
}

// warn logs the warning that KSeF may add to any answer (open-api,
// X-System-Warning), each text once.
func (c *Client) warn(header http.Header) {
	text := clean(header.Get("X-System-Warning"), 500)
	if text == "" {
		return
	}
	c.warnedMu.Lock()
	defer c.warnedMu.Unlock()
	if c.warned[text] {
		return
	}
	if c.warned == nil || len(c.warned) >= 100 { // texts that never repeat must not fill the memory
		c.warned = map[string]bool{}
	}
	c.warned[text] = true
	c.log().Warn("KSeF sent a warning", "text", text)
}

func (c *Client) requested(operation string, status int) {
	if c.Requested != nil {
		c.Requested(operation, status)
	}
}

func (c *Client) log() *slog.Logger {
	if c.Log != nil {
		return c.Log
	}
	return slog.New(slog.DiscardHandler)
}

func (c *Client) userAgent() string {
	if c.UserAgent != "" {
		return c.UserAgent
	}
	return "ksefmirror"
}

func (c *Client) http() *http.Client {
	if c.HTTPClient != nil {
		return c.HTTPClient
	}
	// Nothing is kept between requests, so a new one costs nothing.
	return NewHTTPClient()
}

func (c *Client) now() time.Time {
	if c.Now != nil {
		return c.Now()
	}
	return time.Now()
}
