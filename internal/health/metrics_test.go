package health

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/oasdiff/yaml3"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"ksefmirror/internal/config"
	"ksefmirror/internal/event"
)

// gather gives what a program would be told that asks for the metrics.
func gather(t *testing.T, m *Metrics) string {
	t.Helper()
	answer := httptest.NewRecorder()
	m.Handler().ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	if answer.Code != 200 {
		t.Fatalf("HTTP %d: %s", answer.Code, answer.Body)
	}
	return answer.Body.String()
}

// everything is metrics with something of everything.
func everything() *Metrics {
	m := NewMetrics("1.2.3")
	m.set(report())
	m.ended("acme", nil)
	m.Requested("acme", "query metadata", 200)
	return m
}

func TestMetrics(t *testing.T) {
	m := everything()
	text := gather(t, m)
	for _, want := range []string{
		`ksefmirror_watermark_timestamp_seconds{mirror="acme",role="buyer"} 1.79534874e+09`,
		`ksefmirror_last_success_timestamp_seconds{mirror="acme",role="seller"} 1.79534874e+09`,
		`ksefmirror_last_reconciliation_timestamp_seconds{mirror="acme",role="seller"} 1.7953164e+09`,
		`ksefmirror_invoices{mirror="acme"} 1207`,
		`ksefmirror_role_invoices{mirror="acme",role="seller"} 1200`,
		`ksefmirror_unread_invoices{mirror="acme"} 2`,
		`ksefmirror_quarantine_invoices{mirror="acme",role="buyer"} 1`,
		`ksefmirror_quarantine_invoices{mirror="acme",role="seller"} 0`,
		`ksefmirror_level{mirror="acme"} 1`,
		`ksefmirror_notices{kind="quarantine",mirror="acme"} 1`,
		`ksefmirror_notices{kind="disk",mirror="acme"} 0`,
		`ksefmirror_exports{mirror="acme",state="preparing"} 2`,
		`ksefmirror_budget_used_requests{group="invoiceMetadata",mirror="acme"} 5`,
		`ksefmirror_budget_limit_requests{group="invoiceMetadata",mirror="acme"} 20`,
		`ksefmirror_blocked_until_timestamp_seconds{group="invoiceMetadata",mirror="acme"} 1.7953524e+09`,
		`ksefmirror_credential_end_timestamp_seconds{mirror="acme"} 1.8566829e+09`,
		`ksefmirror_volume_free_bytes{mirror="acme"} 1.099511627776e+12`,
		`ksefmirror_requests_total{mirror="acme",operation="query metadata",status="200"} 1`,
		`ksefmirror_cycles_total{mirror="acme",result="ok"} 1`,
		`version="1.2.3"} 1`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
	if t.Failed() || strings.Contains(text, "5265877635") || strings.Contains(text, "hash is wrong") {
		t.Errorf("it tells\n%s", text)
	}
	m.Forget("acme")
	if text := gather(t, m); strings.Contains(text, "acme") {
		t.Errorf("forgotten, and it tells\n%s", text)
	}
}

// A mirror that cannot be read has no figures: 0 invoices would be a lie.
func TestMetricsOfAnUnreadableMirror(t *testing.T) {
	m := NewMetrics("1")
	f := found{statusErr: errors.New("not a database")}
	r := report()
	r.Status, r.Notices, r.Level = f.status, f.notices(config.Mirror{Name: "acme"}, noon), Act
	m.set(r)
	text := gather(t, m)
	if strings.Contains(text, "ksefmirror_invoices") || !strings.Contains(text, `ksefmirror_notices{kind="unreadable",mirror="acme"} 1`) || !strings.Contains(text, `ksefmirror_level{mirror="acme"} 2`) {
		t.Errorf("it tells\n%s", text)
	}
}

// exported gives the labels of every metric that the program exports. The scraper
// adds instance and job.
func exported(t *testing.T) map[string][]string {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(gather(t, everything())))
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string][]string{}
	for name, family := range families {
		labels[name] = []string{"instance", "job"}
		for _, label := range family.GetMetric()[0].GetLabel() {
			labels[name] = append(labels[name], label.GetName())
		}
		if strings.HasPrefix(name, "ksefmirror_") && name != "ksefmirror_build_info" && !slices.Contains(labels[name], "mirror") {
			t.Errorf("%s does not say of which mirror", name)
		}
	}
	return labels
}

