package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
)

// wanderer is a client that is cut again and again and comes back with its last event ID.
type wanderer struct {
	t         *testing.T
	name, url string
	transport *http.Transport
	now       *follower
	got       []int // of the responses before
}

func (w *wanderer) connect() (err error) {
	id := ""
	if w.now != nil {
		w.now.close()
		w.got = append(w.got, w.now.numbers()...)
		id = w.now.lastEventID()
	}
	w.now, err = tryFollow(w.t, w.transport, w.name, w.url, id)
	return err
}

func (w *wanderer) until(number int) error {
	return w.now.until(fmt.Sprint("event ", number), func() bool { return w.now.newest() >= number })
}

// Issue 2, acceptance 3: 500 clients are cut at once and come back at once.
func TestReconnectStorm(t *testing.T) {
	t.Parallel()
	for _, ids := range []string{"none", "all", "mixed"} {
		t.Run(ids, func(t *testing.T) {
			u := startTicker(t, "-ids="+ids)
			g := startGateway(t, route("/events", "buffer 10000", "reverse_proxy "+u.address))
			testReconnectStorm(t, u, g, ids == "mixed")
		})
	}
}

func testReconnectStorm(t *testing.T, u *upstream, g *gateway, mixed bool) {
	t.Helper()
	const (
		clients = 500
		batch   = 60 // of events
	)
	cutter := startForwarder(t, g.address)
	all := make([]*wanderer, clients)
	together(t, clients, func(i int) error {
		all[i] = &wanderer{
			t: t, name: fmt.Sprint("client ", i), url: cutter.url("/events"), transport: newTransport(),
		}
		return all[i].connect()
	})
	// Its connection is not cut: what it has got the gateway has.
	witness := follow(t, "witness", g.url("/events"), "")
	emitted := 0
	emit := func() {
		u.emit(batch)
		emitted += batch
		witness.await(emitted)
	}
	emit()
	together(t, clients, func(i int) error { return all[i].until(1 + i%batch) })

	// Once while events flow, and once while none does: then the number that is replayed is known.
	for _, flow := range []bool{true, false} {
		if flow {
			u.emit(batch)
			emitted += batch
		} else {
			emit()
		}
		cutter.cut()
		before, after := witness.newest(), emitted
		var flowing sync.WaitGroup
		if flow {
			after += 10 * batch
			flowing.Go(func() {
				for range 10 {
					emit()
				}
			})
		}
		together(t, clients, func(i int) error { return all[i].comeBack(before, after, mixed) })
		flowing.Wait()
		if !flow {
			emit()
		}
		together(t, clients, func(i int) error { return all[i].until(emitted) })
	}

	witness.assertRun(1, emitted)
	together(t, clients, func(i int) error {
		w := all[i]
		w.now.close()
		got := slices.Concat(w.got, w.now.numbers())
		if mixed {
			var err error
			if got, err = withoutRepeats(got); err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
		}
		if err := checkRun(got, 1, emitted); err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		return nil
	})
	u.assertOneConnection(true)
}

// comeBack connects again. The gateway has had events up to before, and gets some up to after meanwhile.
func (w *wanderer) comeBack(before, after int, mixed bool) error {
	if err := w.connect(); err != nil {
		return err
	}
	n, ok := w.now.replayed()
	had := w.got[len(w.got)-1]
	least, most := before-had, after-had
	if mixed {
		most += 2 // the last event with an id is up to two before the last event
	}
	if !ok || n < least || n > most {
		return fmt.Errorf("%s came back after event %d: SSE-Resume: %s, expected %d to %d events",
			w.name, had, w.now.outcome(), least, most)
	}
	return nil
}

// withoutRepeats checks that events are repeated only where a client came back without an ID of its last event: it then
// gets the one or two before again, in order. It returns the others.
func withoutRepeats(got []int) (once []int, err error) {
	newest := 0
	for i, n := range got {
		if n <= newest && n != got[i-1]+1 && newest-n > 1 {
			return nil, fmt.Errorf("event %d after event %d: more is repeated than has no id", n, newest)
		}
		if n > newest {
			once = append(once, n)
			newest = n
		}
	}
	return once, nil
}

const (
	gapKept   = 10 // events that the gateway keeps
	gapEvents = 50 // events that there have been
)

// startGap starts a gateway whose replay buffer has lost the first events of its stream. It returns the last event ID of
// a client that has had the first one.
func startGap(t *testing.T, args ...string) (u *upstream, g *gateway, evicted string) {
	t.Helper()
	u = startTicker(t, args...)
	g = startGateway(t, route("/events", fmt.Sprintf("buffer %d\ngap_event lost", gapKept), "reverse_proxy "+u.address))
	first := follow(t, "first client", g.url("/events"), "")
	for n := 1; n <= gapEvents; n++ { // one by one: a client behind the buffer is cut
		u.emit(1)
		first.await(n)
		if n == 1 {
			evicted = first.lastEventID()
		}
	}
	return u, g, evicted
}

// An ID that the stream cannot go on from is told, in the response's head and in the stream.
func TestGapIsTold(t *testing.T) {
	t.Parallel()
	u, g, evicted := startGap(t)
	number := gapEvents
	for _, c := range []struct {
		id, reason string
		missed     any
	}{
		{id: evicted, reason: "evicted", missed: float64(gapEvents - 1)},
		{id: "sse1.00112233445566778899aabbccddeeff.7", reason: "epoch"},
		{id: "somebody else's", reason: "evicted"},
	} {
		f := follow(t, "client with "+c.id, g.url("/events"), c.id)
		if f.outcome() != "gap" {
			t.Errorf("%s: SSE-Resume: %s, expected gap", f.name, f.outcome())
		}
		number++
		u.emit(1)
		f.await(number)
		assertGap(t, f.events(), c.reason, c.id, c.missed)
		if got := numbers(f.events()[1:]); len(got) != 1 || got[0] != number {
			t.Errorf("%s: events %v after the gap, expected %d", f.name, got, number)
		}
		f.close()
	}
	u.assertOneConnection(true)
}

// assertGap checks that the first event tells a gap.
func assertGap(t *testing.T, events []event, reason, id string, missed any) {
	t.Helper()
	var data map[string]any
	if err := json.Unmarshal([]byte(events[0].data), &data); err != nil || events[0].kind != "lost" {
		t.Fatalf("no gap told: %+v", events)
	}
	if data["reason"] != reason || data["last_event_id"] != id || data["missed"] != missed {
		t.Errorf("gap %s, expected reason %s, last_event_id %q, missed %v", strings.TrimSpace(events[0].data), reason, id, missed)
	}
}
