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

// findOwner asks who owns the stream, and follows if somebody does.
func (s *share) findOwner(ctx context.Context) (follows bool) {
	s.listen(blocksOf(s.name)) // before it asks: what is published then is not missed
	m, err := s.askOwner(ctx)
	if err != nil || ctx.Err() != nil {
		return false
	}
	if !s.member.Follow(m.excerpt) {
		s.member.Lose() // its clients come back, and find that of the owner
		return false
	}
	s.follows(m)
	s.answer(memberOf(s.name, s.node.name))
	return true
}

// askOwner asks who owns the stream for all that is kept of it. Who does not answer in time is
// asked again, since it is there: it may have much to do, as when many streams are opened at
// one moment. And so is who does not give the stream: it may be about to give it up.
func (s *share) askOwner(ctx context.Context) (m *message, err error) {
	for range maxAsks {
		m, err = s.fetch(ctx, ownerOf(s.name), &message{all: true, after: s.member.Position(), follows: true})
		switch {
		case errors.Is(err, errRefused):
			wait := time.NewTimer(refusedTime)
			select {
			case <-ctx.Done():
			case <-wait.C:
			}
			wait.Stop()
		case !errors.Is(err, context.DeadlineExceeded) || s.node.hasLost():
			return m, err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return m, err
}

// follows takes note of whom this node follows.
func (s *share) follows(m *message) {
	if s.owner == m.rank && (len(m.followers) == 0 || slices.Equal(s.known, m.followers)) {
		return
	}
	s.owner, s.strange = m.rank, 0
	if len(m.followers) > 0 {
		s.known = m.followers
	}
	s.mu.Lock()
	s.rank = m.rank
	s.mu.Unlock()
	s.is(stream.NodeFollows)
}

// follow takes what the owner publishes, until that is lost, which it returns, or the
// stream is over.
func (s *share) follow(ctx context.Context) (lost bool) {
	renew := time.NewTimer(renewTime)
	defer renew.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-s.node.lost(s.owner.node):
			return true
		case <-renew.C:
			lost = s.refresh(ctx)
			renew.Reset(renewTime)
		case m := <-s.inbox:
			lost = s.take(ctx, m)
		}
		if lost {
			return true
		}
	}
}

// take takes a message of an owner. It returns whether that does not own any more.
func (s *share) take(ctx context.Context, m *message) (lost bool) {
	switch {
	case m.rank.less(s.owner):
		return false
	case s.owner.less(m.rank):
		if m.kind == kindBlocks || m.kind == kindClaim {
			s.change(ctx, m.rank)
		}
		return false
	}
	switch m.kind {
	case kindBlocks:
		if !s.member.Follow(m.excerpt) {
			return s.refresh(ctx)
		}
		s.follows(m)
	case kindClaim:
		if s.member.Position() < m.after {
			return s.refresh(ctx)
		}
	case kindEnded:
		if s.member.Position() < m.after && (s.refresh(ctx) || s.member.Position() < m.after) {
			return true // what came before the end is to be had from the upstream only
		}
		s.member.End(stream.EndReason(m.reason), m.tail)
	case kindClosed:
		s.member.Lose()
	case kindLeft:
		return true
	}
	return false
}

// refresh asks the owner for what this node has not got. It returns whether nobody is
// there any more.
func (s *share) refresh(ctx context.Context) (lost bool) {
	m, err := s.fetch(ctx, memberOf(s.name, s.owner.node), &message{after: s.member.Position(), follows: true})
	switch {
	case errors.Is(err, ErrNobody):
		return true
	case errors.Is(err, errRefused):
		s.member.Lose() // it is not shared any more
		return false
	case err != nil:
		return false // it is asked again, unless it is not heard any more
	case s.owner.less(m.rank):
		s.change(ctx, m.rank)
		return false
	case m.rank != s.owner:
		s.strange++ // a stream before this one, which that node is about to end; or one after it
		return s.strange > 1
	}
	s.strange = 0
	s.goOn(m)
	return false
}

// change follows another owner.
func (s *share) change(ctx context.Context, to rank) {
	m, err := s.fetch(ctx, memberOf(s.name, to.node), &message{after: s.member.Position(), follows: true})
	if err != nil || m.rank.less(s.owner) {
		return // it tells again that it owns
	}
	s.goOn(m)
}

// goOn goes on with what another node has after what this one has. If that does not
// join, the clients here come back, each to begin where it can.
func (s *share) goOn(m *message) {
	if !s.member.Follow(m.excerpt) {
		s.member.Lose()
		return
	}
	s.follows(m)
}

// takeOver makes this node the owner, unless another follower does so first. All of them
// have noticed that the owner is gone: they go in the order of their names.
func (s *share) takeOver(ctx context.Context) (owns bool) {
	if !s.member.HasClients() {
		s.member.Lose()
		return false
	}
	lost := s.owner
	alive := s.node.alive(slices.DeleteFunc(slices.Clone(s.known), func(name string) bool { return name == lost.node }))
	turn := time.NewTimer(time.Duration(max(0, slices.Index(alive, s.node.name))) * turnTime)
	defer turn.Stop()
	for waiting := true; waiting; {
		select {
		case <-ctx.Done():
			return false
		case <-turn.C:
			waiting = false
		case m := <-s.inbox:
			s.take(ctx, m)
			if lost.less(s.owner) {
				return false
			}
		}
	}
	s.gather(ctx, alive)
	if ctx.Err() != nil {
		return false
	}
	s.owner = newRank(lost.term+1, s.node.name)
	s.node.takeOvers.Add(1)
	s.member.Log().Warn("the node that had the stream is gone: this one takes over", zap.String("node", lost.node), zap.Uint64("term", s.owner.term))
	s.member.Connect()
	return true
}

// gather fetches from other followers what the owner has still sent to them.
func (s *share) gather(ctx context.Context, names []string) {
	var all sync.WaitGroup
	found := make(chan *message, len(names))
	after := s.member.Position()
	for _, name := range names {
		if name == s.node.name {
			continue
		}
		all.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, turnTime/3)
			defer cancel()
			if m, err := s.fetch(ctx, memberOf(s.name, name), &message{after: after}); err == nil && m.rank == s.owner {
				found <- m
			}
		})
	}
	all.Wait()
	close(found)
	for m := range found {
		s.member.Follow(m.excerpt) // if it does not join, that one does without
	}
}
