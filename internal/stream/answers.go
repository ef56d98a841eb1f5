package stream

import (
	"time"

	"github.com/caddy-sse/caddy-sse/internal/meter"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// How answers come: private and detached streams, which are mostly those of
// language models. That waits are long is their nature; how long, operators want
// to know.

// Answers are what answers of the process were like, for metrics. The bounds are
// those of OpenTelemetry's conventions for generative AI, and some for models that
// think for minutes.
var Answers = struct {
	Head    *meter.Histogram // seconds from the request to the head
	First   *meter.Histogram // and to the first event
	Between *meter.Histogram // from an event to the next
	Ended   *meter.Labelled
}{
	Head:    meter.NewHistogram(.01, .02, .05, .1, .25, .5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320),
	First:   meter.NewHistogram(.01, .02, .05, .1, .25, .5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320),
	Between: meter.NewHistogram(.001, .005, .01, .025, .05, .075, .1, .15, .2, .3, .5, 1, 2.5, 5, 10, 20, 40),
	Ended:   meter.NewLabelled(upstreams.ResultClean, upstreams.ResultBroken, upstreams.ResultStalled, upstreams.ResultOversized, upstreams.ResultCancelled, upstreams.ResultRefused),
}

// AnswerClock tells the metrics how an answer comes. It is not safe for concurrent
// use; that of a stream which is no answer is nil.
type AnswerClock struct {
	asked time.Time
	First time.Duration // from the request to the first event; 0: there was none
	last  time.Time     // when the newest event came
}

// NewAnswerClock begins with the request.
func NewAnswerClock() *AnswerClock { return &AnswerClock{asked: time.Now()} }

// Headed takes note of the head.
func (c *AnswerClock) Headed() {
	if c != nil {
		Answers.Head.Observe(time.Since(c.asked).Seconds())
	}
}

// Events takes note of events that came at once.
func (c *AnswerClock) Events(n int) {
	if c == nil || n == 0 {
		return
	}
	now := time.Now()
	if c.last.IsZero() {
		c.First = max(1, now.Sub(c.asked))
		Answers.First.Observe(c.First.Seconds())
	} else {
		Answers.Between.Observe(now.Sub(c.last).Seconds())
	}
	for range n - 1 {
		Answers.Between.Observe(0)
	}
	c.last = now
}

// AnswerEnded tells the metrics how the answer of a private stream ended, by why
// its response did.
func AnswerEnded(end EndReason) {
	result := upstreams.ResultCancelled
	switch end {
	case EndUpstream:
		result = upstreams.ResultClean
	case EndBroken:
		result = upstreams.ResultBroken
	case EndOversized:
		result = upstreams.ResultOversized
	}
	Answers.Ended.With(result).Inc()
}
