package h2

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// testTimeout bounds every wait for something that has to happen.
const testTimeout = 30 * time.Second

// connect returns both ends of a TCP connection.
func connect(t *testing.T) (client, server net.Conn) {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if client, err = new(net.Dialer).DialContext(t.Context(), "tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = client.Close(), server.Close() })
	return client, server
}

// byHand is a connection whose server and client are the test.
type byHand struct {
	t      *testing.T
	conn   *Conn
	side   *Side
	client net.Conn
	framer *http2.Framer
}

func newByHand(t *testing.T) *byHand {
	t.Helper()
	client, server := connect(t)
	h := &byHand{t: t, conn: New(server, nil), client: client, framer: http2.NewFramer(client, client)}
	h.side = h.conn.Side()
	h.framer.AllowIllegalWrites = true
	preface := make([]byte, len(Preface))
	if _, err := io.ReadFull(h.side, preface); err != nil || string(preface) != Preface {
		t.Fatalf("preface %q, %v", preface, err)
	}
	return h
}

// request lets the client open a stream, and the server see it.
func (h *byHand) request(id uint32) {
	h.t.Helper()
	err := h.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: []byte{1, 2, 3}, EndStream: true, EndHeaders: true})
	if err != nil {
		h.t.Fatal(err)
	}
	h.serverReads(headerLen + 3)
}

// serverReads reads what is to come to the server.
func (h *byHand) serverReads(n int) []byte {
	h.t.Helper()
	p := make([]byte, n)
	_ = h.side.SetReadDeadline(time.Now().Add(testTimeout))
	if _, err := io.ReadFull(h.side, p); err != nil {
		h.t.Fatal(err)
	}
	return p
}

// say lets the server write.
func (h *byHand) say(frames ...[]byte) {
	h.t.Helper()
	if _, err := h.side.Write(bytes.Join(frames, nil)); err != nil {
		h.t.Fatal(err)
	}
}

func frame(kind, flags byte, stream uint32, payload string) []byte {
	return append(appendHeader(nil, header{length: len(payload), kind: kind, flags: flags, stream: stream}), payload...)
}

// take takes over the response to a new request. Its events go to the channel.
func (h *byHand) take(id uint32) (*Stream, <-chan Event) {
	h.t.Helper()
	h.request(id)
	claim := h.conn.Claim()
	h.say(frame(frameHeaders, flagEndHeaders, id, "abc"), frame(frameData, 0, id, claim.Marker()))
	s := claim.Settle()
	if s == nil {
		h.t.Fatal("not taken over")
	}
	h.say(frame(frameData, flagEndStream, id, ""))
	events := make(chan Event, 100)
	s.Watch(func(e Event) { events <- e })
	h.expect(frameHeaders, id)
	return s, events
}

// expect waits for a frame at the client.
func (h *byHand) expect(kind byte, stream uint32) http2.Frame {
	h.t.Helper()
	_ = h.client.SetReadDeadline(time.Now().Add(testTimeout))
	f, err := h.framer.ReadFrame()
	if err != nil {
		h.t.Fatalf("instead of a frame of type %d: %v", kind, err)
	}
	if byte(f.Header().Type) != kind || f.Header().StreamID != stream {
		h.t.Fatalf("%v, expected type %d of stream %d", f, kind, stream)
	}
	return f
}

func (h *byHand) expectData(stream uint32, want string) {
	h.t.Helper()
	if got := h.expect(frameData, stream).(*http2.DataFrame).Data(); string(got) != want {
		h.t.Fatalf("%.100q, expected %.100q", got, want)
	}
}

func (h *byHand) expectEnd() {
	h.t.Helper()
	_ = h.client.SetReadDeadline(time.Now().Add(testTimeout))
	if f, err := h.framer.ReadFrame(); !errors.Is(err, io.EOF) {
		h.t.Fatalf("%v, %v, expected the end", f, err)
	}
}

func (h *byHand) write(s *Stream, p string) {
	h.t.Helper()
	if !h.writeAside(s, p) {
		h.t.FailNow()
	}
}

