// Package node is one node of a cluster. It reads the configuration, makes the parts of the node and
// runs them.
//
// The parts: package plane carries the replicated state into the switch; package fleet runs what is
// connected to the switch's ports; package control serves the control socket; cluster replicates the
// state; query serves the API. Node makes them and gives each what it needs of the others. This package
// itself has the node's identity (identity.go), the cluster key (keyring.go) and the admission of new
// nodes (admit.go). Nothing here decides about a packet.
package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"palisade/cluster"
	"palisade/conntrack"
	"palisade/ec2"
	"palisade/ec2/query"
	"palisade/internal/node/control"
	"palisade/internal/node/fleet"
	"palisade/internal/node/plane"
	"palisade/internal/peer"
	"palisade/internal/refusal"
	"palisade/nat"
	vswitch "palisade/switch"
	"palisade/switch/overlay"
)

// Node is one node of a cluster. Run may be called once.
//
// It owns its parts, and every goroutine that a part's own Run does not start. Its fields do not change
// after New, so they need no lock. The locks of the parts are taken in this order: a machine or host
// attachment of the fleet; the plane; the switch, overlay or tracker.
type Node struct {
	config        Config
	log           *slog.Logger
	id            *peer.Identity   // nil in a cluster of one
	peer          *peer.Peer       // nil in a cluster of one
	overlay       *overlay.Overlay // nil in a cluster of one
	cluster       *cluster.Cluster
	tracker       *conntrack.Tracker
	nat           *nat.Table
	sw            *vswitch.Switch
	enforcedIndex *plane.EnforcedIndex
	plane         *plane.Plane
	fleet         *fleet.Fleet
	keys          *keyring
	gossipKeys    *gossipKeys
	refusals      *refusal.Log // calls that this node refused
	control       *control.Server
	api           *query.Server
	forwards      chan struct{} // holds a slot for each API request that another node answers
	rotationDue   chan struct{} // capacity 1: filled when the state has changed, for runRotation
	made          madeAuthority // owned by runRotation
	ready         atomic.Bool   // the first View is enforced, and instances that still run have their ports
}

// New makes the parts of a node and opens its files. It starts nothing.
func New(c Config, log *slog.Logger) (*Node, error) {
	if err := c.Peer.check(); err != nil { // fills in defaults, for a Config that was not read from a file
		return nil, err
	}
	identity, founder, err := c.identity()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	n := &Node{config: c, log: log, forwards: make(chan struct{}, maxForwarded), rotationDue: make(chan struct{}, 1)}
	if n.enforcedIndex, err = plane.OpenEnforcedIndex(filepath.Join(c.DataDir, "enforced")); err != nil {
		return nil, err
	}
	if n.keys, err = openKeyring(c, founder); err != nil {
		return nil, err
	}
	if n.gossipKeys, err = openGossipKeys(c.gossipKeysFile()); err != nil {
		return nil, err
	}
	if n.refusals, err = refusal.Open(filepath.Join(c.DataDir, "refused"), log); err != nil {
		return nil, err
	}
	owners, err := n.openTracker()
	if err != nil {
		return nil, err
	}
	if n.sw, err = vswitch.New(vswitch.Config{Tracker: n.tracker, NAT: n.nat, Logger: log, Halt: c.Halt}); err != nil {
		return nil, err
	}
	mtu := min(c.Peer.MTU, maxMTU)
	if identity != nil {
		mtu = min(c.Peer.Overlay.MTU(c.Peer.MTU), maxMTU)
		if err := n.connect(identity, mtu); err != nil {
			return nil, err
		}
	}
	n.plane = plane.New(plane.Config{
		Node: c.Name, MTU: mtu, Switch: n.sw, Tracker: n.tracker, Overlay: n.overlay, NAT: n.nat, EnforcedIndex: n.enforcedIndex,
		Owners: owners, Logger: log,
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
		Plane: n.plane, Fleet: n.fleet, Keyring: n.keys, Rotations: n.Rotations, Refusals: n.refusals, Ready: n.isReady, Logger: log,
	})
	if n.api, err = query.New(query.Config{Backend: backend{n}, Forward: n.forward, Secret: n.keys.open, Refused: n.refused, Rate: c.APILimits.rate(), Logger: log}); err != nil {
		return nil, err
	}
	return n, nil
}

// openTracker opens the file of connections, that of the translations of NAT gateways, and that of the owners of their addresses; nil if the
// connections are in memory.
func (n *Node) openTracker() (owners *plane.Owners, err error) {
	if n.tracker, err = conntrack.Open(conntrack.Config{Path: n.config.Arena, Ceiling: n.config.ConntrackAllowance}); err != nil {
		return nil, err
	}
	if note := n.tracker.Note(); note != "" {
		n.log.Warn("connections are lost", "file", n.config.Arena, "reason", note)
	}
	translations := nat.Config{}
	if n.config.Arena != "" {
		translations.Path = n.config.Arena + ".nat"
	}
	if n.nat, err = nat.Open(translations); err != nil {
		return nil, err
	}
	if note := n.nat.Note(); note != "" {
		n.log.Warn("translations of NAT gateways are lost", "file", translations.Path, "reason", note)
	}
	if n.config.Arena == "" {
		return nil, nil
	}
	return plane.OpenOwners(n.config.Arena + ".owners")
}

