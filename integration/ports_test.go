package integration

import (
	"net"
	"strconv"
	"testing"
)

// freePorts returns a free port for each of those that a configuration names, for programs that cannot be given a listener.
func freePorts(t *testing.T, names ...string) map[string]string {
	t.Helper()
	ports := make(map[string]string)
	var listeners []net.Listener // all at once, so that no two are the same
	for _, name := range names {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, listener)
		ports[name] = strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
	}
	for _, listener := range listeners {
		_ = listener.Close()
	}
	return ports
}
