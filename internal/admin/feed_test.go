package admin

import (
	"testing"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// The rates of a look are those of what came since the one before.
func TestFeedRates(t *testing.T) {
	a, b, c := new(stream.Stream), new(stream.Stream), new(stream.Stream)
	at := time.Now()
	before := &look{at: at, samples: []stream.Sample{{Of: a, Received: 10, Sent: 100}, {Of: b, Received: 7}}}
	now := &look{at: at.Add(2 * time.Second), samples: []stream.Sample{{Of: c, Received: 4}, {Of: a, Received: 15, Sent: 100}}}
	now.rate(before)
	if s := now.samples; s[0].ReceivedRate != 2 || s[1].ReceivedRate != 2.5 || s[1].SentRate != 0 {
		t.Errorf("%+v", s)
	}
	first := &look{at: at.Add(2 * time.Second), samples: []stream.Sample{{Number: 1, Received: 14, Sent: 6}, {Number: 2, Received: 8}}}
	first.rateSince(&remembered{[]glances{{at: at, of: map[uint64]stream.Glance{1: {Received: 10}}}}})
	if s := first.samples; s[0].ReceivedRate != 2 || s[0].SentRate != 3 || s[1].ReceivedRate != 4 {
		t.Errorf("of the first look: %+v", s)
	}
	first.rateSince(new(remembered)) // there was no glance
	now.rate(nil)
	now.rate(now) // no time has passed
}
