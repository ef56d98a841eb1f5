package h2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"testing"
	"time"
)

var (
	modelSteps = flag.Int("h2.steps", 100_000, "steps of the model test")
	modelSeed  = flag.Uint64("h2.seed", 1, "seed of the model test; 0: a new one, as the weekly run has")
)

// A client that allows nothing but what RFC 9113 does finds nothing wrong, and
// gets all that was sent to it, whatever the server, who writes to streams that
// were taken over, and the client itself do, and however their bytes are split.
func TestClientIsSentWhatItAllows(t *testing.T) {
	seed := *modelSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d (-h2.seed)", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	taken, parts := 0, 0
	for steps := 0; steps < *modelSteps; {
		m := newModel(t, random)
		for range 200 + random.IntN(3000) {
			m.step()
			steps++
		}
		m.finish()
		taken += m.taken
		parts += m.parts
	}
	t.Logf("%d streams were taken over, frames held in %d rounds", taken, parts)
	if *modelSteps >= 10_000 && (taken < 20 || parts == 0) {
		t.Error("nothing of that is what is tested")
	}
}

// model is a connection with a server, a client, and who writes to streams that
// were taken over.
type model struct {
	t      *testing.T
	random *rand.Rand
	conn   *Conn
	side   *Side
	wire   wire
	server modelServer
	client modelClient
	ours   map[uint32]*modelStream
	sent   map[uint32][]byte // what the client is to get of each stream
	taken  int
	parts  int
	quiet  bool // the client gives room, and nothing new begins
}

// wire is a transport that never waits.
type wire struct {
	net.Conn
	random   *rand.Rand
	toServer []byte
	toClient []byte
}

func (w *wire) Read(p []byte) (int, error) {
	if len(w.toServer) == 0 {
		return 0, os.ErrDeadlineExceeded
	}
	n := 1 + w.random.IntN(min(len(w.toServer), len(p)))
	if w.random.IntN(3) == 0 {
		n = min(n, 1+w.random.IntN(12))
	}
	copy(p, w.toServer[:n])
	w.toServer = w.toServer[n:]
	return n, nil
}

func (w *wire) Write(p []byte) (int, error) {
	w.toClient = append(w.toClient, p...)
	return len(p), nil
}

func (*wire) Close() error                     { return nil }
func (*wire) SetReadDeadline(time.Time) error  { return nil }
func (*wire) SetWriteDeadline(time.Time) error { return nil }

type modelServer struct {
	in      []byte
	out     []byte
	preface int
	room    int64
	initial int64
	streams map[uint32]*serverStream
	marker  *Claim // in out
	end     int    // of it there
	stream  uint32 // of it
	payload []byte // of it, if it was in one frame
}

type serverStream struct {
	room   int64
	headed bool
	ended  bool // by the server
}

type modelClient struct {
	in      []byte
	room    int64
	initial int64
	sent    []int64 // values of SETTINGS that were not acknowledged
	next    uint32
	streams map[uint32]*clientStream
	block   uint32 // of which the header block is not complete
	pings   int
}

type clientStream struct {
	room  int64
	reset bool // by the client
	ended bool // by the server
	got   []byte
}

type modelStream struct {
	stream   *Stream
	rest     []byte
	waits    bool
	writable bool
	ended    bool
}

func newModel(t *testing.T, random *rand.Rand) *model {
	t.Helper()
	m := &model{
		t: t, random: random, ours: make(map[uint32]*modelStream), sent: make(map[uint32][]byte),
		server: modelServer{room: initialWindow, initial: initialWindow, streams: make(map[uint32]*serverStream)},
		client: modelClient{room: initialWindow, initial: initialWindow, streams: make(map[uint32]*clientStream), next: 1},
	}
	m.wire.random = random
	m.conn = New(&m.wire, func() int { return 1 << 30 })
	m.conn.maxHeld = 1 << 30 // nobody would read while the server waits
	m.side = m.conn.Side()
	return m
}

