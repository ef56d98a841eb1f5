package caddysse

import (
	"context"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-sse/caddy-sse/internal/delivery"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// accessFields are what an access-log entry tells of a stream's response, as the
// field "sse".
type accessFields struct {
	stream string // the key's hash; of a private stream, its ID in the admin API
	resume string // the outcome; "private": a private stream
	events uint64
	end    stream.EndReason

	private    stream.PrivateReason // empty: it is shared
	firstEvent time.Duration        // from the request to it; 0: there was none
	duration   time.Duration        // since the request came
}

// MarshalLogObject implements zapcore.ObjectMarshaler.
func (f accessFields) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	enc.AddString("stream", f.stream)
	enc.AddString("resume", f.resume)
	enc.AddUint64("events", f.events)
	enc.AddString("end_reason", string(f.end))
	if f.private != "" {
		enc.AddString("private", string(f.private))
	}
	enc.AddDuration("first_event", f.firstEvent)
	enc.AddDuration("duration", f.duration)
	return nil
}

// accessFieldsOf are those of a subscriber whose response ended.
func accessFieldsOf(sub *stream.Subscriber, end stream.EndReason) accessFields {
	return accessFields{stream: sub.Key().String(), resume: sub.Outcome(), events: sub.Sent, firstEvent: sub.FirstEvent, end: end, private: sub.WhyPrivate().Reason}
}

// startOf is when a request came.
func startOf(r *http.Request) time.Time {
	if began, ok := caddyhttp.GetVar(r.Context(), "start_time").(time.Time); ok { // which Caddy sets
		return began
	}
	return time.Now()
}

// field is the entry's.
func (f accessFields) field() zap.Field { return zap.Object("sse", f) }

// tellEnd tells what became of a response, to the metrics, the access log and the
// placeholders.
func tellEnd(r *http.Request, f accessFields) {
	delivery.Counts.Ended.With(string(f.end)).Inc()
	tellAccessLog(r, f)
}

// tellAccessLog is tellEnd, less the metrics: for who has left before there was a
// response.
func tellAccessLog(r *http.Request, f accessFields) {
	f.duration = time.Since(startOf(r))
	if extra, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		extra.Set(f.field())
	}
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set("http.sse.end_reason", string(f.end))
		repl.Set("http.sse.events", f.events)
	}
}

// accessRecord is the access-log entry of a response whose connection was taken
// over. Caddy would write its own when the handlers return; this one is written
// at the response's end, with the same fields.
type accessRecord struct {
	loggers []*zap.Logger
	level   zapcore.Level
	began   time.Time
	size    int // of the body, before the connection was taken over
	fields  []zap.Field

	mu       sync.Mutex
	complete bool   // the request's handlers have returned
	emit     func() // waits for that; nil: the response has not ended
}

// flushedAfterwards reports whether Caddy may flush a response when its handlers
// have returned: with "timeouts write", for the access log. net/http's panics
// then, if its connection was taken over.
func flushedAfterwards(r *http.Request) bool {
	server, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	return ok && server != nil && server.WriteTimeout > 0 && logsHost(server.Logs, r.Host)
}

// newAccessRecord prepares the entry of a request and keeps Caddy from writing
// one. It returns nil if there is to be none.
func (h *Handler) newAccessRecord(w http.ResponseWriter, r *http.Request, size int, returned delivery.Returned) delivery.Record {
	ctx := r.Context()
	server, _ := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	skip, _ := caddyhttp.GetVar(ctx, caddyhttp.LogSkipVar).(bool)
	if server == nil || h.accessLogger == nil || skip || !logsHost(server.Logs, r.Host) {
		return nil
	}
	caddyhttp.SetVar(ctx, caddyhttp.LogSkipVar, true)

	a := &accessRecord{level: zapcore.InfoLevel, began: startOf(r), size: size}
	for _, name := range loggerNames(server.Logs, r) {
		a.loggers = append(a.loggers, h.accessLogger.Named(name))
	}
	if name, ok := caddyhttp.GetVar(ctx, caddyhttp.LogLevelVar).(string); ok {
		if level, err := zapcore.ParseLevel(name); err == nil && level <= zapcore.ErrorLevel {
			a.level = level
		}
	}
	repl := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	user, _ := repl.GetString("http.auth.user.id")
	credentials := server.Logs.ShouldLogCredentials
	a.fields = []zap.Field{
		zap.Object("request", caddyhttp.LoggableHTTPRequest{Request: asReceived(r), ShouldLogCredentials: credentials}),
		zap.Int("bytes_read", 0), // a request with a body is not taken over
		zap.String("user_id", user),
		zap.Int("status", http.StatusOK),
		zap.Object("resp_headers", caddyhttp.LoggableHTTPHeader{Header: w.Header(), ShouldLogCredentials: credentials}),
	}
	extra, _ := ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields)
	returned(func(known bool) {
		if !known {
			extra = nil // they may be adding to it
		}
		a.returned(extra)
	})
	return a
}

