package integration

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/caddy-sse/caddy-sse/eventstream"
)

var (
	attackSize  = flag.Int("attacks", 1, "how many hundredths of its full size TestAttacks has")
	attackPlain = flag.Bool("attacks.plain", false, "without sse: what reverse_proxy alone does")
)

// attackMemory bounds by how many bytes the gateway may grow in an attack by so many clients: the replay buffers of the
// streams, two events of max_event_size for each upstream connection that sends such, 40 KiB for each client, and as much
// again, until it is collected.
func attackMemory(clients int) int64 { return 200<<20 + int64(clients)*80<<10 }

// attack is something that strangers, or an application, do to a gateway.
type attack struct {
	name    string
	size    int                                           // how often, at full size
	options string                                        // of sse
	app     func(w http.ResponseWriter, r *http.Request)  // nil: an event stream without an event
	client  func(ctx context.Context, a *attacked, i int) // one of them
	rate    time.Duration                                 // between two clients; 0: all at once
	lasts   time.Duration                                 // until they are called back, at full size
	amount  int64                                         // bytes that the application sends at least before that, at full size
	atMost  func(clients int) int                         // bounds the upstream connections; nil: not
}

// attacked is a gateway during an attack, and the application behind it.
type attacked struct {
	*gateway
	open, peak, asked atomic.Int64 // requests at the application
	sent              atomic.Int64 // bytes that it wrote
	odd               atomic.Value // a request that it should not have been asked
}

// count counts a request at the application until it is done.
func (a *attacked) count() (done func()) {
	a.asked.Add(1)
	n := a.open.Add(1)
	for p := a.peak.Load(); n > p; p = a.peak.Load() {
		a.peak.CompareAndSwap(p, n)
	}
	return func() { a.open.Add(-1) }
}

// countingWriter counts what an application sends.
type countingWriter struct {
	http.ResponseWriter
	sent *atomic.Int64
}

func (w countingWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.sent.Add(int64(n))
	return n, err
}

// Unwrap is for http.ResponseController.
func (w countingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// awaitSent waits until the application has sent so many bytes, for at most five minutes: run looks whether it has.
func (a *attacked) awaitSent(bytes int64) {
	for began := time.Now(); a.sent.Load() < bytes && time.Since(began) < 5*time.Minute; {
		time.Sleep(10 * time.Millisecond) // polls; nothing depends on how long
	}
}

// begin answers with the head of an event stream.
func begin(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
}

// endless answers with the same text for as long as it is read, and is called again.
func endless(coding, text string) func(w http.ResponseWriter, r *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		if coding != "" {
			w.Header().Set("Content-Encoding", coding)
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, text); err != nil {
				return
			}
		}
	}
}

// dial connects to the gateway, and sends a text.
func (a *attacked) dial(ctx context.Context, text string) *net.TCPConn {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", a.address)
	if err != nil {
		return nil
	}
	tcp := conn.(*net.TCPConn)
	context.AfterFunc(ctx, func() { _ = tcp.Close() })
	_, _ = io.WriteString(tcp, text)
	return tcp
}

// asking is a request for an event stream.
func asking(target, fields string) string {
	return "GET " + target + " HTTP/1.1\r\nHost: gateway.test\r\nAccept: text/event-stream\r\n" + fields + "\r\n"
}

// reading reads until the response is over, and asks again.
func reading(target string) func(ctx context.Context, a *attacked, i int) {
	return func(ctx context.Context, a *attacked, _ int) {
		for ctx.Err() == nil {
			if conn := a.dial(ctx, asking(target, "Connection: close\r\n")); conn != nil {
				_, _ = io.Copy(io.Discard, conn)
				_ = conn.Close()
			}
			time.Sleep(20 * time.Millisecond) // is how fast the client comes back
		}
	}
}

// slowly reads, or writes, a byte a second.
func slowly(ctx context.Context, do func() error) {
	for ctx.Err() == nil && do() == nil {
		time.Sleep(time.Second) // is the client's pace
	}
}

// bombs is how many an application sends, at full size: 1 GiB of text.
const bombs = 64

// bomb is 16 MiB of a field without an end in a content coding.
func bomb(coding string) string {
	var b bytes.Buffer
	var w io.WriteCloser = gzip.NewWriter(&b)
	if coding == "zstd" {
		w, _ = zstd.NewWriter(&b) // no option can be wrong
	}
	_, _ = w.Write(bytes.Repeat([]byte("a"), 16<<20)) // nor can these fail: it is memory
	_ = w.Close()
	return b.String()
}

// raw answers with what no server would write.
func raw(answer func(ctx context.Context, conn net.Conn)) func(w http.ResponseWriter, r *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		answer(ctx, conn)
	}
}

