package delivery

import (
	"net/http"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// Settings are the settings for writing to clients.
type Settings struct {
	Heartbeat    time.Duration // 0: none
	Beat         []byte        // what a heartbeat sends
	WriteTimeout time.Duration // 0: none

	// Record begins to record a response when its connection is taken over, after so
	// many bytes of the body. It may return nil, and be nil.
	Record func(w http.ResponseWriter, r *http.Request, size int, returned Returned) Record

	beatChunk []byte // Beat in the chunked transfer coding
}

// Returned calls tell, once, when the handlers of a request have returned whose response
// was taken over; known is false if that is not going to be known. tell must not wait.
type Returned func(tell func(known bool))

// NewSettings are settings, less Record.
func NewSettings(heartbeat time.Duration, beat []byte, writeTimeout time.Duration) *Settings {
	return &Settings{Heartbeat: heartbeat, Beat: beat, WriteTimeout: writeTimeout, beatChunk: replay.AppendChunk(nil, beat)}
}

// Record is what the host keeps of a response whose connection was taken over.
type Record interface {
	// Ended tells that the response has ended, after so many bytes of its body since
	// then. It does not wait. done is to be called when it was recorded: the process
	// may exit then.
	Ended(sub *stream.Subscriber, reason stream.EndReason, bytes int, done func())
}

// Ways to write to a client, as in the option delivery.
const (
	ByConnection = "connection"
	ByHandler    = "handler"
)

// EmptyComment is the shortest heartbeat. Its blank line keeps comments from
// piling up in clients that look for blank lines only, and from hiding how the
// next event begins.
const EmptyComment = ":\n\n"

// ByteOrderMark is what a client drops at the very start of a stream.
var ByteOrderMark = []byte("\xEF\xBB\xBF")
