package natsbus

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/caddy-sse/caddy-sse/internal/cluster"
)

// talk publishes on a node what a stranger would like to read, until the test ends.
func talk(t *testing.T, n *node) {
	t.Helper()
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			if err := n.Publish("topic", []byte("confidential")); err != nil {
				return
			}
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	t.Cleanup(func() {
		close(done)
		<-ended
	})
}

// readAll reads until the other side closes.
func readAll(t *testing.T, c net.Conn) string {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(c)
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		t.Error("the connection was not closed")
	}
	return string(text)
}

// A stranger who connects to the route port, and knows the protocol but not the secret, is
// not let in: neither in clear nor with a certificate of his own.
func TestStrangerAtTheRoutePort(t *testing.T) {
	const protocol = "CONNECT {\"verbose\":false,\"user\":\"node\",\"pass\":\"guess\",\"name\":\"stranger\",\"cluster\":\"sse\",\"headers\":true}\r\n" +
		"INFO {\"server_id\":\"STRANGER\",\"server_name\":\"stranger\",\"cluster\":\"sse\",\"proto\":1,\"headers\":true,\"route_pool_size\":1}\r\n" +
		"RS+ $G sse.>\r\nSUB > 1\r\nRMSG $G sse.stranger 2\r\nhi\r\nPING\r\n"
	ways(t, func(t *testing.T, change func(*settings)) {
		t.Helper()
		nodes := startNodes(t, 2, change)
		if _, err := nodes[1].Subscribe("topic", func([]byte) {}); err != nil {
			t.Fatal(err)
		}
		talk(t, nodes[0])
		said := hearStrangers(t, nodes...)
		c, err := net.Dial("tcp", nodes[0].address())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte(protocol)); err != nil {
			t.Fatal(err)
		}
		if text := readAll(t, c); strings.Contains(text, "confidential") || strings.Contains(text, "PONG") {
			t.Errorf("the stranger was told %q", text)
		}
		said()
		if n := nodes[0].link.session.server.NumRemotes(); n != 1 {
			t.Errorf("%d nodes are there", n)
		}
	})
	t.Run("with a certificate", func(t *testing.T) {
		nodes := startNodes(t, 2)
		foreign := embeddedAt(t, "another secret of thirty-two bytes", "127.0.0.1:0")
		config, err := foreign.routeTLS()
		if err != nil {
			t.Fatal(err)
		}
		config.InsecureSkipVerify = true
		c, err := net.Dial("tcp", nodes[0].address())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		over := tls.Client(c, config)
		_ = over.Handshake()
		_, _ = over.Write([]byte(protocol))
		if text := readAll(t, over); text != "" {
			t.Errorf("the stranger was told %q", text)
		}
	})
}

// hearStrangers lets nodes listen to all that is said. What it returns fails the test if one
// has heard a stranger.
func hearStrangers(t *testing.T, nodes ...*node) (said func()) {
	t.Helper()
	heard := make([]recorder, len(nodes))
	for i, n := range nodes {
		conn := n.current().conn
		if _, err := conn.Subscribe("sse.>", func(m *nats.Msg) { heard[i].add([]byte(m.Subject)) }); err != nil {
			t.Fatal(err)
		}
		if err := conn.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		t.Helper()
		for i, n := range nodes {
			await(t, "what is said later", func() bool { return n.current().conn.Publish("sse.later", nil) == nil && heard[i].has("sse.later") })
			if heard[i].has("sse.stranger") {
				t.Errorf("node %d has heard the stranger", i)
			}
		}
	}
}

// The listener for clients, which only this process uses, lets in nobody without the
// password: a stranger hears nothing, and is not heard.
func TestStrangerAtTheClientPort(t *testing.T) {
	nodes := startNodes(t, 2)
	talk(t, nodes[0])
	said := hearStrangers(t, nodes...)
	for _, credentials := range []string{
		`{}`, `{"user":"gateway","pass":""}`, `{"user":"gateway","pass":"guess"}`,
		`{"user":"node","pass":"` + nodes[0].link.settings.routePassword + `"}`, // which is for routes
	} {
		c, err := net.Dial("tcp", nodes[0].link.session.server.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "CONNECT "+credentials+"\r\nSUB > 1\r\nPUB sse.stranger 2\r\nhi\r\nPING\r\n"); err != nil {
			t.Fatal(err)
		}
		if text := readAll(t, c); strings.Contains(text, "MSG") || strings.Contains(text, "PONG") || strings.Contains(text, "confidential") {
			t.Errorf("with %s the stranger was told %q", credentials, text)
		}
	}
	said()
	if host, _, _ := splitAddress(nodes[0].link.session.server.Addr().String()); host != "127.0.0.1" {
		t.Errorf("the listener is at %s", host)
	}
}

