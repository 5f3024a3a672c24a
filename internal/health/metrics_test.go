package health

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	"text/template"

	"github.com/oasdiff/yaml3"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"

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
	text := expfmt.NewTextParser(model.LegacyValidation)
	families, err := text.TextToMetricFamilies(strings.NewReader(gather(t, everything())))
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

// labelsOf gives the labels that the series of an expression may have, and reports
// what it asks for that no program exports. It knows as much of PromQL as the alerts
// and the dashboard use, and reports the rest too.
func labelsOf(t testing.TB, exported map[string][]string, expression parser.Expr) []string {
	t.Helper()
	has := func(labels []string, used ...string) []string {
		t.Helper()
		for _, label := range used {
			if !slices.Contains(labels, label) {
				t.Errorf("%s: %q is no label of it, which are %q", expression, label, labels)
			}
		}
		return used
	}
	switch e := expression.(type) {
	case *parser.NumberLiteral:
		return nil
	case *parser.ParenExpr:
		return labelsOf(t, exported, e.Expr)
	case *parser.MatrixSelector:
		return labelsOf(t, exported, e.VectorSelector)
	case *parser.VectorSelector:
		labels, known := exported[e.Name]
		if !known {
			t.Errorf("%s is not exported", e.Name)
			return nil
		}
		for _, matcher := range e.LabelMatchers {
			if matcher.Name != model.MetricNameLabel {
				has(labels, matcher.Name)
			}
		}
		return labels
	case *parser.AggregateExpr:
		labels := labelsOf(t, exported, e.Expr)
		if e.Without {
			break
		}
		return has(labels, e.Grouping...)
	case *parser.Call:
		var labels []string
		for _, argument := range e.Args {
			labels = append(labels, labelsOf(t, exported, argument)...)
		}
		if e.Func.Name == "absent" {
			return nil // of what is not there, nothing but what is asked for is known
		}
		return labels
	case *parser.BinaryExpr:
		left, right := labelsOf(t, exported, e.LHS), labelsOf(t, exported, e.RHS)
		switch {
		case e.VectorMatching == nil: // one of them is a number
			return append(left, right...)
		case e.VectorMatching.On:
			has(left, e.VectorMatching.MatchingLabels...)
			has(right, e.VectorMatching.MatchingLabels...)
		case len(e.VectorMatching.MatchingLabels) > 0:
			t.Errorf("%s: ignoring is not known here", e)
		case !slices.Equal(slices.Sorted(slices.Values(left)), slices.Sorted(slices.Values(right))):
			t.Errorf("%s: series with the labels %q are compared with series with %q, which are never the same", e, left, right)
		}
		switch e.VectorMatching.Card {
		case parser.CardOneToOne:
			if e.VectorMatching.On {
				return e.VectorMatching.MatchingLabels
			}
			return left
		case parser.CardManyToOne: // group_left
			return append(slices.Clone(left), has(right, e.VectorMatching.Include...)...)
		case parser.CardManyToMany: // and, or, unless
			return left
		}
	}
	t.Errorf("%s: %T is not known here", expression, expression)
	return nil
}

// check reports what an expression names that no program exports, and gives the
// labels of its series.
func check(t testing.TB, exported map[string][]string, expression string) []string {
	t.Helper()
	parsed, err := parser.ParseExpr(expression)
	if err != nil {
		t.Errorf("%s: %v", expression, err)
		return nil
	}
	if parsed.Type() != parser.ValueTypeVector {
		t.Errorf("%s: it is a %s", expression, parsed.Type())
	}
	return labelsOf(t, exported, parsed)
}

// fill reports what a text of an alert names that its expression does not have.
func fill(t testing.TB, labels []string, text string) {
	t.Helper()
	seconds := func(float64) string { return "" } // those of Prometheus's functions that are used
	filled, err := template.New("").Option("missingkey=error").Funcs(template.FuncMap{"humanizeDuration": seconds}).
		Parse("{{$labels := .Labels}}{{$value := .Value}}" + text)
	if err == nil {
		values := map[string]string{}
		for _, label := range labels {
			values[label] = label
		}
		err = filled.Execute(io.Discard, map[string]any{"Labels": values, "Value": 1.0})
	}
	if err != nil {
		t.Errorf("%q: %v", text, err)
	}
}

// legendLabel is a label in Grafana's name of a series.
var legendLabel = regexp.MustCompile(`\{\{\s*([^}]*?)\s*\}\}`)

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
		labels := check(t, metrics, rule.Expr)
		fill(t, labels, rule.Annotations["summary"])
		fill(t, labels, rule.Annotations["description"])
		if _, err := model.ParseDuration(rule.For); err != nil && rule.For != "" {
			t.Errorf("%s: for: %v", rule.Alert, err)
		}
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
			labels := check(t, metrics, target.Expr)
			for _, used := range legendLabel.FindAllStringSubmatch(target.LegendFormat, -1) {
				if !slices.Contains(labels, used[1]) {
					t.Errorf("%s: %s has no label %q", panel.Title, target.Expr, used[1])
				}
			}
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
		`ksefmirror_lag_seconds > 5`, `ksefmirror_level{role="buyer"} > 1`, `sum by (role) (ksefmirror_level)`, `1 > bool 0`,
		`ksefmirror_level >`, `rate(ksefmirror_requests_total)`, `ksefmirror_level > on (role) ksefmirror_invoices`,
		`ksefmirror_role_invoices / ksefmirror_invoices`, `sum by (mirror) (ksefmirror_role_invoices{group="x"})`,
	} {
		found := &counter{TB: t}
		check(found, metrics, wrong)
		if found.errors == 0 {
			t.Errorf("%s passes", wrong)
		}
	}
	for _, wrong := range []string{"{{ $labels.role }}", "{{ $value | humanizeSize }}", "{{ $labels.mirror", "{{ $lables.mirror }}"} {
		found := &counter{TB: t}
		fill(found, check(t, metrics, `sum by (mirror) (ksefmirror_role_invoices) > 0`), wrong)
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
		t.Log("without promtool: parsed and compared with what is exported, not tried")
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
