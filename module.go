package caddysse

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/delivery"
	"github.com/caddy-sse/caddy-sse/internal/hints"
	"github.com/caddy-sse/caddy-sse/internal/key"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

func init() {
	caddy.RegisterModule((*Handler)(nil))
}

// Defaults of the options that are durations or sizes and not the buffer's.
const (
	// defaultHeartbeat is half of the shortest idle timeout that is common in
	// proxies on the way (30 s).
	defaultHeartbeat = 15 * time.Second

	// defaultWriteTimeout is how long a write to a client may make no progress.
	defaultWriteTimeout = 10 * time.Second

	// maxHeartbeatPadding bounds what is sent to each quiet client again and
	// again. Middleboxes are known to hold back up to 4 KiB.
	maxHeartbeatPadding = 64 << 10
)

// defaultLastEventIDQuery are the query parameters in which clients that cannot
// set header fields are known to bring their last event ID.
var defaultLastEventIDQuery = []string{
	"lastEventId", "last-event-id", "last_event_id", "Last-Event-ID", "evs_last_event_id",
}

// Values of Handler.Share.
const (
	sharePublic  = "public"
	shareCookies = "cookies"
	shareHeaders = "headers"
	shareOff     = "off"
)

// Values of Handler.SetCookie.
const (
	setCookieStrip   = "strip"
	setCookiePrivate = "private"
)