// A node with another secret is not let in either, also where routes are in clear.
func TestNodeWithAnotherSecret(t *testing.T) {
	ways(t, func(t *testing.T, change func(*settings)) {
		t.Helper()
		nodes := startNodes(t, 2, change)
		if _, err := nodes[0].Answer("topic", func([]byte) []byte { return []byte("confidential") }); err != nil {
			t.Fatal(err)
		}
		awaitAnswer(t, nodes[1], "topic", "")
		foreign := embeddedAt(t, "another secret of thirty-two bytes", "127.0.0.1:0", nodes[0].address())
		change(foreign)
		stranger := &node{newBus(), newTestLink(t, foreign)}
		refused := make(chan struct{}, 100)
		stranger.link.logger = noting(refused)
		if err := stranger.start(stranger.link); err != nil {
			t.Fatal(err)
		}
		defer stranger.drop(stranger.link)
		for range 2 { // it has tried, and tried again
			select {
			case <-refused:
			case <-time.After(patience):
				t.Fatal("it was not refused")
			}
		}
		if _, err := stranger.Ask(t.Context(), "topic", nil); !errors.Is(err, cluster.ErrNobody) {
			t.Errorf("the stranger was told %v", err)
		}
		if stranger.link.session.server.NumRemotes() != 0 {
			t.Error("the stranger has reached a node")
		}
	})
}

// Who may use the same NATS servers, but does not know the secret, can neither read which
// stream is which nor put anything into one.
func TestAccountWithoutTheSecret(t *testing.T) {
	servers := startServer(t)
	s := &settings{prefix: "sse", urls: []string{servers}}
	if err := s.derive(testSecret); err != nil {
		t.Fatal(err)
	}
	n := startNode(t, s)
	var got recorder
	if _, err := n.Subscribe("topic", got.add); err != nil {
		t.Fatal(err)
	}
	stranger, err := nats.Connect(servers)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	seen := make(chan *nats.Msg, 1000)
	if _, err := stranger.ChanSubscribe("sse.>", seen); err != nil {
		t.Fatal(err)
	}
	if err := stranger.Flush(); err != nil {
		t.Fatal(err)
	}
	await(t, "a message", func() bool { return n.Publish("topic", []byte("genuine")) == nil && got.has("genuine") })
	m := <-seen
	if strings.Contains(m.Subject, "topic") {
		t.Errorf("subject %s", m.Subject)
	}
	if err := stranger.Publish(m.Subject, []byte("forged forged forged forged")); err != nil {
		t.Fatal(err)
	}
	if err := stranger.Flush(); err != nil {
		t.Fatal(err)
	}
	await(t, "a message", func() bool { return n.Publish("topic", []byte("later")) == nil && got.has("later") })
	if got.has("forged forged forged forged") {
		t.Error("a forged message came through")
	}
}

// A connection to servers beside the gateways is found again, with all subscriptions.
func TestServersBesideTheGateways(t *testing.T) {
	address := ownAddress(t)
	s := &settings{prefix: "sse", urls: []string{"nats://" + address}}
	if err := s.derive(testSecret); err != nil {
		t.Fatal(err)
	}
	first, second := startNode(t, s), startNode(t, s) // before there is a server
	if _, err := first.Ask(t.Context(), "topic", nil); !errors.Is(err, cluster.ErrNobody) {
		t.Errorf("without a server: %v", err)
	}
	if _, err := first.Answer("topic", func([]byte) []byte { return []byte("here") }); err != nil {
		t.Fatal(err)
	}
	stop := startServerAt(t, address)
	awaitAnswer(t, second, "topic", "")
	stop()
	await(t, "the loss", func() bool { return !second.current().connected() })
	if _, err := second.Ask(t.Context(), "topic", nil); !errors.Is(err, cluster.ErrNobody) {
		t.Errorf("without a server: %v", err)
	}
	if second.Publish("topic", nil) == nil {
		t.Error("publishing without a server worked")
	}
	startServerAt(t, address)
	awaitAnswer(t, second, "topic", "")
}

// startServer starts a NATS server as it runs beside gateways.
func startServer(t *testing.T) (url string) {
	t.Helper()
	address := ownAddress(t)
	startServerAt(t, address)
	return "nats://" + address
}

func startServerAt(t *testing.T, address string) (stop func()) {
	t.Helper()
	host, port, err := splitAddress(address)
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.NewServer(&server.Options{Host: host, Port: port, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(patience) {
		t.Fatal("the server does not listen")
	}
	stop = func() {
		s.Shutdown()
		s.WaitForShutdown()
	}
	t.Cleanup(stop)
	return stop
}
