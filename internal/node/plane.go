package node

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
	"palisade/firewall"
	"palisade/internal/packet"
	vswitch "palisade/switch"
	"palisade/switch/overlay"
	"palisade/switch/tap"
)

// plane carries the replicated state into the switch. Its mutex is held while it edits a
// Snapshot; the switch's pollers never wait for it.
type plane struct {
	node    ec2.NodeID
	mtu     int // of every network, in bytes of an IP packet
	sw      *vswitch.Switch
	tracker *conntrack.Tracker
	overlay *overlay.Overlay // nil in a cluster of one
	log     *slog.Logger

	mu        sync.Mutex
	mark      *enforcedMark
	view      *ec2.View // the one in force
	compiler  *firewall.Compiler
	endpoints map[ec2.InterfaceID]*endpoint // of every active lease, at whatever node
	lost      map[ec2.VNI]uint64            // generation at which an address last left a group
	down      map[uint64]bool               // leases that their own node says are down, by epoch
	failed    map[uint64]bool               // those of this node, until the state has heard of it
	uplink    *vswitch.Uplink
	tunnel    *vswitch.Tunnel
	ended     []*ec2.Interface // by the View being applied
	moved     chan struct{}    // closed and replaced when a Snapshot was published

	settled atomic.Uint64 // the index up to which ended leases are forgotten too
}

// An endpoint is an active lease, and what of it is on this node.
type endpoint struct {
	lease *ec2.Interface
	owner *vswitch.Endpoint
	port  *vswitch.Port // nil until its device is there
	zone  *conntrack.Zone
	rules *firewall.Set // nil at other nodes
	ended bool          // the lease is over; what is left is for detach to take down
}

func newPlane(node ec2.NodeID, mtu int, sw *vswitch.Switch, tracker *conntrack.Tracker, mark *enforcedMark, log *slog.Logger) *plane {
	return &plane{
		node: node, mtu: mtu, sw: sw, tracker: tracker, log: log, mark: mark, compiler: firewall.NewCompiler(),
		endpoints: map[ec2.InterfaceID]*endpoint{}, lost: map[ec2.VNI]uint64{}, moved: make(chan struct{}),
		down: map[uint64]bool{}, failed: map[uint64]bool{},
	}
}

// apply puts a View in force: the networks and addresses it changed, and the tables of
// the sets whose groups it changed.
func (p *plane) apply(view *ec2.View) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if view.Index() < p.mark.index {
		return fmt.Errorf("the log ends at %d, before index %d that was enforced already: it has lost entries; restore it, or remove %s to accept older rules", view.Index(), p.mark.index, p.mark.path)
	}
	if err := p.mark.advance(view.Index()); err != nil {
		return err
	}
	generation := view.Index()
	p.view = view
	changes := view.Changes()
	edit := p.sw.Edit(generation)

	for _, c := range changes.Networks {
		if c.After == nil {
			continue // a network without addresses forwards nothing
		}
		edit.Network(vswitch.Network{
			VNI: vswitch.VNI(c.After.VNI), Prefix: c.After.Prefix, Gateway: c.After.Gateway, MTU: p.mtu,
			Strict: c.After.Mode == ec2.TrackStrict,
		})
	}
	if len(changes.Networks) > 0 {
		p.setOutside(edit)
	}
	if len(changes.Nodes) > 0 {
		p.setPeers()
	}
	for _, c := range changes.Interfaces {
		p.move(edit, c, generation)
	}
	p.recompile(edit, changes.Groups, generation)
	p.publish(edit)
	p.forgetEnded(generation)
	p.settled.Store(generation)
	return nil
}

// enforced is the index that this node goes by in all: no packet is judged by an older
// state, and of a lease that it ended nothing is left in any connection.
func (p *plane) enforced() uint64 { return min(p.sw.Enforced(), p.settled.Load()) }

