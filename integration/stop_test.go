package integration

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	stopDrain   = 3 * time.Second
	stopOptions = "drain 3s\nbuffer 100000\ngap_event lost"
	// stopSlack is how long after the drain the process may be there, not counting the time in which it would have run
	// and others had the machine. It waits up to a second for who is still being written to. Were a client waited for
	// that does not leave, it would be for ever.
	stopSlack = 5 * time.Second
	// stopPrivate is how many clients have a response of their own.
	stopPrivate = 20
	// stopWaiting is how many get no answer.
	stopWaiting = 5
)

type stopCase struct {
	name, program string
	clients       int
	ids           bool
	reload        bool // between two halves of the clients
	broken        bool // the upstream, which comes back later
	tls           bool // with the listener wrapper
	stop          func(g *gateway)
}

// Issue 4, acceptance 4: what a stop does, whichever way it comes, is an end of each response that loses nothing.
func TestStop(t *testing.T) {
	term := func(g *gateway) { g.stop() }
	for _, c := range []stopCase{
		{name: "SIGTERM, ids", program: plainPath, clients: 1000, ids: true, stop: term},
		{name: "SIGTERM, no ids", program: plainPath, clients: 1000, stop: term},
		{name: "SIGTERM after a reload", program: plainPath, clients: 1000, ids: true, reload: true, stop: term},
		{name: "SIGTERM, race detector", program: gatewayPath, clients: 100, ids: true, reload: true, stop: term},
		{name: "SIGTERM without an upstream", program: gatewayPath, clients: 100, ids: true, broken: true, stop: term},
		{name: "SIGTERM, streams of HTTP/2 that were taken over", program: gatewayPath, clients: 100, ids: true, reload: true, tls: true, stop: term},
		{name: "caddy stop", program: plainPath, clients: 100, ids: true, reload: true, stop: func(g *gateway) {
			start(g.t, "caddy stop", command(plainPath, "stop", "--address", g.admin), 0).awaitExit()
			g.awaitExit()
		}},
	} {
		t.Run(c.name, func(t *testing.T) { testStop(t, c) })
	}
}

func testStop(t *testing.T, c stopCase) {
	t.Helper()
	ids := "-ids=none"
	if c.ids {
		ids = "-ids=all"
	}
	// Events come often enough for each response to end among them, and not so often that the clients keep the machine
	// from ending it in time.
	u := startPhoenix(t, 200*time.Millisecond, ids)
	other := startTicker(t, "-interval=200ms")
	globals := plainHTTP2
	if c.tls {
		globals = takingOver
	}
	g := gatewaySetup{program: c.program, globals: globals, tls: c.tls, directives: route("/events", stopOptions, "reverse_proxy "+u.address) +
		route("/private", stopOptions, "reverse_proxy "+other.address) +
		route("/silent", stopOptions, "reverse_proxy "+startSilent(t))}.start(t)
	early := startCrowd(t, c.clients/2, true, g.url("/events"))
	private := startPrivate(t, g)
	startWaiting(t, g)
	if c.reload {
		g.reload(g.setup.directives)
	}
	late := startCrowd(t, c.clients-c.clients/2, true, g.url("/events"))
	all := &crowd{t: t, all: slices.Concat(early.all, late.all)}
	if c.tls {
		g.awaitTakenOver(c.clients / 2)
	}
	if c.broken {
		u.crash()
		g.awaitLog("upstream lost", 2)
	}

	waited := watchQueue(g.cmd.Process.Pid)
	began := time.Now()
	c.stop(g)
	took := time.Since(began)
	if limit := stopDrain + stopSlack + waited(); took > limit {
		t.Errorf("the process was there for %v, expected %v", took, limit)
	}
	t.Logf("it waited %v for the processor", waited())
	all.until("the end", func(r record) bool { return len(r.ends) > 0 })
	private.until("the end", func(r record) bool { return len(r.ends) > 0 })
	all.assert(record.checkEnds)
	private.assert(record.check, record.checkEnds)
	ends, privateEnds := g.stopped(began, c.clients)
	t.Logf("the process ended after %v, responses in each fifth of the drain: %v, private ones: %v",
		took, histogram(ends), histogram(privateEnds))
	assertSpread(t, ends, privateEnds)

	if c.broken {
		u.restart()
	}
	g.run(t)
	last := all.newest() + 25
	all.until("events of the next process", func(r record) bool { return r.newest >= last })
	all.assert(record.check)
	if c.ids {
		all.assert(record.checkNoGap)
	} else {
		all.assert(func(r record) error {
			if len(r.gaps) == 0 {
				return fmt.Errorf("no gap told: %v", r.outcomes)
			}
			return nil
		})
	}
	t.Logf("%v, %d events skipped by gaps", all.outcomes(), all.count(func(r record) int { return r.skipped }))
	all.leave()
}