// writeAside is write for another goroutine than the test's.
func (h *byHand) writeAside(s *Stream, p string) (ok bool) {
	h.t.Helper()
	n, err := s.Write([]byte(p))
	h.conn.Flush()
	if ok = err == nil && n == len(p); !ok {
		h.t.Errorf("%d bytes of %d, %v", n, len(p), err)
	}
	return ok
}

func awaitEvent(t *testing.T, events <-chan Event, want Event) {
	t.Helper()
	select {
	case e := <-events:
		if e != want {
			t.Fatalf("event %d, expected %d", e, want)
		}
	case <-time.After(testTimeout):
		t.Fatalf("event %d did not come", want)
	}
}

var farewell = frame(frameGoAway, 0, 0, "\x00\x00\x00\x01\x00\x00\x00\x00")

// When the server ends in order, streams that were taken over go on: the client
// is answered, and closed when the last of them has ended.
func TestStreamsOutliveTheServer(t *testing.T) {
	h := newByHand(t)
	one, events := h.take(1)
	three, others := h.take(3)
	if err := h.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 70000}); err != nil {
		t.Fatal(err)
	}
	h.serverReads(headerLen + settingLen) // and does not acknowledge them
	read := make(chan error)
	go func() {
		_, err := h.side.Read(make([]byte, 4096))
		read <- err
	}()
	h.say(farewell)
	if err := h.side.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err == nil {
		t.Error("the server can still read")
	}
	h.expect(frameGoAway, 0)
	if !h.expect(frameSettings, 0).(*http2.SettingsFrame).IsAck() {
		t.Error("no acknowledgement")
	}
	h.write(one, "one")
	h.expectData(1, "one")
	if err := h.framer.WritePing(false, [8]byte{1, 2}); err != nil {
		t.Fatal(err)
	}
	if f := h.expect(framePing, 0).(*http2.PingFrame); !f.IsAck() || f.Data != [8]byte{1, 2} {
		t.Errorf("%v", f)
	}
	if err := h.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}); err != nil {
		t.Fatal(err)
	}
	h.expect(frameSettings, 0)
	if n, err := one.Write([]byte("more")); n != 0 || err != nil {
		t.Errorf("%d bytes, %v, where there is no room", n, err)
	}
	one.Await()
	if err := h.framer.WriteWindowUpdate(1, 100); err != nil {
		t.Fatal(err)
	}
	awaitEvent(t, events, Writable)
	h.write(one, "more")
	h.expectData(1, "more")
	if err := h.framer.WriteRSTStream(1, http2.ErrCodeCancel); err != nil {
		t.Fatal(err)
	}
	awaitEvent(t, events, Ended)
	if _, err := one.Write([]byte("x")); !errors.Is(err, ErrOver) {
		t.Errorf("writing: %v", err)
	}
	three.Finish()
	h.conn.Flush()
	if !h.expect(frameData, 3).(*http2.DataFrame).StreamEnded() {
		t.Error("not ended")
	}
	h.expectEnd()
	select {
	case e := <-others:
		t.Errorf("event %d of a stream that was finished", e)
	default:
	}
}

