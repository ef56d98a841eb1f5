// Package stream is the core: streams that clients share, their replay buffers, and the subscribers that read them. It
// knows neither Caddy nor a request nor a registry. The host brings requests (Request), opens upstream connections
// (Source) and writes to clients (Subscriber.Next, Subscriber.NextOf).
//
// What it promises:
//
//  1. Order. A subscriber is given the blocks of its stream in the order in which the upstream sent them, each once.
//  2. Loss. What a subscriber is not given is told to it: by the outcome of resuming, by a gap event, or by the end of its
//     response. There is no silent loss, and no silent repetition.
//  3. Sharing. Two subscribers are given the same upstream connection only if their keys are equal, and only as far as it
//     is vouched for, or was seen, that the upstream tells both the same.
//  4. Blocking. A subscriber is a position in a replay buffer and has no queue: none slows another one, and none but the
//     clients of a splice, of a detached stream, and for a moment of a burst (room.go) slows the upstream. The goroutine
//     that reads an upstream connection is the only one that appends to a stream.
//  5. Register and read are one step. Who is told to wait is woken by all that comes after what it was given.
//  6. The head. Request.Source is called, and a stream's head given, at most once for each connection; Conn.Opened and
//     Conn.Refused are the two ways in which a connection answers. A key is marked unshareable before those who wait for
//     its head are woken.
//
// Locks are taken in this order: Hub.mu, then a stream's mu, then Hub.allMu. All splices of a stream and its successor
// have the stream's mu; lingering.mu comes last. No write to a client, and no handler, runs under any of them; a Waker's methods run under a
// stream's, and must not wait.
//
// Goroutines, and what ends them:
//
//	Stream.run           one for each upstream connection's life    its context, when nobody needs the stream any more
//	Conn.run             the handlers behind sse                    their return; left to themselves after returnTime
//	Hub.reclaim          makes room in memory                       there is room, or nothing more to be had
//	Hub.renew            one for each stream after a reload         the stream has moved, or is drained
//
// Hub.running counts those of the first, third and fourth kind. Timers (linger, splices, successors) take the locks like
// everybody else, and look first whether they are still meant.
//
// Where to look:
//
//	hub.go, crowd.go, facts.go, memory.go        what there is of all streams
//	stream.go, settings.go, lines.go             a stream
//	subscriber.go, begin.go, bell.go, room.go,
//	gap.go                                       who reads it, and from where
//	upstream.go, reconnect.go, backoff.go        its upstream connection
//	continuity.go, late.go                       what a connection after another one brings
//	splice.go, merge.go, sharing.go, trial.go    a second connection beside it, compared by internal/evidence
//	waiting.go                                   who waits for it
//	adopt.go, successor.go                       a new configuration
//	detached.go, reopen.go                       streams without clients, and after their end
//	private.go                                   why a stream is one client's alone
//	inspect.go, census.go, counts.go, tail.go,
//	passing.go                                   what operators are shown
//	leftovers.go                                 what only tests of whole gateways ask
package stream
