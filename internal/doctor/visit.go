package doctor

import (
	"compress/gzip"
	"compress/zlib"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddy-sse/caddy-sse/eventstream"
)

const (
	// browserCodings are what browsers say they take.
	browserCodings = "gzip, deflate, br, zstd"
	identity       = "identity"

	// maxBlock bounds one event.
	maxBlock = 16 << 20

	// maxKept bounds how many of the newest events are kept.
	maxKept = 32

	// maxRedirects is how many redirects are followed, as browsers do.
	maxRedirects = 20

	// tornFor is how long the rest of an event may take that has begun to come.
	// Who sends it in one piece has it there in much less.
	tornFor = 250 * time.Millisecond
)

// client asks for streams as EventSource does.
type client struct {
	options   Options
	transport *http.Transport
	http      *http.Client
}

// Errors of Run: what the caller gave, and nobody there.
var (
	errURL   = errors.New("expected an http or https URL, such as https://example.com/events")
	errField = errors.New("a header field that the doctor sets itself")

	errUnreachable = errors.New("no connection came about in time")
)

// ownFields are set by the doctor.
var ownFields = []string{
	"Accept", "Accept-Encoding", "Connection", "Content-Length", "Last-Event-Id", ProbeField, "Te", "Transfer-Encoding", "Upgrade",
}

func newClient(o Options) (*client, error) {
	u, err := url.Parse(o.URL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, errURL // err would repeat it, with a password in it, say
	}
	if o.Admin != "" {
		if _, err := adminURL(o.Admin); err != nil {
			return nil, err
		}
	}
	for _, name := range ownFields {
		if o.Header.Values(name) != nil {
			return nil, fmt.Errorf("%s: %w", name, errField)
		}
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableCompression = true
	if o.Insecure {
		transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // G402: asked for
	}
	if o.Dial != nil {
		transport.DialContext = o.Dial
	}
	c := &client{options: o, transport: transport}
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err // cannot happen: it never fails
	}
	// Without the cookies that it is given a client comes to another server.
	c.http = &http.Client{Transport: transport, CheckRedirect: c.redirect, Jar: jar}
	return c, nil
}

func (c *client) close() { c.transport.CloseIdleConnections() }

// redirect follows redirects; to another host without what the caller gave.
func (c *client) redirect(r *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return errors.New("too many redirects")
	}
	if c.options.Header.Values("Referer") == nil {
		r.Header.Del("Referer") // net/http puts the URL there, with its query; EventSource does not
	}
	if r.URL.Host == via[0].URL.Host && (r.URL.Scheme == via[0].URL.Scheme || r.URL.Scheme == "https") {
		return nil
	}
	for name := range c.options.Header {
		r.Header.Del(name)
	}
	return nil
}

// request is what is asked for.
type request struct {
	coding      string // Accept-Encoding
	lastEventID string
	probe       string // the kind of a probe stream; "": the application's stream

	// enough ends the visit early; nil: never. It is called after each event.
	enough func(v *visit) bool
}

// event is an event of the stream.
type event struct {
	id    string // its own
	print uint64 // of its type and data
}

// visit is one connection: what was asked for, and what came. Times are since
// the request.
type visit struct {
	request request
	asked   time.Time
	cancel  context.CancelFunc
	headed  chan struct{} // closed with the head, or when there is none to come
	done    chan struct{} // closed at the end
	reached atomic.Bool   // there was a connection to a server

	// Set before headed is closed.
	head   *http.Response // nil: none came
	headAt time.Duration
	err    error // why there is no head

	// Set before done is closed.
	ended      time.Duration // when it was
	end        error         // io.EOF: as HTTP says; a context's: the doctor left
	firstByte  time.Duration // 0: none came
	lastByte   time.Duration
	silence    time.Duration // the longest between two bytes, or since the head
	arrivals   int           // pieces in which bytes came
	torn       int           // how many of them left an event unfinished for a while
	events     int           // all
	kept       []event       // the newest with an id of their own: who resumes has no claim to others
	before     string        // the last event ID before those kept
	ids        int           // events that had an id or came after one
	heartbeats int
	probes     []probeEvent

	decoder     eventstream.Decoder
	lastEventID string
	unfinished  bool
}

