package caddysse

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// grafanaDashboard is what the test looks at of docs/operate/grafana.json.
type grafanaDashboard struct {
	Title         string `json:"title"`
	UID           string `json:"uid"`
	ID            *int   `json:"id"`
	SchemaVersion int    `json:"schemaVersion"`
	Templating    struct {
		List []struct {
			Name       string        `json:"name"`
			Type       string        `json:"type"`
			Definition string        `json:"definition"`
			Query      any           `json:"query"`
			Datasource grafanaSource `json:"datasource"`
		} `json:"list"`
	} `json:"templating"`
	Panels []grafanaPanel `json:"panels"`
}

type grafanaSource struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

type grafanaPanel struct {
	ID          int           `json:"id"`
	Type        string        `json:"type"`
	Title       string        `json:"title"`
	Description string        `json:"description"`
	Datasource  grafanaSource `json:"datasource"`
	GridPos     struct {
		X, Y, W, H int
	} `json:"gridPos"`
	Targets []struct {
		Datasource   grafanaSource `json:"datasource"`
		RefID        string        `json:"refId"`
		Expr         string        `json:"expr"`
		LegendFormat string        `json:"legendFormat"`
	} `json:"targets"`
}

// describedMetrics are the labels of all metrics, by name; of a histogram, of
// each of its series.
func describedMetrics(t *testing.T) map[string][]string {
	t.Helper()
	descriptions := make(chan *prometheus.Desc, 100)
	theMetrics.Describe(descriptions)
	close(descriptions)
	histograms := make(map[*prometheus.Desc]bool)
	for _, c := range theMetrics.all {
		if h, ok := c.(histogram); ok {
			histograms[h.desc] = true
		}
	}
	all := make(map[string][]string)
	format := regexp.MustCompile(`fqName: "([^"]+)".*constLabels: \{([^}]*)\}, variableLabels: \{([^}]*)\}`)
	for d := range descriptions {
		found := format.FindStringSubmatch(d.String())
		if found == nil {
			t.Fatalf("no name in %s", d)
		}
		var labels []string
		for _, constant := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(found[2], -1) {
			labels = append(labels, constant[1])
		}
		if found[3] != "" {
			labels = append(labels, strings.Split(found[3], ",")...)
		}
		if histograms[d] {
			all[found[1]+"_bucket"] = append(slices.Clone(labels), "le")
			all[found[1]+"_sum"], all[found[1]+"_count"] = labels, labels
			continue
		}
		all[found[1]] = labels
	}
	return all
}

var (
	seriesInExpr   = regexp.MustCompile(`(` + metricsNamespace + `\w+)(?:\{([^}]*)\})?`)
	matcherInExpr  = regexp.MustCompile(`(\w+)(?:=~|!~|!=|=)"([^"]*)"`)
	groupingInExpr = regexp.MustCompile(`(?:by|without) \(([^)]*)\)`)
	labelInLegend  = regexp.MustCompile(`\{\{(\w+)\}\}`)
)

// targetLabels are those that Prometheus gives to all series of a process.
var targetLabels = []string{"job", "instance"}

// checkExpr checks the names in an expression, and returns the metrics.
func checkExpr(expr, legend string, described map[string][]string, docs string) (shown []string, err error) {
	if strings.Count(expr, "(") != strings.Count(expr, ")") {
		return nil, fmt.Errorf("parentheses in %s", expr)
	}
	known := slices.Clone(targetLabels)
	for _, series := range seriesInExpr.FindAllStringSubmatch(expr, -1) {
		labels, ok := described[series[1]]
		if !ok {
			return nil, fmt.Errorf("no metric %s", series[1])
		}
		shown = append(shown, series[1])
		known = append(known, labels...)
		for _, matcher := range matcherInExpr.FindAllStringSubmatch(series[2], -1) {
			if !slices.Contains(labels, matcher[1]) && !slices.Contains(targetLabels, matcher[1]) {
				return nil, fmt.Errorf("%s has no label %s", series[1], matcher[1])
			}
			for value := range strings.SplitSeq(matcher[2], "|") {
				if !strings.HasPrefix(value, "$") && !strings.Contains(docs, "`"+value+"`") {
					return nil, fmt.Errorf("%s has no %s %s", series[1], matcher[1], value)
				}
			}
		}
	}
	var kept []string
	for _, grouping := range groupingInExpr.FindAllStringSubmatch(expr, -1) {
		for label := range strings.SplitSeq(grouping[1], ", ") {
			if !slices.Contains(known, label) {
				return nil, fmt.Errorf("no label %s in %s", label, expr)
			}
			kept = append(kept, label)
		}
	}
	for _, label := range labelInLegend.FindAllStringSubmatch(legend, -1) {
		if !slices.Contains(kept, label[1]) {
			return nil, fmt.Errorf("the legend's label %s is not kept in %s", label[1], expr)
		}
	}
	return shown, nil
}

