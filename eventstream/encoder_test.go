package eventstream

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"
)

func TestAppendEvent(t *testing.T) {
	for _, c := range []struct {
		name string
		e    Event
		want string
	}{
		{"zero", Event{}, "data:\n\n"},
		{"data", Event{Data: "a"}, "data: a\n\n"},
		{"all", Event{Type: "t", ID: "1", Retry: 2 * time.Second, Data: "a"}, "id: 1\nevent: t\nretry: 2000\ndata: a\n\n"},
		{"LF", Event{Data: "a\nb"}, "data: a\ndata: b\n\n"},
		{"CR", Event{Data: "a\rb"}, "data: a\ndata: b\n\n"},
		{"CRLF", Event{Data: "a\r\nb"}, "data: a\ndata: b\n\n"},
		{"mixed", Event{Data: "a\r\n\rb\n\nc\n\rd"}, "data: a\ndata:\ndata: b\ndata:\ndata: c\ndata:\ndata: d\n\n"},
		{"line end at the end", Event{Data: "a\n"}, "data: a\ndata:\n\n"},
		{"line end at the start", Event{Data: "\r\na"}, "data:\ndata: a\n\n"},
		{"only a line end", Event{Data: "\n"}, "data:\ndata:\n\n"},
		{"leading spaces", Event{Type: " t", ID: " 1", Data: " a\n  b"}, "id:  1\nevent:  t\ndata:  a\ndata:   b\n\n"},
		{"looks like fields", Event{Data: "id: 1\n: x\n\ndata"}, "data: id: 1\ndata: : x\ndata:\ndata: data\n\n"},
		{"NUL in data", Event{Data: "a\x00"}, "data: a\x00\n\n"},
		{"empty id", Event{HasID: true}, "id:\ndata:\n\n"},
		{"id with HasID", Event{ID: "1", HasID: true}, "id: 1\ndata:\n\n"},
		{"negative retry", Event{Retry: -1}, "data:\n\n"},
	} {
		got, err := AppendEvent([]byte("before\n\n"), c.e)
		if err != nil || string(got) != "before\n\n"+c.want {
			t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
		}
	}
}

func TestAppendID(t *testing.T) {
	for _, c := range []struct{ id, want string }{{"", "id:\n"}, {"1", "id: 1\n"}, {" 1", "id:  1\n"}, {"ä:", "id: ä:\n"}} {
		got, err := AppendID([]byte("x"), c.id)
		if err != nil || string(got) != "x"+c.want {
			t.Errorf("AppendID(%q) = %q, %v", c.id, got, err)
		}
	}
}

func TestAppendComment(t *testing.T) {
	for _, c := range []struct{ text, want string }{{"", ":\n\n"}, {"hi", ": hi\n\n"}, {" x", ":  x\n\n"}} {
		got, err := AppendComment([]byte("x"), c.text)
		if err != nil || string(got) != "x"+c.want {
			t.Errorf("AppendComment(%q) = %q, %v", c.text, got, err)
		}
	}
}

func TestAppendRetry(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                            "retry: 0\n",
		-time.Second:                 "retry: 0\n",
		1:                            "retry: 1\n",
		time.Millisecond:             "retry: 1\n",
		time.Millisecond + 1:         "retry: 2\n",
		3 * time.Second:              "retry: 3000\n",
		MaxRetry:                     "retry: 2147483647\n",
		MaxRetry + 1:                 "retry: 2147483647\n",
		time.Duration(math.MaxInt64): "retry: 2147483647\n",
		time.Duration(math.MinInt64): "retry: 0\n",
	} {
		if got := string(AppendRetry([]byte("x"), d)); got != "x"+want {
			t.Errorf("AppendRetry(%d) = %q, want %q", d, got, want)
		}
	}
}

// TestAppendRefuses checks that nothing can be smuggled in as further lines,
// and that nothing is written of what is refused.
func TestAppendRefuses(t *testing.T) {
	for _, bad := range []string{"\n", "\r", "\x00", "a\nb", "a\r\nb", "a\x00", "1\ndata: smuggled\n\n"} {
		for what, write := range map[string]func(dst []byte) ([]byte, error){
			"event type": func(dst []byte) ([]byte, error) { return AppendEvent(dst, Event{Type: bad, ID: "1"}) },
			"id":         func(dst []byte) ([]byte, error) { return AppendEvent(dst, Event{Type: "t", ID: bad}) },
			"id line":    func(dst []byte) ([]byte, error) { return AppendID(dst, bad) },
			"comment":    func(dst []byte) ([]byte, error) { return AppendComment(dst, bad) },
		} {
			dst := append(make([]byte, 0, 100), "before"...)
			got, err := write(dst)
			if !errors.Is(err, ErrInvalidField) || string(got) != "before" {
				t.Errorf("%s %q: %q, %v", what, bad, got, err)
			}
			if !strings.HasPrefix(err.Error(), "writing "+strings.TrimSuffix(what, " line")) {
				t.Errorf("%s: error %q does not name it", what, err)
			}
			if tail := string(dst[len(dst) : len(dst)+1]); tail != "\x00" {
				t.Errorf("%s %q: %q was written", what, bad, tail)
			}
		}
	}
}

func TestAppendAllocs(t *testing.T) {
	e := Event{Type: "price", ID: "1234567", Data: strings.Repeat("line\n", 100), Retry: time.Second}
	dst := make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() {
		var err error
		if dst, err = AppendEvent(dst[:0], e); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
