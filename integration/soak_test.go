package integration

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"

	"github.com/caddy-sse/caddy-sse/eventstream"
)

var (
	soakTime    = flag.Duration("soak", 5*time.Second, "how long TestSoak goes on")
	soakClients = flag.Int("soak.clients", 60, "how many clients TestSoak has")
	soakHTTP2   = flag.Bool("soak.http2", false, "whether all clients of TestSoak speak HTTP/2, and download files over the connections of their events")
	soakPlot    = flag.String("soak.plot", "", "a PNG file in which TestSoak shows memory, goroutines and files")
)

const (
	// soakPerConnection is how many clients share a connection of HTTP/2. The others have
	// connections of HTTP/1.1 of their own, over TLS too.
	soakPerConnection = 10

	// soakInterval is the time between two events.
	soakInterval = 500 * time.Millisecond

	// soakWindow is how much of a response the gateway may send over HTTP/2 before the
	// client reads it: less than who stops reading for long is sent meanwhile.
	soakWindow = 8 << 10

	// soakUnit is how often something happens: a client stays for 5 to 60 of them.
	soakUnit = time.Second
)

// TestSoak has clients come, go, and stop reading for a while, as their upstream
// connection is cut, their application killed, and Caddy reloaded. Nothing may be
// missing or doubled, nothing be left when all have gone, and what the gateway needs
// may not grow with time. An hour with 2,000 clients, without the race detector:
//
//	go test -run '^TestSoak$' -timeout 2h . -soak 1h -soak.clients 2000 -soak.plot soak.png
//
// With -soak.http2 all clients speak HTTP/2, and download files beside their events.
func TestSoak(t *testing.T) {
	t.Parallel()
	const options = "share public\nheartbeat %s\nwrite_timeout 3s\nlinger 1s\ngap_event lost\nbuffer 4096\ndrain 500ms"
	began := time.Now()
	ticker := func(address string) *upstream {
		return startTicker(t, "-address", address, "-ids", "all", "-history", "-size", "600", "-since", strconv.FormatInt(began.UnixNano(), 10),
			"-interval", soakInterval.String())
	}
	application := ticker("127.0.0.2:0") // not what clients dial from: they cannot take its port while it restarts
	between := startForwarder(t, application.address)
	files, hash := largeFile(t, 1<<20)
	directives := func(heartbeat time.Duration) string {
		return files + "handle /events {\nsse {\n" + fmt.Sprintf(options, heartbeat) + "\n}\nreverse_proxy " + between.listener.Addr().String() + "\n}\n"
	}
	program := gatewayPath
	if *soakTime > time.Minute {
		program = plainPath // the race detector's own memory grows with time
	}
	g := gatewaySetup{program: program, globals: takingOver, directives: unlogged + directives(time.Second), tls: true}.start(t)
	g.expectHint("linger", "streams are to come and go")
	base := g.usage()

	s := &soak{url: g.url("/events"), file: g.url("/large"), hash: hash, stuck: make(chan struct{}, *soakClients/20+1)}
	ctx, end := context.WithCancel(t.Context())
	defer end()
	for i := range *soakClients {
		s.start(ctx, i)
	}
	var usages []usage
	kills := 0
	for round := 0; time.Since(began) < *soakTime || round < 5; round++ {
		time.Sleep(soakUnit) // is the pace of what happens
		switch round % 10 {
		case 1:
			between.cut()
		case 4:
			application.crash()
			kills++
			application = ticker(application.address)
		case 3:
			g.reload(unlogged + directives(time.Second+time.Duration(round)*time.Millisecond))
		}
		u := g.usage()
		u.at = time.Since(began)
		usages = append(usages, u)
	}
	s.calm.Store(true)
	last := int64(time.Since(began)/soakInterval) + 2
	s.awaitAll(t, last)
	end()
	s.running.Wait()
	t.Logf("%d clients, %d responses, %d events, %d downloads; %d connections to the application were cut; it was killed %d times; %d reloads",
		*soakClients, s.responses.Load(), s.events.Load(), s.downloads.Load(), between.connections(), kills, g.loads-1)
	s.judge(t)
	g.awaitUsage(t, base)
	if *soakPlot != "" {
		plotUsages(t, *soakPlot, usages)
	}
	assertFlat(t, usages)
}

