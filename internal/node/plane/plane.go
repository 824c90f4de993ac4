// Package plane carries the replicated state of the cluster into the switch of one node.
//
// Plane applies each View (plane.go): networks and routes (networks.go), leases and their ports
// (lease.go), rules. uplink.go opens the port to the network outside the cluster and tunnel.go the
// port to the other nodes. presence.go handles what nodes report about their interfaces.
// released_addresses.go drops the connections of addresses that lose their interface, also while no
// daemon runs; owners.go stores which lease owns which address. cut.go ends connections that
// operators cut.
// EnforcedIndex stores on disk the index of the newest state that the switch was given.
package plane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/firewall"
	"palisade/nat"
	vswitch "palisade/switch"
	"palisade/switch/overlay"
)

// Config is what a Plane works with. All fields but Overlay and Owners are required.
type Config struct {
	Node          ec2.NodeID         // the id of this node; with a wrong one the node's leases get no port
	MTU           int                // of every network and of the tunnels, in bytes of an IP packet; must fit into the tunnels
	Switch        *vswitch.Switch    // gets every Snapshot; nothing else may edit it
	Tracker       *conntrack.Tracker // the tracker of Switch
	Overlay       *overlay.Overlay   // the tunnels. Default nil, in a cluster of one
	NAT           *nat.Table         // the translations of NAT gateways. Default: in memory
	EnforcedIndex *EnforcedIndex     // in the data directory; without it a restart can enforce revoked rules
	Owners        *Owners            // beside the file of Tracker. Default nil, if Tracker is in memory
	Logger        *slog.Logger       // gets bad rules and failures of ports
}

// Plane carries the replicated state into the switch.
//
// The node owns it. It has no goroutine: the node calls Apply and SetDown, the fleet calls Attach,
// Detach and Fail, and handlers call the other methods, concurrently. mu guards the fields below
// it. It is held while a Snapshot is edited and published, and while the tracker drops the
// connections of released addresses; the locks of the switch, the overlay and the tracker are
// taken under it. Pollers of the switch never wait for it.
type Plane struct {
	node    ec2.NodeID
	mtu     int
	sw      *vswitch.Switch
	tracker *conntrack.Tracker
	nat     *nat.Table
	overlay *overlay.Overlay
	log     *slog.Logger

	mu            sync.Mutex
	enforcedIndex *EnforcedIndex
	view          *state.View // the last that was applied; nil before the first
	compiler      *firewall.Compiler
	leases        map[uint64]*lease  // active leases on any node, by epoch
	lost          map[ec2.VNI]uint64 // by network: generation at which an address last left a group of it or of a peer
	peers         map[ec2.VNI][]vswitch.PeerNetwork
	targets       map[ec2.VNI]map[ec2.InterfaceID]bool // by network: the interfaces that its routes name
	first         bool                                 // the first View is being applied
	down          map[uint64]bool                      // epochs of leases that their own node reports down
	failed        map[uint64]bool                      // epochs of leases of this node that Fail was called for
	uplink        *vswitch.Uplink
	uplinkConfig  UplinkConfig // of the open device
	tunnel        *vswitch.Tunnel
	closed        []*conntrack.Zone // of NAT gateways, by the View that is being applied
	released      releasedAddresses // by the View that is being applied
	gained        []ownership       // by the View that is being applied
	ownersFile    *Owners           // nil if the tracker is in memory
	announce      []netip.Addr      // public addresses to announce after the next Snapshot

	forgotten atomic.Uint64 // index up to which connections of released addresses are dropped
}

// New makes a Plane that has no state yet: the switch drops all frames.
func New(c Config) *Plane {
	if c.NAT == nil {
		c.NAT, _ = nat.Open(nat.Config{Capacity: 4096}) // in memory it opens always
	}
	return &Plane{
		nat: c.NAT, node: c.Node, mtu: c.MTU, sw: c.Switch, tracker: c.Tracker, overlay: c.Overlay, log: c.Logger,
		enforcedIndex: c.EnforcedIndex, compiler: firewall.NewCompiler(),
		leases: map[uint64]*lease{}, lost: map[ec2.VNI]uint64{},
		peers: map[ec2.VNI][]vswitch.PeerNetwork{}, targets: map[ec2.VNI]map[ec2.InterfaceID]bool{},
		down: map[uint64]bool{}, failed: map[uint64]bool{}, released: releasedAddresses{}, ownersFile: c.Owners,
	}
}

