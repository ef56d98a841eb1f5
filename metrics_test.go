package caddysse

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/caddy-sse/caddy-sse/internal/delivery"
	"github.com/caddy-sse/caddy-sse/internal/deliverytest"
	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/stream"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// gathered are the values of all series, by name and labels; of histograms, the
// number of observations.
type gathered map[string]float64

func gather(t testing.TB) gathered {
	t.Helper()
	registry := prometheus.NewRegistry()
	for range 2 { // as two handlers of a configuration
		if err := theMetrics.register(registry); err != nil {
			t.Fatal(err)
		}
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := make(gathered)
	for _, family := range families {
		if family.GetName() == metricsNamespace+"by_handler_total" {
			continue // depends on the delivery that is tested; see TestSlowDeliveryIsTold
		}
		for _, m := range family.GetMetric() {
			var name strings.Builder
			name.WriteString(strings.TrimPrefix(family.GetName(), metricsNamespace))
			for _, label := range m.GetLabel() {
				name.WriteString(" " + label.GetName() + "=" + label.GetValue())
			}
			switch family.GetType() {
			case dto.MetricType_COUNTER:
				all[name.String()] = m.GetCounter().GetValue()
			case dto.MetricType_GAUGE:
				all[name.String()] = m.GetGauge().GetValue()
			case dto.MetricType_HISTOGRAM:
				all[name.String()] = float64(m.GetHistogram().GetSampleCount())
			default:
				t.Errorf("%s is of type %v", name.String(), family.GetType())
			}
		}
	}
	return all
}

// since returns what has been counted since before, and nothing that has not.
func (g gathered) since(before gathered) gathered {
	changed := make(gathered)
	for name, value := range g {
		if d := value - before[name]; d != 0 {
			changed[name] = d
		}
	}
	return changed
}

// expectMetrics waits for what has been counted to be this.
func expectMetrics(t *testing.T, before, want gathered) {
	t.Helper()
	var got gathered
	defer func() {
		if t.Failed() {
			t.Logf("counted %v\nexpected %v", got, want)
		}
	}()
	eventually(t, "the metrics say what happened", func() bool {
		got = gather(t).since(before)
		delete(got, "delivery_lag_seconds") // one for each write
		return maps.Equal(got, want)
	})
}

func TestMetrics(t *testing.T) {
	const clients, events = 5, 20
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("gap_event gap\nlinger 0s", u))
	before := gather(t)
	var all []*testClient
	for range clients {
		all = append(all, g.subscribe("/"))
	}
	up := u.accept()
	up.numbered(numbers(1, events)...)
	for _, c := range all {
		c.expect(numbers(1, events)...)
	}
	length := 0
	for _, n := range numbers(1, events) {
		length += len("id: " + n + "\ndata: " + n + "\n\n")
	}
	way, protocol := cmp.Or(deliverytest.Of(t), delivery.ByConnection), "1.1"
	if overHTTP2() {
		way, protocol = delivery.ByConnection, "2"
	}
	privateSubscribers := "subscribers delivery=handler protocol=" + protocol
	subscribers := "subscribers delivery=" + way + " protocol=" + protocol
	want := gathered{
		"streams kind=shared":             1,
		"upstream_connections state=open": 1,
		subscribers:                       clients,
		"blocks_total direction=in":       events,
		"blocks_total direction=out":      events * clients,
		"bytes_total direction=in":        float64(length),
		"bytes_total direction=out":       float64(length * clients),
		"replay_buffer_bytes":             float64(length + events*replay.BlockOverhead),
		"resumes_total outcome=live":      clients,
	}
	expectMetrics(t, before, want)
	eventually(t, "the lag is observed", func() bool {
		lag := gather(t).since(before)["delivery_lag_seconds"]
		return lag >= clients && lag <= clients*events
	})

	late := g.subscribe("/", "Last-Event-ID: 15")
	late.expect(numbers(16, events)...)
	stale := g.subscribe("/", "Last-Event-ID: sse1.0123456789abcdef0123456789abcdef.7")
	stale.next()
	stale.expect(numbers(1, events)...)
	post, err := g.client.Do(g.request(http.MethodPost, "/"))
	if err != nil {
		t.Fatal(err)
	}
	private := newTestClient(t, post)
	u.accept().numbered("1")
	private.expect("1")
	want[subscribers] += 2
	want["resumes_total outcome=replayed"]++
	want["resumes_total outcome=gap"]++
	want["private_streams_total reason=method"] = 1
	want["gaps_total reason=epoch"]++
	want["streams kind=private"]++
	want["answer_head_seconds"]++
	want["answer_first_event_seconds"]++
	want[privateSubscribers]++
	want["blocks_total direction=in"]++
	want["blocks_total direction=out"] += 5 + events + 1
	var got gathered
	eventually(t, "the blocks are counted, and with them the bytes", func() bool {
		got = gather(t).since(before)
		return got["blocks_total direction=out"] == want["blocks_total direction=out"]
	})
	got = gather(t).since(before)                                                            // a metric is not gathered at the same moment as the others
	for _, name := range []string{"bytes_total direction=in", "bytes_total direction=out"} { // heads of the gateway's own
		want[name] = got[name]
	}
	expectMetrics(t, before, want)

	for _, c := range slices.Concat(all, []*testClient{late, stale, private}) {
		c.close()
	}
	for _, name := range []string{
		"streams kind=shared", "streams kind=private", "upstream_connections state=open", "replay_buffer_bytes",
		subscribers, privateSubscribers,
	} {
		delete(want, name)
	}
	want["subscribers_ended_total reason=client"] = clients + 3
	want["answers_ended_total result=cancelled"] = 1
	want["upstream_connections_ended_total result=cancelled"] = 1
	expectMetrics(t, before, want)
}

