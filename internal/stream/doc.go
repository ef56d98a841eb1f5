// Package stream is the core: streams that clients share, their replay buffers, and the subscribers that read them. It
// knows neither Caddy nor a request nor a registry. The host brings requests (Request), opens upstream connections
// (Source, for internal/upstreams) and writes to clients (Subscriber.Next, Subscriber.NextOf).
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
//     that reads an upstream connection, or Cluster.Run in its place, is the only one that appends to a stream.
//  5. Register and read are one step. Who is told to wait is woken by all that comes after what it was given.
//  6. The head. Request.Source is called, and a stream's head given, at most once for each connection; Opened and
//     Refused are the two ways in which a connection answers. A key is marked unshareable before those who wait for
//     its head are woken.
//
// Locks are taken in this order: Hub.mu, then a stream's mu, then Hub.allMu. All splices of a stream and its successor
// have the stream's mu; lingering.mu comes last. No write to a client, and no handler, runs under any of them; a Waker's methods run under a
// stream's, and must not wait.
//
// Goroutines, and what ends them:
//
//	Cluster.Run          one for a stream that nodes may share      the stream's end
//	upstreams.Run        one for a stream's connections             its context, when nobody needs the stream any more
//	upstreams.Conn.run   the handlers behind sse                    their return; left to themselves after ReturnTime
//	Hub.reclaim          makes room in memory                       there is room, or nothing more to be had
//	Hub.renew            one for each stream after a reload         the stream has moved, or is drained
//
// Hub.running counts those of all kinds but upstreams.Conn.run. Timers (linger, splices, successors) take the locks like
// everybody else, and look first whether they are still meant.
//
// The files, from what is below to what is above: each names only what those before it
// declare, but for the three pairs with "with" (go -C tools run ./knot ..).
//
//	lines.go, backoff.go, attempts.go, bell.go, reasons.go,
//	key.go, private.go, counts.go, answers.go,
//	responses.go, gap.go, excerpt.go, facts.go, figures.go, said.go,
//	stay.go, settings.go, kind.go, since.go,
//	life.go, contents.go                         values, and words: they know no stream
//	stream.go with subscriber.go                 all that a stream is made of
//	kept.go, holds.go, ids.go, barrier.go,
//	compare.go, telling.go, continuity.go,
//	room.go, seats.go                            what is asked of it
//	end.go                                       all that ends
//	receiver.go                                  who upstream connections are for
//	sharing.go, late.go, trial.go with merge.go,
//	splice.go                                    a second connection beside it
//	waiting.go, begin.go, next.go                a subscriber waits, begins, is given the next blocks
//	successor.go with receive.go, intake.go,
//	reconnect.go                                 what its upstream connections bring, and what
//	                                             follows their ends
//	follow.go, nodes.go                          other nodes have it, too
//	attach.go, reopen.go                         a request comes to it
//	observed.go, tail.go                         what operators see of it
//	lingering.go, resources.go, files_unix.go,
//	files_other.go, hub.go, memory.go,
//	giveway.go, crowd.go, pass.go, adopt.go,
//	join.go, detached.go                         all streams
//	passing.go, census.go, inspect.go            what operators are shown
//	leftovers.go                                 what only tests of whole gateways ask
package stream
