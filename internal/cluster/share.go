package cluster

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

const (
	// askTime is how long a node waits for another one's reply.
	askTime = time.Second

	// renewTime is after how long a follower asks its owner again, and forgetTime after
	// how long one that has not is taken off the owner's list.
	renewTime  = 5 * time.Second
	forgetTime = 3 * renewTime

	// claimTime is how often an owner tells so, though nobody is met: that may be lost. At
	// first it does more often: see pulse.
	claimTime = 30 * time.Second

	// maxAsks is how often in a row a node asks who owns a stream, if there is somebody who
	// does not answer in time, or does not give it at the moment; refusedTime is between two.
	maxAsks     = 3
	refusedTime = 100 * time.Millisecond

	// turnTime is how long the next follower in order waits for the one before to take over.
	turnTime = 500 * time.Millisecond

	// maxWaiting is how many messages wait to be looked at. What is dropped is found missing.
	maxWaiting = 256
)

// Subjects of a stream. Owners answer on the first; each node that owns or follows on its
// own; owners publish blocks on the third, and tell that they own on the fourth.
func ownerOf(name string) string        { return "owner/" + name }
func memberOf(name, node string) string { return "member/" + name + "/" + node }
func blocksOf(name string) string       { return "blocks/" + name }
func claimsOf(name string) string       { return "claims/" + name }

// pulse is a timer of what is done again and again, and sooner when a node has just begun with
// a stream: where another one has begun at the same moment, neither may yet be known to the
// other as one that listens, and what they have told first is lost.
type pulse struct {
	*time.Timer
	then []time.Duration
}

func newPulse(interval time.Duration) *pulse {
	p := &pulse{then: []time.Duration{250 * time.Millisecond, 750 * time.Millisecond, 3 * time.Second, interval}}
	p.Timer = time.NewTimer(p.then[0])
	return p
}

// next sets the timer, which has fired.
func (p *pulse) next() {
	p.then = p.then[min(1, len(p.then)-1):]
	p.Reset(p.then[0])
}

// share is this node's part in one stream, for one call of Run.
type share struct {
	node   *Node
	member *stream.Member
	name   string
	inbox  chan *message
	stops  []func()

	// Of Run's goroutine.
	owner   rank     // of the stream, as far as this node knows
	known   []string // who followed, as the owner told
	lostTo  rank     // the owner that this one has given way to
	strange int      // how often in a row its node has answered for another stream of the key
	role    stream.NodeRole

	mu        sync.Mutex
	rank      rank                 // what replies tell
	owns      bool                 // this node does
	followers map[string]time.Time // when they asked last, with owns
	joined    chan struct{}        // closed when there is another follower; then there is another
	published uint64               // up to here blocks were
}

// Run implements stream.Cluster.
func (n *Node) Run(ctx context.Context, m *stream.Member) {
	s := &share{
		node: n, member: m, name: m.Name, inbox: make(chan *message, maxWaiting),
		followers: make(map[string]time.Time), joined: make(chan struct{}),
	}
	defer s.close()
	s.is(stream.NodeAsks)
	s.listen(claimsOf(s.name))
	if !s.findOwner(ctx) {
		s.member.Connect()
		s.is(stream.NodeAlone)
		if !s.becomeShared(ctx) {
			return
		}
		s.owner = newRank(1, n.name)
		s.own(ctx)
		return
	}
	for s.follow(ctx) {
		if s.takeOver(ctx) {
			s.own(ctx)
			return
		}
	}
}

// is takes note of what this node is in the stream, for operators.
func (s *share) is(role stream.NodeRole) {
	s.count(-1)
	s.role = role
	s.count(1)
	s.tell()
}

// count counts the stream by what this node is in it.
func (s *share) count(by int64) {
	switch s.role {
	case stream.NodeAsks:
		s.node.waiting.Add(by)
	case stream.NodeAlone:
		s.node.alone.Add(by)
	case stream.NodeOwns:
		s.node.owned.Add(by)
	case stream.NodeFollows:
		s.node.followed.Add(by)
	}
}

// tell tells operators of the nodes that have the stream.
func (s *share) tell() {
	info := stream.NodesInfo{Role: s.role, Owner: s.owner.node, Term: s.owner.term, Followers: s.known}
	if s.role == stream.NodeOwns {
		s.mu.Lock()
		info.Followers = s.followersLocked()
		s.mu.Unlock()
	}
	s.member.Tell(info)
}