// Blocks that came, for each subscriber, are blocks that were written to it and
// those that it is behind (issue 7).
func TestMetricsAddUp(t *testing.T) {
	const clients, events, size = 4, 60, 256 << 10 // more than the system's buffers hold
	u := startUpstream(t, nil)
	g, a := startAdmin(t, proxied("buffer 1024 64MiB\nwrite_timeout 1m\nheartbeat off", u))
	before := gather(t)
	dial := transport{name: "unix", dial: func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", g.socket)
	}}
	stuck := subscribeRaw(t, dial, "/")
	var quick []*testClient
	for range clients - 1 {
		quick = append(quick, g.subscribe("/"))
	}
	up := u.accept()
	for n := range events {
		up.event(numberedEvent(n, size))
		for _, c := range quick {
			if m := c.next(); m.Data != numberedEvent(n, size) {
				t.Fatalf("event %d: %.20q", n, m.Data)
			}
		}
	}
	id := a.list().Streams[0].ID
	addUp := func(behind int) func() bool {
		return func() bool {
			lag := uint64(0)
			late := 0
			for _, c := range a.detail(id).List {
				lag += c.Lag.Blocks
				if c.Lag.Blocks > 0 && c.Lag.Seconds > 0 {
					late++
				}
			}
			got := gather(t).since(before)
			in, out := got["blocks_total direction=in"], got["blocks_total direction=out"]
			t.Logf("%v in, %v out, %d behind, by %d clients", in, out, lag, late)
			return late == behind && in == events && in*clients == out+float64(lag)
		}
	}
	eventually(t, "it adds up while a client does not read", addUp(1))
	next, stop := stuck.events(t, size)
	defer stop()
	for n := range events {
		next(n)
	}
	eventually(t, "it adds up when all have read", addUp(0))
}

// The metrics go on over reloads, in the registry of each configuration.
func TestMetricsOverReloads(t *testing.T) {
	u := startUpstream(t, nil)
	config := func(n int) string {
		return site(fmt.Sprintf("metrics /metrics\nsse {\njoin live\nheartbeat %ds\n}\nreverse_proxy %s", 100+n, u.address))
	}
	g := startGateway(t, config(0))
	before := gather(t)
	a := g.subscribe("/")
	up := u.accept()
	up.numbered("0")
	a.expect("0")
	series := func() []string {
		var names []string
		for line := range strings.Lines(body(t, g.askOverReload(http.MethodGet, "/metrics"))) {
			if strings.HasPrefix(line, metricsNamespace) {
				name, _, _ := strings.Cut(line, " ")
				names = append(names, name)
			}
		}
		return names
	}
	var first []string
	for i := range 20 {
		up = g.reloadInto(config(i+1), u, up, a, strconv.Itoa(i+1))
		if i == 0 {
			first = series()
		}
	}
	if last := series(); len(first) == 0 || !slices.Equal(first, last) {
		t.Errorf("series after 1 reload:\n%s\nafter 20:\n%s", strings.Join(first, "\n"), strings.Join(last, "\n"))
	}
	eventually(t, "all is counted", func() bool {
		got := gather(t).since(before)
		return got["blocks_total direction=in"] == 21 && got["blocks_total direction=out"] == 21 &&
			got["upstream_connections_ended_total result=cancelled"] == 20
	})
	a.close()
}

// A counter is a family without its suffix in OpenMetrics, and no other metric has its name: strict parsers refuse that.
func TestMetricFamiliesHaveNamesOfTheirOwn(t *testing.T) {
	families := make(map[string]string)
	for name := range describedMetrics(t) {
		family := name
		for _, suffix := range []string{"_total", "_info", "_bucket", "_sum", "_count"} {
			family = strings.TrimSuffix(family, suffix)
		}
		if other, taken := families[family]; taken && !strings.HasSuffix(name, "_bucket") && !strings.HasSuffix(name, "_sum") && !strings.HasSuffix(name, "_count") {
			t.Errorf("%s and %s are one family", name, other)
		}
		families[family] = name
	}
}

// What runs and what it may use is told.
func TestBuildAndLimitAreMetrics(t *testing.T) {
	u := startUpstream(t, nil)
	startGateway(t, proxied("memory 64MiB", u))
	all := gather(t)
	if got := all["memory_limit_bytes"]; got != 64<<20 {
		t.Errorf("memory_limit_bytes is %v", got)
	}
	if name := "build_info goversion=" + runtime.Version() + " version=" + moduleVersion(); all[name] != 1 {
		t.Errorf("no %s: %v", name, all)
	}
}