// Apply makes the switch enforce a View: it updates the networks and leases that the View changes,
// and compiles the rules of groups that it changes. The enforced index is on disk before the switch
// gets the new Snapshot; if the write fails, the switch keeps its Snapshot.
func (p *Plane) Apply(view *state.View) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if view.Index() < p.enforcedIndex.index {
		return fmt.Errorf("the log ends at index %d, but this node has enforced index %d already: the log has lost entries; restore it, or remove %s to accept older rules", view.Index(), p.enforcedIndex.index, p.enforcedIndex.path)
	}
	p.cut(view) // before the index is on disk, so that no crash skips a cut
	if err := p.enforcedIndex.advance(view.Index()); err != nil {
		return err
	}
	generation := view.Index()
	before := p.view
	p.view, p.first = view, before == nil
	changes := view.Changes()
	edit := p.sw.Edit(generation)

	p.setLists(edit, changes.PrefixLists, generation)
	p.setNetworks(edit, changes)
	if len(changes.Networks) > 0 {
		p.setUplink(edit)
	}
	if len(changes.Nodes) > 0 {
		p.setPeers()
	}
	for _, c := range changes.Interfaces {
		p.applyInterface(edit, c, generation)
	}
	if before == nil {
		p.announce = nil // a gateway of this View may have moved while this node was away, and its new node has told that
	}
	p.recompile(edit, changes.Groups, generation)
	p.removeLists(edit, changes.PrefixLists, generation)
	p.removeNetworks(edit, changes.Networks)
	if before == nil {
		if err := p.forgetFormer(); err != nil {
			return err
		}
	} else if err := errors.Join(p.storeCluster(before), p.storeChanging()); err != nil {
		return err
	}
	p.publish(edit)
	p.forgetReleased(generation)
	p.forgetPeerings(p.endedPeerings(before, changes.Peerings), generation)
	p.forgotten.Store(generation)
	return nil
}

// Enforced returns the index of the state that this node enforces: no poller uses an older
// Snapshot, and the connections of all addresses released up to this index are dropped.
func (p *Plane) Enforced() uint64 { return min(p.sw.Enforced(), p.forgotten.Load()) }

// recompile compiles the tables of changed groups and attaches ports whose table or endpoint has
// changed. In a network in strict mode every port is attached again, so that its connections are
// checked against the new state.
func (p *Plane) recompile(edit *vswitch.Edit, changes []state.Change[ec2.Group], generation uint64) {
	var changed []ec2.GroupID
	for _, c := range changes {
		if c.After != nil {
			changed = append(changed, c.After.ID)
		} else {
			changed = append(changed, c.Before.ID)
		}
	}
	p.compiler.Update(p.view, changed, generation)
	for _, l := range p.leases {
		if l.port == nil || l.ended {
			continue
		}
		current := p.compiler.Current(l.rules)
		if current == l.rules && !l.changed && !p.strict(l.eni.VNI) {
			continue
		}
		l.rules, l.changed = current, false
		p.attachTo(edit, l)
	}
	p.logBadRules()
}

// logBadRules logs each rule that does not compile, when it appears.
func (p *Plane) logBadRules() {
	for _, err := range p.compiler.NewErrors() {
		p.log.Error("rule is not enforced", "err", err)
	}
}

func (p *Plane) strict(v ec2.VNI) bool {
	n, ok := p.view.Network(v)
	return ok && n.Mode == ec2.TrackStrict
}

func (p *Plane) publish(edit *vswitch.Edit) {
	p.sw.Publish(edit)
	for _, address := range p.announce {
		if err := p.sw.Announce(address); err != nil {
			p.log.Warn("public address not announced", "address", address, "err", err)
		}
	}
	p.announce = nil
}

// View returns the View that was applied last; nil before the first.
func (p *Plane) View() *state.View {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.view
}

// Wait waits until this node enforces index. It returns false if ctx ends first.
func (p *Plane) Wait(ctx context.Context, index uint64) bool {
	for p.Enforced() < index {
		select {
		case <-time.After(200 * time.Microsecond):
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// Close removes all ports and closes the file of Owners. The devices remain in their instances.
func (p *Plane) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, port := range p.sw.Ports() {
		if err := p.sw.RemovePort(port); err != nil {
			p.log.Warn("port not closed", "port", port.Name(), "err", err)
		}
	}
	if p.ownersFile != nil {
		if err := p.ownersFile.Close(); err != nil {
			p.log.Warn("owners of addresses not closed", "err", err)
		}
	}
}

// BadRules lists the errors of the rules that do not compile and that the tables leave out.
func (p *Plane) BadRules() (bad []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, err := range p.compiler.Errors() {
		bad = append(bad, err.Error())
	}
	return bad
}

// Explain names the rule that admits the packet of a step, or says why each rule does not.
func (p *Plane) Explain(s vswitch.Step) firewall.Explanation {
	return s.Table.Explain(s.Flow.Protocol, s.Key, s.Peer)
}
