package delivery

// dueHeap is connections by when something is due.
type dueHeap []*connection

func (h *dueHeap) Len() int { return len(*h) }

func (h *dueHeap) Less(i, j int) bool { return (*h)[i].due < (*h)[j].due }

// Swap implements heap.Interface.
func (h *dueHeap) Swap(i, j int) {
	all := *h
	all[i], all[j] = all[j], all[i]
	all[i].index, all[j].index = i, j
}

// Push implements heap.Interface.
func (h *dueHeap) Push(x any) {
	c := x.(*connection)
	c.index = len(*h)
	*h = append(*h, c)
}

// Pop implements heap.Interface.
func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	c := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	c.index = -1
	return c
}
