package stream

import (
	"bytes"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// endpointType is the event type with which an upstream of the older MCP
// transport hands each connection a session of its own.
const endpointType = "endpoint"

// Opening reports whether the stream waits for this connection's head to give
// it to its subscribers.
func (c *intake) Opening() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stream.needsHead()
}

// Reconnects reports whether the stream had a connection before this one.
func (c *intake) Reconnects() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.first || c.stream.succeeds()
}

// Opened gives the head to the stream: the connection is that of an event
// stream. If it is not shareable, those who have it stay and nobody joins.
func (c *intake) Opened(h *upstreams.Head, private error) {
	s := c.stream // nobody changes it before
	if private != nil {
		s.unshareable(c.first, asPrivate(private))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over || c.deserted || s.stopped || s.isGone() {
		return
	}
	c.headed = true
	now := time.Now()
	s.attempts.answered(now.Sub(c.seen.Began), now)
	opening := s.head == nil
	s.answer.Headed()
	if s.kind.answer && opening {
		Counts.Private.With(string(s.why.Reason)).Inc()
	}
	s.reopening = false
	c.resumed = c.asked && s.gave()
	s.takeHead(h)
	s.phase = phaseLive
	s.greeting.last = now
	s.track.Opened(now)
	s.learned = learned{}
	if st := s.splice; st != nil {
		st.Restart()
		st.begins, st.met = "", false
		st.parent.spliced = st.parent.spliced || !st.probe
		if c.first {
			for sub := range s.subscribers() {
				st.parent.tellMissed(sub)
			}
		}
	} else if opening {
		s.recall(c)
	} else {
		s.unprove()
	}
	for sp := range s.splices {
		sp.splice.since = now
		sp.splice.StreamOpened()
	}
	s.trySplices(s.track.HeadAt)
	s.joinReleased()
	s.seats.ring()
	s.wakeLocked() // for those whose head waits for this one; see held
	if opening {
		s.stay.began(now)
		s.endWait()
	}
	if c.mends && !s.succeeds() {
		c.logRecovered()
		s.figures.mended()
		if !c.resumed {
			c.tellGap() // what the upstream sent meanwhile, nobody knows
		}
	}
	s.attempts.isReached()
	if s.kind.moves {
		s.openSuccessor() // there was a reload while it was being opened
	}
}

// What was missed while the upstream was lost, in the log.
const (
	missedRequested = "requested" // the upstream was asked for what came after the last ID
	missedUnknown   = "unknown"
)

// logRecovered logs that the upstream was reached again. The stream's lock is
// held.
func (c *intake) logRecovered() {
	s := c.stream
	missed, id := missedUnknown, ""
	if c.resumed {
		missed, id = missedRequested, shownID(s.said.lastID)
	}
	after, attempts, subscribers := s.attempts.away(), s.attempts.count(), s.countSubscribers()
	s.throttles().recovered.Log(func(suppressed int) {
		s.Log().Info("upstream recovered", zap.Duration("after", after), zap.Int("attempts", attempts),
			zap.Bool("resumed", c.resumed), zap.String("missed", missed), zap.String("last_event_id", id),
			zap.Int("subscribers", subscribers), zap.Int("suppressed", suppressed))
	})
}

// Keep makes the stream known, if it was not before its head, or tells why it
// cannot be.
func (c *intake) Keep() error {
	if !c.stream.kind.answer {
		return nil
	}
	return c.stream.hub.keepDetached(c.stream)
}

// Refused tells the stream that its first answer is not an event stream to
// share. Who waited for it goes upstream on its own, at once. failed tells that
// another attempt may have another answer.
func (c *intake) Refused(failed bool, private error) { c.stream.refuse(failed, asPrivate(private)) }

// Take takes a block into the stream.
func (c *intake) Take(b eventstream.Block) error {
	if string(b.Type) == endpointType && b.Dispatches() && c.beginsStream() && !c.current().makeExclusive() {
		return errors.New("the one client of the stream has left")
	}
	lines := b.Lines
	if b.HasID && c.options.IDs == IDsGateway {
		lines = withoutIDs(lines)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waitForRoom(b, lines)
	return c.take(b, lines)
}

// beginsStream reports whether the next event is the first one that the upstream
// tells any client of the stream, on whichever connection: blocks that are none
// do not count. A splice begins with its own, as long as its stream has had none.
func (c *intake) beginsStream() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stream
	if c.over || c.deserted || s.kind.answer || s.succeeds() || s.settled {
		return false
	}
	return s.splice == nil || !s.splice.parent.settled
}

// withoutIDs returns the lines of a block less its id fields.
func withoutIDs(lines []byte) []byte {
	kept := make([]byte, 0, len(lines))
	for line := range bytes.Lines(lines) {
		if name, _, _ := bytes.Cut(bytes.TrimSuffix(line, []byte{'\n'}), []byte{':'}); string(name) != "id" {
			kept = append(kept, line...)
		}
	}
	return kept
}
