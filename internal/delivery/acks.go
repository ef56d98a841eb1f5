package delivery

// acks is what a client's system has taken of all that was sent to it.
type acks struct {
	taken   int64 // bytes that it has acknowledged
	waiting int64 // bytes that it has not, or that were not sent yet
}

// ackTeller tells that; false: it is not known.
type ackTeller func() (acks, bool)
