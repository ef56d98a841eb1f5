package natsbus

import (
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// minSecret is the length of a secret that cannot be found by trying: who connects to a
// node may try as many as he likes at home.
const minSecret = 32

// settings are a configuration with its placeholders replaced, and what comes from its
// secret.
type settings struct {
	embedded    *embeddedSettings
	urls        []string
	servers     string // urls as NATS takes them
	credentials string
	tls         *TLS
	prefix      string

	key           []byte // of subjects and messages
	routePassword string
	caSeed        []byte // of the key that signs the nodes' certificates
}

// embeddedSettings are those of the embedded server.
type embeddedSettings struct {
	listen    string
	routes    []string
	advertise string
	tls       *TLS
	insecure  bool
}

// derive makes of the secret what nodes show each other. None of it leads to another.
func (s *settings) derive(secret string) error {
	if len(secret) < minSecret {
		return fmt.Errorf("secret: expected at least %d characters, such as `openssl rand -hex 32` prints, not %d", minSecret, len(secret))
	}
	key := func(purpose string) []byte {
		k, err := hkdf.Key(sha256.New, []byte(secret), nil, "caddy-sse cluster: "+purpose, sha256.Size)
		if err != nil {
			panic(err) // only for keys that are too long
		}
		return k
	}
	s.key = key("messages")
	s.routePassword = hex.EncodeToString(key("routes"))
	s.caSeed = key("certificates")
	s.servers = strings.Join(s.urls, ",")
	return nil
}

// identity is equal for settings that are. It shows nothing of the secret.
func (s *settings) identity() string {
	text := fmt.Sprintf("%q %q %+v %q %x", s.urls, s.credentials, s.tls, s.prefix, s.key)
	if e := s.embedded; e != nil {
		text += fmt.Sprintf(" %q %q %q %+v %t", e.listen, e.routes, e.advertise, e.tls, e.insecure)
	}
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// collides reports whether not both settings can be in use at once.
func (s *settings) collides(other *settings) bool {
	if s.embedded == nil || other.embedded == nil {
		return false
	}
	_, mine, _ := splitAddress(s.embedded.listen)
	_, others, _ := splitAddress(other.embedded.listen)
	return mine == others // the hosts may be names for one
}

// connection are the options of the connection to any server.
func (s *settings) connection(node string) ([]nats.Option, error) {
	options := []nats.Option{
		nats.Name(node),
		nats.CustomInboxPrefix(s.prefix + ".reply"),
		nats.Timeout(2 * time.Second),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectBufSize(-1), // what cannot be sent is lost, and told
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(maxPings),
	}
	if s.credentials != "" {
		options = append(options, nats.UserCredentials(s.credentials))
	}
	if s.tls != nil {
		config, err := s.tls.client()
		if err != nil {
			return nil, err
		}
		options = append(options, nats.Secure(config))
	}
	return options, nil
}

// routeTLS is how embedded servers talk with each other.
func (s *settings) routeTLS() (*tls.Config, error) {
	if s.embedded.tls != nil {
		return s.embedded.tls.mutual()
	}
	return secretTLS(s.caSeed)
}

// splitAddress splits host:port.
func splitAddress(address string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	number, err := strconv.ParseUint(text, 10, 16)
	return host, int(number), err
}