// stopped returns how long after the stop began the responses of streams ended, and private ones, as the gateway logs it:
// with one clock, that of the process whose subject it is. Clients are told later, the more so the busier the machine.
func (g *gateway) stopped(asked time.Time, clients int) (ends, private []time.Duration) {
	g.t.Helper()
	began := g.loggedAfter(asked, "shutting down", "exiting")
	for _, e := range g.awaitEntries(clients+stopPrivate, func(r report) bool { return r.SSE.EndReason == "stopping" }) {
		if after := e.time().Sub(began); strings.HasSuffix(e.Request.URI, "/private") {
			private = append(private, after)
		} else {
			ends = append(ends, after)
		}
	}
	return ends, private
}

// loggedAfter returns when the log had a line first, after a moment, that has one of the texts.
func (g *gateway) loggedAfter(moment time.Time, texts ...string) time.Time {
	g.t.Helper()
	for line := range strings.Lines(g.errorText()) {
		var r report
		if json.Unmarshal([]byte(line), &r) == nil && r.time().After(moment) &&
			slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(line, text) }) {
			return r.time()
		}
	}
	g.t.Fatalf("the log has none of %q", texts)
	return time.Time{}
}

// assertSpread checks that responses ended at random in the drain: each third of it has about a third of them. The drain
// is over when private responses end, which is at its end, or as much later as the machine lets them.
func assertSpread(t *testing.T, ends, private []time.Duration) {
	t.Helper()
	over := slices.Max(private)
	if first := slices.Min(private); first < stopDrain {
		t.Errorf("a private response ended after %v", first)
	}
	for third := range 3 {
		from, to := time.Duration(third)*over/3, time.Duration(third+1)*over/3
		n := 0
		for _, end := range ends {
			if end >= from && (end < to || third == 2) {
				n++
			}
		}
		if n < len(ends)/10 {
			t.Errorf("%d of %d responses ended between %v and %v", n, len(ends), from, to)
		}
	}
}

// watchQueue looks how long the threads of a process are ready to run and have no processor, until it is asked or the
// process has ended. It returns who is asked.
func watchQueue(pid int) (waited func() time.Duration) {
	done, answer := make(chan struct{}), make(chan time.Duration, 1)
	go func() {
		before := queueTimes(pid)
		newest := maps.Clone(before)
		for {
			maps.Copy(newest, queueTimes(pid))
			select {
			case <-time.After(20 * time.Millisecond):
				continue
			case <-done:
			}
			total := time.Duration(0)
			for thread, waited := range newest {
				total += waited - before[thread]
			}
			answer <- total
			return
		}
	}()
	return sync.OnceValue(func() time.Duration { close(done); return <-answer })
}

// queueTimes returns how long each thread of a process has been ready to run and had no processor, by its file; see
// sched-stats of Linux.
func queueTimes(pid int) map[string]time.Duration {
	times := make(map[string]time.Duration)
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, file := range files {
		text, err := os.ReadFile(file) //nolint:gosec // G304: of /proc
		if fields := strings.Fields(string(text)); err == nil && len(fields) == 3 {
			ns, _ := strconv.ParseInt(fields[1], 10, 64)
			times[file] = time.Duration(ns)
		}
	}
	return times
}

// startPrivate starts clients whose response is the answer to a POST.
func startPrivate(t *testing.T, g *gateway) *crowd {
	t.Helper()
	c := &crowd{t: t}
	for i := range stopPrivate {
		c.all = append(c.all, newEventSource(t, newTransport(), fmt.Sprint("private client ", i), http.MethodPost, g.url("/private")))
	}
	c.until("an event", func(r record) bool { return r.events > 0 })
	return c
}

// startSilent starts an upstream that does not answer. It returns its address.
func startSilent(t *testing.T) string {
	t.Helper()
	silent, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	return silent.Addr().String()
}

// startWaiting starts clients who get no answer. They must not keep the process.
func startWaiting(t *testing.T, g *gateway) {
	t.Helper()
	for i := range stopWaiting {
		newEventSource(t, newTransport(), fmt.Sprint("waiting client ", i), http.MethodGet, g.url("/silent"))
	}
}

// histogram counts what ended in each fifth of the drain, and after it.
func histogram(ends []time.Duration) (counts [6]int) {
	for _, end := range ends {
		counts[min(int(5*end/stopDrain), 5)]++
	}
	return counts
}
