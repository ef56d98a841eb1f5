package cluster

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/stream"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// peerBus is a bus on which another node answers what the test says, in this order; then
// nobody answers. It notes what is published.
type peerBus struct {
	deafBus
	replies []*message

	mu        sync.Mutex
	published []*message
}

func (b *peerBus) Publish(_ string, text []byte) error {
	m, err := decode(text, time.Now())
	b.mu.Lock()
	defer b.mu.Unlock()
	b.published = append(b.published, m)
	return err
}

func (b *peerBus) Ask(context.Context, string, []byte) ([]byte, error) {
	if len(b.replies) == 0 {
		return nil, ErrNobody
	}
	m := b.replies[0]
	b.replies = b.replies[1:]
	return m.encode(time.Now()), nil
}

// handed is the cluster of a hub that hands the test each stream.
type handed chan *stream.Member

func (handed) Name([]stream.Part, *stream.Options) string { return "name" }

func (h handed) Run(ctx context.Context, m *stream.Member) {
	h <- m
	<-ctx.Done()
}

// noSource is an application that is not reached.
type noSource struct{}

func (noSource) Open(ctx context.Context, _ string, _ *upstreams.Conn) upstreams.Ending {
	<-ctx.Done()
	return upstreams.Ending{Err: ctx.Err()}
}
func (noSource) Retired() bool                   { return false }
func (noSource) Renew(any, *stream.Renewal) bool { return false }

var (
	theOwner = rank{term: 3, age: 7, node: "owner"}
	theEpoch = replay.NewEpoch()
)

// excerpt is a part of the owner's stream: events after one, up to another.
func excerpt(epoch string, after, to uint64) *stream.Excerpt {
	e := &stream.Excerpt{Epoch: epoch, Head: &upstreams.Head{Header: http.Header{}}, Live: true, Whole: true, After: after, Events: after, Connection: 1}
	for n := after + 1; n <= to; n++ {
		text := []byte("data: " + strconv.FormatUint(n, 10) + "\n")
		b := replay.NewBlock(eventstream.Block{Lines: text, HasData: true}, text, nil, time.Now())
		b.Position, b.Events = n, n
		e.Blocks = append(e.Blocks, stream.CopiedBlock{Block: b})
	}
	return e
}

func blocks(r rank, e *stream.Excerpt) *message {
	return &message{kind: kindBlocks, node: r.node, rank: r, excerpt: e}
}

// followed is a share that follows the owner.
type followed struct {
	*share
	t   *testing.T
	bus *peerBus
	end func() stream.EndReason // of the client's response; "": it goes on
}

// follower runs a test of a share that follows the owner, whose stream has three events, and
// of its one client.
func follower(t *testing.T, test func(ft *followed)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		bus := new(peerBus)
		n, err := New(bus, zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		hub, members := stream.NewHub(), make(handed, 1)
		hub.SetCluster(members)
		o := stream.Defaults()
		o.Buffer = replay.Limits{Events: 100, Size: 1 << 20, Age: time.Hour}
		o.Vouched, o.Join = true, stream.JoinLive
		sub, err := hub.Join(&stream.Request{
			Instance: hub.Register("place", "server"), Options: o, Source: func(bool) stream.Source { return noSource{} }, Logger: zap.NewNop(),
		})
		if err != nil {
			t.Fatal(err)
		}
		s := &share{node: n, member: <-members, name: "name", inbox: make(chan *message, 1), followers: make(map[string]time.Time), joined: make(chan struct{})}
		n.hear(theOwner.node, 1)
		first := blocks(theOwner, excerpt(theEpoch, 0, 3))
		if !s.member.Follow(first.excerpt) {
			t.Fatal("it does not follow")
		}
		s.follows(first)
		test(&followed{s, t, bus, func() (end stream.EndReason) {
			for {
				blocks, wake, _, end := sub.Next(nil, time.Now())
				if end != "" || (wake != nil && len(blocks) == 0) {
					return end
				}
			}
		}})
		sub.Leave()
		hub.EndAll()
		n.Close()
	})
}

// What comes to an owner between its reply to a new follower and the moment when it has noticed
// that is published, though nothing comes after it.
func TestNewFollowerIsSentWhatCameMeanwhile(t *testing.T) {
	follower(t, func(ft *followed) {
		ctx, cancel := context.WithCancel(ft.t.Context())
		var owning sync.WaitGroup
		owning.Go(func() { ft.own(ctx) })
		synctest.Wait()
		ft.mu.Lock()
		ft.joins("other", 1) // its reply had the first block only
		ft.mu.Unlock()
		synctest.Wait()
		ft.bus.mu.Lock()
		published := ft.bus.published // before it leaves
		ft.bus.mu.Unlock()
		cancel()
		owning.Wait()
		for _, m := range published {
			if m.kind == kindBlocks && len(m.excerpt.Blocks) == 2 && m.excerpt.End() == 3 {
				return
			}
		}
		ft.t.Errorf("published: %+v", published)
	})
}