// asReceived is what is logged of a request, and no more of it.
func asReceived(r *http.Request) *http.Request {
	vars := map[string]any{caddyhttp.ClientIPVarKey: caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey)}
	received := &http.Request{
		RemoteAddr: r.RemoteAddr, Proto: r.Proto, Method: r.Method, Host: r.Host,
		RequestURI: r.RequestURI, Header: r.Header, TLS: r.TLS,
	}
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		received.Method, received.RequestURI, received.RemoteAddr = original.Method, original.RequestURI, original.RemoteAddr
	}
	return received.WithContext(context.WithValue(context.Background(), caddyhttp.VarsCtxKey, vars)) //nolint:contextcheck // it outlives the request
}

// logsHost reports whether a server logs requests to a host: what Caddy's
// shouldLogRequest does.
func logsHost(logs *caddyhttp.ServerLogConfig, host string) bool {
	if logs == nil {
		return false
	}
	host = withoutPort(host)
	for name := range logs.LoggerNames {
		if certmagic.MatchWildcard(host, name) {
			return true
		}
	}
	for _, skipped := range logs.SkipHosts {
		if certmagic.MatchWildcard(host, skipped) {
			return false
		}
	}
	return !logs.SkipUnmappedHosts
}

// loggerNames are the names of the loggers of a request, as in Caddy's
// wrapLogger.
func loggerNames(logs *caddyhttp.ServerLogConfig, r *http.Request) (names []string) {
	if set, ok := caddyhttp.GetVar(r.Context(), caddyhttp.AccessLoggerNameVarKey).([]any); ok {
		for _, name := range set {
			text, _ := name.(string)
			names = append(names, text)
		}
		return names
	}
	labels := strings.Split(strings.ToLower(withoutPort(r.Host)), ".")
	if names, ok := logs.LoggerNames[strings.Join(labels, ".")]; ok {
		return names
	}
	for i := range labels {
		if labels[i] == "" {
			continue
		}
		labels[i] = "*"
		if names, ok := logs.LoggerNames[strings.Join(labels, ".")]; ok {
			return names
		}
	}
	return []string{logs.DefaultLoggerName}
}

func withoutPort(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return host
}

// returned is called when all handlers of the request have: what they have
// added to the entry, log_append say, is known now.
func (a *accessRecord) returned(extra *caddyhttp.ExtraLogFields) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fields = append(a.fields, addedFields(extra)...)
	a.complete = true
	if a.emit != nil {
		a.emit()
	}
}

// Ended implements delivery.Record: it writes the entry, when the request's handlers have
// returned. It does not wait for that, nor for the log.
func (a *accessRecord) Ended(sub *stream.Subscriber, reason stream.EndReason, size int, done func()) {
	duration := time.Since(a.began)
	sse := accessFieldsOf(sub, reason)
	sse.duration = duration
	a.mu.Lock()
	defer a.mu.Unlock()
	a.emit = func() {
		fields := append(slices.Clone(a.fields), zap.Duration("duration", duration), zap.Int("size", a.size+size), sse.field())
		go func() {
			defer done()
			for _, logger := range a.loggers {
				if entry := logger.Check(a.level, "handled request"); entry != nil {
					entry.Write(fields...)
				}
			}
		}()
	}
	if a.complete {
		a.emit()
	}
}

// addedFields are those that handlers have added to a request's access-log
// entry. Caddy keeps them to itself.
func addedFields(extra *caddyhttp.ExtraLogFields) []zap.Field {
	if extra == nil {
		return nil
	}
	added := reflect.ValueOf(extra).Elem().FieldByName("fields")
	if !added.IsValid() || added.Type() != reflect.TypeFor[[]zapcore.Field]() {
		return nil
	}
	return slices.Clone(*(*[]zapcore.Field)(added.Addr().UnsafePointer()))
}
