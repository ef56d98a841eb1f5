package caddysse

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/deliverytest"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

var (
	differentialTime = flag.Duration("differential.time", 30*time.Second, "how long TestDifferential begins new scenarios")
	differentialFrom = flag.Uint64("differential.from", 1, "seed of the first scenario of TestDifferential; 0: a new one, as the weekly run has")
	differentialSeed = flag.Uint64("differential.seed", 0, "seed of the one scenario of TestDifferential to run; 0: those from -differential.from")
	differentialOnly = flag.Int("differential.only", -1, "the one application of the scenario to run; -1: all")
	differentialDir  = flag.String("differential.trace", "", "a folder in which TestDifferential writes Caddy's log, and all that happened to an application whose clients it fails for")
)

const (
	// diffApps is how many applications a scenario has, each with a path of its own.
	diffApps = 4

	// diffSteps is how many random things happen to each.
	diffSteps = 120

	// diffClients is how many clients each has at most.
	diffClients = 6

	// diffTimeout bounds how long a scenario may take to come to rest: an
	// upstream that was away is tried again after half a minute at the latest.
	diffTimeout = 4 * testTimeout
)

// TestDifferential compares what clients were given through the gateway with what
// applications sent to it.
//
// Applications of all kinds send blocks of all shapes, cut anywhere, over
// connections that break, end, and are refused. Clients of HTTP/1.1 and HTTP/2
// leave, come back with their last event ID, and stop reading; Caddy is reloaded.
// When all has come to rest each client must have been given each event once and in
// order, byte for byte but for what is to change (line ends, ids of the gateway) —
// or it was told that some are missing.
//
// -differential.time says how long; an hour by hand is
//
//	go test -race -run '^TestDifferential$' -timeout 2h -differential.time 1h -differential.from 0 .
//
// A scenario is repeated by its seed as far as what happens is random, and not as
// far as goroutines race: repeat it a few times, with -differential.trace.
func TestDifferential(t *testing.T) {
	if dir := *differentialDir; dir != "" {
		old := testGlobals
		testGlobals = strings.Replace(old, "output discard", "level DEBUG\noutput file "+filepath.Join(dir, "caddy.log"), 1)
		defer func() { testGlobals = old }()
	}
	if seed := *differentialSeed; seed != 0 {
		testScenario(t, seed)
		return
	}
	var total diffCounts
	seed := *differentialFrom
	if seed == 0 {
		seed = rand.Uint64()>>1 | 1
	}
	for began := time.Now(); total.Scenarios == 0 || time.Since(began) < *differentialTime; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			total.add(testScenario(t, seed))
		})
		total.Scenarios++
	}
	t.Logf("%+v", total)
}

// diffCounts shows that what is to be tested was tested.
type diffCounts struct {
	Scenarios, Blocks, Events, Clients, Responses, Received, Connections, Ends, Reloads, Gaps, Lost, Repeats int
}

func (n *diffCounts) add(m diffCounts) {
	n.Blocks += m.Blocks
	n.Events += m.Events
	n.Clients += m.Clients
	n.Responses += m.Responses
	n.Received += m.Received
	n.Connections += m.Connections
	n.Ends += m.Ends
	n.Reloads += m.Reloads
	n.Gaps += m.Gaps
	n.Lost += m.Lost
	n.Repeats += m.Repeats
}

// differential is a scenario: a gateway, and applications with their clients.
type differential struct {
	t           *testing.T
	ctx         context.Context
	g           *gateway
	certificate certificate
	h2          *http.Client
	handshakes  sync.RWMutex // there are none while Caddy is reloaded: those of Caddy 2.11.9 race with that
	apps        []*diffApp
	running     sync.WaitGroup
	counts      diffCounts
}

// diffApp is an application of a scenario, the options of the handler before it,
// and its clients.
type diffApp struct {
	*app
	scenario  *differential
	rnd       *rand.Rand // of what happens
	path      string
	options   string
	keeps     bool      // no block is evicted
	addresses [2]string // one after a reload, the other after the next
	trace     *trace
	clients   []*diffClient
	ends      int
}

// testScenario runs one scenario, and compares.
func testScenario(t *testing.T, seed uint64) diffCounts {
	t.Helper()
	rnd := newRand(seed)
	ctx, cancel := context.WithCancel(t.Context())
	s := &differential{t: t, ctx: ctx}
	for i := range diffApps {
		d := newDiffApp(s, fmt.Sprintf("/%d", i), rnd.Uint64())
		if only := *differentialOnly; only < 0 || only == i {
			s.apps = append(s.apps, d)
		}
	}
	s.start()
	t.Cleanup(s.running.Wait) // before the gateway is stopped
	t.Cleanup(cancel)
	s.act(rnd)
	s.rest()
	for _, d := range s.apps {
		s.compare(d)
	}
	if t.Failed() {
		t.Logf("repeat with -run '^TestDifferential$' -differential.seed %d", seed)
	}
	return s.counts
}

