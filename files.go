package caddysse

import (
	"context"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// Files that are short.
//
// Each client and each upstream connection is an open file, of which a process may have
// only so many. Where there is none left for an upstream connection, streams that only
// linger give way, and it is tried again; who cannot be served even so is asked to
// come later.

const (
	// filesBatch is how many lingering streams give way for one connection: others
	// are about to want theirs.
	filesBatch = 16

	// filesWait is how long the first of them are given to close, twice as long the
	// next, and so on, for filesTries.
	filesWait  = 20 * time.Millisecond
	filesTries = 5
)

// lacksFiles reports whether the handlers behind sse could not connect because there
// are no files left. The errors of reverse_proxy do not tell what they wrap.
func lacksFiles(err error) bool {
	if err == nil {
		return false
	}
	text := err.Error()
	return strings.Contains(text, syscall.EMFILE.Error()) || strings.Contains(text, syscall.ENFILE.Error())
}

// runWithFiles runs the handlers behind sse, again if they lack files and nothing was
// answered.
func (h *Handler) runWithFiles(ctx context.Context, answered func() bool, run func() error) (err error) {
	for try := range filesTries {
		if err = run(); !lacksFiles(err) || answered() {
			return err
		}
		ended := stream.Process.GiveWay(filesBatch, stream.GaveWayFiles)
		h.lines.NoFiles.Log(func(suppressed int) {
			h.logger.Error("files are short", zap.Int("streams", ended), zap.Int("suppressed", suppressed))
		})
		select {
		case <-time.After(filesWait << try):
		case <-ctx.Done():
			return err
		}
	}
	return err
}

// settleFiles is what becomes of a request that could not be served for want of files.
func (h *Handler) settleFiles(w http.ResponseWriter, r *http.Request, key stream.Key, err error) error {
	if !lacksFiles(err) || !acceptsEventStream(r.Header) {
		return err
	}
	return h.turnAway(w, r, key, errNoFiles)
}

// runPrivate runs the handlers behind sse for a private stream.
func (h *Handler) runPrivate(p *passThrough, next caddyhttp.Handler) error {
	if acceptsEventStream(p.request.Header) && !p.headSent && stream.Process.IsShort(h.logger) {
		return h.turnAway(p.ResponseWriter, p.request, stream.Key{}, stream.ErrNoMemory)
	}
	if !bodyless(p.request) {
		return next.ServeHTTP(p, p.request) // its body may have been read
	}
	err := h.runWithFiles(p.request.Context(), func() bool { return p.wroteHeader }, func() error { return next.ServeHTTP(p, p.request) })
	if p.wroteHeader || p.headSent {
		return err
	}
	return h.settleFiles(p.ResponseWriter, p.request, stream.Key{}, err)
}