func (m *model) fatalf(format string, args ...any) {
	m.t.Helper()
	m.t.Fatalf(format, args...)
}

func (m *model) step() {
	switch n := m.random.IntN(100); {
	case n < 15:
		m.clientSpeaks()
	case n < 35:
		m.serverSpeaks()
	case n < 55:
		m.weSpeak()
	case n < 70:
		m.serverReads()
	case n < 85:
		m.serverWrites()
	default:
		m.clientReads()
	}
}

// finish lets all come to rest, and looks whether all has come.
func (m *model) finish() {
	m.quiet = true
	for range 2000 {
		c := &m.client
		if c.room < 1<<20 {
			m.giveRoom(0, 1<<20)
		}
		for id, s := range c.streams {
			if s.room < 1<<20 && !s.ended && !s.reset {
				m.giveRoom(id, 1<<20)
			}
		}
		m.serverReads()
		m.serverWrites()
		for _, id := range slices.Sorted(maps.Keys(m.ours)) {
			m.writeOurs(id)
		}
		m.conn.Flush()
		m.clientReads()
	}
	for id, want := range m.sent {
		s := m.client.streams[id]
		if s.reset {
			continue
		}
		if !bytes.Equal(s.got, want) {
			m.fatalf("stream %d: %d bytes came of %d that were sent", id, len(s.got), len(want))
		}
	}
	if len(m.client.sent) > 0 || m.client.pings > 0 {
		m.fatalf("%d SETTINGS and %d PINGs were not acknowledged", len(m.client.sent), m.client.pings)
	}
	for range 2 { // with the next that the client says the server is told of its room
		m.wire.toServer = appendHeader(m.wire.toServer, header{kind: 99})
		for len(m.wire.toServer) > 0 {
			m.serverReads()
		}
	}
	m.conn.mu.Lock()
	defer m.conn.mu.Unlock()
	for _, ours := range m.ours {
		if ours.rest != nil && !ours.ended {
			m.fatalf("%d bytes of a stream wait for ever", len(ours.rest))
		}
	}
	if !m.conn.held.empty() || len(m.conn.queue) > 0 || m.conn.held.bytes != 0 || m.conn.held.data != 0 {
		m.fatalf("still held: %+v, %d bytes in the queue", m.conn.held, len(m.conn.queue))
	}
	if m.conn.given != m.client.room {
		m.fatalf("room on the connection %d, the client says %d", m.conn.given, m.client.room)
	}
	if m.conn.given-m.server.room >= maxDebt {
		m.fatalf("the server knows of %d of %d", m.server.room, m.conn.given)
	}
}

// pattern makes bytes of which no two parts are equal.
func (m *model) pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(m.random.Uint32())
	}
	return p
}

func (m *model) someSize() int {
	switch m.random.IntN(6) {
	case 0:
		return m.random.IntN(3)
	case 1:
		return markerLen
	case 2:
		return m.random.IntN(maxPayload + 1)
	case 3:
		return m.random.IntN(3000)
	}
	return m.random.IntN(300)
}