var attacks = []attack{
	{name: "leaves at the head, another query each", size: 20000, rate: 1500 * time.Microsecond, client: func(ctx context.Context, a *attacked, i int) {
		if conn := a.dial(ctx, asking("/e?"+strconv.Itoa(i), "")); conn != nil {
			_, _ = conn.Read(make([]byte, 512))
			_ = conn.Close()
		}
	}},
	{name: "never reads", size: 5000, lasts: 20 * time.Second, app: endless("", "data: "+strings.Repeat("x", 1000)+"\n\n"), options: "write_timeout 2s",
		client: func(ctx context.Context, a *attacked, _ int) {
			if conn := a.dial(ctx, asking("/e", "")); conn != nil {
				<-ctx.Done()
			}
		}, atMost: func(int) int { return 20 }},
	{name: "reads a byte a second", size: 5000, lasts: 20 * time.Second, app: endless("", "data: "+strings.Repeat("x", 1000)+"\n\n"), options: "write_timeout 2s",
		client: func(ctx context.Context, a *attacked, _ int) {
			if conn := a.dial(ctx, asking("/e", "")); conn != nil {
				slowly(ctx, func() error { _, err := conn.Read(make([]byte, 1)); return err })
			}
		}, atMost: func(int) int { return 20 }},
	{name: "connects and resets", size: 2000, rate: 10 * time.Millisecond, lasts: 30 * time.Second, client: func(ctx context.Context, a *attacked, i int) {
		for ctx.Err() == nil {
			if conn := a.dial(ctx, asking("/e", "")); conn != nil {
				_ = conn.SetLinger(0)
				_ = conn.Close()
			}
			time.Sleep(time.Second) // is the client's pace
		}
	}, atMost: func(int) int { return 20 }},
	{name: "asks a byte a second", size: 2000, lasts: 20 * time.Second, client: func(ctx context.Context, a *attacked, _ int) {
		if conn := a.dial(ctx, ""); conn != nil {
			text := asking("/e", "")
			slowly(ctx, func() error { _, err := io.WriteString(conn, text[:1]); text = text[1:] + "x"; return err })
		}
	}, atMost: func(int) int { return 0 }},
	{name: "unknown IDs", size: 10000, rate: 100 * time.Microsecond, lasts: 10 * time.Second, client: func(ctx context.Context, a *attacked, i int) {
		if conn := a.dial(ctx, asking("/e", fmt.Sprintf("Last-Event-ID: unknown%d\r\n", i))); conn != nil {
			_, _ = io.Copy(io.Discard, conn)
		}
	}, app: func(w http.ResponseWriter, r *http.Request) {
		begin(w)
		_, _ = io.WriteString(w, "id: 1\ndata: 1\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}, atMost: func(int) int { return 20 }},
	{name: "IDs of 64 KB", size: 2000, rate: 5 * time.Millisecond, client: func(ctx context.Context, a *attacked, i int) {
		if conn := a.dial(ctx, asking("/e", "Last-Event-ID: "+strings.Repeat("x", 64<<10)+"\r\n")); conn != nil {
			_, _ = conn.Read(make([]byte, 512))
			_ = conn.Close()
		}
	}},
	{name: "smuggles", size: 1600, client: smuggle},
	{name: "application: no line end", size: 100, lasts: 10 * time.Second, amount: 1 << 30, app: endless("", strings.Repeat("a", 64<<10)), client: reading("/e")},
	{name: "application: empty lines", size: 100, lasts: 10 * time.Second, amount: 10_000_000, app: endless("", strings.Repeat("\n", 64<<10)), client: reading("/e")},
	{name: "application: events of a byte", size: 100, lasts: 30 * time.Second, amount: 30 * 100_000 * int64(len("data:x\n\n")), app: endless("", strings.Repeat("data:x\n\n", 1000)), client: reading("/e")},
	{name: "application: IDs of 64 KB", size: 100, lasts: 30 * time.Second, app: endless("", "id:"+strings.Repeat("x", 64<<10)+"\ndata:x\n\n"), client: reading("/e")},
	{name: "application: a head only", size: 1000, lasts: 30 * time.Second, client: reading("/e"), atMost: func(int) int { return 20 }},
	{name: "application: a byte a second", size: 1000, lasts: 30 * time.Second, app: func(w http.ResponseWriter, r *http.Request) {
		begin(w)
		slowly(r.Context(), func() error {
			_, err := io.WriteString(w, "d")
			return errors.Join(err, http.NewResponseController(w).Flush())
		})
	}, client: reading("/e"), atMost: func(int) int { return 20 }},
	{name: "application: a gzip bomb", size: 100, lasts: 10 * time.Second, amount: bombs * int64(len(bomb("gzip"))), app: endless("gzip", bomb("gzip")), client: reading("/e")},
	{name: "application: a zstd bomb", size: 100, lasts: 10 * time.Second, amount: bombs * int64(len(bomb("zstd"))), app: endless("zstd", bomb("zstd")), client: reading("/e")},
	{name: "application: 1xx for ever", size: 100, lasts: 30 * time.Second, app: raw(func(ctx context.Context, conn net.Conn) {
		for ctx.Err() == nil {
			if _, err := io.WriteString(conn, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"); err != nil {
				return
			}
		}
	}), client: reading("/e")},
	{name: "application: redirects in a circle", size: 100, lasts: 30 * time.Second, app: func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/e", http.StatusFound)
	}, client: reading("/e")},
	{name: "application: an end after each event", size: 100, lasts: 30 * time.Second, app: func(w http.ResponseWriter, _ *http.Request) {
		begin(w)
		_, _ = io.WriteString(w, "data: 1\n\n")
	}, client: reading("/e"), atMost: func(clients int) int { return 2 * clients }},
	{name: "application: breaks after each event", size: 100, lasts: 30 * time.Second, app: func(w http.ResponseWriter, _ *http.Request) {
		begin(w)
		_, _ = io.WriteString(w, "data: 1\n\n")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}, client: reading("/e"), atMost: func(clients int) int { return 2 * clients }},
}

// smuggle sends requests in which another one hides, or which would add lines to the application's or to the answer.
func smuggle(ctx context.Context, a *attacked, i int) {
	const hidden = "GET /smuggled HTTP/1.1\r\nHost: gateway.test\r\n\r\n"
	chunked := fmt.Sprintf("0\r\n\r\n%s", hidden)
	length := fmt.Sprintf("Content-Length: %d\r\n", len(chunked))
	texts := []string{
		asking("/e", "Transfer-Encoding: chunked\r\n"+length) + chunked,
		asking("/e", "Transfer-Encoding : chunked\r\n"+length) + chunked,
		asking("/e", "Transfer-Encoding: xchunked\r\n"+length) + chunked,
		asking("/e", "Transfer-Encoding: chunked, identity\r\n") + chunked,
		asking("/e", "Content-Length: 0\r\nContent-Length: 5\r\n") + hidden,
		asking("/e", "Content-Length: +5\r\n") + hidden,
		asking("/e", "X: y\nGET /smuggled HTTP/1.1\r\n"),
		asking("/e", "X: y\rX-Smuggled: z\r\n"),
		asking("/e", "X: y\x00\r\n"),
		asking("/e", "Last-Event-ID: 1\rX-Smuggled: z\r\n"),
		asking("/e", "Last-Event-ID: 1\x00\r\n"),
		asking("/e?lastEventId=1%0d%0aX-Smuggled:%20z", ""),
		asking("/e?lastEventId=1%00", ""),
		asking("/e%0d%0aX-Smuggled:%20z", ""),
		asking("/e\x00", ""),
		asking("/e", "Content-Length: 0\r\n") + hidden[:10],
	}
	conn := a.dial(ctx, texts[i%len(texts)])
	if conn == nil {
		return
	}
	_ = conn.CloseWrite()
	_ = conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond)) // a stream that goes on says nothing more
	answer, _ := io.ReadAll(conn)
	_ = conn.Close()
	if n := bytes.Count(answer, []byte("HTTP/1.1 ")); n > 2 || bytes.Contains(answer, []byte("\nX-Smuggled")) {
		a.odd.Store(fmt.Sprintf("answer to %q: %q", texts[i%len(texts)], answer))
	}
}