// forgetEnded drops the connections with addresses whose lease has ended, once no packet
// is under way by a Snapshot that still had them. Tracked connections would outlive the
// lost membership, and the address's next owner would be taken for the last.
func (p *plane) forgetEnded(generation uint64) {
	if len(p.ended) == 0 {
		return
	}
	for p.sw.Enforced() < generation {
		time.Sleep(50 * time.Microsecond) // a batch under way; it is short
	}
	private, public := map[ec2.VNI]map[netip.Addr]bool{}, map[netip.Addr]bool{}
	for _, lease := range p.ended {
		if private[lease.VNI] == nil {
			private[lease.VNI] = map[netip.Addr]bool{}
		}
		private[lease.VNI][lease.Private] = true
		if lease.Public.IsValid() {
			public[lease.Public] = true
		}
	}
	for vni, addresses := range private {
		p.tracker.Forget(p.zones(vni), func(a netip.Addr) bool { return addresses[a] || public[a] })
	}
	p.ended = nil
}

// forgetUnleased drops what connections of before this daemon remember of addresses that
// have nobody now.
func (p *plane) forgetUnleased() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n := range p.view.Networks() {
		leased := map[netip.Addr]bool{}
		for _, ep := range p.endpoints {
			if ep.lease.VNI == n.VNI && !ep.ended {
				leased[ep.lease.Private] = true
			}
		}
		p.tracker.Forget(p.zones(n.VNI), func(a netip.Addr) bool { return n.Prefix.Contains(a) && !leased[a] })
	}
}

func (p *plane) zones(vni ec2.VNI) []*conntrack.Zone {
	var all []*conntrack.Zone
	for _, ep := range p.endpoints {
		if ep.zone != nil && ep.lease.VNI == vni {
			all = append(all, ep.zone)
		}
	}
	return all
}

// setOutside says which addresses are the cluster's own, and which ports lead to other nodes
// and to the rest.
func (p *plane) setOutside(edit *vswitch.Edit) {
	var pools []netip.Prefix
	for n := range p.view.Networks() {
		pools = append(pools, n.PublicPools...)
	}
	edit.PublicPools(pools)
	edit.Uplink(p.uplink)
	edit.Tunnel(p.tunnel)
}

// move follows a lease. One that is not active has left its groups, its address and its
// port with the same Snapshot.
func (p *plane) move(edit *vswitch.Edit, c ec2.Change[ec2.Interface], generation uint64) {
	if c.Before != nil {
		if ep := p.endpoints[c.Before.ID]; ep != nil && (c.After == nil || c.After.State != ec2.Active) {
			edit.RemoveEndpoint(vswitch.VNI(ep.lease.VNI), ep.owner)
			ep.ended = true
			p.ended = append(p.ended, ep.lease)
			delete(p.failed, ep.lease.Epoch)
			if ep.port != nil {
				edit.Detach(ep.port)
			}
			if ep.lease.Node != p.node {
				delete(p.endpoints, ep.lease.ID)
			}
			p.lost[ep.lease.VNI] = generation
		}
	}
	if c.After == nil || c.After.State != ec2.Active || p.endpoints[c.After.ID] != nil {
		return
	}
	lease := c.After
	ep := &endpoint{lease: lease, owner: p.owner(lease, nil)}
	p.endpoints[lease.ID] = ep
	if !p.down[lease.Epoch] {
		edit.AddEndpoint(vswitch.VNI(lease.VNI), ep.owner)
	}
}

func (p *plane) owner(lease *ec2.Interface, port *vswitch.Port) *vswitch.Endpoint {
	o := &vswitch.Endpoint{
		Epoch: lease.Epoch, Address: lease.Private, Public: lease.Public, MAC: packet.MAC(lease.MAC), Port: port,
	}
	for _, id := range lease.Groups {
		o.Groups = append(o.Groups, p.compiler.Number(id))
	}
	if n, ok := p.view.Node(lease.Node); ok && lease.Node != p.node {
		o.Node = n.Number
	}
	return o
}

// recompile follows the rules.
func (p *plane) recompile(edit *vswitch.Edit, changes []ec2.Change[ec2.Group], generation uint64) {
	var changed []ec2.GroupID
	for _, c := range changes {
		if c.After != nil {
			changed = append(changed, c.After.ID)
		} else {
			changed = append(changed, c.Before.ID)
		}
	}
	p.compiler.Update(p.view, changed, generation)
	for _, ep := range p.endpoints {
		if ep.port == nil || ep.ended {
			continue
		}
		current := p.compiler.Current(ep.rules)
		if current == ep.rules && !p.strict(ep.lease.VNI) {
			continue
		}
		ep.rules = current
		p.attachTo(edit, ep)
	}
	for _, err := range p.compiler.Errors() {
		p.log.Error("a rule is left out of the tables", "err", err)
	}
}

