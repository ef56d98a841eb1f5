package cluster

// Carrier is what a module of the namespace sse_cluster.buses is: it carries messages
// between the nodes.
type Carrier interface {
	// Bus returns the bus, which is the same for the whole life of the process: a
	// changed configuration is another connection below it. It may be used at once,
	// but reaches no other node until Start has been called.
	Bus() Bus

	// Start connects the bus as the configuration says. The one that was connected
	// until then stays so if this fails.
	Start() error
}
