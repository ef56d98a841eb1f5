package caddysse

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// Why a request cannot join a stream.
var (
	// errUnshareable: requests with this key go upstream on their own.
	errUnshareable = errors.New("the answers to this request are not shared")

	// errTooManyStreams: max_streams is reached.
	errTooManyStreams = errors.New("max_streams reached")

	// errTooManySubscribers: max_subscribers is reached.
	errTooManySubscribers = errors.New("max_subscribers of the stream reached")

	// errNoSecond: the application left a second connection unanswered, so that
	// it was not seen whether it tells both the same.
	errNoSecond = errors.New("the application did not answer a second connection beside that of the stream; share public, or join live, shares the first one")

	// errStopping: the process is about to exit.
	errStopping = errors.New("the server is stopping")
)

const (
	// unshareableTime is how long a key is remembered whose request was not
	// answered with an event stream that may be shared.
	unshareableTime = time.Minute

	// unshareableForever stands for a fact about the application, not about
	// one answer: it gives each connection a session of its own.
	unshareableForever = 24 * time.Hour

	// maxUnshareable bounds how many such keys are remembered, because clients
	// choose them. What is forgotten is learnt again.
	maxUnshareable = 1 << 16
)

// streamKey is a keyed hash of what makes two requests the same stream.
type streamKey [sha256.Size]byte

// String names the key in logs; it tells nothing about the request.
func (k streamKey) String() string { return hex.EncodeToString(k[:8]) }

// hub is the process-wide set of streams, outliving reloads.
//
// Lock order: hub.mu, then a stream's mu, then hub.allMu.
type hub struct {
	secret [32]byte // of the keyed hashes; fixed after construction

	// Reports whether a server is one of the running configuration, not of one
	// that is being loaded. nil: all are. Set before anything else is done.
	serves func(server any) bool

	running sync.WaitGroup // the goroutines that own upstream connections

	memory bufferMemory // of all replay buffers
	facts  facts        // what applications have shown

	mu          sync.Mutex
	streams     map[streamKey][]*stream // those that may be joined
	unshareable map[streamKey]time.Time // until when
	instances   []*instance
	sequence    uint64             // of instances
	count       map[string]int     // streams by place
	detached    map[string]*stream // by epoch
	crowds      map[string]*crowd
	told        map[string]struct{} // paths whose crowd was told
	stopping    bool
	stopped     time.Time // when that began

	allMu   sync.Mutex
	all     map[*stream]struct{} // those in streams, and those that still have subscribers
	private map[privateStream]struct{}
	ending  bool // private streams are to end
}

// instance is one provisioned handler.
type instance struct {
	place    string      // listen addresses of the server, and the handler's name
	server   any         // tells configurations apart
	sequence uint64      // grows with each configuration
	retired  atomic.Bool // its configuration was cleaned up
	memory   int64       // what it states for all replay buffers, 0: nothing; guarded by hub.mu
	crowded  bool        // its configuration has or had another one of the same place; guarded by hub.mu
}

// theHub is shared by all handlers of all configurations of the process.
var theHub = newHub()

func newHub() *hub {
	h := &hub{
		streams:     make(map[streamKey][]*stream),
		all:         make(map[*stream]struct{}),
		private:     make(map[privateStream]struct{}),
		unshareable: make(map[streamKey]time.Time),
		count:       make(map[string]int),
		detached:    make(map[string]*stream),
		crowds:      make(map[string]*crowd),
		told:        make(map[string]struct{}),
	}
	h.memory.limit.Store(defaultMemory)
	_, _ = rand.Read(h.secret[:]) // never fails: crypto/rand
	return h
}

// register makes a handler known. The server tells its configuration from
// others.
func (h *hub) register(place string, server any) *instance {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sequence++
	inst := &instance{place: place, server: server, sequence: h.sequence}
	for _, i := range h.instances {
		if i.place == place && i.server == server {
			i.crowded, inst.crowded = true, true
		}
	}
	h.instances = append(h.instances, inst)
	return inst
}

// aloneLocked reports whether no other handler of the same configuration has the
// same place.
func (h *hub) aloneLocked(inst *instance) bool {
	return !inst.crowded
}

