package stream

import (
	"strconv"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// noteEnd notes that a connection of the stream has ended. The lock is held.
func (s *Stream) noteEnd(end upstreams.Ending, now time.Time) {
	if end.Events {
		s.endedAt = now
	}
	if text := failureOf(end); text != "" {
		s.lastError, s.lastErrorAt = text, now
	}
}

// failureOf says what an upstream connection failed of; empty: it did not.
func failureOf(e upstreams.Ending) string {
	switch {
	case e.Clean && e.Events:
		return ""
	case e.Err != nil:
		return Clip(e.Err.Error())
	case e.Status != 0:
		return "status " + strconv.Itoa(e.Status)
	}
	return "no answer"
}
