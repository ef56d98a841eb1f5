package eventstream_test

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/caddy-sse/caddy-sse/eventstream"
)

// The pieces in which a stream arrives have nothing to do with its blocks.
func ExampleDecoder() {
	var d eventstream.Decoder
	for _, piece := range []string{"id: 1\r\nda", "ta: one\r\n\r", "\n: a comment\nevent: add\ndata: two\n\ndata: unfi"} {
		err := d.Write([]byte(piece), func(b eventstream.Block) error {
			fmt.Printf("%q dispatches: %v\n", b.Lines, b.Dispatches())
			return nil
		})
		if err != nil {
			fmt.Println(err)
		}
	}
	fmt.Printf("rest: %q\n", d.Rest())
	// Output:
	// "id: 1\ndata: one\n" dispatches: true
	// ": a comment\n" dispatches: false
	// "event: add\ndata: two\n" dispatches: true
	// rest: "data: unfi"
}

func ExampleDecoder_maxBlockSize() {
	d := eventstream.Decoder{MaxBlockSize: 1 << 10}
	err := d.Write([]byte("data: "+strings.Repeat("x", 2000)), func(eventstream.Block) error { return nil })
	fmt.Println(errors.Is(err, eventstream.ErrBlockTooLarge), err)
	// Output: true eventstream: block too large: over the limit of 1024 bytes
}

func ExampleReader_Messages() {
	stream := strings.NewReader("retry: 2000\n\nid: 7\nevent: add\ndata: first line\ndata: second line\n\ndata\n\n")
	r := eventstream.NewReader(stream)
	for m, err := range r.Messages() {
		if err != nil {
			fmt.Println(err)
			break
		}
		fmt.Printf("%s %q %s\n", m.Type, m.Data, m.LastEventID)
	}
	fmt.Println(r.Retry())
	// Output:
	// add "first line\nsecond line" 7
	// message "" 7
	// 2s true
}

func ExampleFields() {
	for name, value := range eventstream.Fields([]byte("id: 7\n: a comment\ndata\n")) {
		fmt.Printf("%q %q\n", name, value)
	}
	// Output:
	// "id" "7"
	// "" "a comment"
	// "data" ""
}

func ExampleAppendEvent() {
	buf, err := eventstream.AppendEvent(nil, eventstream.Event{
		ID:    "7",
		Type:  "add",
		Data:  "first line\nsecond line",
		Retry: 2 * time.Second,
	})
	fmt.Printf("%s%v", buf, err)
	// Output:
	// id: 7
	// event: add
	// retry: 2000
	// data: first line
	// data: second line
	//
	// <nil>
}

// A block of one id field dispatches nothing, but a client that is cut off
// after it comes back with the ID.
func ExampleAppendID() {
	buf, err := eventstream.AppendID(nil, "7")
	buf = append(buf, '\n')
	fmt.Printf("%q %v\n", buf, err)

	_, err = eventstream.AppendID(nil, "7\ndata: smuggled")
	fmt.Println(err)
	// Output:
	// "id: 7\n\n" <nil>
	// writing id: eventstream: value contains CR, LF or NUL
}

func ExampleAppendComment() {
	buf, err := eventstream.AppendComment(nil, "still here")
	fmt.Printf("%q %v\n", buf, err)
	// Output: ": still here\n\n" <nil>
}