// soak is the clients of TestSoak.
type soak struct {
	url     string
	file    string // and its hash
	hash    string
	calm    atomic.Bool // who is there stays, and reads
	stuck   chan struct{}
	running sync.WaitGroup

	newest                                             []*atomic.Int64
	responses, events, missing, doubled, gaps, refused atomic.Int64
	downloads, broken                                  atomic.Int64

	shared *http.Transport // for the next clients
	places int             // that are left on it
}

// start lets a client come, and come back until ctx is done.
func (s *soak) start(ctx context.Context, i int) {
	newest := new(atomic.Int64)
	s.newest = append(s.newest, newest)
	transport := s.shared
	switch {
	case i%2 == 0 && !*soakHTTP2:
		transport = soakTransport("http/1.1")
	case s.places == 0:
		s.shared, s.places = soakTransport("h2"), soakPerConnection
		transport = s.shared
		fallthrough
	default:
		s.places--
	}
	s.running.Go(func() {
		defer transport.CloseIdleConnections()
		for ctx.Err() == nil {
			s.visit(ctx, transport, newest)
		}
	})
}

func soakTransport(protocol string) *http.Transport {
	transport := slowTransport()
	transport.ForceAttemptHTTP2 = protocol == "h2"
	transport.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: soakWindow}
	if protocol != "h2" {
		transport.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	}
	return transport
}

// visit is one response of a client.
func (s *soak) visit(ctx context.Context, transport *http.Transport, newest *atomic.Int64) {
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	if !s.calm.Load() {
		stay := time.AfterFunc(time.Duration(5+rand.IntN(55))*soakUnit, leave)
		defer stay.Stop()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, http.NoBody)
	if err != nil {
		panic(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	if n := newest.Load(); n > 0 {
		req.Header.Set("Last-Event-ID", strconv.FormatInt(n, 10))
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	s.responses.Add(1)
	if resp.StatusCode != http.StatusOK {
		s.refused.Add(1)
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
		fmt.Fprintf(os.Stderr, "%v a client is refused: %s, SSE-Resume %q, %q\n", time.Now().Format(time.TimeOnly), resp.Status, resp.Header.Get("SSE-Resume"), text)
		return
	}
	for m, err := range eventstream.NewReader(resp.Body).Messages() {
		if err != nil {
			return
		}
		s.take(newest, m)
		s.maybeDownload(transport)
		s.maybeStop(ctx)
	}
}

// maybeDownload downloads a file, now and then, over HTTP/2: beside the events of all that
// share the connection. It is not broken off when the client leaves.
func (s *soak) maybeDownload(transport *http.Transport) {
	if !*soakHTTP2 || s.calm.Load() || rand.IntN(100) > 0 {
		return
	}
	s.running.Go(func() {
		resp, err := (&http.Client{Transport: transport}).Get(s.file)
		if err == nil {
			defer resp.Body.Close()
			sum := sha256.New()
			if _, err = io.Copy(sum, resp.Body); err == nil && hex.EncodeToString(sum.Sum(nil)) != s.hash {
				err = errors.New("it is not the file")
			}
		}
		s.downloads.Add(1)
		if err != nil {
			s.broken.Add(1)
			fmt.Fprintln(os.Stderr, "a download:", err)
		}
	})
}

// take judges a message.
func (s *soak) take(newest *atomic.Int64, m eventstream.Message) {
	if m.Type == "lost" {
		if newest.Load() > 0 { // who has had no event has no ID to go on after, when its first connection is cut
			s.gaps.Add(1)
		}
		return
	}
	first, _, _ := strings.Cut(m.Data, "\n")
	number, err := strconv.ParseInt(first, 10, 64)
	if err != nil {
		panic(fmt.Sprintf("%q is no event of the application", m.Data))
	}
	s.events.Add(1)
	switch before := newest.Swap(number); {
	case before == 0 || number == before+1:
	case number <= before:
		s.doubled.Add(1)
	default:
		s.missing.Add(number - before - 1)
	}
}

// maybeStop lets a client stop reading for a while, now and then, but only a few at once.
func (s *soak) maybeStop(ctx context.Context) {
	if s.calm.Load() || rand.IntN(200) > 0 {
		return
	}
	select {
	case s.stuck <- struct{}{}:
		defer func() { <-s.stuck }()
		select {
		case <-time.After(time.Duration(rand.IntN(20)) * soakUnit):
		case <-ctx.Done():
		}
	default:
	}
}

// judge tells what must not be.
func (s *soak) judge(t *testing.T) {
	t.Helper()
	for what, n := range map[string]*atomic.Int64{"missing": &s.missing, "doubled": &s.doubled, "told as lost": &s.gaps, "refused": &s.refused, "broken downloads": &s.broken} {
		if n := n.Load(); n > 0 {
			t.Errorf("%d were %s", n, what)
		}
	}
}

// awaitAll waits until all clients have an event.
func (s *soak) awaitAll(t *testing.T, number int64) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		behind := slices.IndexFunc(s.newest, func(n *atomic.Int64) bool { return n.Load() < number })
		if behind < 0 {
			return
		}
		if time.Since(began) > 2*testTimeout {
			t.Fatalf("client %d has event %d, expected %d", behind, s.newest[behind].Load(), number)
		}
	}
}

// usage is what a gateway needs.
type usage struct {
	at                time.Duration // since the test began, where that is told
	memory            int64
	goroutines, files int
}

func (g *gateway) usage() usage {
	g.t.Helper()
	u := usage{memory: g.memory()}
	files, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(g.cmd.Process.Pid), "fd"))
	if err != nil {
		g.t.Fatal(err)
	}
	u.files = len(files)
	_, text := g.ask(http.MethodGet, "/metrics", "")
	_, rest, _ := strings.Cut(text, "\ngo_goroutines ")
	line, _, _ := strings.Cut(rest, "\n")
	if u.goroutines, err = strconv.Atoi(line); err != nil {
		g.t.Fatal(err)
	}
	return u
}

