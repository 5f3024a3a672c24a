package health

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"ksefmirror/internal/event"
	ksefsync "ksefmirror/sync"
)

// Metrics shows Prometheus how the mirrors are: what was last seen of each, so that
// to ask costs the mirrors nothing, and counters of this process. Of a mirror it
// tells the name and no more: no NIP, no company. It is safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry
	cycles   *prometheus.CounterVec
	requests *prometheus.CounterVec

	mu      sync.Mutex
	reports map[string]Report // by mirror
}

// What is told of every mirror, but for the counters of [NewMetrics].
func description(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("ksefmirror_"+name, help, append([]string{"mirror"}, labels...), nil)
}

// descriptions are those of the figures of a report.
type descriptions struct {
	looked, watermark, run, success, reconciled, roleInvoices, invoices, unread, waiting, level, notices,
	exports, limit, used, blocked, credential, free, size *prometheus.Desc
}

func describe() descriptions {
	return descriptions{
		looked:       description("look_timestamp_seconds", "When the figures of this mirror were read."),
		watermark:    description("watermark_timestamp_seconds", "Up to when the role is complete.", "role"),
		run:          description("last_run_timestamp_seconds", "When the role was last asked for.", "role"),
		success:      description("last_success_timestamp_seconds", "When the role was last mirrored without an error.", "role"),
		reconciled:   description("last_reconciliation_timestamp_seconds", "When the role was last compared with KSeF's list.", "role"),
		roleInvoices: description("role_invoices", "Invoices in the role; one may have several.", "role"),
		invoices:     description("invoices", "Invoices in the mirror."),
		unread:       description("unread_invoices", "Invoices in the mirror whose content could not be read."),
		waiting:      description("quarantine_invoices", "Invoices that could not be mirrored yet.", "role"),
		level:        description("level", "0: in order; 1: someone should look; 2: someone must act."),
		notices:      description("notices", "What a person should do or know, by kind.", "kind"),
		exports:      description("exports", "Packages asked of KSeF: requested, preparing, or given_up within a day.", "state"),
		limit:        description("budget_limit_requests", "Requests that KSeF allows in an hour.", "group"),
		used:         description("budget_used_requests", "Requests of the last hour, and all while KSeF has blocked the group.", "group"),
		blocked:      description("blocked_until_timestamp_seconds", "Until when KSeF has blocked the group; only while it has.", "group"),
		credential:   description("credential_end_timestamp_seconds", "When the certificate, or by law the token, ends."),
		free:         description("volume_free_bytes", "Free space of the volume that holds the mirror."),
		size:         description("volume_size_bytes", "Size of the volume that holds the mirror."),
	}
}

// NewMetrics gives the metrics of a program of the version.
func NewMetrics(version string) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		cycles: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ksefmirror_cycles_total", Help: "Cycles that ended, by result: ok, limited (KSeF's limits cut it short) or failed.",
		}, []string{"mirror", "result"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ksefmirror_requests_total", Help: "Requests to KSeF by this process, by operation and HTTP status; 0: no answer came.",
		}, []string{"mirror", "operation", "status"}),
		reports: map[string]Report{},
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "ksefmirror_build_info", Help: "Always 1; which program this is.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	})
	build.Set(1)
	m.registry.MustRegister(m, m.cycles, m.requests, build, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Requested counts a request of a mirror to KSeF. operation is one of a few fixed
// words; status is 0 when no answer came.
func (m *Metrics) Requested(mirror, operation string, status int) {
	m.requests.WithLabelValues(mirror, operation, strconv.Itoa(status)).Inc()
}

// ended counts a cycle that ended with err.
func (m *Metrics) ended(mirror string, err error) {
	result := "failed"
	switch {
	case err == nil:
		result = "ok"
	case ksefsync.Limited(err) != nil:
		result = "limited"
	}
	m.cycles.WithLabelValues(mirror, result).Inc()
}

// set keeps a report until the next one of the same mirror.
func (m *Metrics) set(r Report) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reports[r.Name] = r
}

