package caddysse

import (
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"
)

// The values of options in a Caddyfile, and what is said of wrong ones.

// arg returns the next argument of an option, or an error that says what was
// expected.
func arg(d *caddyfile.Dispenser, expected string) (string, error) {
	option := d.Val()
	if !d.NextArg() {
		return "", d.Errf("%s: expected %s", option, expected)
	}
	return d.Val(), nil
}

// durationArg parses the next argument as a duration.
func durationArg(d *caddyfile.Dispenser) (caddy.Duration, error) {
	option := d.Val()
	text, err := arg(d, "a duration, such as 15s")
	if err != nil {
		return 0, err
	}
	return durationValue(d, option, text)
}

func durationValue(d *caddyfile.Dispenser, option, text string) (caddy.Duration, error) {
	duration, err := caddy.ParseDuration(text)
	if err != nil || duration < 0 {
		return 0, d.Errf("%s: expected a duration, such as 15s, not %q", option, text)
	}
	return caddy.Duration(duration), nil
}

// countValue parses a number above 0.
func countValue(d *caddyfile.Dispenser, option, text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n <= 0 {
		return 0, d.Errf("%s: expected a number above 0, not %q", option, text)
	}
	return n, nil
}

// sizeValue parses a size above 0.
func sizeValue(d *caddyfile.Dispenser, option, text string) (int64, error) {
	n, err := humanize.ParseBytes(text)
	if err != nil || n == 0 || n > 1<<50 {
		return 0, d.Errf("%s: expected a size, such as 4MiB, not %q", option, text)
	}
	return int64(n), nil
}

// parseSwitch parses the argument of an option that is on or off.
func parseSwitch(d *caddyfile.Dispenser) (on bool, err error) {
	option := d.Val()
	value, err := arg(d, "on or off")
	if err != nil {
		return false, err
	}
	if value != "on" && value != "off" {
		return false, d.Errf("%s: expected on or off, not %q", option, value)
	}
	return value == "on", nil
}
