package world

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"palisade/internal/netns"
	"palisade/internal/peer"
	vswitch "palisade/switch"
	"palisade/switch/overlay"
)

// buildTunnelled builds two nodes with a sealed tunnel between them, each with one of the
// endpoints:
//
//	client eth0 -- switch -- node1 underlay ==== underlay node2 -- switch -- eth0 server
//
// The Switches run in this process; their datagrams leave from the nodes' namespaces. The
// streams for the key exchange use loopback, because they are idle once a tunnel has keys.
// Without the seal the tunnel is VXLAN, which nodes also have as a setting.
func buildTunnelled(ctx context.Context, w *World) error {
	if err := errors.Join(w.addUnderlay(), w.makeEndpoints()); err != nil {
		return err
	}
	if err := os.MkdirAll(w.files(), 0o700); err != nil {
		return err
	}
	nodes, err := found(ctx, filepath.Join(w.files(), "node"))
	if err != nil {
		return err
	}
	form := w.form()
	w.mtu = form.MTU(w.config.MTU)
	for i, e := range []Endpoint{w.client, w.server} {
		if err := nodes.build(i, w, e); err != nil {
			return fmt.Errorf("node %d: %w", i+1, err)
		}
	}
	nodes.introduce()
	for _, n := range nodes {
		n.run(ctx, n.sw.Run, n.peer.Run, n.overlay.Run)
	}
	for _, n := range nodes {
		if err := await(ctx, "a session between the nodes", n.up); err != nil {
			return err
		}
	}
	w.about = fmt.Sprintf("%v, %s, the tunnel's form %v, an underlay of MTU %d", w.policy, nodes[0].devices, form, w.config.MTU)
	w.verify = func() error { return errors.Join(nodes[0].verifyTunnelled(), nodes[1].verifyTunnelled()) }
	return nil
}

// buildUnsealed builds the two nodes of buildTunnelled without the seal, as a separate
// contestant.
func buildUnsealed(ctx context.Context, w *World) error {
	w.config.NoSeal = true
	return buildTunnelled(ctx, w)
}

func (w *World) form() overlay.Form {
	if w.config.NoSeal {
		return overlay.VXLAN
	}
	return overlay.Sealed
}

// A member is a node of a cluster of two.
type member struct {
	*node
	identity *peer.Identity
	peer     *peer.Peer
	overlay  *overlay.Overlay
	tunnel   *vswitch.Port
}

// members is the cluster. It is also the peer.Directory of its nodes.
type members [2]*member

func (m *members) Check(node string, publicKey []byte) error {
	for _, one := range m {
		if one.identity.Node() == node && string(one.identity.PublicKey()) == string(publicKey) {
			return nil
		}
	}
	return fmt.Errorf("%s is not a member", node)
}

func (m *members) Address(node string) (string, bool) {
	for _, one := range m {
		if one.identity.Node() == node {
			return one.peer.Addr().String(), true
		}
	}
	return "", false
}

var (
	loopback = netip.MustParseAddrPort("127.0.0.1:0")
	nominal  = netip.MustParseAddrPort("127.0.0.1:7400") // appears only in certificates
)

// found makes the identities of two nodes in the way of operators: one node founds a cluster,
// the other joins it.
func found(ctx context.Context, dir string) (*members, error) {
	first, err := peer.Init(dir+"1", "node1", nominal)
	if err != nil {
		return nil, err
	}
	m := &members{{identity: first}, {}}
	p, err := peer.New(peer.Config{Identity: first, Listen: loopback, Nodes: m, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	p.HandleJoin(func(context.Context, peer.JoinRequest) (peer.JoinAnswer, error) {
		return peer.JoinAnswer{Role: "nonvoter"}, nil
	})
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	token, err := peer.NewToken(first.RootPEM())
	if err == nil {
		m[1].identity, err = peer.Join(ctx, peer.JoinConfig{Dir: dir + "2", Node: "node2", Address: nominal, Contacts: []string{p.Addr().String()}, Token: token.String()})
	}
	cancel()
	return m, errors.Join(err, <-ended)
}

func (m *members) build(i int, w *World, e Endpoint) (err error) {
	one := m[i]
	if one.node, err = w.newNode(uint32(i+1), w.newSwitch()); err != nil {
		return err
	}
	if err := one.addPort(e); err != nil {
		return err
	}
	logger := slog.New(slog.DiscardHandler)
	if one.peer, err = peer.New(peer.Config{Identity: one.identity, Listen: loopback, Nodes: m, Logger: logger}); err != nil {
		return err
	}
	w.cleanup = append(w.cleanup, one.peer.Close)
	err = netns.Do(w.namespace(nodeRoles[i]), func() error {
		one.overlay, err = overlay.New(overlay.Config{Peer: one.peer, Node: one.identity.Node(), Listen: netip.AddrPortFrom(underlay[i], tunnelPort), Form: w.form()})
		return err
	})
	if err != nil {
		return err
	}
	if one.tunnel, err = one.sw.AddTunnel("tunnel", one.overlay.Device()); err != nil {
		return err
	}
	return one.publish(&vswitch.Tunnel{Port: one.tunnel, MTU: w.mtu})
}

// introduce gives each node the address and the key of the other.
func (m *members) introduce() {
	var all []overlay.Remote
	for i, one := range m {
		all = append(all, overlay.Remote{Number: uint32(i + 1), Node: one.identity.Node(), Address: one.overlay.Addr(), PublicKey: one.identity.PublicKey()})
	}
	for _, one := range m {
		one.overlay.SetPeers(all)
	}
}

// up reports whether the node's tunnel is up.
func (one *member) up() (bool, error) {
	status := one.overlay.Status()
	return len(status) == 1 && status[0].Up, nil
}

// verifyTunnelled checks that the tunnel was used in both directions, and calls verifyTracked.
func (one *member) verifyTunnelled() error {
	if c := one.tunnel.Counters(); c.RxFrames == 0 || c.TxFrames == 0 {
		return fmt.Errorf("node %d received %d frames through the tunnel and sent %d, want both above 0", one.number, c.RxFrames, c.TxFrames)
	}
	return one.verifyTracked()
}
