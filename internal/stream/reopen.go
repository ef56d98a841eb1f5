package stream

import (
	"context"
	"time"
)

// Opening a stream again that has ended.
//
// The upstream may have ended it as HTTP says, or it could not be reached for
// give_up. The stream is kept for those who come back with an ID of it: the
// first of them opens it again. The application may have another answer by now:
// a 204, a 401, JSON. Then who opens it is given that one. But a failure that may
// pass is hidden: to EventSource any status is the end, and an application that
// is being restarted lets its streams end and is not there for a while.

// AwaitOpening waits for the stream's head, or for whatever comes in its place.
// Who has not opened the stream itself does not wait for long: the request of the
// first client may hang where another one is answered at once. Then again tells
// it to look for another stream, and the first of those opens it, for which the
// others wait twice as long: an application that is slow is not to be asked by
// each of them. The first client is left alone with its own. left tells that ctx
// is done.
func (s *Stream) AwaitOpening(ctx context.Context, req *Request, isFirst bool) (again, left bool) {
	var tired <-chan time.Time
	if !isFirst && !s.kind.answer {
		timer := time.NewTimer(time.Until(s.born.Add(s.headTime)))
		defer timer.Stop()
		tired = timer.C
	}
	select {
	case <-s.ready:
	case <-tired:
		select {
		case <-s.ready:
			return false, false
		default:
		}
		s.hub.remove(s)
		req.headTime = 2 * s.headTime
		return true, false
	case <-ctx.Done():
		return false, true
	}
	return false, false
}

// Reopens reports whether the connection opens a stream again that has ended.
func (c *intake) Reopens() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stream.reopening
}

// reopening returns what is closed when there may be an answer to who has come
// back, and nil when there is nothing to wait for.
func (sub *Subscriber) reopening() <-chan struct{} {
	sub.Origin.mu.Lock()
	defer sub.Origin.mu.Unlock()
	if s := sub.Origin; s.reopening && !s.isGone() && !s.draining {
		return s.bell.wait()
	}
	return nil
}

// WasRefused reports whether the upstream's answer is no stream to share.
func (s *Stream) WasRefused() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused
}

// AwaitReopening waits until it is known whether a stream goes on that is being
// opened again, but not for long. waited tells that there was something to wait
// for, left that ctx is done.
func (sub *Subscriber) AwaitReopening(ctx context.Context) (waited, left bool) {
	answer := sub.reopening()
	if answer == nil {
		return false, false
	}
	patience := time.NewTimer(OpeningPatience)
	defer patience.Stop()
	for answer != nil {
		select {
		case <-answer:
			answer = sub.reopening()
		case <-patience.C:
			return true, false
		case <-ctx.Done():
			return true, true
		}
	}
	return true, false
}
