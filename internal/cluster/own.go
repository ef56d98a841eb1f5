package cluster

import (
	"context"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// becomeShared waits until the stream may be given to others, and gives it up if another
// node gives it by then. It returns whether this node is to own it. Until then its clients
// come over only if they lose nothing by that.
func (s *share) becomeShared(ctx context.Context) bool {
	look := time.NewTicker(renewTime)
	defer look.Stop()
	for shared := false; !shared; {
		changed := s.member.Changed()
		shared = s.member.IsShared()
		if !shared {
			select {
			case <-ctx.Done():
				return false
			case <-changed:
				continue
			case m := <-s.inbox:
				if m.kind != kindClaim { // nothing here depends on it yet
					continue
				}
			case <-look.C:
			}
		}
		if (shared || s.member.ResumesAnywhere()) && s.isOwned(ctx) {
			s.giveWay()
			return false
		}
	}
	return ctx.Err() == nil
}

// giveWay ends the stream here, since another node gives it to others.
func (s *share) giveWay() {
	s.node.gaveWay.Add(1)
	s.member.Lose()
}

// isOwned reports whether another node gives the stream to others.
func (s *share) isOwned(ctx context.Context) bool {
	_, err := s.ask(ctx, ownerOf(s.name), &message{after: s.member.Position()})
	return err == nil && ctx.Err() == nil
}

// own gives the stream to others until it is over, or another node has it.
func (s *share) own(ctx context.Context) {
	s.mu.Lock()
	s.rank, s.owns = s.owner, true
	s.published = s.member.Position()
	s.mu.Unlock()
	s.is(stream.NodeOwns)
	s.answer(ownerOf(s.name))
	s.answer(memberOf(s.name, s.node.name))
	defer s.leave()
	met := s.node.meets()
	s.claim()
	renew, again := time.NewTicker(renewTime), newPulse(claimTime)
	defer renew.Stop()
	defer again.Stop()
	var changed <-chan struct{} // nil: nobody follows
	for {
		joined, followed := s.followed()
		switch {
		case !followed:
			changed = nil
		case changed == nil:
			changed = s.member.Changed()
			s.publish() // what came before that
		}
		select {
		case <-ctx.Done():
			return
		case <-met:
			met = s.node.meets()
			s.claim()
		case <-again.C:
			again.next()
			s.claim()
		case <-renew.C:
			if s.member.IsClosed() {
				return
			}
			s.forget()
			s.tell()
		case m := <-s.inbox:
			if s.owner.less(m.rank) && m.kind != kindLeft && m.kind != kindClosed && m.kind != kindEnded {
				s.lostTo = m.rank
				s.claim() // so that it knows of this node's clients
				s.giveWay()
				return
			}
			if m.kind == kindClaim && m.rank != s.owner {
				s.member.IsOfOthers()
				s.claim() // so that it knows
			}
		case <-joined:
			s.tell()
		case <-changed:
			changed = s.member.Changed() // before it is looked
			if !s.publish() {
				return
			}
		}
	}
}

// followed reports whether another node follows, and returns what is closed when there is
// one more.
func (s *share) followed() (joined <-chan struct{}, followed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.joined, len(s.followers) > 0
}

// claim tells that this node owns the stream.
func (s *share) claim() {
	s.node.publish(claimsOf(s.name), &message{kind: kindClaim, rank: s.owner, after: s.member.ForOthers()})
}

// publish sends followers what is new. It returns false if the stream is not to be given
// to others any more.
func (s *share) publish() bool {
	s.mu.Lock()
	published, names := s.published, s.followersLocked()
	s.mu.Unlock()
	for {
		e := s.excerpt(published, false)
		if e == nil {
			return false
		}
		published = e.End()
		e.Head = nil // who follows has it
		s.node.publish(blocksOf(s.name), &message{kind: kindBlocks, rank: s.owner, followers: names, excerpt: e})
		if e.Whole {
			break
		}
	}
	s.mu.Lock()
	s.published = max(s.published, published)
	s.mu.Unlock()
	return true
}

// forget takes followers off the list that have not asked for long.
func (s *share) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, at := range s.followers {
		if time.Since(at) > forgetTime {
			delete(s.followers, name)
		}
	}
	s.member.SetFollowed(len(s.followers) > 0)
}

// leave tells followers how the stream has ended here.
func (s *share) leave() {
	s.mu.Lock()
	followed := len(s.followers) > 0
	s.owns = false
	s.mu.Unlock()
	if !followed {
		return
	}
	s.member.SetFollowed(false)
	s.publish() // what came before the end
	m := &message{kind: kindLeft, rank: s.owner, after: s.member.ForOthers()}
	reason, tail, ended := s.member.Ended()
	switch {
	case s.lostTo.node != "":
		m.kind, m.rank = kindClaim, s.lostTo
	case ended:
		m.kind, m.reason, m.tail = kindEnded, string(reason), tail
	case s.member.IsClosed():
		m.kind = kindClosed
	}
	s.node.publish(blocksOf(s.name), m)
}
