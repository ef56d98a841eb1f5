package natsbus

import (
	"go.uber.org/zap"
)

// link is what a configuration asks for. Its methods are called while the bus changes.
type link struct {
	settings *settings
	logger   *zap.Logger
	session  *session // nil while it is not open
}

// open connects, unless that is done.
func (l *link) open(node string, report reporter) (err error) {
	if l.session == nil {
		l.session, err = newSession(l.settings, l.logger, node, report)
	}
	return err
}

// close ends the session and waits until it is gone.
func (l *link) close() {
	if l.session != nil {
		l.session.close()
		l.session = nil
	}
}
