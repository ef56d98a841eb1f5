package cluster

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/logs"
)

// macSize is how many bytes of a keyed hash go with each message.
const macSize = 16

// Sealed returns a Bus for those who have a secret in common: what others send is
// dropped with a log line, and they can neither tell nor guess what a subject stands
// for. Contents are not encrypted: that is the connection's.
func Sealed(bus Bus, secret []byte, logger *zap.Logger) Bus {
	return &sealedBus{Bus: bus, secret: secret, logger: logger}
}

type sealedBus struct {
	Bus
	secret []byte
	logger *zap.Logger
	wrong  logs.Throttle // the line on what others send
}

// What a keyed hash is for: none of one kind is good for another.
const (
	forSubject = "subject"
	forMessage = "message"
	forReply   = "reply"
)

func (b *sealedBus) hash(purpose, subject string, message []byte) []byte {
	mac := hmac.New(sha256.New, b.secret)
	for _, part := range []string{purpose, subject} {
		sum := sha256.Sum256([]byte(part)) // all of one length
		mac.Write(sum[:])
	}
	mac.Write(message)
	return mac.Sum(nil)
}

// subject is what stands for a subject on the bus.
func (b *sealedBus) subject(subject string) string {
	return base64.RawURLEncoding.EncodeToString(b.hash(forSubject, subject, nil))
}

// seal returns a message with its keyed hash.
func (b *sealedBus) seal(purpose, subject string, message []byte) []byte {
	sum := b.hash(purpose, subject, message)
	return append(append(make([]byte, 0, len(message)+macSize), message...), sum[:macSize]...)
}

// open returns the message that was sealed, and false if it was not, or for something else.
func (b *sealedBus) open(purpose, subject string, sealed []byte) (message []byte, ok bool) {
	n := len(sealed) - macSize
	if n >= 0 && hmac.Equal(sealed[n:], b.hash(purpose, subject, sealed[:n])[:macSize]) {
		return sealed[:n:n], true
	}
	b.wrong.Log(func(suppressed int) {
		b.logger.Warn("dropped a message between nodes: it was not made with the cluster's secret", zap.Int("bytes", len(sealed)), zap.Int("suppressed", suppressed))
	})
	return nil, false
}

// Ask implements Bus.
func (b *sealedBus) Ask(ctx context.Context, subject string, request []byte) ([]byte, error) {
	sealed, err := b.Bus.Ask(ctx, b.subject(subject), b.seal(forMessage, subject, request))
	if err != nil {
		return nil, err
	}
	reply, ok := b.open(forReply, subject, sealed)
	if !ok {
		return nil, ErrNobody // who answers is none of us
	}
	return reply, nil
}

// Answer implements Bus.
func (b *sealedBus) Answer(subject string, answer func(request []byte) []byte) (stop func(), err error) {
	return b.Bus.Answer(b.subject(subject), func(sealed []byte) []byte {
		request, ok := b.open(forMessage, subject, sealed)
		if !ok {
			return nil
		}
		return b.seal(forReply, subject, answer(request))
	})
}

// Publish implements Bus.
func (b *sealedBus) Publish(subject string, message []byte) error {
	return b.Bus.Publish(b.subject(subject), b.seal(forMessage, subject, message))
}

// Subscribe implements Bus.
func (b *sealedBus) Subscribe(subject string, receive func(message []byte)) (stop func(), err error) {
	return b.Bus.Subscribe(b.subject(subject), func(sealed []byte) {
		if message, ok := b.open(forMessage, subject, sealed); ok {
			receive(message)
		}
	})
}

// MaxMessage implements Bus.
func (b *sealedBus) MaxMessage() int { return b.Bus.MaxMessage() - macSize }