// When the server is gone it is for the connection to bound what a client makes it
// say, and what it does not know does not end the streams.
func TestFloodsWhenTheServerIsGone(t *testing.T) {
	for name, test := range map[string]struct {
		frame []byte
		n     int
		ends  bool
	}{
		"PING":         {frame(framePing, 0, 0, "12345678"), 1 << 20, true},
		"SETTINGS":     {frame(frameSettings, 0, 0, ""), 1 << 20, true},
		"requests":     {frame(frameHeaders, flagEndHeaders|flagEndStream, 5, "abc"), 10_000, false},
		"CONTINUATION": {frame(frameContinuation, 0, 5, string(make([]byte, 1000))), 10_000, false},
		"large frame":  {frame(99, 0, 0, string(make([]byte, 1<<24-1))), 1, false},
		"room":         {appendWord(nil, frameWindowUpdate, 1, 1), 10_000, false},
		"resets":       {appendWord(nil, frameRST, 7, 8), 10_000, false},
		"DATA":         {frame(frameData, 0, 1, "data"), 10_000, false},
		"PRIORITY":     {frame(2, 0, 1, "12345"), 10_000, false},
		"short PING":   {frame(framePing, 0, 0, "1234"), 100, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := newByHand(t)
			s, events := h.take(1)
			h.say(farewell)
			_ = h.side.Close()
			h.expect(frameGoAway, 0)
			_ = h.client.SetWriteDeadline(time.Now().Add(testTimeout))
			batch := bytes.Repeat(test.frame, max(1, min(test.n, 64<<10/len(test.frame))))
			var err error
			for sent := 0; sent < test.n*len(test.frame) && err == nil; sent += len(batch) {
				_, err = h.client.Write(batch)
			}
			if !test.ends {
				if err != nil {
					t.Fatal(err)
				}
				h.write(s, "it goes on")
				h.expectData(1, "it goes on")
				return
			}
			awaitEvent(t, events, Ended)
			if !errors.Is(h.conn.Fault(), errFlood) {
				t.Errorf("the connection ends because of: %v", h.conn.Fault())
			}
		})
	}
}

// A server may acknowledge many SETTINGS with one frame, and so need no limit for
// them. What is kept of each needs one.
func TestUnacknowledgedSettingsAreBounded(t *testing.T) {
	h := newByHand(t)
	_, events := h.take(1)
	go io.Copy(io.Discard, h.side)
	if _, err := h.client.Write(bytes.Repeat(frame(frameSettings, 0, 0, ""), maxAnnounced+1)); err != nil {
		t.Fatal(err)
	}
	awaitEvent(t, events, Ended)
	if !errors.Is(h.conn.Fault(), errFlood) {
		t.Errorf("the connection ends because of: %v", h.conn.Fault())
	}
	h.conn.mu.Lock()
	defer h.conn.mu.Unlock()
	if n := len(h.conn.initial.announced); n > maxAnnounced {
		t.Errorf("%d are kept", n)
	}
}

// A client that leaves then ends all streams.
func TestClientLeavesWhenTheServerIsGone(t *testing.T) {
	h := newByHand(t)
	_, events := h.take(1)
	h.say(farewell)
	_ = h.side.Close()
	_ = h.client.Close()
	awaitEvent(t, events, Ended)
	if h.conn.Fault() == nil {
		t.Error("no reason")
	}
}

// When the server gives the connection up, or says nothing, all streams end.
func TestServerThatFailsEndsStreams(t *testing.T) {
	for name, last := range map[string][]byte{
		"no farewell": nil, "an error": frame(frameGoAway, 0, 0, "\x00\x00\x00\x01\x00\x00\x00\x01"),
		"within a frame": append(bytes.Clone(farewell), frame(frameData, 0, 5, "abc")[:10]...),
	} {
		t.Run(name, func(t *testing.T) {
			h := newByHand(t)
			s, events := h.take(1)
			h.request(5)
			h.say(last)
			_ = h.side.Close()
			awaitEvent(t, events, Ended)
			if _, err := s.Write([]byte("x")); !errors.Is(err, ErrOver) {
				t.Errorf("writing: %v", err)
			}
			_ = h.client.SetReadDeadline(time.Now().Add(testTimeout))
			if _, err := io.Copy(io.Discard, h.client); err != nil {
				t.Errorf("not closed: %v", err)
			}
		})
	}
}

