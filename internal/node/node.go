// Package node is one node of a cluster, put together: the replicated state, the switch
// that enforces it, the instances behind the switch's ports, and the two sockets through
// which people speak to them.
//
// Node owns every goroutine. plane carries what a View changed into the switch; fleet
// carries it into instances; enforcement keeps the promise that what was enforced once is
// never fallen behind, over restarts too; control answers the operator. Nothing here
// decides about a packet.
package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"palisade/cluster"
	"palisade/conntrack"
	"palisade/ec2/query"
	"palisade/internal/node/control"
	"palisade/internal/node/fleet"
	"palisade/internal/node/plane"
	"palisade/internal/peer"
	vswitch "palisade/switch"
	"palisade/switch/overlay"
)

// Node is one node. New makes it, Run is its life.
type Node struct {
	config        Config
	log           *slog.Logger
	peer          *peer.Peer       // nil in a cluster of one
	overlay       *overlay.Overlay // nil in a cluster of one
	cluster       *cluster.Cluster
	tracker       *conntrack.Tracker
	sw            *vswitch.Switch
	enforcedIndex *plane.EnforcedIndex
	plane         *plane.Plane
	fleet         *fleet.Fleet
	keys          *keyring
	control       *control.Server
	api           *query.Server
	ready         atomic.Bool // the first table is in and every instance of this node was looked after
}

// New opens what a node works on. It starts nothing.
func New(c Config, log *slog.Logger) (*Node, error) {
	if err := c.Peer.check(); err != nil { // fills its defaults, for a Config that was not read from a file
		return nil, err
	}
	identity, founder, err := c.identity()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	n := &Node{config: c, log: log}
	if n.enforcedIndex, err = plane.OpenEnforcedIndex(filepath.Join(c.DataDir, "enforced")); err != nil {
		return nil, err
	}
	if n.keys, err = openKeyring(c, founder); err != nil {
		return nil, err
	}
	if n.tracker, err = conntrack.Open(conntrack.Config{Path: c.Arena}); err != nil {
		return nil, err
	}
	if n.sw, err = vswitch.New(vswitch.Config{Tracker: n.tracker, Logger: log, Halt: c.Halt}); err != nil {
		return nil, err
	}
	mtu := c.Peer.MTU
	if identity != nil {
		mtu = c.Peer.Overlay.MTU(mtu)
		if err := n.connect(identity); err != nil {
			return nil, err
		}
	}
	n.plane = plane.New(plane.Config{
		Node: c.Name, MTU: mtu, Switch: n.sw, Tracker: n.tracker, Overlay: n.overlay, EnforcedIndex: n.enforcedIndex, Logger: log,
	})
	if err := n.openCluster(identity, founder); err != nil {
		return nil, err
	}
	n.fleet = fleet.New(fleet.Config{
		Node: c.Name, MTU: mtu, Plane: n.plane, Cluster: n.cluster, Announce: n.announce, Logger: log,
		NamespacePrefix: c.Lab.NamespacePrefix, InstanceDir: c.Lab.InstanceDir, CgroupPrefix: c.Lab.CgroupPrefix,
	})
	n.control = control.New(control.Config{
		Node: c.Name, Region: c.Region, NamespacePrefix: c.Lab.NamespacePrefix, MTU: mtu,
		Cluster: n.cluster, Switch: n.sw, Tracker: n.tracker, Identity: identity, Peer: n.peer, Overlay: n.overlay,
		Plane: n.plane, Fleet: n.fleet, Keyring: n.keys, Ready: n.isReady, Logger: log,
	})
	if n.api, err = query.New(query.Config{Backend: backend{n}, Secret: n.keys.open, Logger: log}); err != nil {
		return nil, err
	}
	return n, nil
}

// connect makes this node's side of everything between nodes but the log.
func (n *Node) connect(identity *peer.Identity) (err error) {
	n.peer, err = peer.New(peer.Config{Identity: identity, Listen: n.config.Peer.Listen, Nodes: directory{n}, Logger: n.log})
	if err != nil {
		return err
	}
	n.peer.HandleJoin(n.admit)
	n.handleKey()
	n.overlay, err = overlay.New(overlay.Config{Peer: n.peer, Node: string(n.config.Name), Listen: n.config.Peer.tunnel(), Form: n.config.Peer.Overlay, Logger: n.log})
	return err
}

func (n *Node) openCluster(identity *peer.Identity, founder bool) (err error) {
	config := cluster.Config{
		Node: n.config.Name, Dir: n.config.raftDir(), Logger: n.log,
		Decided: n.enforcedIndex.Index(), Enforced: n.plane.Enforced, WaitEnforced: n.plane.Wait, Join: !founder,
	}
	var publicKey []byte
	if identity != nil {
		publicKey = identity.PublicKey()
		config.Peer, config.Identity = n.peer, identity
		config.PeerAddress, config.GossipAddr = n.config.Peer.Listen.String(), n.config.Peer.gossip()
	}
	if founder {
		if config.Bootstrap, err = n.config.bootstrap(publicKey); err != nil {
			return err
		}
		config.Bootstrap = n.keys.sealed(config.Bootstrap)
	}
	n.cluster, err = cluster.New(config)
	return err
}

// directory is the node table of the newest state, for every handshake.
type directory struct{ *Node }

