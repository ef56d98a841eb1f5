package main

import (
	"bytes"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

type fakeStream struct {
	code string
	text strings.Builder
	end  int
}

func (s *fakeStream) answered(code string) { s.code = code }
func (s *fakeStream) read(b []byte)        { s.text.Write(b) }
func (s *fakeStream) ended()               { s.end++ }

// serverFrames is what a server sends on two streams.
func serverFrames(t *testing.T) []byte {
	t.Helper()
	var out, block bytes.Buffer
	f := http2.NewFramer(&out, nil)
	enc := hpack.NewEncoder(&block)
	fields := func(code string) []byte {
		block.Reset()
		_ = enc.WriteField(hpack.HeaderField{Name: ":status", Value: code})
		_ = enc.WriteField(hpack.HeaderField{Name: "content-type", Value: "text/event-stream"})
		return bytes.Clone(block.Bytes())
	}
	enc.SetMaxDynamicTableSize(0)
	first := fields("200")
	for _, err := range []error{
		f.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 77}),
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: first[:3]}),
		f.WriteContinuation(1, true, first[3:]),
		f.WriteData(1, false, []byte("hello ")),
		f.WritePing(false, [8]byte{1, 2, 3}),
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: fields("503"), EndHeaders: true, EndStream: true}),
		f.WriteData(1, false, []byte("world")),
		f.WriteRSTStream(1, http2.ErrCodeCancel),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

func TestH2Splits(t *testing.T) {
	frames := serverFrames(t)
	for i := range frames {
		c := newH2Conn()
		c.out = nil
		a, b := new(fakeStream), new(fakeStream)
		c.open(a, nil)
		c.open(b, nil)
		for _, piece := range [][]byte{frames[:i], frames[i:]} {
			if err := c.feed(piece); err != nil {
				t.Fatalf("cut at %d: %v", i, err)
			}
		}
		if a.code != "200" || a.text.String() != "hello world" || a.end != 1 || b.code != "503" || b.end != 1 || c.limit != 77 || !c.ready {
			t.Fatalf("cut at %d: %+v, %+v, limit %d", i, a, b, c.limit)
		}
	}
}

// TestH2Sent reads what the client sends with the library's framer.
func TestH2Sent(t *testing.T) {
	c := newH2Conn()
	c.open(new(fakeStream), []hpack.HeaderField{{Name: ":path", Value: "/a"}})
	if err := c.feed(serverFrames(t)[:9+6]); err != nil { // the settings
		t.Fatal(err)
	}
	c.frame = http2.FrameHeader{Type: http2.FrameData, Length: connWindow/2 + 1, StreamID: 1}
	if err := c.endFrame(); err != nil {
		t.Fatal(err)
	}
	sent, ok := bytes.CutPrefix(c.out, []byte(http2.ClientPreface))
	if !ok {
		t.Fatal("no preface")
	}
	f := http2.NewFramer(nil, bytes.NewReader(sent))
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	var got []string
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			break
		}
		got = append(got, frame.Header().Type.String())
		if h, ok := frame.(*http2.MetaHeadersFrame); ok && (h.StreamID != 1 || h.PseudoValue("path") != "/a" || !h.StreamEnded()) {
			t.Errorf("the request is %v", h)
		}
		if w, ok := frame.(*http2.WindowUpdateFrame); ok && len(got) > 2 && w.Increment != connWindow/2+1 {
			t.Errorf("the window is widened by %d", w.Increment)
		}
	}
	if want := "SETTINGS WINDOW_UPDATE HEADERS SETTINGS WINDOW_UPDATE"; strings.Join(got, " ") != want {
		t.Errorf("sent %v, want %s", got, want)
	}
}

func TestH2Broken(t *testing.T) {
	for name, frames := range map[string][]byte{
		"an oversized frame": {0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1},
		"padded data":        {0, 0, 1, 0, 8, 0, 0, 0, 1, 0},
		"a short GOAWAY":     {0, 0, 0, 7, 0, 0, 0, 0, 0},
		"GOAWAY, an error":   {0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1},
		"no header block":    {0, 0, 1, 1, 4, 0, 0, 0, 1, 0xff},
	} {
		if err := newH2Conn().feed(frames); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// A server that says goodbye without an error lets streams go on.
func TestH2Goodbye(t *testing.T) {
	if err := newH2Conn().feed([]byte{0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0}); err != nil {
		t.Error(err)
	}
}