// keyHash hashes parts, each of which may contain anything.
func (h *hub) keyHash(parts []keyPart) (key streamKey) {
	mac := hmac.New(sha256.New, h.secret[:])
	var length [8]byte
	write := func(text string) {
		binary.LittleEndian.PutUint64(length[:], uint64(len(text)))
		mac.Write(length[:])
		mac.Write([]byte(text))
	}
	for _, part := range parts {
		write(part.name)
		write(part.value)
	}
	mac.Sum(key[:0])
	return key
}

// joinRequest is what a request brings to join a stream.
type joinRequest struct {
	key         streamKey
	parts       []keyPart // what the key is made of
	instance    *instance
	lastEventID string
	headTime    time.Duration // how long others are to wait for the head, if it opens a stream
	idParam     string        // the query parameter that brought it, if not the header field
	options     *streamOptions
	client      clientInfo

	// source returns what opens upstream connections for this request. It is
	// called only if the request opens a stream or brings a newer
	// configuration to it. waits tells that the request is to be given the
	// first answer if that is not a stream to share.
	source func(waits bool) source

	logger *zap.Logger
}

// join attaches a new subscriber to the stream of the request, which is opened
// if there is none.
func (h *hub) join(req *joinRequest) (sub *subscriber, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopping {
		return nil, errStopping
	}
	if !req.options.vouched {
		if _, own := h.facts.ownBy(req.key, req.parts); own {
			return nil, errUnshareable
		}
	}

	kept := h.lookupLocked(req)
	if kept != nil {
		sub, err = kept.attach(req)
		if !errors.Is(err, errNewLife) {
			return sub, err
		}
	}
	// Only now: a stream that is there can be joined, whatever an answer was since.
	if until, ok := h.unshareable[req.key]; ok {
		if time.Now().Before(until) {
			return nil, errUnshareable
		}
		delete(h.unshareable, req.key)
	}

	// Who brings no ID asks the application. What is kept stays for those who
	// come back.
	var head *head
	switch {
	case kept == nil:
	case req.lastEventID != "" && kept.isShared():
		head = kept.retire()
		h.removeLocked(kept)
	case kept.ofThisLife(req.lastEventID):
		head = kept.keptHead() // what is kept itself is not for this client
		h.dropEnded(req.key)
	default:
		h.dropEnded(req.key)
	}

	place := req.instance.place
	if limit := req.options.maxStreams; limit > 0 && h.count[place] >= limit && !h.makePlaceLocked(place) {
		return nil, errTooManyStreams
	}
	s := newStream(h, req, head)
	s.adoptable = h.aloneLocked(req.instance)
	h.streams[req.key] = append(h.streams[req.key], s)
	h.track(s)
	h.count[place]++
	h.joinCrowdLocked(s)
	sub, err = s.attach(req)
	h.renewLate(s)
	return sub, err
}

// makePlaceLocked ends one of a place's streams that only linger, the one without
// subscribers for longest. It returns false if there is none.
func (h *hub) makePlaceLocked(place string) bool {
	var oldest *stream
	var since time.Time
	look := func(s *stream) {
		if s.place != place {
			return
		}
		if alone, lingers := s.lingersSince(); lingers && (oldest == nil || alone.Before(since)) {
			oldest, since = s, alone
		}
	}
	for _, streams := range h.streams {
		for _, s := range streams {
			look(s)
		}
	}
	for _, s := range h.detached {
		look(s)
	}
	if oldest == nil {
		return false
	}
	oldest.mu.Lock()
	defer oldest.mu.Unlock()
	oldest.expireLocked() // nobody can have come: that takes the hub's lock
	return true
}

// lookupLocked returns the stream that the request may join, nil if there is
// none. Of several it is the one that gave the request's last event ID.
func (h *hub) lookupLocked(req *joinRequest) (found *stream) {
	epoch, position, _ := replay.ParseID(req.lastEventID)
	if position == nowhere {
		epoch = "" // one that goes on is better for this client
	}
	best := -1
	for _, s := range h.streams[req.key] {
		if s.closed.Load() || !h.entitledLocked(s, req.instance) {
			continue
		}
		if s.epoch == epoch {
			return s
		}
		if p := s.preference(req.lastEventID); p > best {
			found, best = s, p
		}
	}
	return found
}

// entitledLocked reports whether requests that reach inst may join s: the
// handler that opened it may; after a reload, the one handler of the same
// place in the other configuration.
func (h *hub) entitledLocked(s *stream, inst *instance) bool {
	if s.owner == inst {
		return true
	}
	return s.owner.place == inst.place && s.owner.server != inst.server &&
		s.adoptable && h.aloneLocked(inst)
}

