package caddysse

import (
	"fmt"
	"iter"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/cluster"
	"github.com/caddy-sse/caddy-sse/internal/hints"
)

// nodePatience is how long nodes may take to find each other, and their handlers, before it
// is told that they have not.
const nodePatience = 30 * time.Second

// clusterPlace is where the hints of the cluster itself are.
const clusterPlace = "sse_cluster"

// meetingHandlers are those whose streams nodes may share.
var meetingHandlers sync.Map // of *Handler

// nodeWatch looks whether this node reaches others, and whether they have its handlers.
type nodeWatch struct {
	node    *cluster.Node
	hints   *hints.Source
	logger  *zap.Logger
	reached time.Time // another node
	these   iter.Seq[*Handler]
	all     map[*Handler]*metHandler
}

// metHandler is a handler, and when it was last seen that it has a reason to be on this node
// only: another node has it, or none is reached.
type metHandler struct {
	*cluster.Presence
	met time.Time
}

// handlersToMeet are the handlers whose streams nodes may share.
func handlersToMeet(yield func(*Handler) bool) {
	meetingHandlers.Range(func(h, _ any) bool { return yield(h.(*Handler)) }) //nolint:forcetypeassert // there is nothing else in it
}

func newNodeWatch(node *cluster.Node, source *hints.Source, logger *zap.Logger, these iter.Seq[*Handler]) *nodeWatch {
	return &nodeWatch{node: node, hints: source, logger: logger, reached: time.Now(), these: these, all: make(map[*Handler]*metHandler)}
}

// run looks until stop is closed.
func (w *nodeWatch) run(stop <-chan struct{}) {
	ticker := time.NewTicker(cluster.PresenceInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			w.look(time.Now())
		case <-stop:
			for _, m := range w.all {
				m.Close()
			}
			return
		}
	}
}

// look tells others of the handlers, and gives hints of what is not as it is meant.
func (w *nodeWatch) look(now time.Time) {
	alone := len(w.node.Figures().Peers) == 0
	if !alone {
		w.reached = now
		w.hints.Settled(hints.NoNode, clusterPlace, 0)
	} else if now.Sub(w.reached) >= nodePatience {
		w.hints.Notice(hints.NoNode, clusterPlace, func() (text, remedy string) {
			return fmt.Sprintf("a cluster is configured, and this node has reached no other one for %v: it has upstream connections of its own", nodePatience),
				"have the other nodes run; see that routes name them, that no firewall is between, and that all have the same secret"
		})
	}
	there := make(map[*Handler]bool)
	for h := range w.these {
		there[h] = true
		w.lookAt(h, now, alone)
	}
	for h, m := range w.all {
		if !there[h] {
			m.Close()
			delete(w.all, h)
		}
	}
}

// lookAt tells others of a handler, and looks whether one has it.
func (w *nodeWatch) lookAt(h *Handler, now time.Time, alone bool) {
	m := w.all[h]
	if m == nil {
		presence, err := w.node.Present(h.instance.Place, h.options)
		if err != nil {
			w.logger.Debug("other nodes are not told of a handler", zap.NamedError("reason", err))
			return
		}
		m = &metHandler{presence, now}
		w.all[h] = m
	}
	m.Tell()
	if alone || m.Elsewhere() {
		m.met = now
		h.hints.Settled(hints.Apart, clusterPlace, 0)
	} else if now.Sub(m.met) >= nodePatience {
		h.hints.Notice(hints.Apart, clusterPlace, func() (text, remedy string) {
			return "other nodes are reached, and none has this sse at the same place with the same options: its streams are shared with no other node",
				"give it the same name on all nodes, or the same listen addresses; and the same share, key, ids, join, gap_event and reconnect; run the same version of caddy-sse"
		})
	}
}