// good is a client of another stream, which is to notice nothing: its application sends a number every 20 ms.
type good struct {
	seen, missing atomic.Int64
	mu            sync.Mutex
	late          []time.Duration
	sent          sync.Map // when, by number
}

func (c *good) serve(w http.ResponseWriter, r *http.Request) {
	begin(w)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for n := int64(1); ; n++ {
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
		c.sent.Store(n, time.Now())
		_, _ = fmt.Fprintf(w, "data: %d\n\n", n)
		_ = http.NewResponseController(w).Flush()
	}
}

func (c *good) read(body io.Reader) {
	for m, err := range eventstream.NewReader(body).Messages() {
		if err != nil {
			return
		}
		n, _ := strconv.ParseInt(m.Data, 10, 64)
		c.missing.Add(n - c.seen.Swap(n) - 1)
		if at, ok := c.sent.Load(n); ok {
			c.mu.Lock()
			c.late = append(c.late, time.Since(at.(time.Time)))
			c.mu.Unlock()
		}
	}
}

// p99 is how late its events were.
func (c *good) p99() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	slices.Sort(c.late)
	return c.late[len(c.late)*99/100]
}

// TestAttacks does to a gateway what strangers and hostile applications can: it stays within its bounds, others notice
// nothing, and nothing is left. A hundredth of each by default; at full size, with what each has taken, and how long until nothing was left of it:
//
//	go test -run '^TestAttacks$' -v -timeout 1h -parallel 1 . -attacks 100
func TestAttacks(t *testing.T) {
	t.Parallel()
	for _, attack := range attacks {
		t.Run(attack.name, func(t *testing.T) {
			t.Parallel()
			attack.run(t)
		})
	}
}

