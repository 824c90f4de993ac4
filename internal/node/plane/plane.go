package node

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/firewall"
	vswitch "palisade/switch"
	"palisade/switch/overlay"
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
	endpoints map[uint64]*endpoint // of every active lease, at whatever node, by epoch
	lost      map[ec2.VNI]uint64   // generation at which an address last left a group
	down      map[uint64]bool      // leases that their own node says are down, by epoch
	failed    map[uint64]bool      // those of this node, until the state has heard of it
	uplink    *vswitch.Uplink
	tunnel    *vswitch.Tunnel
	gone      gone          // addresses that lost their owner by the View being applied
	announce  []netip.Addr  // public addresses that this node got by it
	moved     chan struct{} // closed and replaced when a Snapshot was published

	settled atomic.Uint64 // the index up to which ended leases are forgotten too
}

func newPlane(node ec2.NodeID, mtu int, sw *vswitch.Switch, tracker *conntrack.Tracker, mark *enforcedMark, log *slog.Logger) *plane {
	return &plane{
		node: node, mtu: mtu, sw: sw, tracker: tracker, log: log, mark: mark, compiler: firewall.NewCompiler(),
		endpoints: map[uint64]*endpoint{}, lost: map[ec2.VNI]uint64{}, moved: make(chan struct{}),
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

	p.setNetworks(edit, changes)
	if len(changes.Networks) > 0 {
		p.setOutside(edit)
	}
	if len(changes.Nodes) > 0 {
		p.setPeers()
	}
	for _, c := range changes.Interfaces {
		p.follow(edit, c, generation)
	}
	p.recompile(edit, changes.Groups, generation)
	p.removeNetworks(edit, changes.Networks)
	p.publish(edit)
	p.forgetGone(generation)
	p.settled.Store(generation)
	return nil
}

// enforced is the index that this node goes by in all: no packet is judged by an older
// state, and of a lease that it ended nothing is left in any connection.
func (p *plane) enforced() uint64 { return min(p.sw.Enforced(), p.settled.Load()) }

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
		if current == ep.rules && !ep.altered && !p.strict(ep.lease.VNI) {
			continue
		}
		ep.rules, ep.altered = current, false
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

func (p *plane) publish(edit *vswitch.Edit) {
	p.sw.Publish(edit)
	close(p.moved)
	p.moved = make(chan struct{})
	for _, address := range p.announce {
		if err := p.sw.Announce(address); err != nil {
			p.log.Warn("a public address was not announced", "err", err)
		}
	}
	p.announce = nil
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
