package h2

import (
	"bytes"
	"net"
	"os"
	"reflect"
	"testing"
	"time"
)

// Stream 1 and 5 are the server's, 3 was taken over, and of 7 there may be the
// marker in what is fuzzed.
const fuzzMarker = ":AAAAAAAAAAAAAAAAAAAAAAAAAA\n"

func newFuzzed(w net.Conn) *Conn {
	c := New(w, func() int { return 1 << 30 })
	c.maxHeld = 1 << 40
	c.client.ready = nil
	c.given, c.believed = 100, 200
	c.open = map[uint32]int64{1: 65535, 5: 65535, 7: 65535}
	c.newest = 7
	c.streams = map[uint32]*Stream{3: {conn: c, id: 3, window: 100, notify: func(Event) {}}}
	c.live = 1
	c.claims = map[string]*Claim{fuzzMarker: {conn: c, marker: fuzzMarker, done: make(chan struct{})}}
	return c
}

// pieces is a transport that gives and takes bytes in pieces.
type pieces struct {
	net.Conn
	in  [][]byte
	out []byte
}

func (w *pieces) Read(p []byte) (int, error) {
	if len(w.in) == 0 {
		return 0, os.ErrDeadlineExceeded
	}
	n := copy(p, w.in[0])
	if w.in[0] = w.in[0][n:]; len(w.in[0]) == 0 {
		w.in = w.in[1:]
	}
	return n, nil
}

func (w *pieces) Write(p []byte) (int, error) {
	w.out = append(w.out, p...)
	return len(p), nil
}

func (*pieces) Close() error                     { return nil }
func (*pieces) SetReadDeadline(time.Time) error  { return nil }
func (*pieces) SetWriteDeadline(time.Time) error { return nil }

// split cuts data at lengths that bytes give.
func split(data, at []byte) (all [][]byte) {
	for i := 0; len(data) > 0; i++ {
		n := len(data)
		if i < len(at) {
			n = min(n, 1+int(at[i]))
		}
		all = append(all, data[:n])
		data = data[n:]
	}
	return all
}

// state is what is known of a connection.
type state struct {
	given, believed, window, initial int64
	open                             map[uint32]int64
	over, careless, failed           bool
	held                             int64
}

func stateOf(c *Conn) state {
	s := state{
		given: c.given, believed: c.believed, initial: c.initial.now, open: c.open, careless: c.careless,
		failed: c.err != nil, held: c.held.data,
	}
	if stream := c.streams[3]; stream != nil {
		s.window, s.over = stream.window, stream.over
	}
	return s
}

func seeds(f *testing.F) {
	f.Helper()
	frames := func(all ...[]byte) { f.Add(bytes.Join(all, nil), []byte{3, 7, 0, 200, 1, 1, 1}) }
	data := func(stream uint32, flags byte, payload string) []byte {
		return append(appendHeader(nil, header{length: len(payload), kind: frameData, flags: flags, stream: stream}), payload...)
	}
	head := func(stream uint32, kind, flags byte) []byte {
		return append(appendHeader(nil, header{length: 3, kind: kind, flags: flags, stream: stream}), "abc"...)
	}
	frames(data(1, 0, "hello"), data(7, 0, fuzzMarker), data(7, flagEndStream, ""), data(5, flagEndStream, "x"))
	frames(data(3, 0, "foreign"), head(1, frameHeaders, flagEndHeaders), head(5, frameHeaders, 0), head(5, frameContinuation, flagEndHeaders))
	frames(head(3, frameHeaders, flagEndHeaders|flagEndStream), appendWord(nil, frameRST, 3, 2), appendWord(nil, frameRST, 1, 2))
	frames(appendWord(nil, frameWindowUpdate, 0, 1000), appendWord(nil, frameWindowUpdate, 3, 1000), appendWord(nil, frameWindowUpdate, 3, 0))
	frames(appendWord(nil, frameWindowUpdate, 0, maxWindow), appendWord(nil, frameWindowUpdate, 1, maxWindow), head(9, frameHeaders, 5))
	frames(append(appendHeader(nil, header{length: 12, kind: frameSettings}), 0, 4, 0, 0, 1, 0, 0, 3, 0, 0, 0, 9),
		appendHeader(nil, header{kind: frameSettings, flags: flagAck}))
	frames(append(appendHeader(nil, header{length: 8, kind: frameGoAway}), 0, 0, 0, 1, 0, 0, 0, 0), bytes.Repeat(data(1, 0, "0123456789"), 10))
	frames(bytes.Repeat(data(1, 0, string(make([]byte, 40))), 5), data(7, 0, fuzzMarker), head(1, frameHeaders, 5))
}

