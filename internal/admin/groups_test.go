package admin

import (
	"slices"
	"strings"
	"testing"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// someSamples are those of three paths of two handlers.
func someSamples() []stream.Sample {
	of := new(stream.Stream)
	return []stream.Sample{
		{Of: of, Number: 1, Kind: stream.KindShared, Place: ":443\x00news", Host: "a.test", Path: "/news", Subscribers: 900, Connections: 1, State: stream.StateOpen},
		{Of: of, Number: 2, Kind: stream.KindPrivate, Private: true, Place: ":443\x00chat", Host: "a.test", Path: "/chat", Subscribers: 1, Connections: 1, State: stream.StateOpen},
		{Of: of, Number: 3, Kind: stream.KindPrivate, Private: true, Place: ":443\x00chat", Host: "b.test", Path: "/chat", Subscribers: 1, Connections: 1, State: stream.StateOpen, Lag: stream.LagInfo{Blocks: 2, Seconds: 3}},
		{Of: of, Number: 4, Kind: stream.KindShared, Place: ":443\x00chat", Host: "a.test", Path: "/news", Subscribers: 4, State: stream.StateWaiting, Lost: true},
	}
}

// Streams of one path of one handler are a group, with the sums and the worst of them.
func TestGroupsAreOfHandlerAndPath(t *testing.T) {
	page := paging[stream.Sample]{compare: feedOrders["clients_per_connection"], descending: true, limit: 2}
	all := groupsOf(someSamples())
	if len(all) != 3 {
		t.Fatalf("%d groups", len(all))
	}
	part := pageOf(page, all)
	if len(part) != 2 || part[0].Path != "/news" || part[0].Subscribers != 900 || perConnection(&part[0].Sample) != 900 {
		t.Errorf("%+v", part)
	}
	if got := part[1].tell(nil); got.Handler != "chat" || got.Path != "/news" || got.Lost != 1 || got.State != stream.StateWaiting || got.PerConnection != 4 {
		t.Errorf("%+v", got)
	}
	chat := all[slices.IndexFunc(all, func(g group) bool { return g.Path == "/chat" })].tell(nil)
	if chat.Streams != 2 || chat.Private != 2 || chat.Hosts != 2 || chat.Subscribers != 2 || chat.PerConnection != 1 || chat.Lag.Seconds != 3 || chat.Stream != "" || chat.History == nil {
		t.Errorf("%+v", chat)
	}
}

// Those streams are meant that are all of what is asked for.
func TestFiltersMeanWhatIsAskedFor(t *testing.T) {
	key := stream.Key{}.String()
	for _, test := range []struct {
		query string
		want  []uint64
	}{
		{"", []uint64{1, 2, 3, 4}},
		{"search=NEW", []uint64{1, 4}},
		{"search=b.TEST", []uint64{3}},
		{"search=chat", []uint64{2, 3, 4}}, // a handler's name too
		{"search=nowhere", nil},
		{"kind=private", []uint64{2, 3}},
		{"state=waiting", []uint64{4}},
		{"path=/news&handler=news", []uint64{1}},
		{"path=/ne", nil},
		{"handler=", nil},
		{"listen=:443&kind=shared", []uint64{1, 4}},
		{"key=" + key, []uint64{1, 4}}, // private streams have none
	} {
		q, err := parseQuery(test.query, filtering)
		if err != nil {
			t.Fatal(err)
		}
		f, err := filterOf(q)
		if err != nil {
			t.Fatal(err)
		}
		var got []uint64
		for _, s := range f.of(someSamples()) {
			got = append(got, s.Number)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, expected %v", test.query, got, test.want)
		}
	}
	for query, want := range map[string]string{
		"search=" + strings.Repeat("x", maxSearch+1): "search: expected at most 256 bytes",
		"kind=other": "kind: expected one of", "state=x": "state: expected one of",
	} {
		q, _ := parseQuery(query, filtering)
		if _, err := filterOf(q); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", query, err)
		}
	}
}