// What the client must not do with a stream that was taken over ends that stream,
// and with the connection, reaches the server, and ends what was taken over.
func TestClientsErrors(t *testing.T) {
	for name, test := range map[string]struct {
		stream, room uint32
		code         http2.ErrCode
	}{
		"no room":                           {1, 0, http2.ErrCodeProtocol},
		"too much room":                     {1, maxWindow, http2.ErrCodeFlowControl},
		"no room on the connection":         {0, 0, 0},
		"too much room on the connection":   {0, maxWindow, 0},
		"no room, when the server is gone":  {0, 0, 1},
		"too much, when the server is gone": {0, maxWindow, 1},
	} {
		t.Run(name, func(t *testing.T) {
			h := newByHand(t)
			_, events := h.take(1)
			alone := test.stream == 0 && test.code != 0
			if alone {
				h.say(farewell)
				_ = h.side.Close()
				h.expect(frameGoAway, 0)
			}
			update := appendWord(nil, frameWindowUpdate, test.stream, test.room)
			if _, err := h.client.Write(update); err != nil {
				t.Fatal(err)
			}
			switch {
			case alone:
				h.expectEnd()
			case test.stream == 0:
				if got := h.serverReads(len(update)); !bytes.Equal(got, update) {
					t.Errorf("the server got %q", got)
				}
				if h.conn.Claim() != nil {
					t.Error("streams are still taken over")
				}
			default:
				go func() { _, _ = h.side.Read(make([]byte, 1)) }()
				if f := h.expect(frameRST, 1).(*http2.RSTStreamFrame); f.ErrCode != test.code {
					t.Errorf("%v", f)
				}
			}
			awaitEvent(t, events, Ended)
		})
	}
}

// What a server writes without knowing that its room was used is held; what needs
// no room is not. When much is held its writes wait.
func TestServerIsHeld(t *testing.T) {
	h := newByHand(t)
	one, _ := h.take(1)
	h.request(3)
	if err := h.framer.WriteWindowUpdate(1, 1<<20); err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, h.side)
	for left := initialWindow; left > 0; {
		n, err := one.Write(make([]byte, left))
		if err != nil {
			t.Fatal(err)
		}
		h.conn.Flush()
		for left -= n; n > 0; {
			n -= len(h.expect(frameData, 1).(*http2.DataFrame).Data())
		}
	}
	h.say(frame(frameHeaders, flagEndHeaders, 3, "abc"), frame(frameData, 0, 3, "held"), frame(frameHeaders, flagEndHeaders, 5, "def"),
		frame(framePing, flagAck, 0, "12345678"))
	h.expect(frameHeaders, 3)
	h.expect(framePing, 0)
	waited := make(chan struct{})
	go func() {
		defer close(waited)
		for range 6 { // the last one waits
			h.say(frame(frameData, 0, 3, string(make([]byte, maxPayload))))
		}
	}()
	for held := 0; held <= maxHeld; {
		h.conn.mu.Lock()
		held = h.conn.held.bytes
		h.conn.mu.Unlock()
	}
	select {
	case <-waited:
		t.Error("the server goes on writing")
	default:
	}
	for _, more := range []uint32{2, 2, 6 * maxPayload} {
		if err := h.framer.WriteWindowUpdate(0, more); err != nil {
			t.Fatal(err)
		}
	}
	h.expectData(3, "he")
	h.expectData(3, "ld")
	h.expect(frameHeaders, 5)
	for n := 6 * maxPayload; n > 0; {
		n -= len(h.expect(frameData, 3).(*http2.DataFrame).Data())
	}
	<-waited
}

// discardFrom reads for the server what the client has sent so far, and returns then:
// what was read lets streams write. Later frames are read in the background.
func (h *byHand) discardFrom(mark string) {
	h.t.Helper()
	if err := h.framer.WritePing(false, [8]byte([]byte(mark))); err != nil {
		h.t.Fatal(err)
	}
	var seen []byte
	for buf := make([]byte, 1<<10); !bytes.Contains(seen, []byte(mark)); {
		n, err := h.side.Read(buf)
		if err != nil {
			h.t.Fatal(err)
		}
		seen = append(seen, buf[:n]...)
	}
	go func() { _, _ = io.Copy(io.Discard, h.side) }()
}

// inTurn lets two functions begin that need the lock of the connection's state, and
// hands it to the first, and from that to the second at once: the first goes on after
// it when the second has done all that it does without waiting.
func (h *byHand) inTurn(first, second func()) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // one of them runs, until it waits
	mu := &h.conn.mu
	var both sync.WaitGroup
	mu.Lock()
	for _, f := range []func(){first, second} {
		both.Go(f)
		letOthersRun()
	}
	time.Sleep(2 * time.Millisecond) // a mutex is handed over by who unlocks it when somebody has waited for longer than one
	mu.Unlock()                      // the first wakes up,
	mu.Lock()                        // finds it locked once more,
	letOthersRun()
	mu.Unlock() // and has it handed over
	both.Wait()
}

