package stream

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/logs"
)

// maxUnshareable bounds how many such keys are remembered, because clients
// choose them. What is forgotten is learnt again.
const maxUnshareable = 1 << 16

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
	cluster atomic.Pointer[Cluster]

	Memory    bufferMemory // of all replay buffers
	facts     facts        // what applications have shown
	resources resources    // of the process
	lingering lingering    // streams without clients

	mu          sync.Mutex
	streams     map[Key][]*Stream // those that may be joined
	unshareable map[Key]Private   // with until when
	instances   []*Instance
	sequence    uint64             // of instances
	count       map[string]int     // streams by place
	detached    map[string]*Stream // by epoch
	answers     map[Key][]*Stream  // the same, by key
	crowds      map[string]*crowd
	stopping    bool
	stopped     time.Time // when that began

	allMu   sync.Mutex
	all     map[*Stream]struct{} // those in streams, and those that still have subscribers
	private map[PrivateStream]struct{}
	ending  bool // private streams are to end
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
		answers:     make(map[Key][]*Stream),
		crowds:      make(map[string]*crowd),
	}
	h.resources.files, h.resources.open, h.resources.memory = openFiles(), filesOpen, usedMemory
	h.Memory.limit.Store(h.resources.defaultMemory())
	_, _ = rand.Read(h.secret[:]) // never fails: crypto/rand
	return h
}

// SetCluster lets the hub's streams be shared with other nodes, from the next one that
// is opened on.
func (h *Hub) SetCluster(c Cluster) { h.cluster.Store(&c) }

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

// locked does something with the hub's lock.
func (h *Hub) locked(do func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	do()
}

// spawn does something in a goroutine that is waited for.
func (h *Hub) spawn(do func()) { h.running.Go(do) }

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
	if s.kind.answer {
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
	h.resources.countEnded()
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

// EndAll ends all streams that only linger: for who begins anew in the same process,
// as tests do.
func (h *Hub) EndAll() {
	for _, s := range h.Every() {
		s.mu.Lock()
		if !s.hasSubscribers() {
			s.endLocked()
		}
		s.mu.Unlock()
		h.forget(s)
	}
}

// bufferMemory is what a hub's replay buffers take together.
type bufferMemory struct {
	Used       atomic.Int64 // bytes that the blocks take
	limit      atomic.Int64
	reclaiming atomic.Bool // a goroutine makes room
	line       logs.Throttle
}

func (m *bufferMemory) over() bool { return m.Used.Load() > m.limit.Load() }

// crowdSize is how many streams of one path with one subscriber each make the
// gateway tell what keeps them apart: probably something that does not matter
// to the application, so that nothing is shared.
const crowdSize = 20

// crowd counts the streams of one path.
type crowd struct {
	streams int
	ask     int // look into it when there are more than so many
}

// leaveCrowdLocked takes a stream out of the count.
func (h *Hub) leaveCrowdLocked(s *Stream) {
	if c := h.crowds[s.path]; c != nil {
		if c.streams--; c.streams <= 0 {
			delete(h.crowds, s.path)
		}
	}
}

// removeDetachedLocked is removeLocked for a detached stream.
func (h *Hub) removeDetachedLocked(s *Stream) {
	if h.detached[s.epoch] != s {
		return
	}
	delete(h.detached, s.epoch)
	rest := slices.DeleteFunc(h.answers[s.Key], func(other *Stream) bool { return other == s })
	if h.answers[s.Key] = rest; len(rest) == 0 {
		delete(h.answers, s.Key)
	}
	h.uncountLocked(s.place)
}

func (h *Hub) addLingering(s *Stream) { h.lingering.add(s) }

func (h *Hub) removeLingering(s *Stream) { h.lingering.remove(s) }