// some picks one of the streams for which is holds.
func some[S any](random *rand.Rand, all map[uint32]S, is func(S) bool) (id uint32, s S, ok bool) {
	var ids []uint32
	for id, s := range all {
		if is(s) {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return 0, s, false
	}
	slices.Sort(ids)
	id = ids[random.IntN(len(ids))]
	return id, all[id], true
}

// clientSpeaks sends a frame of the client.
func (m *model) clientSpeaks() {
	c := &m.client
	say := func(h header, payload []byte) {
		h.length = len(payload)
		m.wire.toServer = append(appendHeader(m.wire.toServer, h), payload...)
	}
	id, s, ok := some(m.random, c.streams, func(s *clientStream) bool { return !s.reset && !s.ended })
	switch n := m.random.IntN(20); {
	case n < 6 && len(c.streams) < 60:
		say(header{kind: frameHeaders, flags: flagEndHeaders | flagEndStream, stream: c.next}, m.pattern(m.random.IntN(40)))
		c.streams[c.next] = &clientStream{room: c.initial}
		c.next += 2
	case n < 9:
		m.giveRoom(0, int64(1+m.random.IntN(1<<m.random.IntN(17))))
	case n < 13 && ok:
		m.giveRoom(id, int64(1+m.random.IntN(1<<m.random.IntN(17))))
	case n < 14 && ok:
		s.reset = true
		say(header{kind: frameRST, stream: id}, []byte{0, 0, 0, 8})
	case n < 16:
		value := int64([]int{0, 1, 100, 65535, 1 << 20}[m.random.IntN(5)])
		payload := binary.BigEndian.AppendUint16(nil, 3)
		payload = binary.BigEndian.AppendUint32(payload, 100)
		if m.random.IntN(3) == 0 {
			value = -1
		} else {
			payload = binary.BigEndian.AppendUint16(payload, settingInitialWindow)
			payload = binary.BigEndian.AppendUint32(payload, uint32(value))
		}
		c.sent = append(c.sent, value)
		say(header{kind: frameSettings}, payload)
	case n < 17:
		c.pings++
		say(header{kind: framePing}, m.pattern(8))
	case n < 18:
		say(header{kind: 2, stream: 1}, m.pattern(5)) // PRIORITY
	default:
		say(header{kind: 99}, m.pattern(m.someSize()))
	}
}

func (m *model) giveRoom(id uint32, n int64) {
	c := &m.client
	room := &c.room
	if id != 0 {
		room = &c.streams[id].room
	}
	if *room+n > maxWindow/2 {
		return
	}
	*room += n
	m.wire.toServer = appendWord(m.wire.toServer, frameWindowUpdate, id, uint32(n))
}

// clientReads reads what has come to the client.
func (m *model) clientReads() {
	c := &m.client
	c.in = append(c.in, m.wire.toClient...)
	m.wire.toClient = nil
	for len(c.in) >= headerLen {
		h := parseHeader(c.in)
		if len(c.in) < headerLen+h.length {
			return
		}
		if err := m.clientGets(h, c.in[headerLen:headerLen+h.length]); err != nil {
			m.fatalf("%+v: %v", h, err)
		}
		c.in = c.in[headerLen+h.length:]
	}
}

func (m *model) clientGets(h header, payload []byte) error {
	c := &m.client
	s := c.streams[h.stream]
	if c.block != 0 && (h.kind != frameContinuation || h.stream != c.block) {
		return fmt.Errorf("within the header block of stream %d", c.block)
	}
	switch h.kind {
	case frameData:
		if s == nil || s.ended {
			return errors.New("the stream is not open")
		}
		n := int64(len(payload))
		if c.room -= n; c.room < 0 {
			return fmt.Errorf("%d bytes more than the connection's window", -c.room)
		}
		if s.room -= n; s.room < 0 && n > 0 {
			return fmt.Errorf("%d bytes more than the stream's window", -s.room)
		}
		s.got = append(s.got, payload...)
		if want := m.sent[h.stream]; !bytes.HasPrefix(want, s.got) {
			return fmt.Errorf("bytes that were not sent, or in another order: %d of %d", len(s.got), len(want))
		}
		s.ended = h.has(flagEndStream)
	case frameHeaders, frameContinuation:
		if s == nil || (s.ended && h.kind == frameHeaders) {
			return errors.New("the stream is not open")
		}
		c.block = 0
		if !h.has(flagEndHeaders) {
			c.block = h.stream
		}
		s.ended = s.ended || h.has(flagEndStream)
	case frameRST:
		if s == nil || s.ended {
			return errors.New("the stream is not open")
		}
		s.ended = true
	case frameSettings:
		value := c.sent[0]
		c.sent = c.sent[1:]
		if value < 0 {
			break
		}
		for _, s := range c.streams {
			s.room += value - c.initial
		}
		c.initial = value
	case framePing:
		c.pings--
	}
	return nil
}

// serverReads reads what has come to the server.
func (m *model) serverReads() {
	v := &m.server
	p := make([]byte, []int{1, 20, 100, 4096}[m.random.IntN(4)])
	for {
		n, err := m.side.Read(p)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			m.fatalf("reading: %v", err)
		}
		v.in = append(v.in, p[:n]...)
		if !m.quiet && m.random.IntN(4) == 0 {
			break
		}
	}
	if v.preface < len(Preface) {
		n := min(len(v.in), len(Preface)-v.preface)
		if string(v.in[:n]) != Preface[v.preface:v.preface+n] {
			m.fatalf("preface %q", v.in[:n])
		}
		v.preface += n
		v.in = v.in[n:]
	}
	for len(v.in) >= headerLen {
		h := parseHeader(v.in)
		if len(v.in) < headerLen+h.length {
			return
		}
		if err := m.serverGets(h, v.in[headerLen:headerLen+h.length]); err != nil {
			m.fatalf("server, %+v: %v", h, err)
		}
		v.in = v.in[headerLen+h.length:]
	}
}

