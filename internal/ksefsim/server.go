package ksefsim

import (
	"cmp"
	"crypto/rand"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"ksefmirror/internal/ksef"
)

// FaultHeader marks an answer that is not meant to agree with the
// specification: made by a [Fault], or for an operation that is not simulated.
const FaultHeader = "X-Ksefsim-Fault"

// maxBody bounds what is read of a request; KSeF's largest here is a query of
// a few hundred bytes.
const maxBody = 1 << 20

// Options say how KSeF is to behave. The zero value is a working KSeF without
// limits on requests.
type Options struct {
	Now         func() time.Time // nil: time.Now. Every date and expiry follows it
	Limits      ksef.Limits      // nil: requests are not limited
	HWMLag      time.Duration    // how far the high water mark stays behind Now
	PageCap     int              // rows of one set of filters before isTruncated; 0: 10,000
	PackageCap  int              // invoices in a package before isTruncated; 0: 10,000
	PackageSize int              // bytes of an archive, without _metadata.json, before isTruncated; 0: 1 GB
	PartSize    int              // bytes of a part before encryption, at most; 0: 50 MB
	Everyone    ksef.Context     // zero: nobody. Sees every invoice, as buyer where it is no party
	AdminFaults bool             // serve POST and DELETE /admin/faults, to anyone who can connect
	Log         *slog.Logger     // nil: nothing is logged
}

// Server is the simulator. All methods may be called at any time from any
// goroutine.
type Server struct {
	now         func() time.Time
	hwmLag      time.Duration
	pageCap     int
	packageCap  int
	packageSize int
	partSize    int
	everyone    ksef.Context
	log         *slog.Logger
	mux         *http.ServeMux
	secret      []byte  // signs bearer tokens and links to parts
	issuer      *issuer // signs KSeF certificates

	mutex   sync.Mutex // guards what follows; never held while a fault or a client is waited for
	limits  ksef.Limits
	windows map[windowKey]*window
	stats   Stats
	faults  []*Fault

	keys          []*publicKey
	tokens        map[string]*ksefToken
	tokensRefused bool
	permissions   map[permission][]string
	certified     map[fingerprint]*certificate // of which something was said
	issued        []*issued                    // KSeF certificates
	enrollments   map[string]*enrollment       // by reference number
	challenges    map[string]time.Time         // when each was given; removed when used
	logins        map[string]*login            // by reference number
	bearers       map[string]*bearer
	outcome       LoginOutcome

	numbers  map[ksef.Number]*stored
	lists    map[list][]*stored
	unlisted map[unlisted]bool    // hidden by SetListed
	serial   uint64               // of the next KSeF number
	fixedHWM time.Time            // zero: the mark moves by itself
	promised time.Time            // the highest mark ever told to a client
	hidden   []*stored            // not visible yet when last looked at, and holding the mark
	queries  map[string]querySeen // by context and filters

	exports       map[string]*export // by reference number
	exportOutcome ExportOutcome
	packages      []*export // whose package is kept, the one used last at the end
	links         int       // counts ExpireLinks
}

// Stats is what happened since [New].
type Stats struct {
	Requests   int                 // that reached a path below /v2, whatever was answered
	ByGroup    map[ksef.Group]int  // requests that count against a limit group
	ByPath     map[string]int      // by pattern, such as "GET /invoices/ksef/{ksefNumber}"
	TooMany    int                 // answers 429 that the limits gave; those of faults are not counted
	Logins     int                 // POST /auth/ksef-token and /auth/xades-signature accepted
	Redeems    int                 // pairs of tokens given
	Refreshes  int                 // access tokens given for a refresh token
	Downloads  map[ksef.Number]int // invoices served by number
	Parts      map[string]int      // parts of packages served, by partName
	Violations []string            // what clients sent against the specification, oldest first, at most 1,000
}

