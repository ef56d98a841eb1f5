package admin

import (
	"net/http"
	"sync"
)

// viewers counts the responses of the admin API that do not end by themselves,
// and ends them before their server waits for them: Caddy's admin endpoints wait
// for ten seconds at a reload, and when the process ends call that a failure.
type viewers struct {
	mu      sync.Mutex
	open    int
	over    chan struct{} // closed when the process ends
	servers map[*http.Server]chan struct{}
}

// theViewers are those of the process.
var theViewers = &viewers{over: make(chan struct{}), servers: make(map[*http.Server]chan struct{})}

// maxViewers bounds how many there may be: each costs a second's look at the
// streams, or at what passes.
const maxViewers = 32

// exit ends all responses: the process ends.
func (v *viewers) exit() {
	v.mu.Lock()
	defer v.mu.Unlock()
	select {
	case <-v.over:
	default:
		close(v.over)
	}
}

// endOf returns what is closed when the server of a request shuts down.
func (v *viewers) endOf(r *http.Request) <-chan struct{} {
	if end, ok := r.Context().Value(endCtxKey{}).(<-chan struct{}); ok {
		return end
	}
	server, ok := r.Context().Value(http.ServerContextKey).(*http.Server)
	if !ok {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	end := v.servers[server]
	if end == nil {
		end = make(chan struct{})
		v.servers[server] = end
		server.RegisterOnShutdown(func() {
			v.mu.Lock()
			defer v.mu.Unlock()
			if v.servers[server] == end {
				close(end)
				delete(v.servers, server)
			}
		})
	}
	return end
}

// enter counts a viewer in, if there may be another.
func (v *viewers) enter() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.open >= maxViewers {
		return apiError(http.StatusServiceUnavailable, "%d feeds and tails are open, and there may be no more: close one", maxViewers)
	}
	v.open++
	return nil
}

func (v *viewers) leave() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.open--
}