// However the client's bytes are split, the same ones reach the server, and the
// same is known of the connection.
func FuzzClientFrames(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, data, at []byte) {
		read := func(in [][]byte, size int) (state, []byte) {
			c := newFuzzed(&pieces{in: in})
			var got []byte
			p := make([]byte, size)
			for {
				n, err := c.Side().Read(p)
				got = append(got, p[:n]...)
				if err != nil {
					return stateOf(c), got
				}
			}
		}
		want, whole := read([][]byte{data}, 1<<20)
		if len(data) == 0 {
			want, whole = read(nil, 1<<20)
		}
		for _, size := range []int{5, 4096} {
			if got, parts := read(split(data, at), size); !reflect.DeepEqual(got, want) || !bytes.Equal(parts, whole) {
				t.Fatalf("in parts %+v %q\nas a whole %+v %q", got, parts, want, whole)
			}
		}
	})
}

// inOrder is what goes out, less what depends on when it comes: DATA of a stream
// that is held goes out in parts, and frames that are not held before it. What is
// in the queue goes out before the last frame, if that is not complete.
func inOrder(b, queue []byte) (all []byte) {
	var ahead, tail []byte
	last := -1 // where the newest frame begins, if it is DATA to which more can be added
	for queue != nil || len(b) >= headerLen {
		if len(b) < headerLen || len(b) < headerLen+parseHeader(b).length {
			if queue != nil {
				b, tail, queue = queue, b, nil
				continue
			}
			break
		}
		h := parseHeader(b)
		n := headerLen + h.length
		frame := b[:n]
		b = b[n:]
		switch {
		case h.kind == frameSettings && !h.has(flagAck), h.kind > frameContinuation, h.kind == frameWindowUpdate,
			h.kind == framePing, h.kind == frameGoAway, h.kind == 2:
			ahead = append(ahead, frame...)
			continue
		case h.kind != frameData:
			last = -1
		default:
			if last >= 0 {
				if before := parseHeader(all[last:]); before.stream == h.stream && !before.has(flagEndStream) && !h.has(flagPadded) {
					before.length += h.length
					before.flags |= h.flags
					appendHeader(all[last:last], before)
					all = append(all, frame[headerLen:]...)
					continue
				}
			}
			if last = len(all); h.has(flagPadded) {
				last = -1
			}
		}
		all = append(all, frame...)
	}
	return append(append(append(all, ahead...), b...), tail...)
}

// However the server's bytes are split, the same ones reach the client, and the
// same is known of the connection.
func FuzzServerFrames(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, data, at []byte) {
		write := func(parts [][]byte) (s state, sent []byte) {
			w := &pieces{}
			c := newFuzzed(w)
			for _, p := range parts {
				if _, err := c.Side().Write(p); err != nil {
					return stateOf(c), nil
				}
			}
			return stateOf(c), inOrder(w.out, c.queue)
		}
		want, whole := write([][]byte{data})
		if got, parts := write(split(data, at)); !reflect.DeepEqual(got, want) || !bytes.Equal(parts, whole) {
			t.Fatalf("in parts %+v %q\nas a whole %+v %q", got, parts, want, whole)
		}
	})
}
