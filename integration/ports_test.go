package integration

import (
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
)

// Ports that no system gives out by itself, for a listener without one or a connection: those that it does may be taken
// between the moment at which they are found to be free and that at which a program listens.
const firstPort, lastPort = 20_000, 29_999

// freePorts returns a free port for each of those that a configuration names, for programs that cannot be given a listener.
// Nobody else who asks here is given them before the test ends.
func freePorts(t *testing.T, names ...string) map[string]string {
	t.Helper()
	ports := make(map[string]string)
	for _, name := range names {
		for ports[name] == "" {
			port := strconv.Itoa(firstPort + rand.IntN(lastPort-firstPort+1))
			if reserve(t, port) {
				ports[name] = port
			}
		}
	}
	return ports
}

// reserve reserves a port until the test ends, if it is free.
func reserve(t *testing.T, port string) bool {
	t.Helper()
	// An abstract socket: others that run these tests see it, and it goes with the process.
	held, err := net.Listen("unix", "@caddy-sse-port-"+port)
	if err != nil {
		return false
	}
	for _, network := range []string{"tcp4", "tcp6"} {
		listener, err := net.Listen(network, ":"+port)
		if err != nil && network == "tcp4" {
			_ = held.Close()
			return false
		}
		if err == nil {
			_ = listener.Close()
		}
	}
	t.Cleanup(func() { _ = held.Close() })
	return true
}

// Two tests, of one process or of two, are not given the same port.
func TestFreePortsAreGivenOnce(t *testing.T) {
	given := freePorts(t, "a", "b")
	for _, port := range given {
		if given["a"] == given["b"] || reserve(t, port) {
			t.Errorf("port %s is given twice: %v", port, given)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:"+given["a"])
	if err != nil {
		t.Fatalf("a port that was given is not free: %v", err)
	}
	_ = listener.Close()
}
