package cluster

import (
	"context"
	"errors"
)

// ErrNobody is what Ask returns when no node answers on a subject.
var ErrNobody = errors.New("no node answers")

// Bus carries messages between the nodes of a cluster. It may lose, delay and, between
// two publishers, reorder them; those of one publisher on one subject that come, come in
// the order in which they were sent. Its methods may be called concurrently. What is
// received is the receiver's to keep.
type Bus interface {
	// Node names this node, as no other one and no earlier life of this one.
	Node() string

	// Ask sends a request to one of those nodes that answer on a subject, and returns
	// the reply. It returns ErrNobody as soon as it is known that there is none, and
	// ctx's error when that is done.
	Ask(ctx context.Context, subject string, request []byte) (reply []byte, err error)

	// Answer lets this node answer requests on a subject, until stop is called. answer
	// is called for one request at a time, and must not block for long.
	Answer(subject string, answer func(request []byte) (reply []byte)) (stop func(), err error)

	// Publish sends a message to all who are subscribed to a subject, this node too.
	// It does not wait for them.
	Publish(subject string, message []byte) error

	// Subscribe lets this node receive the messages of a subject, one at a time, until
	// stop is called.
	Subscribe(subject string, receive func(message []byte)) (stop func(), err error)

	// Watch calls back when this node loses its connection to the others, and when it
	// has it again; at first with how it is.
	Watch(changed func(connected bool)) (stop func())

	// MaxMessage is how many bytes a message or a reply may have at most.
	MaxMessage() int
}
