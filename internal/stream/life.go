package stream

import (
	"time"

	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// OpeningPatience is how long a client waits without a head for the answer to
// another one's request, or for one that it can do without because a head is kept.
const OpeningPatience = 5 * time.Second

// phase is what a stream is doing.
type phase int

const (
	phaseOpening phase = iota // its first upstream connection has no head yet
	phaseLive                 // connected
	phaseBroken               // the connection was lost; trying again
	phaseEnded                // the upstream ended it; kept for a while for those who come back
	phaseGone                 // over: nobody can join
)

// life is what state the stream is in.
type life struct {
	options   *Options
	phase     phase
	head      *upstreams.Head
	refused   bool // the first answer was not an event stream to share
	stopped   bool // drained before there was an answer
	reopening bool // it had ended, and the upstream has not answered since; see reopen.go
	renewing  bool // the handlers of the new configuration are being looked for
	over      over
	private   bool    // was a splice: breaks are not hidden
	why       Private // it is its client's alone; see private.go
}

// isUnanswered reports whether it is not known yet what the stream is.
func (l *life) isUnanswered() bool { return l.head == nil && !l.refused && !l.stopped }

// needsHead reports whether the next head is given to subscribers.
func (l *life) needsHead() bool { return (l.head == nil || l.reopening) && !l.refused && !l.stopped }

func (l *life) isOpening() bool { return l.phase == phaseOpening }
func (l *life) isLive() bool    { return l.phase == phaseLive }
func (l *life) isBroken() bool  { return l.phase == phaseBroken }
func (l *life) hasEnded() bool  { return l.phase == phaseEnded }
func (l *life) isGone() bool    { return l.phase == phaseGone }

// over is how a stream ended, with phaseEnded and phaseGone.
type over struct {
	why  EndReason
	tail []byte // what the upstream sent after its last blank line
}

// beginAgain begins the time in which a stream that had ended is being opened again.
func (l *life) beginAgain() { l.phase, l.reopening, l.over = phaseBroken, true, over{} }