func letOthersRun() {
	for range 10 {
		runtime.Gosched()
	}
}

// expectNothingQueued waits for who writes, and fails if something stays in the queue
// then: nobody is to write it.
func (h *byHand) expectNothingQueued() {
	h.t.Helper()
	h.conn.wmu.Lock()
	defer h.conn.wmu.Unlock()
	if n := h.conn.Queued(); n > 0 {
		h.t.Fatalf("%d bytes stay in the queue", n)
	}
}

// Who holds the lock of who writes looks at the queue once more before it lets go of
// it: who has found it locked does not come back.
func TestNothingStaysInTheQueue(t *testing.T) {
	const rounds = 20
	t.Run("while another finds nothing to write", func(t *testing.T) {
		h := newByHand(t)
		one, _ := h.take(1)
		for range rounds {
			h.inTurn(h.conn.Flush, func() { h.writeAside(one, "event") })
			h.expectNothingQueued()
			h.expectData(1, "event")
		}
	})
	late := func(t *testing.T) (h *byHand, one *Stream, serverWrites func()) {
		t.Helper()
		h = newByHand(t)
		one, _ = h.take(1)
		h.say(farewell)
		_ = h.side.Close()
		h.expect(frameGoAway, 0)
		return h, one, func() {
			if _, err := h.side.Write(frame(framePing, 0, 0, "too late")); !errors.Is(err, net.ErrClosed) {
				t.Errorf("the server writes after it has closed: %v", err)
			}
		}
	}
	t.Run("while the server writes too late", func(t *testing.T) {
		h, one, serverWrites := late(t)
		for range rounds {
			h.inTurn(serverWrites, func() { h.writeAside(one, "event") })
			h.expectNothingQueued()
			h.expectData(1, "event")
		}
	})
	t.Run("before the server is told that it is too late", func(t *testing.T) {
		h, one, serverWrites := late(t)
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // the server runs until it waits
		for range rounds {
			var server sync.WaitGroup
			h.conn.mu.Lock()
			server.Go(serverWrites)
			letOthersRun()
			h.conn.mu.Unlock()
			h.write(one, "event")
			server.Wait()
			h.expectNothingQueued()
			h.expectData(1, "event")
		}
	})
}

// A stream that waits for room of the connection, and has enough of its own, goes on
// when the client gives that alone.
func TestRoomOfTheConnectionWakesStreams(t *testing.T) {
	h := newByHand(t)
	one, events := h.take(1)
	if err := h.framer.WriteWindowUpdate(1, 1<<20); err != nil {
		t.Fatal(err)
	}
	h.discardFrom("all read")
	for left := initialWindow; left > 0; {
		n, err := one.Write(make([]byte, left))
		if err != nil {
			t.Fatal(err)
		}
		h.conn.Flush()
		for left -= n; n > 0; {
			n -= len(h.expect(frameData, 1).(*http2.DataFrame).Data())
		}
	}
	one.Await()
	if n, err := one.Write([]byte("more")); n != 0 || err != nil {
		t.Fatalf("%d bytes, %v, where there is no room", n, err)
	}
	if err := h.framer.WriteWindowUpdate(0, 100); err != nil {
		t.Fatal(err)
	}
	awaitEvent(t, events, Writable)
	h.write(one, "more")
	h.expectData(1, "more")
}