// newDiffApp makes an application, and the options of the handler before it.
func newDiffApp(s *differential, path string, seed uint64) *diffApp {
	rnd := newRand(seed ^ 1)
	d := &diffApp{scenario: s, rnd: rnd, path: path, trace: &trace{start: time.Now()}}
	d.app = newApp(seed, d.trace)
	options := []string{"gap_event " + diffGapType, "linger 1h"}
	add := func(option string) {
		if option != "" {
			options = append(options, option)
		}
	}
	d.ids = pick(rnd, stream.IDsAuto, stream.IDsAuto, stream.IDsAuto, stream.IDsGateway, stream.IDsUpstream)
	add(map[stream.IDsMode]string{stream.IDsGateway: "ids gateway", stream.IDsUpstream: "ids upstream"}[d.ids])
	add(pick(rnd, "", "", "", "share public", "share public", "share public", "share off"))
	add(pick(rnd, "", "", "", "", "join live", "join replay 5"))
	buffer := pick(rnd, "buffer 1000000 1GiB 1h", "buffer 1000000 1GiB 1h", "", "buffer 16 64KiB")
	d.keeps = strings.Contains(buffer, "1h")
	add(buffer)
	add(pick(rnd, "", "lag skip"))
	add(pick(rnd, "", "", "reconnect always"))
	add(pick(rnd, "", "", "prime off"))
	add(pick(rnd, "", "heartbeat 50ms"))
	add(pick(rnd, "", "", "", "max_age 1s"))
	if deliverytest.Of(s.t) == "" {
		add(pick(rnd, "", "delivery handler"))
	}
	d.options = strings.Join(options, "\n")
	return d
}

func (d *diffApp) String() string {
	return fmt.Sprintf("%s: %v, resumes %v, greets %v, few %v\n%s", d.path, d.style, d.resumes, d.greets, d.few, d.options)
}

// start starts the applications, the gateway, and a client of each application.
func (s *differential) start() {
	for _, d := range s.apps {
		for i := range d.addresses {
			server := httptest.NewServer(d.app)
			s.t.Cleanup(func() {
				server.CloseClientConnections()
				server.Close()
			})
			d.addresses[i] = server.Listener.Addr().String()
		}
	}
	s.certificate = newCertificate(s.t, "differential")
	s.g = startGateway(s.t, s.caddyfile())
	s.h2 = s.tlsClient("h2")
	for _, d := range s.apps {
		d.join()
	}
}

// tlsClient makes a client of a protocol over TLS.
func (s *differential) tlsClient(protocol string) *http.Client {
	client := tlsClient(s.t, s.g.socket+"tls", s.certificate, func(config *tls.Config) { config.NextProtos = []string{protocol} })
	transport := client.Transport.(schemeSetter).Transport
	transport.DialTLSContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		s.handshakes.RLock()
		defer s.handshakes.RUnlock()
		conn, err := transport.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		over := tls.Client(conn, transport.TLSClientConfig)
		if err := over.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return nil, err
		}
		return over, nil
	}
	return client
}

// caddyfile serves all applications over HTTP/1.1, and over HTTP/2 with TLS.
func (s *differential) caddyfile() string {
	var routes strings.Builder
	for _, d := range s.apps {
		fmt.Fprintf(&routes, "handle %s {\nsse {\nname %s\n%s\n}\nreverse_proxy %s\n}\n", d.path, d.path, d.options, d.addresses[s.counts.Reloads%len(d.addresses)])
	}
	return fmt.Sprintf("(apps) {\n%s}\nhttp:// {\nbind {socket}\nimport apps\n}\nhttps://gateway.test {\nbind {socket}tls\ntls %s %s\nimport apps\n}\n",
		routes.String(), s.certificate.cert, s.certificate.key)
}

// act lets random things happen to all applications at a time, and reloads Caddy
// meanwhile.
func (s *differential) act(rnd *rand.Rand) {
	var acting sync.WaitGroup
	done := make(chan struct{})
	for _, d := range s.apps {
		acting.Go(func() {
			for range diffSteps {
				d.step()
				d.pace()
			}
		})
	}
	go func() {
		acting.Wait()
		close(done)
	}()
	for range rnd.IntN(4) {
		select {
		case <-done:
		case <-time.After(time.Duration(rnd.IntN(1500)) * time.Millisecond):
			s.reload()
		}
	}
	<-done
}

// reload loads the configuration again, which leads to other addresses.
func (s *differential) reload() {
	for _, d := range s.apps {
		d.trace.add("reload")
	}
	s.counts.Reloads++
	s.handshakes.Lock()
	s.g.load(s.caddyfile())
	s.handshakes.Unlock()
	for _, d := range s.apps {
		d.trace.add("reloaded")
	}
}

// pace lets some time pass, sometimes enough that a connection counts as quiet.
func (d *diffApp) pace() {
	pause := d.rnd.IntN(20)
	switch d.rnd.IntN(60) {
	case 0:
		pause = d.rnd.IntN(2500)
	case 1, 2:
		pause = d.rnd.IntN(300)
	}
	time.Sleep(time.Duration(pause) * time.Millisecond) // nothing depends on how long
}