func (d directory) Check(node string, publicKey []byte) error {
	return d.cluster.Directory().Check(node, publicKey)
}
func (d directory) Address(node string) (string, bool) { return d.cluster.Directory().Address(node) }

// Run is the node's life. It returns when ctx ends and everything has stopped, or when
// a part of the node cannot go on. Instances live on, with their devices.
func (n *Node) Run(ctx context.Context) error {
	doors, err := n.open()
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	if n.peer != nil {
		group.Go(func() error { return n.peer.Run(ctx) })
		group.Go(func() error { return n.overlay.Run(ctx) })
		group.Go(func() error { return n.runPresence(ctx) })
		group.Go(func() error { return n.runFounder(ctx) })
	}
	group.Go(func() error { return n.runCluster(ctx) })
	group.Go(func() error { return n.sw.Run(ctx) })
	group.Go(func() error { return n.runViews(ctx) })
	group.Go(func() error { return n.runKeyring(ctx) })
	group.Go(func() error { return n.fleet.Run(ctx) })
	for _, d := range doors {
		group.Go(func() error { return serve(ctx, d.listener, d.handler) })
	}
	err = group.Wait()
	n.plane.Close()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return errors.Join(err, n.tracker.Close())
}

// runCluster says of a log that has lost entries what to do about it.
func (n *Node) runCluster(ctx context.Context) error {
	err := n.cluster.Run(ctx)
	if errors.Is(err, cluster.ErrLogLost) {
		err = fmt.Errorf("%w; restore the log, or remove %s to accept older rules", err, n.enforcedIndex.Path())
	}
	return err
}

// A door is where somebody is answered.
type door struct {
	listener net.Listener
	handler  http.Handler
}

// open opens every door, or none.
func (n *Node) open() (doors []door, err error) {
	defer func() {
		if err != nil {
			for _, d := range doors {
				err = errors.Join(err, d.listener.Close())
			}
		}
	}()
	for _, d := range []struct {
		path    string
		handler http.Handler
	}{{n.config.APISocket, n.api}, {n.config.ControlSocket, n.control.Handler()}} {
		l, err := listen(d.path)
		if err != nil {
			return doors, err
		}
		doors = append(doors, door{l, d.handler})
	}
	if !n.config.APIListen.IsValid() {
		return doors, nil
	}
	l, err := n.listenTLS()
	if err != nil {
		return doors, err
	}
	return append(doors, door{l, n.api}), nil
}

// listenTLS serves the API beyond this machine, where secrets would be read by anybody
// without TLS. Clients trust it by the cluster's certificate authority.
func (n *Node) listenTLS() (net.Listener, error) {
	identity, _, err := n.config.identity()
	if err != nil {
		return nil, err
	}
	if identity == nil {
		return nil, errors.New(`"api_listen" wants a certificate, which only a node with "peer.listen" has`)
	}
	return tls.Listen("tcp", n.config.APIListen.String(), &tls.Config{
		Certificates: []tls.Certificate{identity.Certificate()}, MinVersion: tls.VersionTLS12,
	})
}

// runFounder forgets that this node began the cluster once the cluster has begun: a node
// that lost its log must join again, never begin a second cluster of the same name.
func (n *Node) runFounder(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-n.cluster.Ready():
	}
	if err := os.Remove(n.config.founderFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("begin the cluster: %w", err)
	}
	return nil
}

// runPresence puts out of forwarding what other nodes say is down at theirs.
func (n *Node) runPresence(ctx context.Context) error {
	for {
		epochs, changed := n.cluster.Down()
		n.plane.SetDown(epochs)
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// runViews carries every change of the state into the switch, and tells the fleet.
func (n *Node) runViews(ctx context.Context) error {
	if err := errors.Join(n.plane.OpenUplink(plane.UplinkConfig(n.config.Uplink)), n.plane.OpenTunnel()); err != nil {
		return err
	}
	for first := true; ; first = false {
		view, err := n.cluster.Next(ctx)
		if errors.Is(err, cluster.ErrStopped) {
			<-ctx.Done() // runCluster says why
			return nil
		}
		if err != nil {
			return err
		}
		if err := n.plane.Apply(view); err != nil {
			return err
		}
		n.keys.notice()
		n.announce()
		if first {
			if err := n.fleet.Adopt(ctx, view); err != nil {
				return err
			}
			n.plane.ForgetUnleased()
			if purged := n.tracker.PurgeUnknown(); purged > 0 {
				n.log.Info("forgot connections of leases that are gone", "connections", purged)
			}
			n.ready.Store(true)
			continue
		}
		n.fleet.Notice(view)
	}
}

// announce tells the other nodes which leases of this node are up.
func (n *Node) announce() { n.cluster.SetPresence(n.plane.Presence()) }

// isReady: the switch goes by what was decided, and the API can decide.
func (n *Node) isReady() bool {
	select {
	case <-n.cluster.Ready():
		return n.ready.Load()
	default:
		return false
	}
}

// listen opens a Unix socket that only root may use, over what a dead process left.
func listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// serve answers HTTP until ctx ends, and returns when no handler is at work, or after a
// second. Slow and idle clients are cut off: they hold a
// connection, not the node.
func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	server := &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second,
		WriteTimeout: 2 * time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
	}
	down := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(down)
		grace, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if server.Shutdown(grace) != nil {
			_ = server.Close()
		}
	})
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	<-down // Serve returns when the shutdown begins
	return nil
}