// visit opens a connection. It ends with ctx.
func (c *client) visit(ctx context.Context, request request) *visit {
	ctx, cancel := context.WithCancel(ctx)
	v := &visit{request: request, cancel: cancel, asked: time.Now(), headed: make(chan struct{}), done: make(chan struct{})}
	v.decoder.MaxBlockSize = maxBlock
	v.lastEventID, v.before = request.lastEventID, request.lastEventID
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { v.reached.Store(true) }})
	go func() {
		defer close(v.done)
		defer cancel()
		v.run(ctx, c)
		v.ended = v.now()
	}()
	return v
}

// leave ends the visit.
func (v *visit) leave() {
	v.cancel()
	<-v.done
}

func (v *visit) now() time.Duration { return time.Since(v.asked) }

func (v *visit) run(ctx context.Context, c *client) {
	v.head, v.err = v.ask(ctx, c)
	v.headAt = v.now()
	close(v.headed)
	if v.err != nil {
		v.end = v.err
		return
	}
	defer func() { _ = v.head.Body.Close() }()
	if v.refused() || v.unreadable() != "" {
		return
	}
	v.lastByte = v.headAt
	v.end = v.read(&clockedReader{v.head.Body, v})
	if ctx.Err() != nil {
		v.end = ctx.Err() // reading says it in other words, too
	}
}

func (v *visit) ask(ctx context.Context, c *client) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.options.URL, nil)
	if err != nil {
		return nil, errURL
	}
	maps.Copy(r.Header, c.options.Header)
	if host := r.Header.Get("Host"); host != "" {
		r.Host = host
	}
	set := func(name, value string) {
		if value != "" {
			r.Header.Set(name, value)
		}
	}
	set("Accept", "text/event-stream")
	set("Accept-Encoding", v.request.coding)
	set("Cache-Control", "no-cache")
	set("Last-Event-ID", v.request.lastEventID)
	set(ProbeField, v.request.probe)
	if r.UserAgent() == "" {
		set("User-Agent", "caddy-sse-doctor")
	}
	resp, err := c.http.Do(r)
	if failed, ok := errors.AsType[*url.Error](err); ok {
		err = failed.Err // without the URL
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		err = fmt.Errorf("%w: browsers refuse it, too; --insecure takes any certificate", err)
	}
	return resp, err
}

// failure is why there was nobody to answer; nil: there was, or the visit is not
// over.
func (v *visit) failure() error {
	select {
	case <-v.headed:
	default:
		return nil
	}
	switch late := errors.Is(v.err, context.DeadlineExceeded); {
	case v.err == nil, late && v.reached.Load():
		return nil
	case late:
		return errUnreachable
	}
	return v.err
}

// answered reports whether there is a head by now.
func (v *visit) answered() bool {
	if v == nil {
		return false
	}
	select {
	case <-v.headed:
		return v.head != nil
	default:
		return false
	}
}

// refused reports whether the answer is not an event stream.
func (v *visit) refused() bool {
	return v.answered() && (v.head.StatusCode != http.StatusOK || !isEventStream(v.head.Header))
}

func isEventStream(header http.Header) bool {
	value, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(value), "text/event-stream")
}

// probed reports whether the answer is that probe stream.
func (v *visit) probed(kind string) bool {
	return v.answered() && !v.refused() && v.head.Header.Get(ProbeField) == kind
}

// coding is the content coding of the answer; "": none.
func (v *visit) coding() string {
	coding := strings.ToLower(strings.TrimSpace(v.head.Header.Get("Content-Encoding")))
	if coding == identity {
		return ""
	}
	return coding
}

