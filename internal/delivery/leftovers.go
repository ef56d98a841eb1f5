package delivery

// Live counts the connections that were taken over and are not gone yet. It is for
// tests that run whole gateways in their own process.
func Live() int {
	l := &theWriters().live
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n
}
