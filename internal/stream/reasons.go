package stream

import "errors"

// Why a request gets no stream, how it begins in one, and why its response ends.

// EndReason is why a subscriber's response ends.
type EndReason string

// The reasons, as the metrics and the access log have them.
const (
	EndClient    EndReason = "client"    // the client went away
	EndWrite     EndReason = "write"     // a write to the client failed or made no progress for write_timeout
	EndUpstream  EndReason = "upstream"  // the upstream ended the stream
	endGaveUp    EndReason = "gave_up"   // the upstream could not be reached again
	EndRefused   EndReason = "refused"   // the upstream did not go on with the stream
	EndOversized EndReason = "oversized" // the upstream sends blocks over max_event_size
	endReload    EndReason = "reload"    // the configuration was reloaded
	EndStopping  EndReason = "stopping"  // the process is about to exit
	EndMaxAge    EndReason = "max_age"   // the response is as old as it may be
	endLag       EndReason = "lag"       // the client is behind the replay buffer
	EndBroken    EndReason = "broken"    // the upstream connection broke, and that is not hidden
	EndAdmin     EndReason = "admin"     // an operator ended it, over the admin API
	EndRevoked   EndReason = "revoked"   // the client is not let in any more

	// EndPerClient is no end for the client: it gets an upstream connection
	// of its own, because the upstream gives each one a session.
	EndPerClient EndReason = "per_client"
)

// EndReasons are all reasons for which responses end.
var EndReasons = []string{
	string(EndClient), string(EndWrite), string(EndUpstream), string(endGaveUp), string(EndRefused), string(EndOversized),
	string(endReload), string(EndStopping), string(EndMaxAge), string(endLag), string(EndBroken), string(EndAdmin), string(EndRevoked),
	string(EndPerClient),
}

// Nor are these, which are for who was sent no head yet: its request looks for a
// stream again, or is told that the application does not take a second connection.
const (
	EndAskAgain = "ask_again"
	EndNoSecond = "no_second"
)

// Whole reports whether a response that ends for this reason is complete.
func (e EndReason) Whole() bool {
	return e != EndClient && e != EndWrite && e != EndBroken
}

// Outcomes of resuming, as in the response header SSE-Resume.
const (
	ResumeLive     = "live"
	ResumeReplayed = "replayed"
	ResumeGap      = "gap"
	ResumeSpliced  = "spliced"

	// ResumeRefused is of who was turned away.
	ResumeRefused = "refused"

	// ResumePrivate stands in their place, unless that is a gap: a private stream
	// is not resumed by the gateway.
	ResumePrivate = "private"
)

// Why a request cannot join a stream.
var (
	// errUnshareable: requests with this key go upstream on their own.
	ErrUnshareable = errors.New("the answers to this request are not shared")

	// errTooManyStreams: max_streams is reached.
	errTooManyStreams = errors.New("max_streams reached")

	// errTooManySubscribers: max_subscribers is reached.
	ErrTooManySubscribers = errors.New("max_subscribers of the stream reached")

	// ErrNoMemory: the process is near GOMEMLIMIT.
	ErrNoMemory = errors.New("the memory of the process is nearly used up (GOMEMLIMIT)")

	// errNoSecond: the application left a second connection unanswered, so that
	// it was not seen whether it tells both the same.
	ErrNoSecond = errors.New("the application did not answer a second connection beside that of the stream; share public, or join live, shares the first one")

	// errStopping: the process is about to exit.
	ErrStopping = errors.New("the server is stopping")
)

// errNewLife is returned by attach when the stream has ended and the request
// cannot go on in it: it begins a new one.
var errNewLife = errors.New("the stream has ended")

// errGone is returned by attach when the stream is over, and about to be removed
// from the hub by who ended it.
var errGone = errors.New("the stream is over")

// ErrStreamOver ends an upstream connection that its stream has no use for any
// more.
var ErrStreamOver = errors.New("the stream is over")