// New makes a KSeF without tokens and invoices, with keys of its own. It takes
// as long as making two RSA keys.
func New(options Options) *Server {
	s := &Server{
		now:         options.Now,
		hwmLag:      options.HWMLag,
		pageCap:     cmp.Or(options.PageCap, 10_000),
		packageCap:  cmp.Or(options.PackageCap, 10_000),
		packageSize: cmp.Or(options.PackageSize, 1_000_000_000),
		partSize:    cmp.Or(options.PartSize, 50_000_000),
		everyone:    options.Everyone,
		log:         options.Log,
		mux:         http.NewServeMux(),
		secret:      []byte(rand.Text()),
		limits:      maps.Clone(options.Limits),
		windows:     make(map[windowKey]*window),
		tokens:      make(map[string]*ksefToken),
		permissions: make(map[permission][]string),
		certified:   make(map[fingerprint]*certificate),
		enrollments: make(map[string]*enrollment),
		challenges:  make(map[string]time.Time),
		logins:      make(map[string]*login),
		bearers:     make(map[string]*bearer),
		numbers:     make(map[ksef.Number]*stored),
		lists:       make(map[list][]*stored),
		queries:     make(map[string]querySeen),
		exports:     make(map[string]*export),
		stats: Stats{
			ByGroup:   make(map[ksef.Group]int),
			ByPath:    make(map[string]int),
			Downloads: make(map[ksef.Number]int),
			Parts:     make(map[string]int),
		},
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.keys = initialKeys(s.now())
	s.issuer = newIssuer(s.now())

	s.route("POST /auth/challenge", groupPublic, anyone, reply(http.StatusOK, s.challenge))
	s.route("POST /auth/ksef-token", groupPublic, anyone, reply(http.StatusAccepted, s.tokenLogin))
	s.route("POST /auth/xades-signature", groupPublic, anyone, reply(http.StatusAccepted, s.xadesLogin))
	s.route("GET /auth/{referenceNumber}", groupPublic, operationToken, reply(http.StatusOK, s.loginStatus))
	s.route("POST /auth/token/redeem", groupPublic, operationToken, reply(http.StatusOK, s.redeem))
	s.route("POST /auth/token/refresh", groupPublic, refreshToken, reply(http.StatusOK, s.refresh))
	s.route("GET /auth/sessions", ksef.GroupOther, accessToken, reply(http.StatusOK, s.authSessions))
	s.route("DELETE /auth/sessions/{referenceNumber}", ksef.GroupOther, accessToken, s.endSession)
	s.route("DELETE /auth/sessions/current", ksef.GroupOther, sessionToken, s.logout)
	s.route("POST /permissions/query/personal/grants", ksef.GroupOther, accessToken, reply(http.StatusOK, s.ownPermissions))
	s.route("GET /certificates/limits", ksef.GroupOther, accessToken, reply(http.StatusOK, s.certificateLimits))
	s.route("GET /certificates/enrollments/data", ksef.GroupOther, accessToken, reply(http.StatusOK, s.enrollmentData))
	s.route("POST /certificates/enrollments", ksef.GroupOther, accessToken, reply(http.StatusAccepted, s.enroll))
	s.route("GET /certificates/enrollments/{referenceNumber}", ksef.GroupOther, accessToken, reply(http.StatusOK, s.enrollmentStatus))
	s.route("POST /certificates/retrieve", ksef.GroupOther, accessToken, reply(http.StatusOK, s.retrieveCertificates))
	s.route("POST /certificates/query", ksef.GroupOther, accessToken, reply(http.StatusOK, s.queryCertificates))
	s.route("POST /certificates/{certificateSerialNumber}/revoke", ksef.GroupOther, accessToken, s.revokeCertificate)
	s.route("GET /security/public-key-certificates", groupPublic, anyone, reply(http.StatusOK, s.certificates))
	s.route("GET /rate-limits", ksef.GroupOther, accessToken, reply(http.StatusOK, s.rateLimits))
	s.route("POST /invoices/query/metadata", ksef.GroupMetadata, accessToken, reply(http.StatusOK, s.queryMetadata))
	s.route("GET /invoices/ksef/{ksefNumber}", ksef.GroupDownload, accessToken, s.invoice)
	s.route("POST /invoices/exports", ksef.GroupExport, accessToken, reply(http.StatusCreated, s.beginExport))
	s.route("GET /invoices/exports/{referenceNumber}", ksef.GroupExportStatus, accessToken, s.exportStatus)
	s.mux.HandleFunc("/storage/", s.storage)
	s.mux.HandleFunc("/v2/sessions", s.sessions)
	s.mux.HandleFunc("/v2/sessions/", s.sessions)
	s.mux.HandleFunc("/v2/", s.unknownPath)
	if options.AdminFaults {
		s.mux.HandleFunc("POST /admin/faults", s.adminFault)
		s.mux.HandleFunc("DELETE /admin/faults", func(http.ResponseWriter, *http.Request) { s.ClearFaults() })
	}
	return s
}

// ServeHTTP answers as KSeF below /v2, and as its storage below /storage.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Stats returns a copy of the counts.
func (s *Server) Stats() Stats {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	stats := s.stats
	stats.ByGroup = maps.Clone(stats.ByGroup)
	stats.ByPath = maps.Clone(stats.ByPath)
	stats.Downloads = maps.Clone(stats.Downloads)
	stats.Parts = maps.Clone(stats.Parts)
	stats.Violations = slices.Clone(stats.Violations)
	return stats
}

// handler answers one operation for the login whose token came with the
// request (nil where none is asked for), or says why not.
type handler func(w http.ResponseWriter, r *http.Request, l *login) *refusal

// route serves one operation of the specification. What happens to a request
// is the same everywhere: it is counted, held against the limits, perhaps given
// to a fault, its token is checked, and only then is it answered. So a request
// that a fault swallows has still been counted, as the client must assume.
func (s *Server) route(pattern string, group ksef.Group, kind tokenKind, handle handler) {
	method, path, _ := strings.Cut(pattern, " ")
	s.mux.HandleFunc(method+" /v2"+path, func(w http.ResponseWriter, r *http.Request) {
		s.count(pattern, group)
		held := s.bearer(r)
		if refused := s.admit(pattern, group, held, r); refused != nil {
			s.refuse(w, r, refused)
			return
		}
		s.withFaults(w, r, func(w http.ResponseWriter, r *http.Request) {
			l, refused := s.authorize(r, kind)
			if refused == nil {
				r.Body = http.MaxBytesReader(w, r.Body, maxBody)
				refused = handle(w, r, l)
			}
			if refused != nil {
				s.refuse(w, r, refused)
			}
		})
	})
}

func (s *Server) count(pattern string, group ksef.Group) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.stats.Requests++
	s.stats.ByPath[pattern]++
	if group != groupPublic {
		s.stats.ByGroup[group]++
	}
}

