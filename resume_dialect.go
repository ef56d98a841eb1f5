package caddysse

import (
	"net/http"

	"github.com/caddy-sse/caddy-sse/eventstream"
)

// resumeDialect is a way in which a provider gives the rest of an answer. Each answer
// has its own, which is not asked by two goroutines at a time. What it needs of a
// block it copies.
type resumeDialect interface {
	// sent takes note of a block that goes to the client.
	sent(b eventstream.Block)

	// ask makes a request one for what comes after that. It is one for the same
	// thing as the request that was answered, but a GET without a body. false: the
	// answer cannot be gone on with.
	ask(r *http.Request) bool

	// takes tells what the first blocks of a later connection are.
	takes(b eventstream.Block) resumeVerdict
}

type resumeVerdict int

const (
	resumeNext   resumeVerdict = iota // it comes after what was sent
	resumeRepeat                      // it was sent
	resumeOther                       // the connection does not go on with the answer
)
