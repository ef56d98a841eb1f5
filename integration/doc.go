// Package integration has the end-to-end tests: a gateway, upstreams in the languages and protocols that they are written
// in, and the clients that people use, each a process of its own. They run on Linux.
//
// They want to be root: one drops a client's packets, in network namespaces. The upstream and the gateway are restarted
// and reloaded a few times; -restarts 20 -restart.window 60s -reloads 20 does so as often as the gateway promises.
//
// setup.sh installs what they need. It is a Go module of its own so that none of this weighs on a build of the gateway.
package integration