// Handler is a middleware that stands in front of an application which sends
// Server-Sent Events, and makes its streams shared, resumable and kept alive,
// without any change to the application. It stands before the handler that
// leads to the application, normally reverse_proxy or php_fastcgi.
//
// Clients that ask for the same event stream share one connection to the
// application. A replay buffer lets clients that return with a last event ID
// continue where they were; what they can no longer be given is told. Quiet
// connections get heartbeats. When the application restarts, or Caddy's
// configuration is reloaded, clients stay connected. Events go out at once.
//
// Every other request passes through untouched. If such a request (a POST to a
// language model, say) is answered with an event stream, that is private to its
// client: its bytes pass as they come, with heartbeats between events.
//
// In a Caddyfile the directive is sse. It covers what stands in the same block:
//
//	example.com {
//		sse
//		reverse_proxy localhost:3000
//	}
//
// The options that change most say who may share a stream:
//
//	sse /ticker {
//		share public
//	}
//	sse /notifications {
//		share cookies session
//		gap_event gap
//	}
//
// In JSON it stands before the other handler of its route:
//
//	"handle": [
//		{"handler": "sse", "share": "public", "buffer": {"events": 1000, "age": "10m"}},
//		{"handler": "reverse_proxy", "upstreams": [{"dial": "localhost:3000"}]}
//	]
//
// These placeholders exist for handlers before it, in log_append for example:
//
// Placeholder | Description
// ------------|------------
// `{http.sse.stream}` | The hash of the stream's key, or the name of a private stream
// `{http.sse.resume}` | live, replayed, gap, spliced or private
// `{http.sse.events}` | How many events the client was sent, at the end
// `{http.sse.end_reason}` | Why the response ended, at the end
//
// The access log has the same in the object sse of the entry for each stream.
// Metrics are caddy_sse_*. Caddy's admin endpoint has an API and a live page at
// /sse/. The command sse-doctor looks for what holds events back on the way.
// All of the documentation: https://github.com/caddy-sse/caddy-sse/tree/main/docs
type Handler struct {
	// The name of this handler, to tell its streams from those of other sse
	// handlers of the same server. After a reload the handler of the same name
	// takes the streams over at once; without a name that takes a moment.
	// Name each if a server has several. Default: empty.
	Name string `json:"name,omitempty"`

	// Which requests share a stream. Empty (the default): requests that are
	// equal but for header fields known not to matter. Authorization, Cookie,
	// Origin and all unknown fields separate clients, and clients share only
	// after two connections were seen to be told the same. "public": all
	// requests for a URL; only Origin, X-Forwarded-Host and X-Forwarded-Proto
	// separate clients. "cookies": as public, and the cookies of share_cookies
	// separate clients too. "headers": as public, and the header fields of
	// share_headers do. "off": none; each client has an upstream connection
	// of its own. Anything that does not separate clients is removed from the
	// upstream request, the client's address included: see key_add.
	Share string `json:"share,omitempty"`

	// With share "cookies": the names of the cookies that separate clients.
	// Other cookies are not sent upstream.
	ShareCookies []string `json:"share_cookies,omitempty"`

	// With share "headers": the names of the header fields that separate clients,
	// and are sent upstream: those of an authenticating handler before sse, say.
	ShareHeaders []string `json:"share_headers,omitempty"`

	// What becomes of a cookie that an answer sets, if it could be shared but for
	// that. "private" (the default): the stream is its client's alone, who gets the
	// cookie. "strip": nobody gets it, and the stream is shared as others are; for
	// applications that set one with each answer. With share "public" it is always
	// stripped. A stream that is private for another reason keeps its cookies.
	SetCookie string `json:"set_cookie,omitempty"`

	// A template of placeholders that takes the place of query and header
	// fields in what makes two requests the same. Fields, cookies and
	// parameters that it does not name are not sent upstream.
	Key string `json:"key,omitempty"`

	// Placeholders that separate clients in addition, because the application
	// or handlers behind sse depend on them: {http.vars.client_ip}, say, which
	// is also sent then.
	KeyAdd []string `json:"key_add,omitempty"`

	// Header fields and query parameters that do not separate clients. They
	// are not sent upstream.
	KeyIgnore *KeyIgnore `json:"key_ignore,omitempty"`

	// What the replay buffer of each stream keeps. Memory is taken as it is
	// used.
	Buffer *Buffer `json:"buffer,omitempty"`

	// What keeps quiet connections alive. Default: a comment after 15 s.
	Heartbeat *Heartbeat `json:"heartbeat,omitempty"`

	// The reconnection time given to each subscriber, drawn at random from a
	// range so that clients that were cut together do not come back together.
	// The upstream's own wins. Default: none is given, so that clients use
	// theirs (3 to 5 s in browsers).
	Retry *Retry `json:"retry,omitempty"`

	// How many bytes the replay buffers of all streams of the process, of all
	// its handlers, may have together: best stated once, in the app sse. If it is
	// stated in several places, the smallest value counts. Over it, streams that only linger are ended, those
	// without subscribers for longest first; then the largest buffers lose their
	// oldest blocks, down to the newest block of each. Who misses something by
	// that is told as always. Default: 512 MiB.
	Memory int64 `json:"memory,omitempty"`

	// How long a stream without subscribers keeps its upstream connection and
	// replay buffer, so that clients that return meanwhile miss nothing. A
	// stream that has had no event and only one subscriber stays no longer than
	// that subscriber was there. 0 ends it at once. Default: 30 s.
	Linger *caddy.Duration `json:"linger,omitempty"`

	// Where a client without a last event ID begins, if it comes after a
	// stream's first event. "auto" (the default): it gets an upstream
	// connection of its own, and with it whatever the upstream sends to
	// newcomers, until that connection is seen to bring what the stream
	// brings; then it shares the stream. "live": at the newest event.
	// "replay": with the last join_replay events kept. "greeting": with what
	// the stream's own connection brought before its first pause of one
	// second, and then at the newest event.
	Join string `json:"join,omitempty"`

	// With join "replay": how many events. 0 (the default): all that are kept.
	JoinReplay int `json:"join_replay,omitempty"`

	// How many upstream connections there may be at once, beside that of a
	// stream, for clients that are yet to share it, and how long one may take
	// until it does. After that it is its clients' own. Defaults: 8; 30 s.
	SpliceLimit   int            `json:"splice_limit,omitempty"`
	SpliceTimeout caddy.Duration `json:"splice_timeout,omitempty"`

	// Who gives event IDs. "auto" (the default): the gateway, until the
	// upstream gives one. "upstream": the upstream only; use it behind another
	// gateway. "gateway": the gateway, in place of the upstream's.
	IDs string `json:"ids,omitempty"`

	// The event type of an event that tells a client that it missed events.
	// Its data is a JSON object with reason ("evicted", "epoch", "lag" or
	// "upstream"), last_event_id, and missed (how many events, or null).
	// Default: none is sent; the response header SSE-Resume tells what the
	// status of resuming is.
	GapEvent string `json:"gap_event,omitempty"`

	// Whether a client that begins at the newest event is first sent a block
	// with that event's ID and no data, so that it can resume even if it is
	// cut before its first event. Default: true.
	Prime *bool `json:"prime,omitempty"`

	// Whether the gateway may send blocks that are no events: the one of prime,
	// and the blank lines that end heartbeats, reconnection times and comments.
	// Off for clients that take each blank line for an event as soon as they have
	// seen an ID. Clients that look for blank lines only, and at how what is
	// between them begins, then miss the event after a heartbeat. Default: true.
	EmptyBlocks *bool `json:"empty_blocks,omitempty"`

	// What happens to a client that is so slow that events it has not been
	// given leave the replay buffer. "disconnect" (the default): its response
	// ends; when it comes back it is told. "skip": it is told with a gap event
	// and goes on with the oldest event kept; needs gap_event.
	Lag string `json:"lag,omitempty"`

	// How long a client may take nothing of what is sent to it before it is cut:
	// a write without progress. 0 means no limit. Default: 10 s. On Linux
	// progress over TCP is what the client's system acknowledges, so that a
	// vanished client is noticed, too, after something was sent to it, and one
	// that reads slowly is not cut. Elsewhere, and for a stream of HTTP/2 or
	// HTTP/3, it is that so many KiB could be written: 16, or 64 over HTTP/1.
	WriteTimeout *caddy.Duration `json:"write_timeout,omitempty"`

	// The largest event taken from an upstream, in bytes. The upstream
	// connection ends with an error when it sends a larger one: what has no
	// blank line counts as one. Default: 4 MiB, which is what a replay buffer holds;
	// 16 MiB for private streams, whose bytes pass as they come.
	MaxEventSize int64 `json:"max_event_size,omitempty"`

	// How many streams there may be at once of this handler. Streams that only
	// linger make room; beyond that, requests for more are turned away: with 503, or
	// with an event stream that ends at once and says when to come back, where
	// the client may be EventSource. Default: 0, no limit.
	MaxStreams int `json:"max_streams,omitempty"`

	// How many subscribers one stream may have. Requests for more are turned
	// away. Default: 0, no limit.
	MaxSubscribers int `json:"max_subscribers,omitempty"`

	// How many event streams one client may have at once of this handler, those
	// that wait included: requests that name event streams in Accept count.
	// Requests for more are turned away, with 429 where max_streams has 503.
	// Default: no limit.
	MaxPerClient *MaxPerClient `json:"max_per_client,omitempty"`

	// How long a subscriber's response may last, less up to 20 % at random.
	// It ends after a whole event; the client comes back and resumes. Default:
	// 0, no limit.
	MaxAge caddy.Duration `json:"max_age,omitempty"`

	// How often each client's request is run again, as it came, through the handlers
	// before this one: authentication, say. If they refuse it, the client's
	// response ends. Requests that are no GET are not run again. Default: only
	// after a reload of the configuration.
	Reauthorize *Reauthorize `json:"reauthorize,omitempty"`

	// A template of placeholders that a client is known by, as
	// {http.auth.user.id} or {http.request.cookie.session}. Who has a value of it
	// is let go when an operator says so, with POST /sse/revoke of the admin API,
	// or the application, with the header field SSE-Revoke in any of its answers,
	// which clients do not see. A hash of the value is kept. Default: none;
	// SSE-Revoke passes.
	RevokeBy string `json:"revoke_by,omitempty"`

	// What happens when the upstream connection of a stream ends. "broken" (the
	// default): if it broke (a reset, an unexpected end, upstream_timeout), it
	// is opened again and the subscribers stay; if it ended as HTTP says, so do
	// their responses. "always": it is opened again in either case.
	// "resumable": as broken, but only if the upstream gives ids to go on from.
	// "never": the subscribers' responses end as the upstream's did.
	Reconnect string `json:"reconnect,omitempty"`

	// How long the upstream of a stream may send nothing, not even a comment,
	// until its connection counts as broken. Default: 0, no limit.
	UpstreamTimeout caddy.Duration `json:"upstream_timeout,omitempty"`

	// How long a stream tries to reach its upstream again: the time without a
	// connection since the upstream's last event or comment. After that its
	// subscribers' responses end, spread over drain; when they come back with
	// an ID, the upstream is tried again. Default: 1h.
	GiveUp caddy.Duration `json:"give_up,omitempty"`

	// The time over which clients' responses end when the process stops, each
	// at a random moment of it and after a whole event, private streams at its
	// end, in order only where an event has ended; also those of streams whose handler a reload has removed. 0 ends
	// them at once. Default: 3 s.
	Drain *caddy.Duration `json:"drain,omitempty"`

	// Query parameters in which a client may bring its last event ID instead
	// of the header field. They do not separate clients. An empty list turns
	// this off. Default: lastEventId, last-event-id, last_event_id,
	// Last-Event-ID, evs_last_event_id.
	LastEventIDQuery []string `json:"last_event_id_query,omitzero"`

	// How long the upstream connection of a private stream runs on without a
	// client, into a replay buffer. A private stream is an event stream that
	// answers a request which does not share one: the answer of a language
	// model to a POST, say. The gateway gives it ids in place of the
	// upstream's. A request for the same host, path and query, of the same
	// user, TLS client certificate and credentials, with an ID of it as last
	// event ID goes on where the client was, whatever its method; DELETE
	// cancels. An answer that has ended can be resumed until the buffer's
	// age is over. Requests with Mcp-Session-Id or Mcp-Protocol-Version are
	// excepted. The bodies of all other requests that do not share a stream are
	// read before they go upstream: give the handler a matcher. 0 (the default)
	// turns it off: the upstream connection ends with its client.
	Detach caddy.Duration `json:"detach,omitempty"`

	// With detach: request header fields that a client has to bring again, as
	// they were, to resume or to cancel, beside Authorization, Cookie,
	// X-Api-Key and Api-Key.
	DetachHeaders []string `json:"detach_headers,omitempty"`

	// With detach: the largest request body, in bytes, that is copied so that
	// it can outlive its client. A request with a larger one is served as
	// without detach. Default: 1 MiB.
	MaxRequestBody int64 `json:"max_request_body,omitempty"`

	// How the rest of an answer, a private stream, is asked for when its upstream
	// connection breaks, never when it ends as HTTP says. "last_event_id": with a GET
	// for the same URL and Last-Event-ID, of applications that give ids.
	// "openai_responses": with GET /v1/responses/{id}?stream=true&starting_after=N,
	// of answers with "background": true; OpenAI and vLLM have it. The client sees one
	// answer. It is asked for up to five times, in up to 30 s; a POST is never
	// repeated. What cannot be gone on with breaks off. Default: empty, each break is
	// the client's.
	ResumeUpstream string `json:"resume_upstream,omitempty"`

	// How long the upstream may be silent, from when it has the whole request,
	// until a client that has asked for an event stream is sent the head of one
	// and a heartbeat, and heartbeats from then on: a language model may think for
	// longer than proxies on the way wait. A client asks for an event stream with
	// Accept, or with "stream": true in a JSON body, of which the first 64 KiB are
	// looked at as they pass. An answer that comes before that passes as it is. Of
	// one that comes later and is no event stream the status is lost: it is told in
	// the stream; see early_error. Requests of MCP are excepted. 0 (the default)
	// turns it off.
	Early caddy.Duration `json:"early,omitempty"`

	// With early: how an answer that is no event stream is told in one. "openai":
	// an event with an object that has error. "anthropic": an event of type error
	// with Anthropic's object. "sse": an event of type error with status, headers
	// and the first 4 KiB of the body; the response breaks off then. Default: by
	// the end of the path: /v1/messages is Anthropic's; /v1/chat/completions,
	// /v1/completions and /v1/responses are OpenAI's; others are sse.
	EarlyError string `json:"early_error,omitempty"`

	// Whether the gateway itself answers requests for an event stream that have
	// the header field SSE-Probe: with a short one that says nothing of the
	// application, so that the command sse-doctor can see what is done to event
	// streams on the way to clients. At most 8 at once, each over within 66 s.
	// Default: false; the field means nothing then.
	Probe bool `json:"probe,omitempty"`

	// How clients are written to. "connection" (the default): the connections
	// of clients of shared streams are taken over when their response head was
	// sent, and a few goroutines write to all of them, if the protocol is
	// HTTP/1.1 and no handler before this one may change the body. "handler":
	// each request's own goroutine writes.
	Delivery string `json:"delivery,omitempty"`

	logger       *zap.Logger
	accessLogger *zap.Logger
	instance     *stream.Instance
	scope        uint64 // of revocations
	withdraw     func() // takes back that clients can be revoked
	policy       *key.Policy
	options      *stream.Options
	detached     *detachSettings // nil: without detach
	settings     *delivery.Settings
	probes       *probes // nil: without probe
	lines        *stream.HandlerLines
	hints        *hints.Source             // nil before it is provisioned
	http10       *atomic.Pointer[oldFront] // the same
	lookout      *lookout                  // nil: no Caddy server
	wrapped      bool                      // the server has the listener wrapper
}

