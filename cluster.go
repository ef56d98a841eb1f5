package caddysse

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/cluster"
	"github.com/caddy-sse/caddy-sse/internal/hints"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// busNamespace is where modules are that carry messages between nodes. It is below the
// app, not below a handler, because the nodes are processes: all handlers of one have
// the same bus.
const busNamespace = "sse_cluster.buses"

func init() {
	caddy.RegisterModule((*Cluster)(nil))
	httpcaddyfile.RegisterGlobalOption("sse_cluster", parseCluster)
}

// Cluster makes several gateways share their streams: one upstream connection for each
// in all of them. In a Caddyfile it is the global option sse_cluster, which names what
// carries messages between the nodes:
//
//	{
//		sse_cluster nats {
//			embedded {
//				listen 10.0.0.1:6222
//				routes 10.0.0.2:6222 10.0.0.3:6222
//			}
//			secret {env.SSE_CLUSTER_SECRET}
//		}
//	}
type Cluster struct {
	// What carries messages between the nodes, by its type: nats, which is in the
	// Go module github.com/caddy-sse/caddy-sse/cluster/nats.
	BusRaw json.RawMessage `json:"bus,omitempty" caddy:"namespace=sse_cluster.buses inline_key=type"`

	carrier cluster.Carrier
	logger  *zap.Logger
	watch   func() // ends the watch
}

// CaddyModule returns the Caddy module information.
func (*Cluster) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "sse_cluster", New: func() caddy.Module { return new(Cluster) }}
}

// Provision implements caddy.Provisioner.
func (c *Cluster) Provision(ctx caddy.Context) error {
	if c.BusRaw == nil {
		return errors.New("bus: expected what carries messages between the nodes")
	}
	module, err := ctx.LoadModule(c, "BusRaw")
	if err != nil {
		return fmt.Errorf("loading the bus: %w", err)
	}
	carrier, ok := module.(cluster.Carrier)
	if !ok {
		return fmt.Errorf("bus: %T carries no messages between nodes", module)
	}
	c.carrier, c.logger = carrier, ctx.Logger()
	return joinCluster(carrier.Bus(), ctx.Logger())
}

// joining guards that the process becomes one node, once a configuration has a cluster. It
// stays that, as its bus does.
var joining sync.Mutex

// joinCluster lets streams that open from now on be shared with other nodes.
func joinCluster(bus cluster.Bus, logger *zap.Logger) error {
	joining.Lock()
	defer joining.Unlock()
	if cluster.Process.Load() != nil {
		return nil
	}
	node, err := cluster.New(bus, logger)
	if err != nil {
		return err
	}
	cluster.Process.Store(node)
	stream.Process.SetCluster(node)
	return nil
}

// Start implements caddy.App.
func (c *Cluster) Start() error {
	if err := c.carrier.Start(); err != nil {
		return err
	}
	source := hints.Process.Source("", "", c.logger)
	w := newNodeWatch(cluster.Process.Load(), source, c.logger, handlersToMeet)
	stop := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() { w.run(stop) })
	c.watch = func() {
		close(stop)
		running.Wait()
		source.Close()
	}
	return nil
}

// Stop implements caddy.App. The bus stays until all that uses it has stopped: it goes
// when its module is cleaned up.
func (c *Cluster) Stop() error {
	if c.watch != nil {
		c.watch()
		c.watch = nil
	}
	return nil
}

// parseCluster reads the global option sse_cluster.
func parseCluster(d *caddyfile.Dispenser, existing any) (any, error) {
	if existing != nil {
		return nil, d.Err("sse_cluster: given twice")
	}
	d.Next() // the option's name
	if !d.NextArg() {
		return nil, d.Err("sse_cluster: expected what carries messages between the nodes, such as nats")
	}
	name := d.Val()
	if _, err := caddy.GetModule(busNamespace + "." + name); err != nil {
		return nil, d.Errf("sse_cluster %s: this Caddy was built without it (nats is in the Go module github.com/caddy-sse/caddy-sse/cluster/nats)", name)
	}
	bus, err := caddyfile.UnmarshalModule(d, busNamespace+"."+name)
	if err != nil {
		return nil, err
	}
	app := Cluster{BusRaw: caddyconfig.JSONModuleObject(bus, "type", name, nil)}
	return httpcaddyfile.App{Name: "sse_cluster", Value: caddyconfig.JSON(app, nil)}, nil
}

// Interface guards.
var (
	_ caddy.App         = (*Cluster)(nil)
	_ caddy.Provisioner = (*Cluster)(nil)
)
