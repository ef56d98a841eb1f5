package integration

import (
	"fmt"
	"net/http"
	"slices"
	"syscall"
	"testing"
	"time"
)

const (
	stopDrain   = 3 * time.Second
	stopOptions = "drain 3s\nbuffer 100000\ngap_event lost"
	// stopSlack is how long after the drain the process may be there.
	stopSlack = time.Second
	// stopPrivate is how many clients have a response of their own.
	stopPrivate = 20
)

// Issue 4, acceptance 4: what a stop does, whichever way it comes, is an end of each response that loses nothing.
func TestStop(t *testing.T) {
	term := func(g *gateway) {
		if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			g.t.Fatal(err)
		}
		g.awaitExit()
	}
	for _, c := range []struct {
		name, program, ids string
		clients            int
		reload             bool // between two halves of the clients
		stop               func(g *gateway)
	}{
		{"SIGTERM, ids", plainPath, "all", 1000, false, term},
		{"SIGTERM, no ids", plainPath, "none", 1000, false, term},
		{"SIGTERM after a reload", plainPath, "all", 1000, true, term},
		{"SIGTERM, race detector", gatewayPath, "all", 100, true, term},
		{"caddy stop", plainPath, "all", 100, true, func(g *gateway) {
			start(g.t, "caddy stop", command(plainPath, "stop", "--address", "unix/"+g.admin), 0).awaitExit()
			g.awaitExit()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := startPhoenix(t, 50*time.Millisecond, "-ids="+c.ids)
			directives := route("/events", stopOptions, "reverse_proxy "+u.address) +
				route("/private", stopOptions, "reverse_proxy "+u.address)
			g := gatewaySetup{program: c.program, globals: plainHTTP2, directives: directives}.start(t)
			testStop(t, g, c.clients, c.ids == "all", c.reload, c.stop)
		})
	}
}

func testStop(t *testing.T, g *gateway, clients int, ids, reload bool, stop func(g *gateway)) {
	t.Helper()
	early := startCrowd(t, clients/2, true, g.url("/events"))
	private := startPrivate(t, g)
	if reload {
		g.reload(g.setup.directives)
	}
	late := startCrowd(t, clients-clients/2, true, g.url("/events"))
	all := &crowd{t: t, all: slices.Concat(early.all, late.all)}

	began := time.Now()
	stop(g)
	took := time.Since(began)
	if took > stopDrain+stopSlack {
		t.Errorf("the process was there for %v, expected %v", took, stopDrain+stopSlack)
	}
	all.until("the end", func(r record) bool { return len(r.ends) > 0 })
	private.until("the end", func(r record) bool { return len(r.ends) > 0 })
	all.assert(record.checkEnds)
	private.assert(record.checkEnds)
	ends, privateEnds := all.ends(began), private.ends(began)
	t.Logf("the process ended after %v, responses in each fifth of the drain: %v, private ones: %v",
		took, histogram(ends), histogram(privateEnds))
	// At random in the window: each third of it has a third of them.
	for third := range 3 {
		from, to := time.Duration(third)*stopDrain/3, time.Duration(third+1)*stopDrain/3
		n := 0
		for _, end := range ends {
			if end >= from && (end < to || third == 2) {
				n++
			}
		}
		if n < clients/10 {
			t.Errorf("%d of %d responses ended between %v and %v", n, clients, from, to)
		}
	}

	g.run(t)
	last := all.newest() + 100
	all.until("events of the next process", func(r record) bool { return r.newest >= last })
	all.assert(record.check)
	if ids {
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

// ends returns when the first response of each client ended.
func (c *crowd) ends(began time.Time) (all []time.Duration) {
	for _, e := range c.all {
		all = append(all, e.now().ends[0].at.Sub(began))
	}
	return all
}

// histogram counts what ended in each fifth of the drain, and after it.
func histogram(ends []time.Duration) (counts [6]int) {
	for _, end := range ends {
		counts[min(int(5*end/stopDrain), 5)]++
	}
	return counts
}