// violation records what a client did against the specification.
func (s *Server) violation(r *http.Request, what string) {
	text := r.Method + " " + r.URL.Path + ": " + what
	s.log.Warn("request against the specification", "request", text)
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if len(s.stats.Violations) < 1000 {
		s.stats.Violations = append(s.stats.Violations, text)
	}
}

func (s *Server) sessions(w http.ResponseWriter, r *http.Request) {
	s.count(r.Method+" /sessions", groupPublic)
	s.refuse(w, r, s.notSimulated(w, r, nil))
}

func (s *Server) notSimulated(w http.ResponseWriter, _ *http.Request, _ *login) *refusal {
	w.Header().Set(FaultHeader, "not simulated")
	return &refusal{status: http.StatusNotImplemented, detail: "This operation is not simulated."}
}

func (s *Server) unknownPath(w http.ResponseWriter, r *http.Request) {
	s.count(r.Method+" "+strings.TrimPrefix(r.URL.Path, "/v2"), groupPublic)
	s.violation(r, "no such operation")
	s.refuse(w, r, &refusal{status: http.StatusNotFound, detail: "Nie znaleziono zasobu."})
}

// clientIP is the address part of the request's origin.
func clientIP(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// noBody reports a body where the specification has none.
func (s *Server) noBody(r *http.Request) {
	if n, _ := io.CopyN(io.Discard, r.Body, 1); n > 0 {
		s.violation(r, "a body where none is specified")
	}
}
