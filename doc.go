// Package caddysse is a Caddy HTTP middleware for Server-Sent Events.
package caddysse
