package stream

import (
	"testing"
)

// Nor is there a block that takes an ID away from a client with a splice.
func TestNoEmptyBlockAtSplice(t *testing.T) {
	inBubble(t, auto(func(o *Options) { o.EmptyBlocks, o.Prime = false, false }), func(st *streamTest) {
		a, up := st.start()
		up.event("1")
		a.expect(given("1", "1"))
		b := st.join("")
		sp := st.source.acceptOpen()
		sp.event("hello")
		b.expect(lost("hello"))
	})
}
