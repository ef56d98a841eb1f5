package eventstream

import (
	"reflect"
	"testing"
)

func TestFields(t *testing.T) {
	type field struct{ name, value string }
	for _, c := range []struct {
		lines string
		want  []field
	}{
		{"", nil},
		{"data: a\n", []field{{"data", "a"}}},
		{"data: a", []field{{"data", "a"}}},
		{"data:  a\ndata:a: b\ndata\ndata:\n", []field{{"data", " a"}, {"data", "a: b"}, {"data", ""}, {"data", ""}}},
		{": x\n:\n::\n", []field{{"", "x"}, {"", ""}, {"", ":"}}},
		{"\n\na\n\n", []field{{"a", ""}}},
	} {
		var got []field
		for name, value := range Fields([]byte(c.lines)) {
			got = append(got, field{string(name), string(value)})
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("Fields(%q) = %q, want %q", c.lines, got, c.want)
		}
	}
	for name := range Fields([]byte("a\nb\n")) {
		if string(name) != "a" {
			t.Error("Fields goes on after the loop was left")
		}
		break
	}
}

func TestBlockKinds(t *testing.T) {
	for _, c := range []struct {
		lines                   string
		dispatches, commentOnly bool
	}{
		{"data\n", true, false},
		{": x\ndata: 1\n", true, false},
		{"id: 1\n", false, false},
		{"id\n", false, false},
		{"retry: 1\n", false, false},
		{": x\n", false, true},
		{"foo: x\n", false, true},
		{"event: x\n", false, true},
		{"id: \x00\n", false, true},
		{"retry: x\n", false, true},
	} {
		b := parse([]byte(c.lines))
		if b.Dispatches() != c.dispatches || b.CommentOnly() != c.commentOnly {
			t.Errorf("%q: Dispatches %v, CommentOnly %v", c.lines, b.Dispatches(), b.CommentOnly())
		}
	}
}

func TestAppendData(t *testing.T) {
	b := parse([]byte("data: a\nid: x\ndata\ndata:  b\n"))
	if got := string(b.AppendData([]byte("before "))); got != "before a\n\n b" {
		t.Errorf("data is %q", got)
	}
	if got := parse([]byte("id: x\n")).AppendData(nil); got != nil {
		t.Errorf("data is %q", got)
	}
}