// maxMTU is the MTU of instances on an underlay that carries more, as that of EC2's instances (EC2 User Guide,
// "Jumbo frames").
const maxMTU = 9001

// connect makes the peer, for calls between nodes, and the overlay, for tunnels.
func (n *Node) connect(identity *peer.Identity, mtu int) (err error) {
	n.id = identity
	n.peer, err = peer.New(peer.Config{Identity: identity, Listen: n.config.Peer.Listen, Nodes: directory{n}, Logger: n.log})
	if err != nil {
		return err
	}
	n.peer.HandleJoin(n.admit)
	n.handleKey()
	n.peer.Handle(methodAPI, n.passedOn)
	n.handleRotation()
	n.handleRenew()
	n.overlay, err = overlay.New(overlay.Config{Peer: n.peer, Node: string(n.config.Name), Listen: n.config.Peer.tunnel(), Form: n.config.Peer.Overlay, MTU: mtu, Logger: n.log})
	return err
}

func (n *Node) openCluster(identity *peer.Identity, founder bool) (err error) {
	config := cluster.Config{
		Node: n.config.Name, Dir: n.config.raftDir(), Logger: n.log,
		Decided: n.enforcedIndex.Index(), Enforced: n.plane.Enforced, WaitEnforced: n.plane.Wait, Join: !founder,
		Refused: func(call ec2.Audit, e *ec2.Error) { n.refused("", &call, e) },
	}
	var publicKey []byte
	if identity != nil {
		publicKey = identity.PublicKey()
		config.Peer, config.Identity = n.peer, identity
		config.PeerAddress, config.GossipAddr = n.config.Peer.Listen.String(), n.config.Peer.gossip()
		config.GossipKeys, config.GossipKeysChanged = n.gossipKeys.ring, n.gossipKeys.changed
	}
	if founder {
		gossipKey, err := n.gossipKeys.first()
		if err != nil {
			return err
		}
		if config.Bootstrap, err = n.config.bootstrap(publicKey, gossipKey); err != nil {
			return err
		}
		config.Bootstrap = n.keys.sealed(config.Bootstrap)
	}
	n.cluster, err = cluster.New(config)
	return err
}

// directory looks up nodes in the newest state. Every TLS handshake uses it.
type directory struct{ *Node }

func (d directory) Check(node string, publicKey []byte) error {
	return d.cluster.Directory().Check(node, publicKey)
}
func (d directory) Address(node string) (string, bool) { return d.cluster.Directory().Address(node) }

// Run runs the node until ctx ends or a part of it fails, and returns when all goroutines have ended.
// Instances keep running, with their devices.
func (n *Node) Run(ctx context.Context) error {
	servers, err := n.listen()
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
	group.Go(func() error { return n.runRotation(ctx) })
	group.Go(func() error { return n.fleet.Run(ctx) })
	for _, s := range servers {
		group.Go(func() error { return serve(ctx, s.listener, s.handler) })
	}
	err = group.Wait()
	n.plane.Close()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return errors.Join(err, n.refusals.Close(), n.nat.Close(), n.tracker.Close())
}

// runCluster runs this node's member of the cluster. If the log has lost entries, the error says what
// the operator can do.
func (n *Node) runCluster(ctx context.Context) error {
	err := n.cluster.Run(ctx)
	if errors.Is(err, cluster.ErrLogLost) {
		err = fmt.Errorf("%w; restore the log, or remove %s to accept older rules", err, n.enforcedIndex.Path())
	}
	return err
}

// runFounder removes the founder file once the cluster has begun. A node that loses its log later must
// join again, not begin a second cluster of the same name.
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

// runPresence tells the plane, after every change, which leases their own nodes report down.
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

// runViews gives every new View to the plane, and then to the fleet.
func (n *Node) runViews(ctx context.Context) error {
	if err := errors.Join(n.plane.OpenUplink(plane.UplinkConfig(n.config.Uplink)), n.plane.OpenTunnel()); err != nil {
		return err
	}
	for first := true; ; first = false {
		view, err := n.cluster.Next(ctx)
		if errors.Is(err, cluster.ErrStopped) {
			<-ctx.Done() // runCluster returns the reason
			return nil
		}
		if err != nil {
			return err
		}
		n.renewTunnels(view)
		if err := n.plane.Apply(view); err != nil {
			return err
		}
		n.keys.notice()
		n.noticeRotation()
		n.announce()
		if first {
			if err := n.fleet.Adopt(ctx, view); err != nil {
				return err
			}
			if purged := n.tracker.PurgeUnknown(); purged > 0 {
				n.log.Info("connections of ended leases dropped", "connections", purged)
			}
			if purged := n.nat.PurgeUnknown(); purged > 0 {
				n.log.Info("translations of ended NAT gateways dropped", "translations", purged)
			}
			n.ready.Store(true)
			continue
		}
		n.fleet.Notice(view)
	}
}

// announce reports to the other nodes which leases of this node are up.
func (n *Node) announce() { n.cluster.SetPresence(n.plane.Presence()) }

// isReady reports whether the switch enforces the state and the cluster accepts changes.
func (n *Node) isReady() bool {
	select {
	case <-n.cluster.Ready():
		return n.ready.Load()
	default:
		return false
	}
}