// docs/operate/grafana.json can be imported, asks for nothing that there is not, and
// shows each metric.
func TestGrafanaDashboard(t *testing.T) {
	text, err := os.ReadFile("docs/operate/grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	docs, err := os.ReadFile("docs/reference/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	var d grafanaDashboard
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	if d.Title == "" || d.UID == "" || d.ID != nil || d.SchemaVersion < 36 {
		t.Errorf("title %q, uid %q, id %v (expected null), schema version %d", d.Title, d.UID, d.ID, d.SchemaVersion)
	}
	described := describedMetrics(t)
	const source = "${datasource}"
	variables := make(map[string]string)
	for _, v := range d.Templating.List {
		variables["$"+v.Name] = v.Type
		if v.Type != "query" {
			continue
		}
		if v.Datasource.UID != source {
			t.Errorf("variable %s: data source %q", v.Name, v.Datasource.UID)
		}
		if _, err := checkExpr(v.Definition, "", described, string(docs)); err != nil {
			t.Errorf("variable %s: %v", v.Name, err)
		}
	}
	if variables["$datasource"] != "datasource" {
		t.Error("no variable for the data source")
	}

	left := maps.Clone(described)
	ids := make(map[int]bool)
	cells := make(map[[2]int]string)
	variable := regexp.MustCompile(`\$\w+`)
	for _, p := range d.Panels {
		if p.Title == "" || p.ID <= 0 || ids[p.ID] || !slices.Contains([]string{"row", "stat", "timeseries"}, p.Type) {
			t.Errorf("panel %q: id %d, type %s", p.Title, p.ID, p.Type)
		}
		ids[p.ID] = true
		g := p.GridPos
		if g.X < 0 || g.Y < 0 || g.W <= 0 || g.H <= 0 || g.X+g.W > 24 {
			t.Errorf("panel %q is at %+v", p.Title, g)
		}
		for x := g.X; x < g.X+g.W; x++ {
			for y := g.Y; y < g.Y+g.H; y++ {
				if other, taken := cells[[2]int{x, y}]; taken {
					t.Fatalf("panels %q and %q overlap", p.Title, other)
				}
				cells[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Description == "" || p.Datasource.UID != source || len(p.Targets) == 0 {
			t.Errorf("panel %q: description %q, data source %q, %d targets", p.Title, p.Description, p.Datasource.UID, len(p.Targets))
		}
		refs := make(map[string]bool)
		for _, target := range p.Targets {
			if target.RefID == "" || refs[target.RefID] || target.Datasource.UID != source {
				t.Errorf("panel %q: target %q of %q", p.Title, target.RefID, target.Datasource.UID)
			}
			refs[target.RefID] = true
			for _, name := range variable.FindAllString(target.Expr, -1) {
				if _, ok := variables[name]; !ok && name != "$__rate_interval" {
					t.Errorf("panel %q: no variable %s", p.Title, name)
				}
			}
			shown, err := checkExpr(target.Expr, target.LegendFormat, described, string(docs))
			if err != nil {
				t.Errorf("panel %q: %v", p.Title, err)
			}
			for _, name := range shown {
				delete(left, name)
			}
		}
	}
	for name := range left {
		t.Errorf("%s is not shown", name)
	}
}

// docs/alerts.yml asks for nothing that there is not, and the page about alerts has each of its conditions.
func TestAlertsAreOfMetricsThatThereAre(t *testing.T) {
	read := func(name string) string {
		t.Helper()
		text, err := os.ReadFile(name) //nolint:gosec // G304: a constant
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	labels := read("docs/reference/metrics.md") + read("docs/reference/headers-placeholders.md")
	alerts, page, runbook := read("docs/alerts.yml"), read("docs/operate/metrics-alerts.md"), read("docs/operate/runbook.md")
	described := describedMetrics(t)
	rules := strings.Split(alerts, "      - alert: ")[1:]
	if len(rules) < 7 {
		t.Errorf("%d alerts", len(rules))
	}
	line := func(rule, key string) string {
		found := regexp.MustCompile(`(?m)^ +` + key + `: (.+)$`).FindStringSubmatch(rule)
		if found == nil {
			t.Errorf("no %s in %s", key, rule)
			return ""
		}
		return found[1]
	}
	for _, rule := range rules {
		expr := line(rule, "expr")
		shown, err := checkExpr(expr, "", described, labels)
		if err != nil || len(shown) == 0 {
			t.Errorf("%d metrics in %s: %v", len(shown), expr, err)
		}
		if !strings.Contains(page, "`"+strings.ReplaceAll(expr, "|", `\|`)+"`") {
			t.Errorf("docs/operate/metrics-alerts.md has no %s", expr)
		}
		if line(rule, "severity") == "" || line(rule, "summary") == "" {
			t.Errorf("incomplete: %s", rule)
		}
		if _, anchor, ok := strings.Cut(line(rule, "runbook"), "docs/operate/runbook.md#"); !ok || !anchors(runbook)[anchor] {
			t.Errorf("no part of the runbook: %s", rule)
		}
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)`").FindAllStringSubmatch(page, -1) {
		if !strings.Contains(alerts, "expr: "+strings.ReplaceAll(row[1], `\|`, "|")+"\n") {
			t.Errorf("docs/alerts.yml has no %s", row[1])
		}
	}
}

// What the test above would not let pass.
func TestGrafanaExpressions(t *testing.T) {
	described := map[string][]string{"caddy_sse_a_total": {"kind"}, "caddy_sse_b": nil}
	for _, test := range []struct{ expr, legend, want string }{
		{`sum by (kind) (rate(caddy_sse_a_total{kind="shared", job=~"$job"}[1m]))`, "{{kind}}", ""},
		{`caddy_sse_c`, "", "no metric caddy_sse_c"},
		{`caddy_sse_b{kind="shared"}`, "", "caddy_sse_b has no label kind"},
		{`caddy_sse_a_total{kind="other"}`, "", "caddy_sse_a_total has no kind other"},
		{`caddy_sse_a_total{kind=~"shared|other"}`, "", "caddy_sse_a_total has no kind other"},
		{`sum by (reason) (caddy_sse_a_total)`, "", "no label reason"},
		{`sum(caddy_sse_a_total)`, "{{kind}}", "legend's label kind is not kept"},
		{`sum(caddy_sse_a_total`, "", "parentheses"},
	} {
		_, err := checkExpr(test.expr, test.legend, described, "`shared`")
		if (err == nil) != (test.want == "") || (err != nil && !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, expected %q", test.expr, err, test.want)
		}
	}
}
