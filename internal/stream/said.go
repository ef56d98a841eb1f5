package stream

import (
	"time"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/evidence"
)

// said is what the upstream has said that is for more than one event: its ids, and its
// reconnection time. The stream's lock guards it.
type said struct {
	lastID   string           // with which a reconnect resumes: the newest, or one that a client has brought
	gaveID   bool             // the upstream has sent an id
	showsIDs bool             // and the clients see it: the gateway adds none
	numbers  evidence.Numbers // of its ids
	lacks    *lack            // not told, because it is not known whether the upstream counts; nil: nothing
	retry    time.Duration    // the newest
	hasRetry bool
}

// lack is that an upstream which may count has not gone on, when it was reached again,
// after the ID that it was asked with. If it turns out to count the gap is told then.
type lack struct {
	after, next string
	missed      int64
}

// beside returns what is known of an upstream for a connection beside it, which is
// opened with an ID.
func (u *said) beside(id string) (other said) {
	other = said{lastID: id, gaveID: u.gaveID, showsIDs: u.showsIDs}
	other.numbers.Add(id, true)
	return other
}

// asksAfter sets the ID of a client with which the first connection is opened.
func (u *said) asksAfter(id string) { u.lastID = id }

// take takes note of a block; shows tells that clients see its ID.
func (u *said) take(b eventstream.Block, shows bool) {
	if b.HasID {
		u.lastID = string(b.ID)
	}
	if len(b.ID) > 0 {
		u.gaveID = true
		u.showsIDs = u.showsIDs || shows
	}
	if b.HasRetry {
		u.retry, u.hasRetry = b.Retry, true
	}
}

// join adds what was said on another connection, which goes on for the last one.
func (u *said) join(o *said) {
	u.gaveID = u.gaveID || o.gaveID
	u.showsIDs = u.showsIDs || o.showsIDs
}

// keep takes over the newest of what was said on another connection, which was opened
// with an ID and whose blocks are not given.
func (u *said) keep(o *said, openID string) {
	if o.gaveID && o.lastID != openID {
		u.lastID = o.lastID
	}
	if o.hasRetry {
		u.retry, u.hasRetry = o.retry, true
	}
}

// tell is what another node is told of it; known is the last event ID of clients.
func (u *said) tell(known string) *Said {
	return &Said{Retry: u.retry, HasRetry: u.hasRetry, LastID: u.lastID, GaveID: u.gaveID, ShowsIDs: u.showsIDs, Known: known}
}

// isTold takes over what another node tells.
func (u *said) isTold(o *Said) {
	u.retry, u.hasRetry = o.Retry, o.HasRetry
	u.lastID, u.gaveID, u.showsIDs = o.LastID, o.GaveID, o.ShowsIDs
}

// counts reports whether the upstream's ids are known to count.
func (u *said) counts() bool { return u.numbers.Count() }

// lack takes note that an upstream which may count has not gone on after the last
// event ID, but with the ID next. Of several times it is not known how many events are
// missing.
func (u *said) lack(next string, missed int64) {
	if u.lacks != nil {
		u.lacks.missed = -1
		return
	}
	u.lacks = &lack{u.lastID, next, missed}
}

// toTell returns what is lacking as soon as it is known that the upstream counts, once.
func (u *said) toTell() *lack {
	if u.lacks == nil || !u.counts() {
		return nil
	}
	d := u.lacks
	u.lacks = nil
	return d
}
