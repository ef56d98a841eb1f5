package main

// verdict is what an arrival says about a subscriber's sequence.
type verdict int

const (
	inOrder   verdict = iota
	afterGap          // events before it have not come (yet)
	late              // it fills a gap: out of order
	duplicate         // it has come before
)

// span is a range of sequence numbers, both ends included.
type span struct{ from, to uint32 }

// track follows the sequence of one subscriber. The zero value expects event 1.
type track struct {
	newest uint32
	got    uint32 // different events
	gaps   []span
	ended  bool // the end mark has come
}

// arrive takes note of an event and tells how it fits.
func (t *track) arrive(seq uint32) verdict {
	switch {
	case seq == t.newest+1:
		t.newest = seq
		t.got++
		return inOrder
	case seq > t.newest:
		t.gaps = append(t.gaps, span{t.newest + 1, seq - 1})
		t.newest = seq
		t.got++
		return afterGap
	}
	for i, g := range t.gaps {
		if seq < g.from || seq > g.to {
			continue
		}
		switch {
		case g.from == g.to:
			t.gaps = append(t.gaps[:i], t.gaps[i+1:]...)
		case seq == g.from:
			t.gaps[i].from++
		case seq == g.to:
			t.gaps[i].to--
		default:
			t.gaps = append(t.gaps, span{seq + 1, g.to})
			t.gaps[i].to = seq - 1
		}
		t.got++
		return late
	}
	return duplicate
}

// missing returns how many of the published events have not come.
func (t *track) missing(published uint32) int64 {
	return max(int64(published)-int64(t.got), 0)
}
