package caddysse

import "github.com/caddy-sse/caddy-sse/internal/meter"

// What is counted with a label, each by the file of its subject; metrics.go shows it.

// Why a client is turned away, as a label and in SSE-Resume.
const (
	refusedStreams     = "max_streams"
	refusedSubscribers = "max_subscribers"
	refusedPerClient   = "max_per_client"
	refusedMemory      = "memory"
	refusedFiles       = "files"
	refusedNoSecond    = "no_second"
)

// theRefusals counts clients that were turned away.
var theRefusals = meter.NewLabelled(refusedStreams, refusedSubscribers, refusedPerClient, refusedMemory, refusedFiles, refusedNoSecond)

// What became of requests that were run again, as a label.
const (
	reauthorizedPassed  = "passed"
	reauthorizedRefused = "refused"
	reauthorizedFailed  = "failed"
)

// theReauthorized counts them.
var theReauthorized = meter.NewLabelled(reauthorizedPassed, reauthorizedRefused, reauthorizedFailed)

// What became of answers whose upstream connection broke, as a label.
const (
	answerResumed = "resumed"
	answerLost    = "failed"
)

// theAnswerResumes counts them, for metrics.
var theAnswerResumes = meter.NewLabelled(answerResumed, answerLost)
