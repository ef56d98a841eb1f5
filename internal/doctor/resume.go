package doctor

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"
)

// maxMissed is how many events the doctor acts as if it had missed.
const maxMissed = 3

// resumption is a reconnection with a last event ID.
type resumption struct {
	visit  *visit
	missed []event // what has to come first
	had    []event // what must not come again
	ended  bool    // the stream had, in order
}

// Outcomes of a resumption.
const (
	resumeWorks     = "works"
	resumeLost      = "lost"      // something else than what was missed came, or nothing
	resumeDoubled   = "doubled"   // something that the client has came again
	resumeGap       = "gap"       // it was told that events are lost
	resumeRefused   = "refused"   // there was no event stream
	resumeUnchecked = "unchecked" // nothing was missed that could have come
	resumeOver      = "over"      // it was told that the stream that ended is over for good
	resumeLimited   = "limited"   // the doctor asks too often
	resumeWaited    = "waited"    // there was no answer in time
	resumeComing    = "coming"    // an event was on its way when the time was over
)

// resume comes back as a client that was cut a few events ago: at once if it is
// the doctor who left, and else when such a client does.
func (e *examination) resume(ctx context.Context, c *client) {
	from, missed, ok := e.app.cutPoint()
	if !ok {
		return
	}
	if !e.app.left() {
		select {
		case <-time.After(reconnectDelay):
		case <-ctx.Done():
		}
	}
	ctx, cancel := context.WithTimeout(ctx, resumePatience)
	defer cancel()
	r := &resumption{missed: missed, had: e.app.kept[:len(e.app.kept)-len(missed)], ended: e.app.endedWell()}
	r.visit = c.visit(ctx, request{coding: identity, lastEventID: from, enough: r.enough})
	<-r.visit.headed
	if len(missed) == 0 {
		r.visit.leave()
	}
	<-r.visit.done
	e.resumed = r
}

// enough reports whether all that was missed has come, or something else.
func (r *resumption) enough(v *visit) bool {
	n := len(v.kept)
	return n >= len(r.missed) || (n > 0 && v.kept[n-1] != r.missed[n-1])
}

// cutPoint picks a last event ID to come back with, and the events that came
// after it. It must tell one event from all others, else nothing can be said of
// what comes.
func (v *visit) cutPoint() (id string, missed []event, ok bool) {
	if len(v.kept) == 0 {
		return v.lastEventID, nil, v.lastEventID != ""
	}
	for n := min(maxMissed, len(v.kept)); n >= 0; n-- {
		before := v.kept[:len(v.kept)-n]
		id = v.before
		if len(before) > 0 {
			id = before[len(before)-1].id
		}
		if id == "" || strings.ContainsFunc(id, unicode.IsControl) { // net/http does not send it
			continue
		}
		missed = v.kept[len(before):]
		own := func(e event) bool { return e.id == id }
		twice := len(before) > 0 && slices.ContainsFunc(before[:len(before)-1], own)
		if twice || slices.ContainsFunc(missed, own) {
			continue
		}
		return id, missed, true
	}
	return "", nil, false
}

// outcome tells what became of it.
func (r *resumption) outcome() string {
	switch {
	case !r.visit.answered() && r.visit.left():
		return resumeWaited
	case r.ended && r.visit.answered() && r.visit.head.StatusCode == http.StatusNoContent:
		return resumeOver
	case r.visit.answered() && r.visit.head.StatusCode == http.StatusTooManyRequests:
		return resumeLimited
	case !r.visit.answered(), r.visit.refused():
		return resumeRefused
	}
	told, _, _ := strings.Cut(r.visit.head.Header.Get("SSE-Resume"), ";")
	if told == "gap" {
		return resumeGap
	}
	for i, e := range r.visit.kept {
		switch {
		case slices.Contains(r.had, e):
			return resumeDoubled
		case i < len(r.missed) && e != r.missed[i]:
			return resumeLost
		}
	}
	switch {
	case len(r.visit.kept) < len(r.missed) && r.visit.left() && r.visit.unfinished && r.visit.quiet() < cutQuiet:
		return resumeComing
	case len(r.visit.kept) < len(r.missed):
		return resumeLost
	case len(r.missed) == 0 && told != "replayed":
		return resumeUnchecked
	}
	return resumeWorks
}
