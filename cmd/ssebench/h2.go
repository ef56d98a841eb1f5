package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// The client's side of HTTP/2 with prior knowledge, for many streams that are only read. x/net/http2.Transport has a
// goroutine and buffers for each, and would be the bench's bottleneck.

const (
	frameHead    = 9
	streamWindow = 1 << 30 // never filled in a run, so never updated
	connWindow   = 1 << 30 // added to what the protocol begins with
)

var errH2 = errors.New("HTTP/2 protocol error")

// h2Stream is given what the frames of one stream have.
type h2Stream interface {
	answered(code string)
	read(b []byte)
	ended()
}

// h2Conn reads and writes the frames of one connection. What it has to send is in out.
type h2Conn struct {
	out       []byte
	streams   []h2Stream // stream n is at n/2
	limit     int        // streams that the server allows
	ready     bool       // its settings have come
	consumed  uint32     // bytes not yet given back to the connection's window
	frame     http2.FrameHeader
	have      int // bytes of the frame's head, while it is not complete
	headBytes [frameHead]byte
	left      int    // of the frame's payload
	payload   []byte // of frames that are read whole
	fields    []byte // of a HEADERS frame and its continuations
	decoder   *hpack.Decoder
	code      string
}

func newH2Conn() *h2Conn {
	c := &h2Conn{limit: 1 << 30}
	c.decoder = hpack.NewDecoder(0, func(f hpack.HeaderField) {
		if f.Name == ":status" {
			c.code = f.Value
		}
	})
	var out bytes.Buffer
	out.WriteString(http2.ClientPreface)
	f := http2.NewFramer(&out, nil)
	err := errors.Join(
		f.WriteSettings(
			http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0},
			http2.Setting{ID: http2.SettingEnablePush, Val: 0},
			http2.Setting{ID: http2.SettingInitialWindowSize, Val: streamWindow},
		),
		f.WriteWindowUpdate(0, connWindow),
	)
	if err != nil {
		panic(err) // a buffer takes everything
	}
	c.out = out.Bytes()
	return c
}

// open requests the fields on a new stream.
func (c *h2Conn) open(s h2Stream, fields []hpack.HeaderField) {
	c.streams = append(c.streams, s)
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	enc.SetMaxDynamicTableSizeLimit(0)
	var out bytes.Buffer
	for _, f := range fields {
		_ = enc.WriteField(f) // a buffer takes everything
	}
	_ = http2.NewFramer(&out, nil).WriteHeaders(http2.HeadersFrameParam{
		StreamID: uint32(len(c.streams))*2 - 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true,
	})
	c.out = append(c.out, out.Bytes()...)
}

// feed reads the next bytes of the connection.
func (c *h2Conn) feed(b []byte) error {
	for len(b) > 0 {
		if c.have < frameHead {
			n := copy(c.headBytes[c.have:], b)
			c.have += n
			b = b[n:]
			if c.have < frameHead {
				return nil
			}
			h := c.headBytes[:]
			c.frame = http2.FrameHeader{
				Length: uint32(h[0])<<16 | uint32(h[1])<<8 | uint32(h[2]), Type: http2.FrameType(h[3]),
				Flags: http2.Flags(h[4]), StreamID: binary.BigEndian.Uint32(h[5:]) &^ (1 << 31),
			}
			if c.frame.Length > 16<<10 {
				return fmt.Errorf("%w: a frame of %d bytes", errH2, c.frame.Length)
			}
			c.left = int(c.frame.Length)
		}
		n := min(c.left, len(b))
		c.left -= n
		if err := c.piece(b[:n]); err != nil {
			return err
		}
		b = b[n:]
		if c.left > 0 {
			return nil
		}
		c.have = 0
		if err := c.endFrame(); err != nil {
			return err
		}
	}
	return nil
}

func (c *h2Conn) piece(b []byte) error {
	if c.frame.Type != http2.FrameData {
		c.payload = append(c.payload, b...)
		return nil
	}
	if c.frame.Flags.Has(http2.FlagDataPadded) {
		return fmt.Errorf("%w: padding is not supported", errH2)
	}
	if s := c.stream(); s != nil && len(b) > 0 {
		s.read(b)
	}
	return nil
}

func (c *h2Conn) stream() h2Stream {
	if i := int(c.frame.StreamID / 2); c.frame.StreamID%2 == 1 && i < len(c.streams) {
		return c.streams[i]
	}
	return nil
}

func (c *h2Conn) endFrame() error {
	payload := c.payload
	c.payload = c.payload[:0]
	s := c.stream()
	switch c.frame.Type {
	case http2.FrameData:
		if c.consumed += c.frame.Length; c.consumed > connWindow/2 {
			c.write(http2.FrameWindowUpdate, 0, binary.BigEndian.AppendUint32(nil, c.consumed))
			c.consumed = 0
		}
		c.endStream(s)
	case http2.FrameHeaders, http2.FrameContinuation:
		if c.frame.Type == http2.FrameHeaders && c.frame.Flags&(http2.FlagHeadersPadded|http2.FlagHeadersPriority) != 0 {
			return fmt.Errorf("%w: padding is not supported", errH2)
		}
		c.fields = append(c.fields, payload...)
		return c.endFields(s)
	case http2.FrameSettings:
		c.settings(payload)
	case http2.FramePing:
		if !c.frame.Flags.Has(http2.FlagPingAck) {
			c.write(http2.FramePing, http2.FlagPingAck, payload)
		}
	case http2.FrameRSTStream:
		if s != nil {
			s.ended()
		}
	case http2.FrameGoAway:
		// Without an error the streams that there are go on.
		if len(payload) < 8 || http2.ErrCode(binary.BigEndian.Uint32(payload[4:])) != http2.ErrCodeNo {
			return fmt.Errorf("%w: GOAWAY", errH2)
		}
	}
	return nil
}

func (c *h2Conn) endFields(s h2Stream) error {
	if !c.frame.Flags.Has(http2.FlagHeadersEndHeaders) {
		return nil
	}
	c.code = ""
	if _, err := c.decoder.Write(c.fields); err != nil {
		return fmt.Errorf("%w: %w", errH2, err)
	}
	if err := c.decoder.Close(); err != nil {
		return fmt.Errorf("%w: %w", errH2, err)
	}
	c.fields = nil
	if s != nil && c.code != "" {
		s.answered(c.code)
	}
	c.endStream(s)
	return nil
}

func (c *h2Conn) endStream(s h2Stream) {
	if s != nil && c.frame.Flags.Has(http2.FlagDataEndStream) { // END_STREAM is the same bit in HEADERS
		s.ended()
	}
}

func (c *h2Conn) settings(payload []byte) {
	if c.frame.Flags.Has(http2.FlagSettingsAck) {
		return
	}
	for ; len(payload) >= 6; payload = payload[6:] {
		if http2.SettingID(binary.BigEndian.Uint16(payload)) == http2.SettingMaxConcurrentStreams {
			c.limit = int(binary.BigEndian.Uint32(payload[2:]))
		}
	}
	c.ready = true
	c.write(http2.FrameSettings, http2.FlagSettingsAck, nil)
}

// write queues a frame of the connection.
func (c *h2Conn) write(t http2.FrameType, flags http2.Flags, payload []byte) {
	n := len(payload)
	c.out = append(c.out, byte(n>>16), byte(n>>8), byte(n), byte(t), byte(flags), 0, 0, 0, 0)
	c.out = append(c.out, payload...)
}
