package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// pageDriver is a browser that does what the test says. See clients/page.mjs.
type pageDriver struct {
	*process
	asked int
	shots string // where screenshots go
}

// startDriver starts a browser that may ask the origin only.
func startDriver(t *testing.T, origin string) *pageDriver {
	t.Helper()
	milliseconds := strconv.FormatInt(testTimeout.Milliseconds(), 10)
	d := &pageDriver{process: startNode(t, "clients/page.mjs", chromiumPath, origin, milliseconds), shots: t.ArtifactDir()}
	t.Cleanup(func() { // before it ends
		for _, problem := range d.all("problem") {
			t.Errorf("the browser complains: %s", problem.Data)
		}
		if t.Failed() {
			d.tell(`{"command": "shot", "path": "` + filepath.Join(d.shots, "failed.png") + `"}`)
		}
	})
	return d
}

// do gives a command with pairs of names and values, and returns what came of it.
func (d *pageDriver) do(command string, pairs ...any) string {
	d.t.Helper()
	line := map[string]any{"command": command}
	for pair := range slices.Chunk(pairs, 2) {
		line[pair[0].(string)] = pair[1]
	}
	text, err := json.Marshal(line)
	if err != nil {
		d.t.Fatal(err)
	}
	d.tell(string(text))
	d.asked++
	answers := func(rs []report) []report { return append(only(rs, "done"), only(rs, "failed")...) }
	all := d.await(string(text), func(rs []report) bool { return len(answers(rs)) >= d.asked })
	if failed := only(all, "failed"); len(failed) > 0 {
		d.t.Fatalf("%s: %s", text, failed[0].Data)
	}
	return only(all, "done")[d.asked-1].Data
}

// until waits for an expression of the page to be true.
func (d *pageDriver) until(js string) {
	d.t.Helper()
	d.do("until", "js", js)
}

// looks are what the page is looked at with.
var looks = []struct {
	name          string
	width, height int
	scheme        string
}{
	{"light", 1280, 900, "light"},
	{"dark", 1280, 900, "dark"},
	{"phone", 390, 844, "light"},
	{"phone-dark", 390, 844, "dark"},
}

// shoot takes screenshots, and checks that the page is usable with assistive technology and not wider than the screen.
func (d *pageDriver) shoot(name string) {
	d.t.Helper()
	for _, look := range looks {
		d.do("look", "width", look.width, "height", look.height, "scheme", look.scheme)
		path := filepath.Join(d.shots, name+"-"+look.name+".png")
		d.do("shot", "path", path)
		d.t.Log(path)
		if violations := d.do("audit"); violations != "[]" {
			d.t.Errorf("%s, %s: %s", name, look.name, violations)
		}
		if wider := d.do("eval", "js", "document.documentElement.scrollWidth - innerWidth"); strings.TrimPrefix(wider, "-") != "0" {
			d.t.Errorf("%s, %s: the page is %s pixels wider than the screen", name, look.name, wider)
		}
	}
	d.do("look", "width", looks[0].width, "height", looks[0].height, "scheme", looks[0].scheme)
}

// hostile is what an upstream sends that would like to be a part of the page.
const hostile = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>"