// handler is the application: what is attacked, and what another client has.
func (k attack) handler(a *attacked, c *good) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/good" {
			c.serve(w, r)
			return
		}
		if r.URL.Path == "/smuggled" || r.Header.Get("X-Smuggled") != "" {
			a.odd.Store(fmt.Sprint("the application was asked ", r.URL, r.Header))
		}
		defer a.count()()
		if k.app != nil {
			k.app(countingWriter{w, &a.sent}, r)
			return
		}
		begin(w)
		<-r.Context().Done()
	}
}

func (k attack) run(t *testing.T) {
	t.Helper()
	a, c := new(attacked), new(good)
	app := httptest.NewServer(k.handler(a, c))
	t.Cleanup(func() { // when the gateway has ended, and asks no more
		app.CloseClientConnections()
		app.Close()
	})
	sse := "sse {\nsplice_limit 8\n" + k.options + "\n}\n"
	if *attackPlain {
		sse = ""
	}
	a.gateway = gatewaySetup{program: plainPath, directives: unlogged + sse + "reverse_proxy " + app.Listener.Addr().String() + " {\nflush_interval -1\ntransport http {\nkeepalive 5s\n}\n}"}.start(t)
	for _, kind := range []string{"few_share", "not_shared", "withheld"} {
		a.expectHint(kind, "what attackers ask for, and such an application answers, may look like it")
	}
	resp := request(t.Context(), t, http.MethodGet, a.url("/good"), "X: y")
	defer resp.Body.Close()
	go c.read(resp.Body)
	awaitThat(t, "the client has events", func() bool { return c.seen.Load() > 2 })
	base := a.usage()

	began := time.Now()
	most := k.strike(t, a, base)
	took, seen := time.Since(began), c.seen.Load()
	awaitThat(t, "the client has events afterwards", func() bool { return c.seen.Load() > seen })
	over := time.Now()
	back := "-"
	defer func() {
		t.Logf("| %s | %d | %.1f MB in %.0f s | %d MiB | %d | %d | %d of %d | %d | %v | %s |", k.name, k.clients(), float64(a.sent.Load())/1e6, took.Seconds(),
			most.memory>>20, most.goroutines, most.files, a.peak.Load(), a.asked.Load(), c.missing.Load(), c.p99().Round(time.Millisecond), back)
	}()
	if *attackPlain {
		return
	}
	if n := c.missing.Load(); n > 0 {
		t.Errorf("another client misses %d events", n)
	}
	if grown := most.memory - base.memory; grown > attackMemory(k.clients()) {
		t.Errorf("the gateway grew by %d MiB", grown>>20)
	}
	if sent, least := a.sent.Load(), k.amount*int64(*attackSize)/100; sent < least {
		t.Errorf("the application has sent %d bytes only, expected %d", sent, least)
	}
	if odd := a.odd.Load(); odd != nil {
		t.Error(odd)
	}
	if k.atMost != nil {
		if limit := k.atMost(k.clients()); int(a.peak.Load()) > limit {
			t.Errorf("%d upstream connections at once, expected %d at most", a.peak.Load(), limit)
		}
	}
	a.awaitUsage(t, base)
	back = fmt.Sprintf("%.1f s", time.Since(over).Seconds())
}

// clients is how many there are.
func (k attack) clients() int { return max(4, k.size**attackSize/100) }

// strike lets the clients come, and calls them back. It returns the most that the gateway had meanwhile.
func (k attack) strike(t *testing.T, a *attacked, most usage) usage {
	t.Helper()
	ctx, callBack := context.WithCancel(t.Context())
	defer callBack()
	var all sync.WaitGroup
	over := make(chan struct{})
	all.Go(func() {
		defer close(over)
		var clients sync.WaitGroup
		for i := range k.clients() {
			clients.Go(func() { k.client(ctx, a, i) })
			time.Sleep(k.rate) // is how fast they come
		}
		if k.lasts > 0 {
			time.Sleep(max(500*time.Millisecond, k.lasts*time.Duration(*attackSize)/100))
			a.awaitSent(k.amount * int64(*attackSize) / 100)
			callBack()
		}
		clients.Wait()
	})
	for {
		now := a.usage()
		most = usage{memory: max(most.memory, now.memory), goroutines: max(most.goroutines, now.goroutines), files: max(most.files, now.files)}
		select {
		case <-over:
			all.Wait()
			return most
		case <-time.After(50 * time.Millisecond): // samples
		}
	}
}

func awaitThat(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for began := time.Now(); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > testTimeout {
			t.Fatal("did not happen: ", what)
		}
	}
}