// A client that does not read costs a bounded amount of memory, and streams take
// turns: what is small does not wait for all of what is large.
func TestStreamsTakeTurns(t *testing.T) {
	h := newByHand(t)
	one, events := h.take(1)
	three, _ := h.take(3)
	for _, id := range []uint32{0, 1} {
		if err := h.framer.WriteWindowUpdate(id, 1<<24); err != nil {
			t.Fatal(err)
		}
	}
	h.discardFrom("all read")
	large := make([]byte, 1<<20)
	written := 0
	writeOne := func() {
		n, err := one.Write(large)
		if err != nil {
			t.Fatal(err)
		}
		written += n
		one.Await()
	}
	writeOne()
	for range 100 {
		writeOne()
	}
	if queued := h.conn.Queued(); queued > maxQueue+maxPayload+headerLen || written > maxQueue+maxPayload {
		t.Fatalf("%d bytes wait", queued)
	}
	h.conn.Flush()
	before := 0
	for range 20 {
		awaitEvent(t, events, Writable)
		writeOne()
		h.conn.Flush()
	}
	three.Await()
	for n := 0; n == 0; {
		var err error
		if n, err = three.Write([]byte("small")); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			before += int(h.expect(frameData, 1).Header().Length)
		}
	}
	h.conn.Flush()
	for {
		_ = h.client.SetReadDeadline(time.Now().Add(testTimeout))
		f, err := h.framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if f.Header().StreamID == 3 {
			break
		}
		before += int(f.Header().Length)
	}
	if all := written + maxPayload; before > all {
		t.Errorf("%d bytes came before, of %d", before, all)
	}
}

// The server of Go and the client of Go find nothing wrong, and each response
// comes whole, in whatever way it is written.
func TestServerAndClientOfGo(t *testing.T) {
	const streams, lines = 20, 300
	client, server := connect(t)
	var writers sync.WaitGroup
	var conn *Conn
	line := func(stream string, n int) string {
		return fmt.Sprintf("%s %d %s\n", stream, n, bytes.Repeat([]byte{'x'}, n*n%5000))
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/large" {
			_, _ = w.Write(make([]byte, 3<<20))
			return
		}
		stream := r.URL.Path
		rc := http.NewResponseController(w)
		_, _ = io.WriteString(w, line(stream, 0))
		_ = rc.Flush()
		claim := conn.Claim()
		_, _ = io.WriteString(w, claim.Marker())
		_ = rc.Flush()
		select {
		case <-claim.Done():
		case <-r.Context().Done():
		}
		s := claim.Settle()
		if s == nil {
			t.Error("not taken over")
			return
		}
		news := make(chan Event, 100)
		s.Watch(func(e Event) { news <- e })
		writers.Go(func() {
			for n := 1; n < lines; n++ {
				for p := []byte(line(stream, n)); len(p) > 0; {
					done, err := s.Write(p)
					if err != nil {
						t.Error(err)
						return
					}
					s.Conn().Flush()
					if p = p[done:]; len(p) > 0 {
						s.Await()
						<-news
					}
				}
			}
			s.Finish()
			s.Conn().Flush()
		})
	})
	served := make(chan struct{})
	go func() {
		defer close(served)
		preface := make([]byte, len(Preface))
		if _, err := io.ReadFull(server, preface); err != nil {
			return
		}
		conn = New(server, func() int { return 4096 })
		//nolint:staticcheck // SA1019: what serves one connection, and is used by Caddy
		new(http2.Server).ServeConn(struct{ net.Conn }{conn.Side()}, &http2.ServeConnOpts{Handler: handler})
	}()
	cc, err := new(http2.Transport).NewClientConn(client) //nolint:staticcheck // SA1019: as above
	if err != nil {
		t.Fatal(err)
	}
	get := func(path string) *http.Response {
		req, _ := http.NewRequestWithContext(context.Background(), http.MethodGet, "https://gateway.test"+path, nil)
		resp, err := cc.RoundTrip(req)
		if err != nil {
			t.Error(err)
			return nil
		}
		return resp
	}
	var clients sync.WaitGroup
	for i := range streams {
		clients.Go(func() {
			path := fmt.Sprintf("/%d", i)
			resp := get(path)
			if resp == nil {
				return
			}
			defer resp.Body.Close()
			r := bufio.NewReader(resp.Body)
			for n := range lines {
				got, err := r.ReadString('\n')
				if want := line(path, n); got != want || err != nil {
					t.Errorf("%s: %.50q, %v, expected %.50q", path, got, err, want)
					return
				}
			}
			if rest, err := io.ReadAll(r); len(rest) > 0 || err != nil {
				t.Errorf("%s: %q, %v after the end", path, rest, err)
			}
		})
	}
	for range 3 {
		clients.Go(func() {
			resp := get("/large")
			if resp == nil {
				return
			}
			defer resp.Body.Close()
			if n, err := io.Copy(io.Discard, resp.Body); n != 3<<20 || err != nil {
				t.Errorf("large: %d bytes, %v", n, err)
			}
		})
	}
	clients.Wait()
	writers.Wait()
	told := make(chan struct{})
	conn.Written(func() { close(told) })
	<-told
	conn.mu.Lock()
	if len(conn.streams) > 0 || len(conn.claims) > 0 || len(conn.open) > 0 || conn.live > 0 || len(conn.waiters) > 0 {
		t.Errorf("left: %d streams, %d claims, %d open", len(conn.streams), len(conn.claims), len(conn.open))
	}
	conn.mu.Unlock()
	_ = cc.Close()
	<-served
}