// freeAdmin returns an address for an admin endpoint. Caddy's is not given a listener, because it compares the Host of
// requests with the address; nothing else uses this host.
func freeAdmin(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.3:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// Issue 7: the live page, as a person sees it.
func TestLivePage(t *testing.T) {
	t.Parallel()
	const clients = 200
	u := startPhoenix(t, 100*time.Millisecond, "-ids=all", "-line="+hostile)
	g := gatewaySetup{
		program: plainPath, admin: freeAdmin(t),
		directives: route("/events*", "buffer 100000\ndrain 1s", "reverse_proxy "+u.address) +
			route("/cookies*", "", "reverse_proxy "+u.address+" {\nheader_down +Set-Cookie visitor=1\n}"),
	}.start(t)
	g.expectHint("not_shared", "the page is to show one")
	d := startDriver(t, "http://"+g.admin)
	if status := d.do("goto", "url", "http://"+g.admin+"/sse/"); status != "200" {
		t.Fatalf("status %s", status)
	}
	d.until("!document.getElementById('empty').hidden && document.querySelectorAll('#handlers li').length === 2")
	d.until("document.getElementById('handlers').textContent.includes('no request has come to it')")
	d.shoot("1-empty")

	// Who skips to the streams stays with them.
	d.do("eval", "js", "document.getElementById('skip').focus()")
	d.do("press", "key", "Enter")
	d.until("document.activeElement.id === 'main' && !document.getElementById('overview').hidden && location.hash === ''")

	// A stream appears.
	first := startCrowd(t, 1, false, g.url("/events?token=secret"))
	other := startCrowd(t, 3, false, g.url("/events/other?<b>=1"))
	d.until("document.querySelectorAll('#rows tr').length === 2")
	// Its subscribers rise.
	rest := startCrowd(t, clients-1, false, g.url("/events?token=secret"))
	d.until(row("/events", "200"))
	d.until("document.querySelector('#rows path').textContent === '' && document.querySelector('#rows .path').textContent === '/events'")
	time.Sleep(5 * time.Second) // for the graphs, which nothing depends on
	d.shoot("2-streams")

	// What is looked for.
	d.do("eval", "js", "document.getElementById('search').focus()")
	for key := range strings.SplitSeq("OTHER", "") {
		d.do("press", "key", key)
	}
	d.until("document.querySelectorAll('#rows tr').length === 1 && document.querySelector('#rows .path').textContent === '/events/other'")
	d.do("eval", "js", "document.getElementById('search').value = 'nowhere'; document.getElementById('search').dispatchEvent(new Event('input'))")
	d.until("!document.getElementById('none').hidden && document.getElementById('empty').hidden")
	d.shoot("2-none")
	d.do("eval", "js", "document.getElementById('search').value = ''; document.getElementById('search').dispatchEvent(new Event('input'))")
	d.until("document.querySelectorAll('#rows tr').length === 2")

	// A path whose clients share nothing, and why.
	for i := range 3 {
		private := startCrowd(t, 1, false, g.url(fmt.Sprintf("/cookies?%d", i)))
		defer private.assert()
	}
	d.until(row("/cookies", "3") + " && [...document.querySelectorAll('#rows .per[data-alone]')].some((e) => e.textContent === '1')")
	d.until("!document.getElementById('hints').hidden && document.getElementById('hint-list').textContent.includes('/cookies')")
	d.shoot("2-hints")
	d.do("eval", "js", "[...document.querySelectorAll('#rows .path')].find((a) => a.textContent === '/cookies').click()")
	d.until("!document.getElementById('within').hidden && document.querySelectorAll('#rows tr').length === 3")
	d.until("document.getElementById('within-what').textContent === 'sse /cookies* /cookies'")
	d.shoot("2-within")
	d.do("click", "selector", "#within .back")
	d.until("document.getElementById('within').hidden && document.querySelectorAll('#rows tr').length === 3" +
		" && [...document.querySelectorAll('#rows .path')].some((a) => a.textContent === '/events')") // there were three within, too

	// Its own page, by keyboard.
	d.do("eval", "js", "[...document.querySelectorAll('#rows .path')].find((a) => a.textContent === '/events').focus()")
	d.do("press", "key", "Enter")
	d.until("document.activeElement.id === 'detail-title' && document.activeElement.textContent === '/events'")
	d.until("document.querySelectorAll('#tail li').length > 20 && document.querySelectorAll('#subscribers tr').length === 50")
	if text := d.do("eval", "js", "document.querySelector('#tail pre').textContent"); !strings.Contains(text, hostile) {
		t.Errorf("the tail shows %q", text)
	}
	if n := d.do("eval", "js", "document.querySelectorAll('main img, main script').length + document.title"); n != "0Stream" {
		t.Errorf("what the upstream sends has become a part of the page: %s", n)
	}
	if text := d.do("eval", "js", "document.documentElement.outerHTML"); strings.Contains(text, "secret") {
		t.Error("the value of a parameter is on the page")
	}
	if n := d.do("eval", "js", "document.querySelector('#detail-tiles li:nth-child(3) .line').getAttribute('d').split('L').length > 4"); n != "true" {
		t.Error("the graph does not begin with what was before the page of the stream")
	}
	d.shoot("3-stream")

	// The tail stops and goes on, and the button is legible under the pointer.
	d.do("click", "selector", "#pause")
	d.until("document.getElementById('pause').textContent === 'Resume' && document.getElementById('pause').matches(':hover')")
	d.until("getComputedStyle(document.getElementById('pause')).color !== getComputedStyle(document.getElementById('pause')).backgroundColor")
	d.do("eval", "js", "window.shown = document.querySelector('#tail li').textContent")
	d.shoot("3-paused")
	d.until("document.querySelector('#tail li').textContent === window.shown")
	d.do("click", "selector", "#pause")
	d.until("document.getElementById('pause').textContent === 'Pause' && document.querySelector('#tail li').textContent !== window.shown")

	// The upstream breaks and recovers.
	u.crash()
	d.until(tile("Upstream", "lost"))
	d.until("document.getElementById('facts').textContent.includes('attempt')")
	d.shoot("4-lost")
	d.do("eval", "js", "location.hash = ''")
	d.until(row("/events", "lost"))
	d.shoot("5-lost-overview")
	u.restart()
	d.until(row("/events", "open"))
	d.do("click", "selector", "#rows .path")
	d.until(tile("Upstream", "open"))
	d.until("document.getElementById('facts').textContent.includes('1 reconnect')")

	// The page survives a reload of Caddy.
	d.do("eval", "js", "window.opened = performance.now()")
	g.reload(g.setup.directives + "\n")
	d.until("document.getElementById('link').dataset.state === 'lost'")
	d.until("document.getElementById('link').dataset.state === 'live'")
	d.until(tile("Subscribers", "200"))

	// A drain. The first question is taken back.
	d.do("eval", "js", "document.getElementById('drain').focus()")
	d.do("press", "key", "Enter")
	d.until("document.getElementById('ask').open")
	d.shoot("6-question")
	d.do("press", "key", "Escape")
	d.until("!document.getElementById('ask').open && document.activeElement.id === 'drain'")
	d.do("press", "key", "Enter")
	d.until("document.getElementById('ask').open && document.activeElement.textContent === 'Cancel'")
	d.do("press", "key", "Shift+Tab")
	d.until("document.activeElement.id === 'window'")
	d.do("press", "key", "2")
	d.do("press", "key", "Tab")
	d.do("press", "key", "Tab")
	d.until("document.activeElement.id === 'ask-yes'")
	d.do("press", "key", "Enter")
	d.until("document.getElementById('said').textContent.includes('draining 200 subscribers over 2 s')")
	d.until("!document.getElementById('over').hidden && document.getElementById('drain').disabled")
	d.until("!document.getElementById('next').hidden && document.getElementById('next-link').hash !== location.hash")
	d.shoot("7-drained")
	ended := func(r record) bool { return len(r.ends) == 1 && r.heads == 2 }
	first.until("the end, and another stream", ended)
	rest.until("the end, and another stream", ended)
	first.assert(record.check, record.checkEnds)
	rest.assert(record.check, record.checkEnds)
	other.assert(record.checkStayed)
	d.do("click", "selector", "#next-link")
	d.until(tile("Subscribers", "200") + " && document.getElementById('over').hidden")
	d.do("click", "selector", "#detail .back")
	d.until(row("/events", "200"))

	// A private stream: seen, watched and ended.
	private := g.post("/events/private?token=secret")
	d.until(row("/events/private", "1"))
	d.do("eval", "js", "[...document.querySelectorAll('#rows .path')].find((a) => a.textContent === '/events/private').click()")
	d.until(tile("Subscribers", "1"))
	d.until("document.querySelectorAll('#tail li').length > 5 && document.getElementById('facts').textContent.includes('private-')")
	d.shoot("8-private")
	d.do("click", "selector", "#end")
	d.until("document.getElementById('ask-text').textContent.includes('Cuts')")
	d.do("click", "selector", "#ask-yes")
	d.until("!document.getElementById('over').hidden")
	if _, err := io.Copy(io.Discard, private); err == nil {
		t.Error("the response that was cut looks complete")
	}
	d.do("click", "selector", "#detail .back")
	d.until(row("/events", "200"))

	// The end of the other one.
	d.do("eval", "js", "[...document.querySelectorAll('#rows .path')].find((a) => a.textContent === '/events/other').click()")
	d.until("document.getElementById('detail-title').textContent === '/events/other'")
	d.do("click", "selector", "#end")
	d.do("click", "selector", "#ask-yes")
	d.until("!document.getElementById('over').hidden")
	other.until("the end", func(r record) bool { return len(r.ends) > 0 })
	other.assert(record.checkEnds)
}

// post asks for a private stream, and returns its body.
func (g *gateway) post(path string) io.Reader {
	g.t.Helper()
	req, err := http.NewRequestWithContext(g.t.Context(), http.MethodPost, g.url(path), http.NoBody)
	if err != nil {
		g.t.Fatal(err)
	}
	resp, err := newTransport().RoundTrip(req)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = resp.Body.Close() })
	return resp.Body
}

