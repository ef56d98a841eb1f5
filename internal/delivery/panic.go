package delivery

import (
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
)

// PanicError is what somebody else's code has panicked with: a handler behind sse, or the
// ResponseWriter of one before it.
type PanicError struct {
	Value any
	Stack []byte
}

func (e PanicError) Error() string { return fmt.Sprintf("panic in a handler: %v", e.Value) }

// Contained does something that runs somebody else's code where nobody else recovers,
// as net/http does for the goroutine of a request: in the gateway's own goroutines and
// timers. A panic becomes an error; http.ErrAbortHandler remains what it is.
func Contained(do func() error) (err error) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler:
			err = http.ErrAbortHandler
		default:
			err = PanicError{Value: p, Stack: debug.Stack()}
		}
	}()
	return do()
}

// PanicOf returns the panic that an error is; false: it is none.
func PanicOf(err error) (PanicError, bool) { return errors.AsType[PanicError](err) }