func (m *model) serverGets(h header, payload []byte) error {
	v := &m.server
	s := v.streams[h.stream]
	switch h.kind {
	case frameHeaders:
		v.streams[h.stream] = &serverStream{room: v.initial}
	case frameRST:
		if s != nil {
			s.ended = true
		}
	case frameWindowUpdate:
		n := word(payload)
		if n == 0 {
			return errors.New("no room")
		}
		switch {
		case h.stream == 0:
			v.room += n
			if v.room > m.client.room+int64(len(m.client.in)+len(m.wire.toClient)) && v.room > maxWindow {
				return errors.New("overflow")
			}
		case s == nil:
			return errors.New("unknown stream")
		default:
			s.room += n
		}
	case frameSettings:
		for ; len(payload) > 0; payload = payload[settingLen:] {
			if binary.BigEndian.Uint16(payload) == settingInitialWindow {
				value := int64(binary.BigEndian.Uint32(payload[2:]))
				for _, s := range v.streams {
					s.room += value - v.initial
				}
				v.initial = value
			}
		}
		v.out = appendHeader(v.out, header{kind: frameSettings, flags: flagAck})
	case framePing:
		v.out = append(appendHeader(v.out, header{kind: framePing, flags: flagAck, length: 8}), payload...)
	}
	return nil
}

// serverSpeaks lets the server make a frame.
func (m *model) serverSpeaks() {
	v := &m.server
	if v.marker != nil {
		return
	}
	id, s, ok := some(m.random, v.streams, func(s *serverStream) bool { return !s.ended })
	if !ok {
		return
	}
	say := func(h header, payload []byte) {
		h.length, h.stream = len(payload), id
		v.out = append(appendHeader(v.out, h), payload...)
	}
	block := func(flags byte) {
		if m.random.IntN(2) == 0 {
			say(header{kind: frameHeaders, flags: flags | flagEndHeaders}, m.pattern(m.random.IntN(200)))
			return
		}
		say(header{kind: frameHeaders, flags: flags}, m.pattern(m.random.IntN(200)))
		say(header{kind: frameContinuation}, m.pattern(m.random.IntN(200)))
		say(header{kind: frameContinuation, flags: flagEndHeaders}, m.pattern(m.random.IntN(200)))
	}
	if !s.headed {
		s.headed = true
		block(0)
		return
	}
	data := func(p []byte, flags byte) {
		s.room -= int64(len(p))
		v.room -= int64(len(p))
		say(header{kind: frameData, flags: flags}, p)
	}
	room := int(max(0, min(s.room, v.room, maxPayload)))
	switch n := m.random.IntN(12); {
	case n < 7:
		p := m.pattern(min(room, m.someSize()))
		m.sent[id] = append(m.sent[id], p...)
		data(p, 0)
	case n < 8:
		s.ended = true
		p := m.pattern(min(room, m.someSize()))
		m.sent[id] = append(m.sent[id], p...)
		data(p, flagEndStream)
	case n < 9 && m.random.IntN(9) < 3:
		s.ended = true
		block(flagEndStream)
	case n < 9 && m.random.IntN(3) == 0:
		s.ended = true
		say(header{kind: frameRST}, []byte{0, 0, 0, 2})
	case room > 0:
		claim := m.conn.Claim()
		if claim == nil {
			return
		}
		marker := []byte(claim.Marker())
		data(marker[:min(room, len(marker))], 0)
		if rest := marker[min(room, len(marker)):]; len(rest) > 0 { // it does not fit
			m.sent[id] = append(m.sent[id], marker[:room]...)
			if claim.Settle() != nil {
				m.fatalf("a part of a marker was taken for one")
			}
			return
		}
		v.marker, v.end, v.stream, v.payload = claim, len(v.out), id, marker
	}
}