// row is an expression that is true when the row of a path has a text.
func row(path, text string) string {
	return fmt.Sprintf("[...document.querySelectorAll('#rows tr')].some((tr) => tr.querySelector('.path').textContent === %q"+
		" && [...tr.querySelectorAll('span')].some((e) => e.textContent === %q))", path, text)
}

// tile is an expression that is true when a number of a stream's page is a text.
func tile(name, text string) string {
	return fmt.Sprintf("[...document.querySelectorAll('#detail-tiles li')].some((li) => li.querySelector('.name').textContent === %q"+
		" && li.querySelector('.value').textContent === %q)", name, text)
}

// Who watches does not keep the process, whichever way it is stopped. Caddy takes it for a failure when its admin endpoint
// does not end.
func TestStopWithViewers(t *testing.T) {
	t.Parallel()
	for name, stop := range map[string]func(g *gateway){
		"SIGTERM": func(g *gateway) { g.stop() },
		"caddy stop": func(g *gateway) {
			start(g.t, "caddy stop", command(plainPath, "stop", "--address", g.admin), 0).awaitExit()
			g.awaitExit()
		},
		"SIGTERM, through a site": func(g *gateway) {
			assertSite(g)
			g.stop()
		},
		"SIGTERM after a reload": func(g *gateway) {
			g.reload(g.setup.directives + "\n")
			watch(g)
			g.stop()
		},
	} {
		t.Run(name, func(t *testing.T) {
			u := startPhoenix(t, 50*time.Millisecond, "-ids=all")
			admin := freeAdmin(t)
			g := gatewaySetup{admin: admin, directives: route("/events", "drain 100ms", "reverse_proxy "+u.address) + "sse_admin\n"}.start(t)
			c := startCrowd(t, 5, false, g.url("/events"))
			watch(g)
			stop(g)
			c.until("the end", func(r record) bool { return len(r.ends) > 0 })
			c.assert(record.checkEnds)
		})
	}
}

