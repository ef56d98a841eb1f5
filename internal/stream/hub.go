package stream

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash"
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
	ErrUnshareable = errors.New("the answers to this request are not shared")

	// errTooManyStreams: max_streams is reached.
	errTooManyStreams = errors.New("max_streams reached")

	// errTooManySubscribers: max_subscribers is reached.
	ErrTooManySubscribers = errors.New("max_subscribers of the stream reached")

	// errNoSecond: the application left a second connection unanswered, so that
	// it was not seen whether it tells both the same.
	ErrNoSecond = errors.New("the application did not answer a second connection beside that of the stream; share public, or join live, shares the first one")

	// errStopping: the process is about to exit.
	ErrStopping = errors.New("the server is stopping")
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

// Key is a keyed hash of what makes two requests the same stream.
type Key [sha256.Size]byte

// String names the key in logs; it tells nothing about the request.
func (k Key) String() string { return hex.EncodeToString(k[:8]) }

// Hub is the process-wide set of streams, outliving reloads.
//
// Lock order: hub.mu, then a stream's mu, then hub.allMu.
type Hub struct {
	secret [32]byte  // of the keyed hashes; fixed after construction
	macs   sync.Pool // of hash.Hash, keyed with it

	// Reports whether a server is one of the running configuration, not of one
	// that is being loaded. nil: all are. Set before anything else is done.
	Serves func(server any) bool

	running sync.WaitGroup // the goroutines that own upstream connections

	Memory    bufferMemory // of all replay buffers
	facts     facts        // what applications have shown
	lingering lingering    // streams without clients

	mu          sync.Mutex
	streams     map[Key][]*Stream // those that may be joined
	unshareable map[Key]Private   // with until when
	instances   []*Instance
	sequence    uint64             // of instances
	count       map[string]int     // streams by place
	detached    map[string]*Stream // by epoch
	crowds      map[string]*crowd
	stopping    bool
	stopped     time.Time // when that began

	allMu   sync.Mutex
	all     map[*Stream]struct{} // those in streams, and those that still have subscribers
	private map[PrivateStream]struct{}
	ending  bool // private streams are to end
}

// Instance is one provisioned handler.
type Instance struct {
	Place    string        // listen addresses of the server, and the handler's name
	server   any           // tells configurations apart
	sequence uint64        // grows with each configuration
	Retired  atomic.Bool   // its configuration was cleaned up
	Requests atomic.Uint64 // that have come to it
	Answers  atomic.Uint64 // of those, answered with event streams
	config   any           // of which it is; guarded by hub.mu
	memory   int64         // what it states for all replay buffers, 0: nothing; guarded by hub.mu
	crowded  bool          // its configuration has or had another one of the same place; guarded by hub.mu
}

// Process is shared by all handlers of all configurations of the process.
var Process = NewHub()

// NewHub makes a hub without streams; tests have their own.
func NewHub() *Hub {
	h := &Hub{
		streams:     make(map[Key][]*Stream),
		all:         make(map[*Stream]struct{}),
		private:     make(map[PrivateStream]struct{}),
		unshareable: make(map[Key]Private),
		count:       make(map[string]int),
		detached:    make(map[string]*Stream),
		crowds:      make(map[string]*crowd),
	}
	h.Memory.limit.Store(DefaultMemory)
	_, _ = rand.Read(h.secret[:]) // never fails: crypto/rand
	return h
}

// Register makes a handler known. The server tells its configuration from
// others.
func (h *Hub) Register(place string, server any) *Instance {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sequence++
	inst := &Instance{Place: place, server: server, sequence: h.sequence}
	for _, i := range h.instances {
		if i.Place == place && i.server == server {
			i.crowded, inst.crowded = true, true
		}
	}
	h.instances = append(h.instances, inst)
	return inst
}

// SharesPlace reports whether another handler of the same configuration has the
// same place, that is, no name of its own.
func (h *Hub) SharesPlace(inst *Instance) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !inst.aloneLocked()
}

// aloneLocked reports whether no other handler of the same configuration has the
// same place. The hub's lock is held.
func (i *Instance) aloneLocked() bool { return !i.crowded }

// locked does something with the hub's lock.
func (h *Hub) locked(do func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	do()
}

// spawn does something in a goroutine that is waited for.
func (h *Hub) spawn(do func()) { h.running.Go(do) }

// connect runs a stream's upstream connections.
func (h *Hub) connect(ctx context.Context, s *Stream, cancel context.CancelFunc, src Source, lastEventID string) {
	h.running.Go(func() { s.run(ctx, cancel, src, lastEventID) })
}