// Forget leaves a mirror out from now on.
func (m *Metrics) Forget(mirror string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.reports, mirror)
	m.cycles.DeletePartialMatch(prometheus.Labels{"mirror": mirror})
	m.requests.DeletePartialMatch(prometheus.Labels{"mirror": mirror})
}

// Describe implements [prometheus.Collector]. It describes nothing: the registry
// then checks each collection instead.
func (m *Metrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements [prometheus.Collector].
func (m *Metrics) Collect(metrics chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := describe()
	for _, r := range m.reports {
		gauge := func(d *prometheus.Desc, value float64, labels ...string) {
			metrics <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, append([]string{r.Name}, labels...)...)
		}
		// An instant that is not known is left out: 0 would be 1970.
		instant := func(d *prometheus.Desc, text string, labels ...string) {
			if t, err := time.Parse(time.RFC3339, text); err == nil {
				gauge(d, float64(t.UnixMilli())/1000, labels...)
			}
		}
		gauge(d.looked, float64(r.at.UnixMilli())/1000)
		gauge(d.level, float64(r.Level))
		instant(d.credential, r.CredentialEnds)
		if r.DiskSize > 0 {
			gauge(d.free, float64(r.DiskFree))
			gauge(d.size, float64(r.DiskSize))
		}
		for kind := range Kinds() {
			n := 0
			for _, notice := range r.Notices {
				if notice.Kind == kind {
					n++
				}
			}
			gauge(d.notices, float64(n), string(kind))
		}
		if len(r.Streams) == 0 {
			continue // the database has not told anything
		}
		gauge(d.invoices, float64(r.Invoices))
		gauge(d.unread, float64(r.Unread))
		gauge(d.exports, float64(r.Exports.Requested), "requested")
		gauge(d.exports, float64(r.Exports.Preparing), "preparing")
		gauge(d.exports, float64(r.Exports.GivenUp), "given_up")
		for _, s := range r.Streams {
			instant(d.watermark, string(s.Watermark), s.Role)
			instant(d.run, s.LastRun, s.Role)
			instant(d.success, s.LastSuccess, s.Role)
			if s.Reconciled != nil {
				instant(d.reconciled, s.Reconciled.At, s.Role)
			}
			gauge(d.roleInvoices, float64(s.Invoices), s.Role)
			waiting := 0
			for _, w := range r.Waiting {
				if w.Role == s.Role {
					waiting++
				}
			}
			gauge(d.waiting, float64(waiting), s.Role)
		}
		for _, g := range r.Budget {
			gauge(d.limit, float64(g.PerHour), string(g.Group))
			gauge(d.used, float64(g.PerHour-g.Left), string(g.Group))
			instant(d.blocked, g.BlockedUntil, string(g.Group))
		}
	}
}

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}

// serveAgain is how long it takes until an address that could not be had is tried
// again: another program may have had it for a while.
const serveAgain = time.Minute

// Serve serves the metrics at http://ADDRESS/metrics until ctx ends. That they
// cannot be served is logged, and tried again: it is no reason not to mirror.
func (m *Metrics) Serve(ctx context.Context, address string, log *slog.Logger) {
	for failed := false; ; failed = true {
		err := m.serve(ctx, address, log)
		if ctx.Err() != nil {
			return
		}
		if !failed {
			event.Log(log, event.MetricsNotShown, "address", address, "err", err)
		}
		timer := time.NewTimer(serveAgain)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

func (m *Metrics) serve(ctx context.Context, address string, log *slog.Logger) error {
	var listen net.ListenConfig
	listener, err := listen.Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	log.Info("metrics are served", "url", "http://"+listener.Addr().String()+"/metrics")
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m.Handler())
	server := &http.Server{
		Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 5 * time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	// Nobody loses anything by an answer that is cut off.
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	return server.Serve(listener)
}