// serverWrites writes a part of what the server has to say.
func (m *model) serverWrites() {
	v := &m.server
	if len(v.out) == 0 {
		return
	}
	n := 1 + m.random.IntN(len(v.out))
	if m.random.IntN(3) == 0 {
		n = min(n, 1+m.random.IntN(15))
	}
	if m.quiet {
		n = len(v.out)
	}
	if v.marker != nil {
		n = min(n, v.end)
		if n == v.end { // whatever becomes of it, the client may get it before that is known here
			m.sent[v.stream] = append(m.sent[v.stream], v.payload...)
		}
	}
	if _, err := m.side.Write(v.out[:n]); err != nil {
		m.fatalf("writing: %v", err)
	}
	v.out = v.out[n:]
	m.conn.mu.Lock()
	if !m.conn.held.empty() {
		m.parts++
	}
	m.conn.mu.Unlock()
	if v.marker == nil {
		return
	}
	if v.end -= n; v.end > 0 {
		return
	}
	claim, s := v.marker, v.streams[v.stream]
	v.marker = nil
	stream := claim.Settle()
	if stream == nil {
		return
	}
	m.taken++
	sent := m.sent[v.stream]
	m.sent[v.stream] = sent[:len(sent)-len(v.payload)]
	ours := &modelStream{stream: stream}
	m.ours[v.stream] = ours
	stream.Watch(func(e Event) {
		switch e {
		case Writable:
			ours.writable = true
		case Ended:
			ours.ended = true
		}
	})
	s.ended = true // its handler returns
	v.out = appendHeader(v.out, header{kind: frameData, flags: flagEndStream, stream: v.stream})
}

// weSpeak writes to a stream that was taken over.
func (m *model) weSpeak() {
	id, ours, ok := some(m.random, m.ours, func(s *modelStream) bool { return !s.ended })
	if !ok {
		return
	}
	switch n := m.random.IntN(30); {
	case ours.rest != nil:
		m.writeOurs(id)
	case n == 0:
		ours.ended = true
		ours.stream.Finish()
	case n == 1:
		ours.ended = true
		ours.stream.Reset()
	default:
		ours.rest = m.pattern(1 + m.someSize()*(1+m.random.IntN(3)))
		m.writeOurs(id)
	}
	if m.random.IntN(2) == 0 {
		m.conn.Flush()
	}
}

// writeOurs writes what it can of what is to be written.
func (m *model) writeOurs(id uint32) {
	ours := m.ours[id]
	if ours.rest == nil || ours.ended || (ours.waits && !ours.writable) {
		return
	}
	ours.waits, ours.writable = false, false
	for len(ours.rest) > 0 {
		n, err := ours.stream.Write(ours.rest)
		if err != nil {
			m.fatalf("stream %d: %v, and that it ended was not told", id, err)
		}
		m.sent[id] = append(m.sent[id], ours.rest[:n]...)
		ours.rest = ours.rest[n:]
		if n == 0 || m.random.IntN(3) == 0 {
			break
		}
	}
	if len(ours.rest) > 0 {
		ours.waits = true
		ours.stream.Await()
		return
	}
	ours.rest = nil
}