// That the handlers have returned is known when the server has ended the response in order, and not known when it has
// broken it off or the connection ends; whoever asks first.
func TestReturnedIsWhenTheServerHasEndedTheResponse(t *testing.T) {
	for name, test := range map[string]struct {
		end   func(h *byHand)
		known bool
	}{
		"in order":                {func(h *byHand) { h.say(frame(frameData, flagEndStream, 1, "")) }, true},
		"after the client's end":  {func(h *byHand) { h.clientResets(1); h.say(frame(frameData, flagEndStream, 1, "")) }, true},
		"broken off":              {func(h *byHand) { h.say(frame(frameRST, 0, 1, "\x00\x00\x00\x02")) }, false},
		"the connection has gone": {func(h *byHand) { _ = h.client.Close(); _ = h.side.Close() }, false},
	} {
		for _, asked := range []string{"before", "afterwards"} {
			t.Run(name+", asked "+asked, func(t *testing.T) {
				h := newByHand(t)
				h.request(1)
				claim := h.conn.Claim()
				h.say(frame(frameHeaders, flagEndHeaders, 1, "abc"), frame(frameData, 0, 1, claim.Marker()))
				s := claim.Settle()
				var told []bool
				tell := func(known bool) { told = append(told, known) }
				if asked == "before" {
					s.Returned(tell)
					if len(told) > 0 {
						t.Fatal("told before the server's end")
					}
				}
				test.end(h)
				if asked == "afterwards" {
					s.Returned(tell)
				}
				if !slices.Equal(told, []bool{test.known}) {
					t.Errorf("told %v, expected %v", told, test.known)
				}
			})
		}
	}
}

// clientResets lets the client end a stream, of which the server is told nothing.
func (h *byHand) clientResets(id uint32) {
	h.t.Helper()
	if err := errors.Join(h.framer.WriteRSTStream(id, http2.ErrCodeCancel), h.framer.WritePing(false, [8]byte{})); err != nil {
		h.t.Fatal(err)
	}
	h.serverReads(headerLen + pingLen) // comes after it
}

// A client opens streams without end. So many of a connection are known, of which so many are taken over: those beyond
// are the server's as ever, and it is the server that limits how many there are.
func TestStreamsOfAConnectionAreBounded(t *testing.T) {
	h := newByHand(t)
	for n := range uint32(maxOpen + 100) {
		h.request(2*n + 1)
	}
	h.conn.mu.Lock()
	known := len(h.conn.open)
	h.conn.mu.Unlock()
	if known != maxOpen {
		t.Errorf("%d streams are known, expected %d", known, maxOpen)
	}
	for n := range maxStreams {
		if h.conn.Claim() == nil {
			t.Fatalf("stream %d is not taken over", n)
		}
	}
	if h.conn.Claim() != nil {
		t.Errorf("more than %d streams are taken over", maxStreams)
	}
}
