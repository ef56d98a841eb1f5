package eventstream

import (
	"errors"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

type conformanceCase struct {
	name, rule, input string
	want              decoded
}

// conformanceCases reads testdata/conformance.txt, whose head says how.
func conformanceCases(tb testing.TB) []conformanceCase {
	tb.Helper()
	text, err := os.ReadFile("testdata/conformance.txt")
	if err != nil {
		tb.Fatal(err)
	}
	var cases []conformanceCase
	for i, line := range strings.Split(string(text), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, ok := strings.Cut(line, ": ")
		if !ok {
			tb.Fatalf("line %d: no key in %q", i+1, line)
		}
		if key == "case" {
			cases = append(cases, conformanceCase{name: value})
			continue
		}
		if err := cases[len(cases)-1].set(key, value); err != nil {
			tb.Fatalf("line %d: %s: %v", i+1, key, err)
		}
	}
	for i := range cases {
		cases[i].want.finish()
	}
	return cases
}

func (c *conformanceCase) set(key, value string) (err error) {
	switch key {
	case "rule":
		c.rule = value
		return nil
	case "retry":
		c.want.hasRetry = true
		c.want.retry, err = time.ParseDuration(value)
		return err
	case "  retry":
		b := c.block()
		b.hasRetry = true
		b.retry, err = time.ParseDuration(value)
		return err
	}
	if value, err = strconv.Unquote(value); err != nil {
		return err
	}
	switch key {
	case "input":
		c.input += value
	case "block":
		c.want.blocks = append(c.want.blocks, decodedBlock{lines: value})
	case "rest":
		c.want.rest = value
	case "  id":
		c.block().id, c.block().hasID = value, true
	case "  type":
		c.block().typ = value
	case "  data":
		c.block().data, c.block().hasData = value, true
	case "  last":
		c.block().lastEventID = value
	default:
		return errors.New("unknown key")
	}
	return nil
}

func (c *conformanceCase) block() *decodedBlock { return &c.want.blocks[len(c.want.blocks)-1] }

// finish derives the messages from the blocks.
func (d *decoded) finish() {
	for _, b := range d.blocks {
		d.lastEventID = b.lastEventID
		if !b.hasData {
			continue
		}
		m := Message{Type: b.typ, Data: b.data, LastEventID: b.lastEventID}
		if m.Type == "" {
			m.Type = "message"
		}
		d.messages = append(d.messages, m)
	}
}

func TestConformance(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range conformanceCases(t) {
		if seen[c.name] || c.rule == "" {
			t.Errorf("case %q twice or without a rule", c.name)
		}
		seen[c.name] = true
		t.Run(c.name, func(t *testing.T) {
			t.Log(c.rule)
			if got := reference(c.input); !reflect.DeepEqual(got, c.want) {
				t.Fatalf("the reference and the table differ:\n got %s\nwant %s", show(got), show(c.want))
			}
			checkEverySplit(t, c.input, c.want)
			checkImmediacy(t, c.input)
		})
	}
	if len(seen) < 50 {
		t.Errorf("only %d cases", len(seen))
	}
}

// checkEverySplit decodes the stream whole, a byte at a time, and cut at each
// place; at each two places if they are no more than 8 bytes apart.
func checkEverySplit(t *testing.T, stream string, want decoded) {
	t.Helper()
	checkStream(t, want, []string{stream})
	checkStream(t, want, bytewise(stream))
	for i := range len(stream) + 1 {
		checkStream(t, want, pieceUp(stream, i, i)) // with an empty piece in between
		for j := i; j <= min(i+8, len(stream)); j++ {
			checkStream(t, want, pieceUp(stream, i, j))
		}
	}
}

// checkImmediacy checks that with each byte the blocks it completes come out,
// and that what has not come out is in Rest.
func checkImmediacy(t *testing.T, stream string) {
	t.Helper()
	var d Decoder
	var blocks []decodedBlock
	last := ""
	for i := range len(stream) {
		err := d.Write([]byte(stream[i:i+1]), func(b Block) error {
			if b.HasID {
				last = string(b.ID)
			}
			blocks = append(blocks, copyBlock(t, b, last))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		want := reference(stream[:i+1])
		if !equalBlocks(blocks, want.blocks) {
			t.Fatalf("after %q: got blocks %s, want %s", stream[:i+1], show(blocks), show(want.blocks))
		}
		if got := string(d.Rest()); got != want.rest {
			t.Fatalf("after %q: Rest is %q, want %q", stream[:i+1], got, want.rest)
		}
	}
}

// TestConformanceLarge is for the cases that are too large for a table or for
// each split: they are cut at random places, and into single bytes.
func TestConformanceLarge(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	many := strings.Repeat("data: x\n", 100_000)
	cases := []struct {
		name, stream string
	}{
		{"line of 1 MiB", "id: 1\ndata: " + long + "\n\ndata: next\n\n"},
		{"line of 1 MiB without a colon", long + "\n\ndata: next\n\n"},
		{"line of 1 MiB without an end", "data: first\n\ndata: " + long},
		{"id of 1 MiB", "id: " + long + "\ndata\n\n"},
		{"100,000 fields", many + "\ndata: next\n\n"},
		{"100,000 fields of CR", cr(many) + "\rdata: next\r\r"},
		{"100,000 fields of CRLF", crlf(many) + "\r\ndata: next\r\n\r\n"},
		{"100,000 comments", strings.Repeat(":\n", 100_000) + "\ndata: next\n\n"},
		{"100,000 empty data fields", strings.Repeat("data\n", 100_000) + "\n"},
		{"blank lines", strings.Repeat("\n\r\r\n", 100_000) + "data: next\n\n"},
		{"retry of 1 Mi digits", "retry: " + strings.Repeat("9", 1<<16) + "\n\n"},
		{"small blocks", strings.Repeat("data: x\n\n: y\r\n\r\nid: z\r\r", 10_000)},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			want := reference(c.stream)
			checkStream(t, want, []string{c.stream})
			checkDecoder(t, want, bytewise(c.stream))
			const seed = 1
			rnd := rand.New(rand.NewPCG(seed, seed))
			for range 4 {
				cuts := make([]int, 1+rnd.IntN(64))
				for i := range cuts {
					cuts[i] = rnd.IntN(len(c.stream) + 1)
				}
				slices.Sort(cuts)
				checkStream(t, want, pieceUp(c.stream, cuts...))
			}
		})
	}
}
