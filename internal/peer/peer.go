// Package peer is how the nodes of a cluster know and reach each other.
//
// An Identity is a node's key and its certificate by the cluster's own authority, made by
// Init or Join. A Token admits one node, once. A Peer carries streams and calls between
// nodes, in mutual TLS 1.3. The certificate says who a node is; that it still is a member
// the Directory says, at every connection: a certificate alone opens nothing.
package peer

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
)

// Protocols, as ALPN names them. Join is the only one without a client's certificate.
const (
	ProtocolRaft   = "palisade-raft/1"
	ProtocolTunnel = "palisade-tunnel/1"
	ProtocolRPC    = "palisade-rpc/1"
	ProtocolJoin   = "palisade-join/1"
)

// Directory is the table of nodes. Its methods are called at every handshake, from many
// goroutines, and must not block.
type Directory interface {
	Check(node string, publicKey []byte) error // nil: node is a member with that key (PKIX DER)
	Address(node string) (string, bool)        // host:port
}

// Config is what a Peer is made of.
type Config struct {
	Identity *Identity
	Listen   netip.AddrPort // port 0: any; see Addr
	Nodes    Directory
	Logger   *slog.Logger // default: slog.Default()
}

// Peer carries streams and calls between this node and the others.
type Peer struct{}

var errSkeleton = errors.New("not written yet")

// New binds the address, and starts nothing: connections wait until Run.
func New(Config) (*Peer, error) { return nil, errSkeleton }

// Addr is where p listens.
func (p *Peer) Addr() netip.AddrPort { return netip.AddrPort{} }

// Close gives up the address of a Peer that is never run. Run closes its own.
func (p *Peer) Close() error { return nil }

// Run serves until ctx ends.
func (p *Peer) Run(ctx context.Context) error { return errSkeleton }

// Listener accepts the streams of a protocol. Call it before Run. Every accepted
// connection is a *Conn.
func (p *Peer) Listener(protocol string) net.Listener { return nil }

// Dial opens a stream to node, where the Directory says it is.
func (p *Peer) Dial(ctx context.Context, node, protocol string) (*Conn, error) {
	return nil, errSkeleton
}

// DialAddress opens a stream to node at address (host:port).
func (p *Peer) DialAddress(ctx context.Context, node, address, protocol string) (*Conn, error) {
	return nil, errSkeleton
}

// Drop closes every connection with node.
func (p *Peer) Drop(node string) {}