var (
	metricName = regexp.MustCompile(`\b(?:ksefmirror|process|go)_[a-z0-9_]+`)
	// matchers are the labels in braces; groupings those by which is summed or joined.
	matchers   = regexp.MustCompile(`\{([^}]*)\}`)
	matched    = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)`)
	groupings  = regexp.MustCompile(`\b(?:by|on)\s*\(([^)]*)\)`)
	quoted     = regexp.MustCompile(`"[^"]*"`)
	templateOf = regexp.MustCompile(`\{\{\s*\$?(?:labels\.)?([a-z_]+)`)
)

// check reports what an expression and the texts beside it name that no program
// exports.
func check(t testing.TB, exported map[string][]string, where, expression string, texts ...string) {
	t.Helper()
	names := metricName.FindAllString(expression, -1)
	if len(names) == 0 {
		t.Errorf("%s: no metric in %s", where, expression)
	}
	known := []string{"value"} // {{ $value }}
	for _, name := range names {
		if exported[name] == nil {
			t.Errorf("%s: %s is not exported", where, name)
		}
		known = append(known, exported[name]...)
	}
	var used []string
	for _, each := range matchers.FindAllStringSubmatch(expression, -1) {
		for _, label := range matched.FindAllStringSubmatch(quoted.ReplaceAllString(each[1], ""), -1) {
			used = append(used, label[1])
		}
	}
	for _, each := range groupings.FindAllStringSubmatch(expression, -1) {
		for label := range strings.SplitSeq(each[1], ",") {
			used = append(used, strings.TrimSpace(label))
		}
	}
	for _, text := range texts {
		for _, each := range templateOf.FindAllStringSubmatch(text, -1) {
			used = append(used, each[1])
		}
	}
	for _, label := range used {
		if !slices.Contains(known, label) {
			t.Errorf("%s: %s has no label %q", where, expression, label)
		}
	}
}

const monitoring = "../../monitoring"

// alerts is a file of rules.
type alerts struct {
	Groups []struct {
		Name  string `yaml:"name"`
		Rules []rule `yaml:"rules"`
	} `yaml:"groups"`
}

type rule struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

// The alerts that are shipped ask for what the program tells.
func TestAlerts(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(monitoring, "alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var file alerts
	decoder := yaml.NewDecoder(strings.NewReader(string(content)))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil || len(file.Groups) != 1 || len(file.Groups[0].Rules) < 5 {
		t.Fatalf("%v: %+v", err, file)
	}
	metrics := exported(t)
	for _, rule := range file.Groups[0].Rules {
		check(t, metrics, rule.Alert, rule.Expr, rule.Annotations["summary"], rule.Annotations["description"])
		if rule.Labels["severity"] == "" || rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" {
			t.Errorf("%s has no severity, summary or description", rule.Alert)
		}
	}
	promtool(t, "test", "rules", filepath.Join(monitoring, "alerts_test.yml"))
	promtool(t, "check", "rules", filepath.Join(monitoring, "alerts.yml"))
}