// The owner's stream has ended. What came before that and is not here is fetched; if it is
// not to be had, the end is not the clients' yet.
func TestEndComesAfterAllThatCameBeforeIt(t *testing.T) {
	ended := &message{kind: kindEnded, node: theOwner.node, rank: theOwner, after: 5, reason: string(stream.EndUpstream)}
	follower(t, func(ft *followed) {
		if lost := ft.take(ft.t.Context(), ended); !lost || ft.end() != "" {
			ft.t.Errorf("lost: %v, end %q, with two events missing", lost, ft.end())
		}
		ft.bus.replies = []*message{blocks(theOwner, excerpt(theEpoch, 3, 5))}
		if lost := ft.take(ft.t.Context(), ended); lost || ft.end() != stream.EndUpstream || ft.member.Position() != 5 {
			ft.t.Errorf("lost: %v, end %q, at %d", lost, ft.end(), ft.member.Position())
		}
	})
}

// An owner that does not give the stream any more, and has not been heard to say so, is
// found out when it is asked.
func TestStreamThatIsRefusedIsLost(t *testing.T) {
	follower(t, func(ft *followed) {
		ft.bus.replies = []*message{{kind: kindRefuse, node: theOwner.node}}
		if ft.refresh(ft.t.Context()) || ft.end() != stream.EndBroken {
			ft.t.Errorf("end %q", ft.end())
		}
	})
}

// The owner's node answers for another stream of the key: that is not followed. It may be one
// that it is about to end, so it is asked again; but if it is one that it has begun since, the
// owner's is gone.
func TestAnotherStreamOfTheOwnerIsNotFollowed(t *testing.T) {
	before := theOwner
	before.term, before.age = 1, 9
	follower(t, func(ft *followed) {
		ft.bus.replies = []*message{blocks(before, excerpt(theEpoch, 3, 9))}
		if lost := ft.refresh(ft.t.Context()); lost || ft.member.Position() != 3 || ft.end() != "" {
			ft.t.Errorf("lost: %v, at %d, end %q", lost, ft.member.Position(), ft.end())
		}
		ft.bus.replies = []*message{blocks(theOwner, excerpt(theEpoch, 3, 4)), blocks(before, excerpt(theEpoch, 3, 9)), blocks(before, excerpt(theEpoch, 3, 9))}
		for i, want := range []bool{false, false, true} {
			if lost := ft.refresh(ft.t.Context()); lost != want || ft.member.Position() != 4 {
				ft.t.Errorf("answer %d: lost: %v, at %d", i, lost, ft.member.Position())
			}
		}
	})
}

// Of other followers only those have what the lost owner has still sent that followed it, too.
func TestOnlyFollowersOfTheSameOwnerAreAskedForItsLast(t *testing.T) {
	other := theOwner
	other.term, other.node = 9, "other"
	follower(t, func(ft *followed) {
		ft.bus.replies = []*message{blocks(other, excerpt(theEpoch, 3, 9))}
		ft.gather(ft.t.Context(), []string{"another follower"})
		if got := ft.member.Position(); got != 3 {
			ft.t.Errorf("it has blocks up to %d", got)
		}
		ft.bus.replies = []*message{blocks(theOwner, excerpt(theEpoch, 3, 4))}
		ft.gather(ft.t.Context(), []string{"another follower"})
		if got := ft.member.Position(); got != 4 {
			ft.t.Errorf("it has blocks up to %d, expected 4", got)
		}
	})
}

// What is fetched in parts is of one epoch, and without a hole.
func TestPartsThatDoNotJoinAreNotTaken(t *testing.T) {
	for name, second := range map[string]*stream.Excerpt{
		"another epoch": excerpt(replay.NewEpoch(), 5, 7),
		"a hole":        excerpt(theEpoch, 6, 7),
	} {
		follower(t, func(ft *followed) {
			first := excerpt(theEpoch, 3, 5)
			first.Whole = false
			ft.bus.replies = []*message{blocks(theOwner, first), blocks(theOwner, second)}
			if m, err := ft.fetch(ft.t.Context(), "subject", &message{after: 3}); !errors.Is(err, errRefused) {
				ft.t.Errorf("%s: %+v, %v", name, m, err)
			}
		})
	}
}

// A node that did not run itself has heard nobody: that says nothing of the others.
func TestNodeThatDidNotRunLosesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, err := New(new(deafBus), zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		n.hear("other", 1)
		later := time.Now().Add(time.Hour)
		n.check(later, true)
		if len(n.alive([]string{"other"})) != 1 {
			t.Error("another one is taken for gone")
		}
		n.check(later.Add(lifetime+1), false)
		if len(n.alive([]string{"other"})) != 0 {
			t.Error("another one that was not heard is taken for alive")
		}
	})
}