// step lets something happen.
func (d *diffApp) step() {
	switch n := d.rnd.IntN(100); {
	case n < 50:
		d.emit(1 + d.rnd.IntN(1+d.rnd.IntN(8)))
	case n < 55:
		d.emit(d.rnd.IntN(60))
	case n < 58:
		d.comment()
	case n < 66:
		d.join()
	case n < 80:
		d.client().drop(d.rnd.IntN(2) == 0)
	case n < 90:
		d.client().wakeUp()
	case n < 94:
		d.client().stall()
	case n < 98:
		d.fail()
	default:
		d.setDown(false)
	}
}

// fail lets upstream connections end or break, or the application go away.
func (d *diffApp) fail() {
	if !d.breaks() {
		return
	}
	d.ends += d.finish(pick(d.rnd, "broken", "broken", "clean"), d.rnd.IntN(2) == 0)
	if d.rnd.IntN(4) == 0 {
		d.setDown(true)
	}
}

// client returns one of the clients.
func (d *diffApp) client() *diffClient { return pick(d.rnd, d.clients...) }

// join adds a client, unless there are enough.
func (d *diffApp) join() {
	if len(d.clients) == diffClients {
		return
	}
	s := d.scenario
	c := &diffClient{
		number: len(d.clients), app: d.app, target: d.path, trace: d.trace, newest: -1,
		query: d.rnd.IntN(4) == 0, http: s.h2, rnd: newRand(d.rnd.Uint64()),
	}
	switch d.rnd.IntN(4) {
	case 0, 1:
		c.http = unixClient(s.g.socket)
		s.t.Cleanup(c.http.CloseIdleConnections)
	case 2:
		c.http = s.tlsClient("http/1.1")
	}
	d.clients = append(d.clients, c)
	s.running.Go(func() { c.run(s.ctx) })
}

// rest lets all clients come back, and sends events until each has the newest one.
func (s *differential) rest() {
	for _, d := range s.apps {
		d.setCalm()
		for _, c := range d.clients {
			c.wakeUp()
		}
	}
	var resting sync.WaitGroup
	for _, d := range s.apps {
		resting.Go(d.rest)
	}
	resting.Wait()
}

// rest sends events until each client has the newest one.
func (d *diffApp) rest() {
	for deadline := time.Now().Add(diffTimeout); !d.atRest() || d.mayBeTold(); {
		if time.Now().After(deadline) {
			d.scenario.t.Errorf("%s\ndoes not come to rest", d)
			return
		}
		d.emit(1)
		for until := time.Now().Add(time.Second / 2); !d.atRest() && time.Now().Before(until); {
			time.Sleep(time.Millisecond) // polls
		}
	}
}

// atRest reports whether each client has the newest event.
func (d *diffApp) atRest() bool {
	_, events := d.sent()
	if events == 0 {
		return false
	}
	for _, c := range d.clients {
		if !c.hasNewest() {
			return false
		}
	}
	return true
}

// mayBeTold reports whether a client may still be told a gap.
func (d *diffApp) mayBeTold() bool {
	return slices.ContainsFunc(d.clients, func(c *diffClient) bool {
		_, err := c.compare()
		return errors.Is(err, errNotTold)
	})
}

// compare compares what the clients of an application saw with what it sent.
func (s *differential) compare(d *diffApp) {
	blocks, events := d.sent()
	s.counts.Blocks += blocks
	s.counts.Events += events
	s.counts.Clients += len(d.clients)
	s.counts.Ends += d.ends
	failed := false
	for _, c := range d.clients {
		k, err := c.compare()
		s.counts.Responses += k.responses
		s.counts.Received += k.received
		s.counts.Gaps += k.gaps
		s.counts.Lost += k.lost
		s.counts.Repeats += k.repeats
		if err == nil && k.gaps > 0 && !d.mayLose() {
			err = fmt.Errorf("client %d was told %d gaps, where nothing can be lost", c.number, k.gaps)
		}
		if err != nil {
			failed = true
			s.t.Errorf("%v\n%s", err, d)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s.counts.Connections += d.opened
	for _, fault := range d.faults {
		s.t.Error(fault)
	}
	if dir := *differentialDir; failed && dir != "" {
		d.trace.mu.Lock()
		defer d.trace.mu.Unlock()
		name := filepath.Join(dir, strings.ReplaceAll(s.t.Name()+d.path, "/", "-")+".txt")
		if err := os.WriteFile(name, []byte(strings.Join(d.trace.lines, "\n")), 0o600); err != nil {
			s.t.Error(err)
		}
	}
}

// mayLose reports whether clients may be told gaps.
func (d *diffApp) mayLose() bool {
	// A client that comes back before its stream is proven goes on with a connection
	// of its own: what that does not resume is lost.
	earned := !strings.Contains(d.String(), "share public") && !strings.Contains(d.String(), "join ")
	return !d.keeps || d.ends > 0 || d.scenario.counts.Reloads > 0 || (earned && !d.resumes)
}
