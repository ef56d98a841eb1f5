package integration

import (
	"fmt"
	"testing"
	"time"
)

// Issue 2, acceptance 1.
func TestThousandClientsOneConnection(t *testing.T) {
	t.Parallel()
	const (
		clients = 1000
		events  = 200
		linger  = time.Second
	)
	u := startTicker(t)
	g := startGateway(t, route("/events", "linger 1s", "reverse_proxy "+u.address))
	g.expectHint("linger", "the upstream connection is to be closed soon after the last client has left")

	all := make([]*follower, clients)
	all[0] = follow(t, "client 0", g.url("/events"), "")
	together(t, clients-1, func(i int) (err error) {
		i++
		all[i], err = tryFollow(t, newTransport(), fmt.Sprint("client ", i), g.url("/events"), "")
		return err
	})

	// The first one, whose request opened the connection, leaves in the middle.
	u.emit(events / 2)
	all[0].await(events / 2)
	all[0].assertRun(1, events/2)
	all[0].close()
	u.emit(events / 2)
	together(t, clients-1, func(i int) error {
		f := all[i+1]
		if err := f.until("the last event", func() bool { return f.newest() >= events }); err != nil {
			return err
		}
		if err := checkRun(f.numbers(), 1, events); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		return nil
	})
	u.assertOneConnection(true)

	// With one left the stream goes on.
	last := all[clients-1]
	for _, f := range all[1 : clients-1] {
		f.close()
	}
	u.emit(1)
	last.await(events + 1)
	// Who comes back within the linger time has missed nothing.
	id := last.lastEventID()
	last.close()
	u.emit(1)
	last = follow(t, "client that came back", g.url("/events"), id)
	last.await(events + 2)
	last.assertRun(events+2, events+2)
	u.assertOneConnection(true)

	left := time.Now()
	last.close()
	closed := time.Unix(0, u.awaitEvent("close", 1).At)
	if after := closed.Sub(left); after < linger {
		t.Errorf("the upstream connection was closed %v after the last client left, expected %v or more", after, linger)
	} else {
		t.Logf("the upstream connection was closed %v after the last client left", after)
	}
	u.assertOneConnection(false)
}
