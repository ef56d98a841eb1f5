package eventstream

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
)

// TestReaderLatency checks that each event is delivered before another byte is
// written, whatever the line ends.
func TestReaderLatency(t *testing.T) {
	for _, eol := range []string{"\n", "\r", "\r\n"} {
		for _, bytewise := range []bool{false, true} {
			t.Run(fmt.Sprintf("%q bytewise %v", eol, bytewise), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { checkLatency(t, eol, bytewise) })
			})
		}
	}
}

func checkLatency(t *testing.T, eol string, bytewise bool) {
	t.Helper()
	pr, pw := io.Pipe() // unbuffered: a write waits for its reader
	defer pw.Close()
	var got []string
	go func() {
		for m, err := range NewReader(pr).Messages() {
			if err != nil {
				t.Error(err)
			}
			got = append(got, m.Data)
		}
	}()
	for i := range 20 {
		block := fmt.Sprintf("id: %d%sdata: %d%s%s", i, eol, i, eol, eol)
		step := len(block)
		if bytewise {
			step = 1
		}
		for at := 0; at < len(block); at += step {
			if len(got) > i && block[at:] != "\n" { // the LF of a CRLF comes too late to matter
				t.Fatalf("event %d was delivered before its end", i)
			}
			if _, err := io.WriteString(pw, block[at:at+step]); err != nil {
				t.Fatal(err)
			}
			synctest.Wait() // until the reader waits for the next byte
			if strings.HasSuffix(block[:at+step], eol+"\r") && len(got) != i+1 {
				t.Fatalf("event %d was not delivered at the CR of its blank line", i)
			}
		}
		if len(got) != i+1 || got[i] != strconv.Itoa(i) {
			t.Fatalf("after event %d: got %q", i, got)
		}
	}
}

func TestReaderErrors(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name string
		r    io.Reader
		max  int
		want error
	}{
		{"read error", io.MultiReader(strings.NewReader("data: 1\n\ndata: 2"), iotest.ErrReader(broken)), 0, broken},
		{"unexpected EOF", io.MultiReader(strings.NewReader("data: 1\n\ndata: 2"), iotest.ErrReader(io.ErrUnexpectedEOF)), 0, io.ErrUnexpectedEOF},
		{"error with the last bytes", iotest.DataErrReader(io.MultiReader(strings.NewReader("data: 1\n\n"), iotest.ErrReader(broken))), 0, broken},
		{"no progress", io.MultiReader(strings.NewReader("data: 1\n\n"), stuckReader{}), 0, io.ErrNoProgress},
		{"block too large", strings.NewReader("data: 1\n\ndata: 789012345\n\n"), 14, ErrBlockTooLarge},
		{"wrapped EOF is an error", io.MultiReader(strings.NewReader("data: 1\n\n"), iotest.ErrReader(fmt.Errorf("reading: %w", io.EOF))), 0, io.EOF},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := NewReader(c.r)
			r.MaxBlockSize = c.max
			var data []string
			var errs []error
			for m, err := range r.Messages() {
				if err != nil {
					if m != (Message{}) {
						t.Errorf("message %+v with error %v", m, err)
					}
					errs = append(errs, err)
					continue
				}
				data = append(data, m.Data)
			}
			if len(data) != 1 || data[0] != "1" {
				t.Errorf("messages %q before the error", data)
			}
			if len(errs) != 1 || !errors.Is(errs[0], c.want) {
				t.Errorf("errors %v, want %v once", errs, c.want)
			}
			for _, err := range r.Messages() {
				if !errors.Is(err, c.want) {
					t.Errorf("then error %v", err)
				}
			}
		})
	}
}

type stuckReader struct{}

func (stuckReader) Read([]byte) (int, error) { return 0, nil }

func TestReaderEmptyReads(t *testing.T) {
	var pieces []string
	for _, b := range bytewise("data: 1\r\n\r\n") {
		pieces = append(pieces, "", b, "", "")
	}
	checkReader(t, reference("data: 1\r\n\r\n"), NewReader(&piecesReader{pieces: pieces}), pieces)
}

// TestReaderGoesOn leaves the loop after each message: the next one continues.
func TestReaderGoesOn(t *testing.T) {
	r := NewReader(strings.NewReader("id: 1\nretry: 1\ndata: a\n\n: hi\n\nid: 2\nretry: 2\ndata: b\n\nretry: 3\n"))
	var got []string
	for range 3 {
		for m, err := range r.Messages() {
			if err != nil {
				t.Fatal(err)
			}
			retry, _ := r.Retry()
			got = append(got, fmt.Sprint(m.Data, r.LastEventID(), retry))
			break
		}
	}
	if s := strings.Join(got, " "); s != "a11ms b22ms" {
		t.Errorf("got %s", s)
	}
	if retry, ok := r.Retry(); retry != ms(3) || !ok {
		t.Errorf("retry at the end is %v", retry)
	}
}

func TestReaderBlocks(t *testing.T) {
	const stream = ": hi\n\nid: 1\n\nevent: x\r\n\r\ndata: a\n\nretry: 5\n\nfoo"
	var got, want []string
	for b, err := range NewReader(iotest.HalfReader(strings.NewReader(stream))).Blocks() {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(b.Lines))
	}
	for _, b := range reference(stream).blocks {
		want = append(want, b.lines)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestReaderSetLastEventID(t *testing.T) {
	r := NewReader(strings.NewReader("data: a\n\nid: 2\ndata: b\n\nid\ndata: c\n\n"))
	r.SetLastEventID("1")
	got := []string{r.LastEventID()}
	for m, err := range r.Messages() {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, m.Data+m.LastEventID)
	}
	if s := strings.Join(got, " "); s != "1 a1 b2 c" {
		t.Errorf("got %q", s)
	}
}

// TestReaderReadsNoMoreThanNeeded: events that have been read are delivered
// before the next read, which may block.
func TestReaderReadsNoMoreThanNeeded(t *testing.T) {
	src := &countingReader{r: &piecesReader{pieces: []string{"data: 1\n\ndata: 2\n\ndata: 3\n\nda", "ta: 4\n\n"}}}
	reads := []int{1, 1, 1, 2}
	i := 0
	for m, err := range NewReader(src).Messages() {
		if err != nil {
			t.Fatal(err)
		}
		if src.n != reads[i] {
			t.Errorf("message %q after %d reads, want %d", m.Data, src.n, reads[i])
		}
		i++
	}
	if i != len(reads) {
		t.Errorf("%d messages", i)
	}
}

type countingReader struct {
	r io.Reader
	n int
}

func (r *countingReader) Read(p []byte) (int, error) { r.n++; return r.r.Read(p) }