// docs/reference/metrics.md names all metrics and their labels, and no others.
func TestMetricsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("docs/reference/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[string]bool)
	for line := range strings.Lines(string(text)) {
		if name, _, ok := strings.Cut(strings.TrimPrefix(line, "| `"), "`"); ok && strings.HasPrefix(name, metricsNamespace) {
			documented[name] = true
		}
	}
	descriptions := make(chan *prometheus.Desc, 100)
	theMetrics.Describe(descriptions)
	close(descriptions)
	for d := range descriptions {
		_, rest, _ := strings.Cut(d.String(), `fqName: "`)
		name, _, _ := strings.Cut(rest, `"`)
		if !documented[name] {
			t.Errorf("%s is not in docs/reference/metrics.md", name)
		}
		delete(documented, name)
	}
	for name := range documented {
		t.Errorf("docs/reference/metrics.md has %s, which there is not", name)
	}
	for _, label := range []string{
		upstreams.ResultClean, upstreams.ResultBroken, upstreams.ResultStalled, upstreams.ResultOversized, upstreams.ResultRefused, upstreams.ResultFailed, upstreams.ResultCancelled,
		stream.SpliceMerged, stream.SplicePrivate, stream.KindShared, stream.KindSplice, stream.KindPrivate, stream.KindDetached, stream.EvictedStream, stream.EvictedBlock, stream.StateOpening, stream.StateOpen, stream.StateWaiting,
	} {
		if !strings.Contains(string(text), "`"+label+"`") {
			t.Errorf("the label %s is not in docs/reference/metrics.md", label)
		}
	}
}

// A gap is counted when it is told, not if the answer is something else.
func TestGapsAreCountedWhenTold(t *testing.T) {
	u := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Type", "text/html") })
	g := startGateway(t, proxied("", u))
	before := gather(t)
	go func() { u.accept().end() }()
	resp := g.get("/", "Last-Event-ID: sse1.0123456789abcdef0123456789abcdef.7")
	if _, told := resp.Header["Sse-Resume"]; told || gather(t).since(before)["gaps_total reason=epoch"] != 0 {
		t.Errorf("told: %v; counted %v", told, gather(t).since(before))
	}
}

// What a client that does not read was not sent is not counted as sent.
func TestStuckClientsAreCountedRightly(t *testing.T) {
	const size, large = 64 << 10, 12 << 20
	u := startUpstream(t, nil)
	for _, tr := range startTransports(t, u, "buffer 16\nmax_event_size 16MiB\nwrite_timeout 1s\nlag disconnect\nprime off\nheartbeat off") {
		t.Run(tr.name, func(t *testing.T) {
			before := gather(t)
			stuck := subscribeRaw(t, tr, "/"+tr.name)
			up := u.accept()
			up.event(numberedEvent(1, size))
			readSome(t, stuck, size/2)
			awaitTakenOver(t, 1)
			up.event(numberedEvent(2, large)) // does not fit into the system's buffers
			var d gathered
			eventually(t, "the client is cut", func() bool {
				d = gather(t).since(before)
				return d["subscribers_ended_total reason=write"] == 1
			})
			if blocks, sent := d["blocks_total direction=out"], d["bytes_total direction=out"]; blocks != 1 || sent < size/2 || sent > large {
				t.Errorf("%v blocks and %v bytes counted", blocks, sent)
			}
		})
	}
}

// lagSum is the sum of the delivery lags of all blocks, in seconds.
func lagSum(t *testing.T) float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	if err := registry.Register(theMetrics.lag); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families[0].GetMetric()[0].GetHistogram().GetSampleSum()
}

// The delivery lag has the time that a block has waited for its client to read.
func TestLagOfSlowClient(t *testing.T) {
	const size, wait = 12 << 20, 300 * time.Millisecond
	u := startUpstream(t, nil)
	for _, tr := range startTransports(t, u, "max_event_size 16MiB\nwrite_timeout 1m\nprime off\nheartbeat off\nlinger 0s") {
		t.Run(tr.name, func(t *testing.T) {
			slow := subscribeRaw(t, tr, "/"+tr.name)
			up := u.accept()
			up.event("first")
			readSome(t, slow, 1)
			awaitTakenOver(t, 1)
			before := lagSum(t)
			up.event(numberedEvent(1, size)) // does not fit into the system's buffers
			eventually(t, "the block is complete", func() bool {
				every := stream.Process.Observed()
				seen, _ := every[0].Sample(time.Now())
				return len(every) == 1 && seen.Received == 2
			})
			time.Sleep(wait) // is part of the lag
			_ = slow.conn.SetReadDeadline(time.Time{})
			go func() { _, _ = io.Copy(io.Discard, slow.resp.Body) }()
			eventually(t, "the lag is observed", func() bool { return lagSum(t)-before >= wait.Seconds() })
			slow.close()
			awaitTakenOver(t, 0)
		})
	}
}
