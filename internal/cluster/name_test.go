package cluster

import (
	"slices"
	"testing"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// Nodes have the same stream only if all that its key is made of is equal, and all that
// decides how its blocks are made and who may have them.
func TestNameTellsStreamsApart(t *testing.T) {
	n, err := New(new(deafBus), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	parts := func(place string, others ...string) []stream.Part {
		all := []stream.Part{{Name: "place", Value: place}}
		for part := range slices.Chunk(others, 2) {
			all = append(all, stream.Part{Name: part[0], Value: part[1]})
		}
		return all
	}
	names := make(map[string]string)
	add := func(what, name string) {
		if other, ok := names[name]; ok {
			t.Errorf("%s and %s have one name", what, other)
		}
		names[name] = what
	}
	for what, p := range map[string][]stream.Part{
		"path a":            parts(":443", "path", "/a"),
		"path b":            parts(":443", "path", "/b"),
		"a cookie":          parts(":443", "path", "/a", "header Cookie", "u=1"),
		"another cookie":    parts(":443", "path", "/a", "header Cookie", "u=2"),
		"a header":          parts(":443", "path", "/a", "header Authorization", "u=1"),
		"another address":   parts(":444", "path", "/a"),
		"a name":            parts(":443\x00x", "path", "/a"),
		"another name":      parts(":443\x00y", "path", "/a"),
		"a name of ports":   parts(":443\x00:443", "path", "/a"),
		"parts that run on": parts(":443", "pathx", "/a"),
		"and not":           parts(":443", "path", "x/a"),
	} {
		add(what, n.Name(p, stream.Defaults()))
	}
	if n.Name(parts(":443\x00x", "path", "/a"), stream.Defaults()) != n.Name(parts(":444\x00x", "path", "/a"), stream.Defaults()) {
		t.Error("where a handler has a name, its addresses are compared")
	}
	for what, set := range map[string]func(o *stream.Options){
		"ids":          func(o *stream.Options) { o.IDs = stream.IDsGateway },
		"join":         func(o *stream.Options) { o.Join = stream.JoinLive },
		"vouched":      func(o *stream.Options) { o.Vouched = true },
		"empty blocks": func(o *stream.Options) { o.EmptyBlocks = !o.EmptyBlocks },
		"gap event":    func(o *stream.Options) { o.GapEvent = "gap" },
		"reconnect":    func(o *stream.Options) { o.Reconnect = stream.ReconnectAlways },
		"keys":         func(o *stream.Options) { o.Keys = "others" },
	} {
		o := stream.Defaults()
		set(o)
		add(what, n.Name(parts(":443", "path", "/a"), o))
	}
}