// unreadable is the content coding of the answer if the doctor cannot read it.
func (v *visit) unreadable() string {
	if !v.answered() {
		return ""
	}
	switch coding := v.coding(); coding {
	case "gzip", "x-gzip", "deflate":
		return ""
	default:
		return coding
	}
}

// read reads the body to its end.
func (v *visit) read(body io.Reader) (err error) {
	switch v.coding() {
	case "gzip", "x-gzip":
		body, err = gzip.NewReader(body)
	case "deflate": // the zlib format, RFC 9110, 8.4.1.2
		body, err = zlib.NewReader(body)
	}
	if err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := body.Read(buf)
		if n > 0 {
			if err := v.decoder.Write(buf[:n], v.block); err != nil {
				return err
			}
			// Who sends an event in parts sends lines; a full buffer ends anywhere.
			rest := v.decoder.Rest()
			v.unfinished = len(rest) > 0 && rest[len(rest)-1] != '\n'
		}
		if err != nil {
			return err
		}
	}
}

// clockedReader notes when bytes come.
type clockedReader struct {
	src   io.Reader
	visit *visit
}

func (r *clockedReader) Read(p []byte) (int, error) {
	n, err := r.src.Read(p)
	if n > 0 {
		r.visit.arrive()
	}
	return n, err
}

func (v *visit) arrive() {
	now := v.now()
	quiet := now - v.lastByte
	if v.unfinished && quiet >= tornFor {
		v.torn++
	}
	v.unfinished = false
	if v.firstByte == 0 {
		v.firstByte = now
	}
	v.silence = max(v.silence, quiet)
	v.lastByte = now
	v.arrivals++
}

// errEnough ends a visit that has seen what it is for.
var errEnough = errors.New("enough")

// printSeed is of the prints of events, which are compared within the process.
var printSeed = maphash.MakeSeed()

func (v *visit) block(b eventstream.Block) error {
	if len(v.kept) == 0 {
		v.before = v.lastEventID
	}
	if b.HasID {
		v.lastEventID = string(b.ID)
	}
	if b.CommentOnly() {
		v.heartbeats++
	}
	if !b.Dispatches() {
		return nil
	}
	data := b.AppendData(nil)
	switch isProbe := string(b.Type) == ProbeType; {
	case v.request.probe == "":
		v.take(b, data)
	case isProbe:
		v.takeProbe(data, v.now())
	default:
		v.heartbeats++ // as an event: nobody else sends any
	}
	if v.request.enough != nil && v.request.enough(v) {
		return errEnough
	}
	return nil
}

// take notes an event of the application's stream.
func (v *visit) take(b eventstream.Block, data []byte) {
	v.events++
	if v.lastEventID != "" {
		v.ids++
	}
	if len(b.ID) == 0 {
		return
	}
	var sum maphash.Hash // its methods never fail
	sum.SetSeed(printSeed)
	_, _ = sum.Write(b.Type)
	_ = sum.WriteByte('\n')
	_, _ = sum.Write(data)
	if len(v.kept) == maxKept {
		v.before = v.kept[0].id
		v.kept = append(v.kept[:0], v.kept[1:]...)
	}
	v.kept = append(v.kept, event{v.lastEventID, sum.Sum64()})
}

// left reports whether the visit ended because the doctor left.
func (v *visit) left() bool {
	return v.end == nil || errors.Is(v.end, context.DeadlineExceeded) || errors.Is(v.end, context.Canceled) || errors.Is(v.end, errEnough)
}

// overwhelmed reports whether there was an event larger than maxBlock.
func (v *visit) overwhelmed() bool {
	_, ok := errors.AsType[*eventstream.BlockTooLargeError](v.end)
	return ok
}

// quiet is how long there was nothing before the end.
func (v *visit) quiet() time.Duration { return v.ended - v.lastByte }

// longestSilence is the longest time that the connection outlived without a
// byte.
func (v *visit) longestSilence() time.Duration {
	if !v.answered() {
		return 0
	}
	if v.left() {
		return max(v.silence, v.quiet())
	}
	return v.silence
}
