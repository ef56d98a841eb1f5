//go:build unix

package stream

import (
	"errors"
	"math"
	"syscall"
)

// filesOpen is how many files the process has open, about: a new one has the lowest
// number that is free. 0: that is not known.
func filesOpen() int64 {
	fd, err := syscall.Open("/dev/null", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	switch {
	case err == nil:
		_ = syscall.Close(fd) // nothing was written
		return int64(fd)
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return openFiles()
	}
	return 0
}

// openFiles is how many files the process may have open; 0: that is not known.
func openFiles() int64 {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return 0
	}
	return int64(min(uint64(limit.Cur), math.MaxInt64)) //nolint:unconvert // it is signed on some systems
}