// assertSite uses the admin API as a browser does, through the site, and looks at a feed there when it returns.
func assertSite(g *gateway) {
	g.t.Helper()
	for _, c := range []struct {
		method, path, want string
		fields             []string
	}{
		{http.MethodGet, "/sse/", "200", []string{"Sec-Fetch-Mode: navigate"}},
		{http.MethodPost, "/sse/streams/none/drain", "404", []string{"Sec-Fetch-Mode: cors", "Origin: http://" + g.address, "Content-Type: application/json"}},
		{http.MethodOptions, "/sse/streams/none/drain", "403", []string{"Sec-Fetch-Mode: cors", "Origin: http://elsewhere.test"}},
		{http.MethodGet, "/sse/feed", "200", []string{"Sec-Fetch-Mode: cors", "Referer: " + g.url("/sse/")}},
	} {
		req, err := http.NewRequestWithContext(g.t.Context(), c.method, g.url(c.path), http.NoBody)
		if err != nil {
			g.t.Fatal(err)
		}
		for _, field := range c.fields {
			name, value, _ := strings.Cut(field, ": ")
			req.Header.Set(name, value)
		}
		resp, err := newTransport().RoundTrip(req)
		if err != nil {
			g.t.Fatal(err)
		}
		if allowed := resp.Header.Get("Access-Control-Allow-Origin"); !strings.HasPrefix(resp.Status, c.want) || allowed != "" {
			g.t.Errorf("%s %s: %s, for the origin %q", c.method, c.path, resp.Status, allowed)
		}
		if c.path != "/sse/feed" {
			_ = resp.Body.Close()
			continue
		}
		g.t.Cleanup(func() { _ = resp.Body.Close() })
		if _, err := resp.Body.Read(make([]byte, 100)); err != nil {
			g.t.Fatal(err)
		}
	}
}

// watch opens a feed and a tail, which have to end well.
func watch(g *gateway) {
	g.t.Helper()
	_, answer := g.ask(http.MethodGet, "/sse/streams", "")
	var list struct{ Streams []struct{ ID string } }
	if err := json.Unmarshal([]byte(answer), &list); err != nil || len(list.Streams) != 1 {
		g.t.Fatalf("%v: %s", err, answer)
	}
	for _, path := range []string{"/sse/feed", "/sse/streams/" + list.Streams[0].ID + "/tail"} {
		conn, err := g.dialAdmin(g.t.Context())
		if err != nil {
			g.t.Fatal(err)
		}
		g.t.Cleanup(func() { _ = conn.Close() })
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, g.admin)
		seen := ""
		buf := make([]byte, 64<<10)
		for !strings.Contains(seen, "\nevent: ") {
			n, err := conn.Read(buf)
			if err != nil {
				g.t.Fatalf("%s: %v after %q", path, err, seen)
			}
			seen += string(buf[:n])
		}
	}
}
