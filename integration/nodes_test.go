package integration

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/deliverytest"
)

// amongNodes is a live page of a gateway, whose feed is told of other nodes, as cluster/nats
// tests that it is: /owned is this node's, all else another one's.
func amongNodes(t *testing.T, admin string) (address string) {
	t.Helper()
	target, err := url.Parse("http://" + admin)
	if err != nil {
		t.Fatal(err)
	}
	p := &httputil.ReverseProxy{FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target) // the host, too
		r.Out.Header.Del("Referer")
		r.Out.Header.Del("Accept-Encoding")
	}}
	p.ModifyResponse = func(answer *http.Response) error {
		if !strings.HasSuffix(answer.Request.URL.Path, "/feed") {
			return nil
		}
		reader, writer := io.Pipe()
		feed := answer.Body
		answer.Body = reader
		go func() {
			lines := bufio.NewScanner(feed)
			lines.Buffer(nil, 1<<20)
			for lines.Scan() {
				if _, err := fmt.Fprintln(writer, tellOfNodes(lines.Text())); err != nil {
					break
				}
			}
			_ = writer.Close()
			_ = feed.Close()
		}()
		return nil
	}
	server := httptest.NewServer(p)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server.URL
}

// tellOfNodes puts nodes into a line of a feed.
func tellOfNodes(line string) string {
	data, ok := strings.CutPrefix(line, "data: ")
	var event map[string]any
	if !ok || json.Unmarshal([]byte(data), &event) != nil {
		return line
	}
	put := func(s map[string]any) {
		s["nodes"] = map[string]any{"role": "follows", "owner": "there-2", "followers": []string{"here-1"}, "term": 3}
		if s["path"] == "/owned" {
			s["nodes"] = map[string]any{"role": "owns", "owner": "here-1", "followers": []string{"there-2", "there-3"}, "term": 7}
		}
	}
	if s, ok := event["stream"].(map[string]any); ok {
		put(s)
	}
	for _, s := range asList(event["streams"]) {
		put(s)
	}
	for _, g := range asList(event["groups"]) {
		g["owned"], g["followed"] = 0, 2
		if g["path"] == "/owned" {
			g["owned"], g["followed"] = 1, 0
		}
	}
	event["cluster"] = map[string]any{"node": "here-1", "others": []string{"there-2", "there-3"}}
	text, _ := json.Marshal(event)
	return "data: " + string(text)
}

func asList(of any) (all []map[string]any) {
	list, _ := of.([]any)
	for _, one := range list {
		if m, ok := one.(map[string]any); ok {
			all = append(all, m)
		}
	}
	return all
}

// The live page says which node has the connection of a stream, and who follows; of a
// gateway without a cluster it says nothing of nodes.
func TestLivePageShowsNodes(t *testing.T) {
	t.Parallel()
	deliverytest.Once(t) // it is about the page
	u := startPhoenix(t, 100*time.Millisecond, "-ids=all")
	g := gatewaySetup{program: plainPath, admin: freeAdmin(t), directives: route("/*", "drain 1s", "reverse_proxy "+u.address)}.start(t)
	owned := startCrowd(t, 1, false, g.url("/owned"))
	followed := startCrowd(t, 1, false, g.url("/followed"))
	const hidden = "[...document.querySelectorAll('.node')].every((e) => getComputedStyle(e).display === 'none')"

	alone := startDriver(t, "http://"+g.admin)
	alone.do("goto", "url", "http://"+g.admin+"/sse/")
	alone.until("document.querySelectorAll('#rows tr').length === 2 && document.getElementById('cluster').hidden && " + hidden)

	page := amongNodes(t, g.admin)
	d := startDriver(t, page)
	d.do("goto", "url", page+"/sse/")
	const nodeOf = "[...document.querySelectorAll('#rows tr')].find((r) => r.querySelector('.path').textContent === '%s').querySelector('.node').textContent === '%s'"
	d.until("document.querySelectorAll('#rows tr').length === 2 && !(" + hidden + ")")
	d.until("document.getElementById('cluster').textContent === 'This node is here-1. Reached: there-2, there-3.'")
	d.until(fmt.Sprintf(nodeOf, "/owned", "1 here") + " && " + fmt.Sprintf(nodeOf, "/followed", "2 elsewhere"))
	d.shoot("nodes-paths")
	d.do("eval", "js", "document.getElementById('by').value = 'stream'; document.getElementById('by').dispatchEvent(new Event('change'))")
	d.until(fmt.Sprintf(nodeOf, "/owned", "this nodefollowed by 2") + " && " + fmt.Sprintf(nodeOf, "/followed", "there-2followed here"))
	d.shoot("nodes-streams")
	d.do("eval", "js", "[...document.querySelectorAll('#rows .path')].find((a) => a.textContent === '/owned').click()")
	d.until("document.getElementById('facts').textContent.includes('this node has the connection, followed by there-2, there-3 (term 7)')")
	d.shoot("nodes-stream")
	owned.assert()
	followed.assert()
}
