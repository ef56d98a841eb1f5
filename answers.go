package caddysse

import (
	"time"

	"github.com/caddy-sse/caddy-sse/internal/meter"
)

// How answers come: private and detached streams, which are mostly those of
// language models. That waits are long is their nature; how long, operators want
// to know.

// theAnswers are what answers of the process were like, for metrics. The bounds are
// those of OpenTelemetry's conventions for generative AI, and some for models that
// think for minutes.
var theAnswers = struct {
	head    *meter.Histogram // seconds from the request to the head
	first   *meter.Histogram // and to the first event
	between *meter.Histogram // from an event to the next
	ended   *meter.Labelled
}{
	head:    meter.NewHistogram(.01, .02, .05, .1, .25, .5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320),
	first:   meter.NewHistogram(.01, .02, .05, .1, .25, .5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320),
	between: meter.NewHistogram(.001, .005, .01, .025, .05, .075, .1, .15, .2, .3, .5, 1, 2.5, 5, 10, 20, 40),
	ended:   meter.NewLabelled(resultClean, resultBroken, resultStalled, resultOversized, resultCancelled, resultRefused),
}

// answerClock tells the metrics how an answer comes. It is not safe for concurrent
// use; that of a stream which is no answer is nil.
type answerClock struct {
	asked time.Time
	first time.Duration // from the request to the first event; 0: there was none
	last  time.Time     // when the newest event came
}

func newAnswerClock() *answerClock { return &answerClock{asked: time.Now()} }

// headed takes note of the head.
func (c *answerClock) headed() {
	if c != nil {
		theAnswers.head.Observe(time.Since(c.asked).Seconds())
	}
}

// events takes note of events that came at once.
func (c *answerClock) events(n int) {
	if c == nil || n == 0 {
		return
	}
	now := time.Now()
	if c.last.IsZero() {
		c.first = max(1, now.Sub(c.asked))
		theAnswers.first.Observe(c.first.Seconds())
	} else {
		theAnswers.between.Observe(now.Sub(c.last).Seconds())
	}
	for range n - 1 {
		theAnswers.between.Observe(0)
	}
	c.last = now
}

// answerEnded tells the metrics how the answer of a private stream ended, by why
// its response did.
func answerEnded(end endReason) {
	result := resultCancelled
	switch end {
	case endUpstream:
		result = resultClean
	case endBroken:
		result = resultBroken
	case endOversized:
		result = resultOversized
	}
	theAnswers.ended.With(result).Inc()
}