// Key hashes parts, each of which may contain anything.
func (h *Hub) Key(parts []Part) (key Key) {
	size := 0
	for _, part := range parts {
		size += 16 + len(part.Name) + len(part.Value)
	}
	text := make([]byte, 0, size) // to be hashed in one go
	add := func(s string) {
		text = binary.LittleEndian.AppendUint64(text, uint64(len(s)))
		text = append(text, s...)
	}
	for _, part := range parts {
		add(part.Name)
		add(part.Value)
	}
	mac, ok := h.macs.Get().(hash.Hash)
	if !ok {
		mac = hmac.New(sha256.New, h.secret[:])
	}
	mac.Write(text)
	mac.Sum(key[:0])
	mac.Reset()
	h.macs.Put(mac)
	return key
}

// Request is what a request brings to join a stream.
type Request struct {
	Key         Key
	Parts       []Part // what the key is made of
	Instance    *Instance
	LastEventID string
	headTime    time.Duration // how long others are to wait for the head, if it opens a stream
	IDParam     string        // the query parameter that brought it, if not the header field
	Options     *Options
	Client      Client
	Holder      Holder  // whose the request is; zero: that is not known
	Private     Private // why the stream is to be its client's alone, where it is; see OpenDetached

	// source returns what opens upstream connections for this request. It is
	// called only if the request opens a stream or brings a newer
	// configuration to it. waits tells that the request is to be given the
	// first answer if that is not a stream to share.
	Source func(waits bool) Source

	Logger *zap.Logger
}

// Join attaches a new subscriber to the stream of the request, which is opened
// if there is none.
func (h *Hub) Join(req *Request) (sub *Subscriber, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopping {
		return nil, ErrStopping
	}
	if !req.Options.Vouched {
		if why, own := h.facts.ownBy(req.Key, req.Parts); own {
			return nil, why.asError()
		}
	}

	sub, kept, err := h.joinKeptLocked(req)
	if kept != nil && !errors.Is(err, errNewLife) {
		return sub, err
	}
	// Only now: a stream that is there can be joined, whatever an answer was since.
	if why, ok := h.unshareable[req.Key]; ok {
		if time.Now().Before(why.Until) {
			return nil, why.asError()
		}
		delete(h.unshareable, req.Key)
	}

	// Who brings no ID asks the application. What is kept stays for those who
	// come back.
	var head *Head
	switch {
	case kept == nil:
	case req.LastEventID != "" && kept.isShared():
		head = kept.retire()
		h.removeLocked(kept)
	case kept.ofThisLife(req.LastEventID):
		head = kept.keptHead() // what is kept itself is not for this client
		h.dropEnded(req.Key)
	default:
		h.dropEnded(req.Key)
	}

	place := req.Instance.Place
	if limit := req.Options.MaxStreams; limit > 0 && h.count[place] >= limit && !h.makePlaceLocked(place) {
		return nil, errTooManyStreams
	}
	s := newStream(h, req, head)
	s.adoptable = req.Instance.aloneLocked()
	h.streams[req.Key] = append(h.streams[req.Key], s)
	h.track(s)
	h.count[place]++
	h.joinCrowdLocked(s)
	sub, err = s.attach(req)
	h.renewLate(s)
	return sub, err
}

// joinKeptLocked attaches a new subscriber to the stream that the request may join;
// kept is nil if there is none. One that is over is passed by: who has ended it
// needs the hub's lock to take it out.
func (h *Hub) joinKeptLocked(req *Request) (sub *Subscriber, kept *Stream, err error) {
	for {
		if kept = h.lookupLocked(req); kept == nil {
			return nil, nil, nil
		}
		if sub, err = kept.attach(req); !errors.Is(err, errGone) {
			return sub, kept, err
		}
		h.removeLocked(kept)
	}
}

// lookupLocked returns the stream that the request may join, nil if there is
// none. Of several it is the one that gave the request's last event ID.
func (h *Hub) lookupLocked(req *Request) (found *Stream) {
	epoch, position, _ := replay.ParseID(req.LastEventID)
	if position == nowhere {
		epoch = "" // one that goes on is better for this client
	}
	best := -1
	for _, s := range h.streams[req.Key] {
		if s.closed.Load() || !h.entitledLocked(s, req.Instance) {
			continue
		}
		if s.epoch == epoch {
			return s
		}
		if p := s.preference(req.LastEventID); p > best {
			found, best = s, p
		}
	}
	return found
}