func (s *share) close() {
	s.count(-1)
	for _, stop := range s.stops {
		stop()
	}
}

// listen puts what is published on a subject in the inbox.
func (s *share) listen(subject string) {
	stop, err := s.node.bus.Subscribe(subject, func(text []byte) {
		m := s.node.read(text)
		if m == nil || m.node == s.node.name {
			return
		}
		s.node.hear(m.node, 0)
		select {
		case s.inbox <- m:
		default:
		}
	})
	s.started(stop, err)
}

// answer lets this node answer on a subject.
func (s *share) answer(subject string) {
	stop, err := s.node.bus.Answer(subject, s.reply)
	s.started(stop, err)
}

func (s *share) started(stop func(), err error) {
	if err != nil {
		s.member.Log().Warn("this node shares a stream with no others", zap.NamedError("reason", err))
		return
	}
	s.stops = append(s.stops, stop)
}

// reply answers a request: with what follows a position.
func (s *share) reply(text []byte) []byte {
	m := s.node.read(text)
	out := &message{kind: kindRefuse, node: s.node.name}
	if m != nil && m.kind == kindAsk {
		s.member.IsOfOthers()
		if e := s.excerpt(m.after, m.all); e != nil {
			out.kind, out.excerpt = kindBlocks, e
			s.mu.Lock()
			if s.owns && m.follows {
				s.joins(m.node, e.End())
			}
			out.rank, out.followers = s.rank, s.followersLocked()
			s.mu.Unlock()
		}
	}
	return s.node.sent(out.encode(time.Now()))
}

// joins takes note of a follower, which has all up to a position. The lock is held.
func (s *share) joins(name string, end uint64) {
	if _, ok := s.followers[name]; !ok {
		if len(s.followers) == 0 {
			s.published = end
		}
		s.published = min(s.published, end)
		close(s.joined)
		s.joined = make(chan struct{})
	}
	s.followers[name] = time.Now()
	s.member.SetFollowed(true)
}

func (s *share) followersLocked() (names []string) {
	for name := range s.followers {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// partSize is about how many bytes of blocks a message has. What else is said to a node waits
// behind it: on a link of 10 Mbit/s, a fifth of a second.
const partSize = 256 << 10

// excerpt is what comes after a position, or all that is kept, in one message; nil: nothing is
// to be given.
func (s *share) excerpt(after uint64, all bool) *stream.Excerpt {
	most := s.node.bus.MaxMessage() / 4 * 3
	return s.member.Excerpt(after, all, min(partSize, most), most)
}

// errRefused is the reply of a node that has nothing to give.
var errRefused = errors.New("the node does not give the stream")

// ask asks on a subject for what comes after a position, and returns one reply.
func (s *share) ask(ctx context.Context, subject string, request *message) (*message, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	request.kind, request.node = kindAsk, s.node.name
	text, err := s.node.bus.Ask(ctx, subject, s.node.sent(request.encode(time.Now())))
	if err != nil {
		return nil, err
	}
	m := s.node.read(text)
	if m == nil || m.kind != kindBlocks {
		return nil, errRefused
	}
	s.node.hear(m.node, 0)
	return m, nil
}

// fetch asks a node for all that comes after a position, or that it keeps, in as many
// replies as that takes. They are one then.
func (s *share) fetch(ctx context.Context, subject string, request *message) (*message, error) {
	m, err := s.ask(ctx, subject, request)
	if err != nil {
		return nil, err
	}
	for !m.excerpt.Whole {
		more, err := s.ask(ctx, memberOf(s.name, m.node), &message{after: m.excerpt.End(), follows: request.follows})
		if err != nil {
			return nil, err
		}
		e := more.excerpt
		if e.Epoch != m.excerpt.Epoch || e.After != m.excerpt.End() {
			return nil, errRefused // it has gone on meanwhile
		}
		e.Blocks = append(m.excerpt.Blocks, e.Blocks...)
		e.After, e.Events, e.OldestID = m.excerpt.After, m.excerpt.Events, m.excerpt.OldestID
		m = more
	}
	return m, nil
}
