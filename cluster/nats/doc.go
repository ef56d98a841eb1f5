// Package natsbus connects gateways to a cluster with NATS: a server inside each Caddy, or
// servers that run beside them. It is the Caddy module sse_cluster.buses.nats.
//
// A link is what one configuration asks for: a connection, and the embedded server that it
// is to, if any. The bus is what streams use. It lives as long as the process, on one link
// after the other: a reload with the same configuration keeps the link, one with another
// puts the bus on a new one.
//
// Of a subject nothing is seen on the wire but a hash that is keyed with the secret, and each
// message has another (cluster.Sealed): nodes with another secret do not meet, and who has
// an account of the servers, but not the secret, can neither tell streams apart nor put
// anything into them.
package natsbus