func (p *plane) strict(v ec2.VNI) bool {
	n, ok := p.view.Network(v)
	return ok && n.Mode == ec2.TrackStrict
}

func (p *plane) attachTo(edit *vswitch.Edit, ep *endpoint) {
	edit.Attach(ep.port, vswitch.VNI(ep.lease.VNI), vswitch.Attachment{
		Endpoint: ep.owner, Zone: ep.zone, Rules: ep.rules, Lost: p.lost[ep.lease.VNI],
	})
}

func (p *plane) publish(edit *vswitch.Edit) {
	p.sw.Publish(edit)
	close(p.moved)
	p.moved = make(chan struct{})
}

// inForce is the View that the switch goes by.
func (p *plane) inForce() *ec2.View {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.view
}

// wait reports whether the switch goes by index before ctx ends.
func (p *plane) wait(ctx context.Context, index uint64) bool {
	for p.enforced() < index {
		p.mu.Lock()
		moved := p.moved
		published := p.sw.Snapshot().Generation
		p.mu.Unlock()
		if published >= index {
			moved = nil // a batch under way goes by the former one; it is short
		}
		select {
		case <-moved:
		case <-time.After(200 * time.Microsecond):
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// attach opens the device of a lease and lets it pass by the tables in force. The lease
// must be active: a later View may have taken it back.
func (p *plane) attach(lease ec2.InterfaceID, device tap.Config) error {
	d, err := tap.Open(device)
	if err != nil {
		return err
	}
	return p.attachDevice(lease, d)
}

// attachDevice makes an open device the port of a lease. It closes the device if it cannot.
func (p *plane) attachDevice(lease ec2.InterfaceID, d vswitch.Device) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	ep := p.endpoints[lease]
	if now, ok := p.view.Interface(lease); ep == nil || ep.ended || !ok || now.State != ec2.Active {
		return errors.Join(fmt.Errorf("attach %s: its lease has ended", lease), d.Close())
	}
	port, err := p.sw.AddPort(string(ep.lease.Instance), vswitch.InstancePort, d)
	if err != nil {
		return errors.Join(fmt.Errorf("attach %s: %w", lease, err), d.Close())
	}
	if !d.Offloads() {
		p.log.Warn("a port works without offloads, and so at a fraction of the speed", "instance", ep.lease.Instance)
	}
	ep.port = port
	ep.zone = p.tracker.AddZone(ep.lease.Epoch, conntrack.Timeouts{})
	ep.rules = p.compiler.Acquire(p.view, ep.lease.Groups, p.sw.Snapshot().Generation)
	ep.owner = p.owner(ep.lease, port)
	edit := p.sw.Edit(p.sw.Snapshot().Generation)
	edit.AddEndpoint(vswitch.VNI(ep.lease.VNI), ep.owner)
	p.attachTo(edit, ep)
	p.publish(edit)
	if ep.lease.Public.IsValid() {
		if err := p.sw.Announce(ep.lease.Public); err != nil {
			p.log.Warn("a public address was not announced", "err", err)
		}
	}
	return nil
}

// detach closes the port of a lease and forgets its connections. A lease without a port
// is forgotten all the same.
func (p *plane) detach(lease ec2.InterfaceID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	ep := p.endpoints[lease]
	if ep == nil {
		return nil
	}
	delete(p.endpoints, lease)
	edit := p.sw.Edit(p.sw.Snapshot().Generation)
	edit.RemoveEndpoint(vswitch.VNI(ep.lease.VNI), ep.owner)
	if ep.port == nil {
		p.publish(edit)
		return nil
	}
	edit.Detach(ep.port)
	p.publish(edit)
	err := p.sw.RemovePort(ep.port)
	p.tracker.RemoveZone(ep.zone)
	p.compiler.Release(ep.rules)
	return err
}

// close lets go of the devices; they stay, with their instances.
func (p *plane) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, port := range p.sw.Ports() {
		if err := p.sw.RemovePort(port); err != nil {
			p.log.Warn("a port did not close", "err", err)
		}
	}
}
