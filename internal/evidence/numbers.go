package evidence

import (
	"strconv"

	"github.com/caddy-sse/caddy-sse/internal/number"
)

// enoughCounting is how many ids that each are one more than the last, and no
// other ones, show that the upstream counts.
const enoughCounting = 8

// Number returns the number that an ID is in decimal.
func Number(id string) (n uint64, ok bool) {
	n, err := strconv.ParseUint(id, 10, 64)
	return n, err == nil && strconv.FormatUint(n, 10) == id
}

// Numbers looks at the upstream's ids, whether they count. The zero value has
// seen none.
type Numbers struct {
	last      uint64
	known     bool // the last ID was a number
	run       int  // how many were one more than the one before
	irregular bool // one was not, within a connection
}

// Add takes the next ID; first tells that it is the first one of a connection.
func (q *Numbers) Add(id string, first bool) {
	n, ok := Number(id)
	switch {
	case ok && q.known && n == q.last+1:
		q.run++
	case q.known && !first:
		q.irregular = true
	}
	q.last, q.known = n, ok
}

// Count reports whether each ID was one more than the last.
func (q *Numbers) Count() bool { return q.run >= enoughCounting && !q.irregular }

// IsBehind reports whether an upstream that counts has not got past an ID.
func (q *Numbers) IsBehind(id string) bool {
	n, ok := Number(id)
	return ok && q.Count() && n >= q.last
}

// Reached reports whether the newest ID is n or above.
func (q *Numbers) Reached(n uint64) bool { return q.last >= n }

// IsNext reports whether an ID is one more than the last of an upstream that counts.
func (q *Numbers) IsNext(id string) bool {
	n, ok := Number(id)
	return ok && q.Count() && n == q.last+1
}

// Answer is what the first ids of a connection say that was asked to go on after one.
type Answer struct {
	ids    int    // how many it has brought, repeated ones apart
	before uint64 // the last ID before it, if its first one is below that
}

// Continuation is whether an upstream has gone on after the ID that it was asked with.
type Continuation int

// What an ID of the answer shows.
const (
	Unknown Continuation = iota
	WentOn
	Skipped
)

// IsFirst reports whether no ID has come yet.
func (a *Answer) IsFirst() bool { return a.ids == 0 }

// Add counts an ID, which numbers are about to take.
func (a *Answer) Add() { a.ids++ }

// Look tells what an ID that was counted shows, where the upstream counts. numbers are
// those of the ids before, and missed how many there were between; -1: that is not
// known. A splice may be sent a history, which is below the last ID.
func (a *Answer) Look(id string, numbers *Numbers, isSplice bool) (shows Continuation, missed int64) {
	n, ok := Number(id)
	if !ok || !numbers.known {
		return Unknown, 0
	}
	switch last := numbers.last; {
	case a.ids == 1 && n == last+1:
		return WentOn, 0
	case a.ids == 1 && n > last+1:
		return Skipped, number.As[int64](n - last - 1) // a gap of more is none
	case a.ids == 1 && n < last && !isSplice:
		a.before = last // it begins anew, if it counts from here on; else this is a greeting
	case a.ids == 2 && n == last+1 && n < a.before:
		return Skipped, -1
	}
	return Unknown, 0
}