// KeyIgnore names parts of requests that do not separate clients.
type KeyIgnore struct {
	// Names of query parameters, case-sensitive.
	Query []string `json:"query,omitempty"`

	// Names of header fields.
	Headers []string `json:"headers,omitempty"`
}

// Heartbeat is what a subscriber is sent that was sent nothing for a while.
type Heartbeat struct {
	// For how long. 0 turns heartbeats off. Default: 15 s.
	Interval *caddy.Duration `json:"interval,omitempty"`

	// Send an event of this type instead of a comment, for clients that have
	// to see it.
	Event string `json:"event,omitempty"`

	// The event's data. Default: empty.
	Data string `json:"data,omitempty"`

	// How many bytes a heartbeat has at least, for middleboxes that hold small
	// writes back. Default: 0.
	Padding int `json:"padding,omitempty"`
}

// Retry is a range of reconnection times.
type Retry struct {
	Min caddy.Duration `json:"min,omitempty"`

	// Default: the same as min.
	Max caddy.Duration `json:"max,omitempty"`
}

// MaxPerClient bounds the event streams of one client.
type MaxPerClient struct {
	// How many it may have at once.
	Responses int `json:"responses"`

	// A template of placeholders that a client is known by. Requests for which it
	// is empty count as one client's. Of an IPv6 address the first 64 bits count.
	// Default: {http.vars.client_ip}.
	By string `json:"by,omitempty"`
}