// entitledLocked reports whether requests that reach inst may join s: the
// handler that opened it may; after a reload, the one handler of the same
// place in the other configuration.
func (h *Hub) entitledLocked(s *Stream, inst *Instance) bool {
	if s.owner == inst {
		return true
	}
	return s.owner.Place == inst.Place && s.owner.server != inst.server &&
		s.adoptable && inst.aloneLocked()
}

// remove takes s out of the hub, so that nobody joins it any more.
func (h *Hub) remove(s *Stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.removeLocked(s)
}

func (h *Hub) removeLocked(s *Stream) {
	if s.Detached {
		h.removeDetachedLocked(s)
		return
	}
	streams := h.streams[s.Key]
	i := slices.Index(streams, s)
	if i < 0 {
		return
	}
	if streams = slices.Delete(streams, i, i+1); len(streams) > 0 {
		h.streams[s.Key] = streams
	} else {
		delete(h.streams, s.Key)
	}
	h.leaveCrowdLocked(s)
	h.uncountLocked(s.place)
}

// uncountLocked takes a stream out of the count of its place.
func (h *Hub) uncountLocked(place string) {
	h.count[place]--
	if h.count[place] == 0 {
		delete(h.count, place)
	}
}

// keeps reports whether there is a stream with this key, one that has ended, say.
func (h *Hub) keeps(key Key) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.streams[key] != nil
}

// markUnshareable sends requests with this key upstream on their own, for d.
func (h *Hub) markUnshareable(key Key, d time.Duration, why Private) {
	h.mu.Lock()
	defer h.mu.Unlock()
	why = orElse(why, Private{Reason: PrivateNoStream})
	why.Until = time.Now().Add(d)
	if h.unshareable[key].Until.After(why.Until) {
		return // for another reason
	}
	h.unshareable[key] = why
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

// Shareable forgets that a key was unshareable for a time: a request with it
// was just answered with an event stream that may be shared.
func (h *Hub) Shareable(key Key) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if why, ok := h.unshareable[key]; ok && time.Until(why.Until) <= unshareableTime {
		delete(h.unshareable, key)
	}
}

// forget drops the last reference to a stream that is over and has no
// subscribers.
func (h *Hub) forget(s *Stream) {
	h.remove(s)
	h.untrack(s)
}

// track takes note of a stream that has, or is about to have, subscribers.
func (h *Hub) track(s *Stream) {
	h.allMu.Lock()
	defer h.allMu.Unlock()
	h.all[s] = struct{}{}
}

func (h *Hub) untrack(s *Stream) {
	h.allMu.Lock()
	defer h.allMu.Unlock()
	delete(h.all, s)
}

// Every returns all streams, those included that nobody can join any more.
func (h *Hub) Every() []*Stream {
	h.allMu.Lock()
	defer h.allMu.Unlock()
	return slices.Collect(maps.Keys(h.all))
}

// Stop drains all streams because the process is about to exit: each
// subscriber's response ends at a random moment within the time of drain. It
// returns when that began.
func (h *Hub) Stop() (began time.Time) {
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
	for _, s := range h.Every() {
		s.drain(s.DrainTime(), EndStopping)
	}
	h.allMu.Lock()
	defer h.allMu.Unlock()
	h.ending = true
	for p := range h.private {
		p.LeaveAfter(p.DrainTime(), EndStopping)
	}
	return began
}

// PrivateStream is a stream of one client that the hub knows, and does not run.
type PrivateStream interface {
	Observed

	// LeaveAfter ends it in a while, unless it ends before.
	LeaveAfter(d time.Duration, reason EndReason)
}

// TrackPrivate takes note of a private stream.
func (h *Hub) TrackPrivate(p PrivateStream) {
	h.allMu.Lock()
	defer h.allMu.Unlock()
	h.private[p] = struct{}{}
	if h.ending {
		p.LeaveAfter(p.DrainTime(), EndStopping)
	}
}

// ForgetPrivate takes a private stream that has ended off the list.
func (h *Hub) ForgetPrivate(p PrivateStream) {
	h.allMu.Lock()
	defer h.allMu.Unlock()
	delete(h.private, p)
}

// IsStopping reports whether the process is about to exit, and ends all streams.
func (h *Hub) IsStopping() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stopping
}

// Part is one part of a key: what it is called, for the operator, and its
// value.
type Part struct{ Name, Value string }

// EndAll ends all streams that only linger: for who begins anew in the same process,
// as tests do.
func (h *Hub) EndAll() {
	for _, s := range h.Every() {
		s.mu.Lock()
		if len(s.subs) == 0 {
			s.endLocked()
		}
		s.mu.Unlock()
		h.forget(s)
	}
}
