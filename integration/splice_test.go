package integration

import "testing"

// What the gateway has lost, an upstream that gives ids is asked for, and then has one connection again.
func TestUpstreamIsAskedForWhatIsLost(t *testing.T) {
	t.Parallel()
	const events = 2 * gapEvents
	u, g, evicted := startGap(t, "-ids=all", "-history")
	f := follow(t, "client with "+evicted, g.url("/events"), evicted)
	if f.outcome() != "spliced" {
		t.Errorf("SSE-Resume: %s, expected spliced", f.outcome())
	}
	if open := u.awaitEvent("open", 2); open.LastEventID != evicted {
		t.Errorf("the upstream was asked for what is after %q, expected %q", open.LastEventID, evicted)
	}
	f.await(gapEvents)
	if closed := u.awaitEvent("close", 1); closed.Connection != 2 {
		t.Errorf("connection %d was closed, expected the splice", closed.Connection)
	}
	for n := gapEvents + 1; n <= events; n++ {
		u.emit(1)
		f.await(n)
	}
	f.assertRun(2, events)
}
