package stream

import (
	"slices"
	"testing"
)

// fakeWaker takes note of whom it was told to look at.
type fakeWaker struct{ woken []Waiter }

func (w *fakeWaker) Wake(all []Waiter) { w.woken = append(w.woken, all...) }
func (w *fakeWaker) Spare() []Waiter   { return nil }

// fakeWaiter is a connection that waits.
type fakeWaiter struct {
	slot  Slot
	waker *fakeWaker
}

func (w *fakeWaiter) Slot() *Slot  { return &w.slot }
func (w *fakeWaiter) Waker() Waker { return w.waker }

// Whoever waits is woken by the next ring, once: goroutines, and connections by their writers. Who waits no more is not.
func TestBellWakesAllWhoWait(t *testing.T) {
	var b Bell
	writers := [2]fakeWaker{}
	var all []*fakeWaiter
	for i := range 6 {
		all = append(all, &fakeWaiter{waker: &writers[i%2]})
	}
	goroutine := b.wait()
	for _, w := range all {
		b.add(w)
		b.add(w) // it waits already
	}
	all[2].slot.remove(all[2])
	if !isOpenChannel(goroutine) {
		t.Error("a goroutine was woken before the ring")
	}
	b.Ring()
	if isOpenChannel(goroutine) {
		t.Error("the goroutine was not woken")
	}
	for i := range writers {
		for n, w := range all {
			want := w.waker == &writers[i] && n != 2
			if got := slices.Contains(writers[i].woken, Waiter(w)); got != want {
				t.Errorf("writer %d was told of connection %d: %v, expected %v", i, n, got, want)
			}
		}
	}
	b.Ring() // nobody waits
	if n := len(writers[0].woken) + len(writers[1].woken); n != 5 {
		t.Errorf("%d connections were woken, expected 5", n)
	}
	b.add(all[2])
	b.Ring()
	if n := len(writers[0].woken); n != 3 || writers[0].woken[2] != Waiter(all[2]) {
		t.Errorf("who waits again is not woken: %d", n)
	}
}

func isOpenChannel(c <-chan struct{}) bool {
	select {
	case <-c:
		return false
	default:
		return true
	}
}
