package stream

// kind is what a stream is, for all of its life, and what follows from that. Other code
// asks for what follows.
type kind struct {
	label string // to operators, and in metrics

	beside   bool // its connection was opened beside that of a stream: it is found through that, and has its lock
	answer   bool // to one request, which is not asked again: found by its epoch, and goes on without a client
	ids      bool // positions in it mean something to who comes back, so the gateway may give ids
	reopens  bool // a break of its connection may be hidden from its clients
	waits    bool // the upstream is read no faster than the slowest client reads
	moves    bool // to the handlers of a new configuration, by itself
	compared bool // with other connections of its key, unless the operator vouches for them
	guarded  bool // it has many clients, and what it brings may be one client's: see sharing.go
}

// The kinds of streams that the hub has. A private stream is the host's.
var (
	sharedKind   = &kind{label: KindShared, ids: true, reopens: true, moves: true, compared: true, guarded: true}
	spliceKind   = &kind{label: KindSplice, beside: true, reopens: true, waits: true, compared: true}
	detachedKind = &kind{label: KindDetached, answer: true, ids: true, waits: true}
)

// Kinds of streams, as a label.
const (
	KindShared  = "shared"
	KindSplice  = "splice"
	KindPrivate = "private"

	// KindDetached is a private stream that may outlive its client.
	KindDetached = "detached"
)
