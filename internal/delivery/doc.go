// Package delivery writes to clients. It knows the core, which says what a client is to be given, and no handler: the
// host brings the response, the subscriber and the settings.
//
// There are two ways, and both send what stream.Subscriber gives them, no more and in its order:
//
//   - The goroutine of the request writes (Delivery.Run, by a Response). It waits for the stream's bell, for the time of
//     a heartbeat, and for its client to leave.
//   - The connection is taken over when nothing but blocks is to come: one of HTTP/1.1 from net/http, a stream of HTTP/2
//     from the listener wrapper (TakeOver). Then it belongs to one of a few writers. ADR 4 says why and when.
//
// What it promises:
//
//  1. What is sent goes out at once. Nothing is held back for more to come.
//  2. Nobody waits for a client: a writer writes what fits into a socket and goes on with the next one.
//  3. Only the goroutine of its writer touches a socket that was taken over, from the first write to its close. So
//     nothing is written to a file descriptor that has been given to another file.
//  4. A client that takes nothing for write_timeout is cut, whether somebody waits in a write or not.
//  5. A heartbeat comes between two blocks, never into one.
//  6. A response that was taken over is recorded (Record) before the process exits (WaitEmpty).
//
// Locks: writers share none of their own state; inbox, live and poller have one each, under which nothing else is called.
//
// Goroutines, and what ends them:
//
//	writer.run, poller.run         a few for the process          nothing
//	asyncSocket.await, readable    a write or a read over TLS     the write or read is over, at the latest by its deadline
//	asyncSocket.close              the last alert of TLS          it was sent, or could not be
//	handshakes.accept, handOut     a listener of the wrapper      the listener is closed; lastHandshakes after that at the latest
//
// Where to look:
//
//	settings.go, ends.go, counts.go               what both ways have in common
//	delivery.go, response.go                      by the request's goroutine
//	takeover.go, http2.go, handshakes.go          how a connection is taken over
//	cause.go                                      why one is not
//	writers.go, writer.go, inbox.go, due.go       the writers
//	connection.go, batch.go, live.go, clock.go    what they have of a client
//	socket_*.go, async.go, poller_linux.go        how bytes get out
//	progress.go, acks*.go                         whether the client takes them
//	storm.go                                      after many have come at once
package delivery