// Reauthorize says when it is looked again whether a client is let in.
type Reauthorize struct {
	// How often each client's request is run again through the handlers before
	// this one. At least 1 s.
	Interval caddy.Duration `json:"interval,omitempty"`

	// Ask the application as well, with the client's own request, which is
	// cancelled as soon as its status is known. Default: false.
	Upstream bool `json:"upstream,omitempty"`
}

// The types that follow stand here because Handler has them. What they do is in
// detach.go, probe.go and unseen.go.

// detachSettings are the handler's settings for detached streams.
type detachSettings struct {
	options *stream.Options
	headers []string // request header fields that identify the client; canonical and sorted
	maxBody int64
}

// probes are the probe streams of a handler with the option probe: event streams
// that the gateway makes up itself, for sse-doctor to see what becomes of them on
// the way. They say nothing of the application, which does not see the requests,
// and of what the gateway has noticed of its configuration only the kinds.
type probes struct {
	places chan struct{} // has something for each probe stream there is
	over   chan struct{} // closed by end
	once   sync.Once
}

// oldFront is where HTTP/1.0 came from last: probably a proxy in front.
type oldFront struct{ peer, place string }

// stopper is a timer.
type stopper interface{ Stop() bool }

// lookout looks for requests that ought to come to a handler.
type lookout struct {
	handler *Handler
	place   string                                     // where the handler stands
	every   time.Duration                              // unseenTime
	lasted  func(upstream net.Conn, do func()) stopper // whenLasted
	left    atomic.Int64                               // connections that are still to be looked at
	timer   *time.Timer
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.sse",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Interface guards.
var (
	_ caddy.Module                = (*Handler)(nil)
	_ caddy.Provisioner           = (*Handler)(nil) // provision.go
	_ caddy.Validator             = (*Handler)(nil) // validate.go
	_ caddy.CleanerUpper          = (*Handler)(nil) // provision.go
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil) // handler.go
)
