//go:build !linux

package main

import (
	"context"
	"errors"
)

var errLinux = errors.New("only on Linux: it needs epoll, and /proc for what the server uses")

func runClient(context.Context, []string) error { return errLinux }

func runOrigin(context.Context, []string) error { return errLinux }