// awaitUsage waits until no more is there than before but for a few.
func (g *gateway) awaitUsage(t *testing.T, base usage) {
	t.Helper()
	const few = 10 // of reloads, of the connection that asks
	var now usage
	for began := time.Now(); time.Since(began) < testTimeout; time.Sleep(100 * time.Millisecond) {
		if now = g.usage(); now.goroutines <= base.goroutines+few && now.files <= base.files+few {
			return
		}
	}
	t.Errorf("left are %d goroutines and %d files, %d and %d before", now.goroutines, now.files, base.goroutines, base.files)
}

// assertFlat compares the second quarter of the time with the last.
func assertFlat(t *testing.T, usages []usage) {
	t.Helper()
	median := func(of []usage, value func(usage) int) int {
		values := make([]int, len(of))
		for i, u := range of {
			values[i] = value(u)
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	quarter := len(usages) / 4
	for what, value := range map[string]func(usage) int{
		"KiB":        func(u usage) int { return int(u.memory >> 10) },
		"goroutines": func(u usage) int { return u.goroutines },
		"files":      func(u usage) int { return u.files },
	} {
		early, late := median(usages[quarter:2*quarter+1], value), median(usages[3*quarter:], value)
		t.Logf("%d %s in the second quarter, %d in the last", early, what, late)
		if quarter > 60 && late > early+early/10 {
			t.Errorf("%d %s in the second quarter, and %d in the last", early, what, late)
		}
	}
}

// plotUsages draws what the gateway needed.
func plotUsages(t *testing.T, file string, usages []usage) {
	t.Helper()
	p := plot.New()
	p.Title.Text = fmt.Sprintf("%d clients: cuts, kills, reloads, clients that stop reading", *soakClients)
	p.X.Label.Text = "minutes"
	p.Y.Min = 0
	for i, line := range []struct {
		name  string
		value func(usage) float64
	}{
		{"memory, MiB", func(u usage) float64 { return float64(u.memory) / (1 << 20) }},
		{"goroutines / 10", func(u usage) float64 { return float64(u.goroutines) / 10 }},
		{"files / 10", func(u usage) float64 { return float64(u.files) / 10 }},
	} {
		points := make(plotter.XYs, len(usages))
		for k, u := range usages {
			points[k] = plotter.XY{X: u.at.Minutes(), Y: line.value(u)}
		}
		l, err := plotter.NewLine(points)
		if err != nil {
			t.Fatal(err)
		}
		l.Color = plotutil.Color(i)
		p.Add(l)
		p.Legend.Add(line.name, l)
	}
	if err := p.Save(20*vg.Centimeter, 12*vg.Centimeter, file); err != nil {
		t.Error(err)
	}
}
