package delivery

// Live counts the connections that were taken over and are not gone yet. It is for
// tests that run whole gateways in their own process.
func Live() int {
	ws := theWriters()
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return ws.live
}