// The dashboard that is shipped shows what the program tells.
func TestDashboard(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(monitoring, "dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Templating struct {
			List []struct {
				Name       string `json:"name"`
				Definition string `json:"definition"`
			} `json:"list"`
		} `json:"templating"`
		Panels []struct {
			ID      int    `json:"id"`
			Title   string `json:"title"`
			Targets []struct {
				Expr         string `json:"expr"`
				LegendFormat string `json:"legendFormat"`
			} `json:"targets"`
		} `json:"panels"`
	}
	if err := json.Unmarshal(content, &dashboard); err != nil || len(dashboard.Panels) < 5 {
		t.Fatalf("%v: %+v", err, dashboard)
	}
	metrics := exported(t)
	ids := map[int]bool{}
	var rules strings.Builder
	rules.WriteString("groups:\n- name: dashboard\n  rules:\n")
	shown := ""
	for _, panel := range dashboard.Panels {
		if ids[panel.ID] || len(panel.Targets) == 0 {
			t.Errorf("%s: its id stands twice, or it shows nothing", panel.Title)
		}
		ids[panel.ID] = true
		for i, target := range panel.Targets {
			check(t, metrics, panel.Title, target.Expr, target.LegendFormat)
			shown += target.Expr
			fmt.Fprintf(&rules, "  - record: panel_%d_%d\n    expr: %q\n", panel.ID, i, target.Expr)
		}
	}
	for _, variable := range dashboard.Templating.List {
		if variable.Name == "mirror" && variable.Definition != "label_values(ksefmirror_level, mirror)" {
			t.Errorf("the mirrors come from %s", variable.Definition)
		}
	}
	file := filepath.Join(t.TempDir(), "dashboard.yml")
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", file)
}

// The README lists every metric, every kind of notice, every event with its level,
// and every name in status --json.
func TestReadmeListsThem(t *testing.T) {
	content, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	readme := string(content)
	has := func(text string) {
		t.Helper()
		if !strings.Contains(readme, text) {
			t.Errorf("README.md does not have %q", text)
		}
	}
	for name := range exported(t) {
		if strings.HasPrefix(name, "ksefmirror_") {
			has("`" + name + "`")
		}
	}
	for kind := range Kinds() {
		has("`" + string(kind) + "`")
	}
	r := report()
	r.Streams[0].LateLately, r.Streams[0].NotListedLately = []string{}, []string{}
	shape, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`"([a-zA-Z_]+)":`).FindAllStringSubmatch(string(shape), -1)
	if len(names) < 40 {
		t.Errorf("only the names %q", names)
	}
	for _, name := range names {
		has("`" + name[1] + "`")
	}
	for _, e := range event.All() {
		level := map[slog.Level]string{slog.LevelInfo: "information", slog.LevelWarn: "warning", slog.LevelError: "error"}[e.Level]
		has(fmt.Sprintf("| %d | %s | %s |", e.ID, level, e.Text))
	}
	for _, name := range regexp.MustCompile("`(ksefmirror_[a-z_]+)`").FindAllStringSubmatch(readme, -1) {
		if exported(t)[name[1]] == nil {
			t.Errorf("README.md lists %s, which is not exported", name[1])
		}
	}
}

// The checks above find what is wrong.
func TestCheckFinds(t *testing.T) {
	metrics := exported(t)
	for _, wrong := range []string{
		`ksefmirror_lag_seconds > 5`, `ksefmirror_level{role="buyer"} > 1`, `sum by (role) (ksefmirror_level)`, `1 > 0`,
	} {
		found := &counter{TB: t}
		check(found, metrics, "wrong", wrong)
		if found.errors == 0 {
			t.Errorf("%s passes", wrong)
		}
	}
}

// counter counts what a test reports instead of failing.
type counter struct {
	testing.TB
	errors int
}

// Errorf counts.
func (c *counter) Errorf(string, ...any) { c.errors++ }

// promtool lets Prometheus's own tool look, where it is installed.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("promtool"); err != nil || testing.Short() {
		t.Log("without promtool: only the names were checked")
		return
	}
	if out, err := exec.CommandContext(t.Context(), "promtool", args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", args, err, out)
	}
}

// An address that another program has is tried again, and no other is taken.
func TestServeWaitsForItsAddress(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if err := NewMetrics("1").serve(t.Context(), taken.Addr().String(), nil); err == nil {
		t.Error("no error")
	}
}
