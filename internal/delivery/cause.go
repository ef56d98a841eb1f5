package delivery

// Cause is why a client is written to by its request's goroutine, as a label.
type Cause string

// Why a connection is not taken over.
const (
	CauseOption     Cause = "option"     // delivery handler
	CauseBody       Cause = "body"       // the request has one
	CauseHTTP10     Cause = "http10"     // or less
	CauseHTTP2      Cause = "http2"      // without the listener wrapper
	CauseHTTP3      Cause = "http3"      // always
	CauseWriter     Cause = "writer"     // a handler before may change the body
	CauseFlush      Cause = "flush"      // Caddy flushes it afterwards
	CauseConnection Cause = "connection" // it is not the system's
)

// Causes are all of them.
var Causes = []string{
	string(CauseOption), string(CauseBody), string(CauseHTTP10), string(CauseHTTP2), string(CauseHTTP3),
	string(CauseWriter), string(CauseFlush), string(CauseConnection),
}
