package caddysse

import (
	"bytes"
	"net/http"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/evidence"
	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// lastEventIDDialect is that of HTML, 9.2: the rest comes to a GET with Last-Event-ID.
type lastEventIDDialect struct {
	id    string // the newest
	loose bool   // an event without one came after it: what comes after it is not known
	first []byte // the first event
	last  []byte // the newest
}

func (d *lastEventIDDialect) sent(b eventstream.Block) {
	if b.HasID {
		d.id, d.loose = string(b.ID), false
	} else if b.Dispatches() {
		d.loose = true
	}
	if b.Dispatches() {
		d.last = append(d.last[:0], b.Lines...)
		if d.first == nil {
			d.first = bytes.Clone(b.Lines)
		}
	}
}

func (d *lastEventIDDialect) ask(r *http.Request) bool {
	if d.id == "" || d.loose || !replay.Sendable(d.id) {
		return false
	}
	r.Header.Set("Last-Event-ID", d.id)
	return true
}

// takes finds out a provider that begins with the event of that ID, and one that does
// not look at it: it gives the first event again, or counts from the beginning.
func (d *lastEventIDDialect) takes(b eventstream.Block) resumeVerdict {
	if bytes.Equal(b.Lines, d.last) {
		return resumeRepeat
	}
	if bytes.Equal(b.Lines, d.first) {
		return resumeOther
	}
	last, counts := evidence.Number(d.id)
	if n, ok := evidence.Number(string(b.ID)); counts && ok && b.HasID && n <= last {
		return resumeOther
	}
	return resumeNext
}
