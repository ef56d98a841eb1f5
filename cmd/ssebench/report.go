package main

import (
	"errors"
	"io"
)

func runReport(args []string, w io.Writer) error {
	return errors.New("not yet")
}