// remove takes s out of the hub, so that nobody joins it any more.
func (h *hub) remove(s *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.removeLocked(s)
}

func (h *hub) removeLocked(s *stream) {
	if s.detached {
		h.removeDetachedLocked(s)
		return
	}
	streams := h.streams[s.key]
	i := slices.Index(streams, s)
	if i < 0 {
		return
	}
	if streams = slices.Delete(streams, i, i+1); len(streams) > 0 {
		h.streams[s.key] = streams
	} else {
		delete(h.streams, s.key)
	}
	h.leaveCrowdLocked(s)
	h.uncountLocked(s.place)
}

// uncountLocked takes a stream out of the count of its place.
func (h *hub) uncountLocked(place string) {
	h.count[place]--
	if h.count[place] == 0 {
		delete(h.count, place)
	}
}

// keeps reports whether there is a stream with this key, one that has ended, say.
func (h *hub) keeps(key streamKey) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.streams[key] != nil
}

// markUnshareable sends requests with this key upstream on their own.
func (h *hub) markUnshareable(key streamKey, d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	until := time.Now().Add(d)
	if h.unshareable[key].After(until) {
		return // for another reason
	}
	h.unshareable[key] = until
	// Any other makes room. Looking for those that are over would be work that
	// clients can ask for again and again.
	for k := range h.unshareable {
		if len(h.unshareable) <= maxUnshareable {
			break
		}
		if k != key {
			delete(h.unshareable, k)
		}
	}
}

// shareable forgets that a key was unshareable for a time: a request with it
// was just answered with an event stream that may be shared.
func (h *hub) shareable(key streamKey) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if until, ok := h.unshareable[key]; ok && time.Until(until) <= unshareableTime {
		delete(h.unshareable, key)
	}
}

// forget drops the last reference to a stream that is over and has no
// subscribers.
func (h *hub) forget(s *stream) {
	h.remove(s)
	h.untrack(s)
}

// track takes note of a stream that has, or is about to have, subscribers.
func (h *hub) track(s *stream) {
	h.allMu.Lock()
	defer h.allMu.Unlock()
	h.all[s] = struct{}{}
}

func (h *hub) untrack(s *stream) {
	h.allMu.Lock()
	defer h.allMu.Unlock()
	delete(h.all, s)
}

// every returns all streams, those included that nobody can join any more.
func (h *hub) every() []*stream {
	h.allMu.Lock()
	defer h.allMu.Unlock()
	return slices.Collect(maps.Keys(h.all))
}

// stop drains all streams because the process is about to exit: each
// subscriber's response ends at a random moment within the time of drain. It
// returns when that began.
func (h *hub) stop() (began time.Time) {
	h.mu.Lock()
	stopping := h.stopping
	if !stopping {
		h.stopping, h.stopped = true, time.Now()
	}
	began = h.stopped
	h.mu.Unlock()
	if stopping {
		return began // another handler's server has begun to shut down before
	}
	for _, s := range h.every() {
		s.drain(s.drainTime(), endStopping)
	}
	h.allMu.Lock()
	defer h.allMu.Unlock()
	h.ending = true
	for p := range h.private {
		p.leaveAfter(p.drainTime(), endStopping)
	}
	return began
}

// privateStream is a stream of one client that the hub knows, and does not run.
type privateStream interface {
	observed

	// leaveAfter ends it in a while, unless it ends before.
	leaveAfter(d time.Duration, reason endReason)
}

// trackPrivate takes note of a private stream.
func (h *hub) trackPrivate(p privateStream) {
	h.allMu.Lock()
	defer h.allMu.Unlock()
	h.private[p] = struct{}{}
	if h.ending {
		p.leaveAfter(p.drainTime(), endStopping)
	}
}

func (h *hub) forgetPrivate(p privateStream) {
	h.allMu.Lock()
	defer h.allMu.Unlock()
	delete(h.private, p)
}

// isStopping reports whether the process is about to exit, and ends all streams.
func (h *hub) isStopping() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stopping
}

// keyPart is one part of a key: what it is called, for the operator, and its
// value.
type keyPart struct{ name, value string }

// endAll ends all streams that only linger: for who begins anew in the same process,
// as tests do.
func (h *hub) endAll() {
	for _, s := range h.every() {
		s.mu.Lock()
		if len(s.subs) == 0 {
			s.endLocked()
		}
		s.mu.Unlock()
		h.forget(s)
	}
}
