// Package plane carries the replicated state of the cluster into the switch of one node.
//
// Plane applies each View (plane.go): networks and routes (networks.go), leases with their ports
// (lease.go), rules. uplink.go opens the port to the world outside, presence.go keeps what other
// nodes say of their interfaces, released_addresses.go drops the connections of addresses that
// change hands. EnforcedIndex remembers on disk how far the switch has come.
package plane

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
	"palisade/ec2/state"
	"palisade/firewall"
	vswitch "palisade/switch"
	"palisade/switch/overlay"
)

// Config is what a Plane works with. All fields but Overlay are needed.
type Config struct {
	Node          ec2.NodeID // this one
	MTU           int        // of every network, in bytes of an IP packet
	Switch        *vswitch.Switch
	Tracker       *conntrack.Tracker
	Overlay       *overlay.Overlay // nil in a cluster of one
	EnforcedIndex *EnforcedIndex
	Logger        *slog.Logger
}

// Plane carries the replicated state into the switch. Its mutex is held while it edits a
// Snapshot; the switch's pollers never wait for it.
type Plane struct {
	node    ec2.NodeID
	mtu     int
	sw      *vswitch.Switch
	tracker *conntrack.Tracker
	overlay *overlay.Overlay
	log     *slog.Logger

	mu        sync.Mutex
	mark      *EnforcedIndex
	view      *state.View // the one in force
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

// New makes a Plane without a state: nothing passes.
func New(c Config) *Plane {
	return &Plane{
		node: c.Node, mtu: c.MTU, sw: c.Switch, tracker: c.Tracker, overlay: c.Overlay, log: c.Logger, mark: c.EnforcedIndex, compiler: firewall.NewCompiler(),
		endpoints: map[uint64]*endpoint{}, lost: map[ec2.VNI]uint64{}, moved: make(chan struct{}),
		down: map[uint64]bool{}, failed: map[uint64]bool{},
	}
}

// Apply puts a View in force: the networks and addresses it changed, and the tables of
// the sets whose groups it changed.
func (p *Plane) Apply(view *state.View) error {
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

// Enforced is the index that this node goes by in all: no packet is judged by an older
// state, and of a lease that it ended nothing is left in any connection.
func (p *Plane) Enforced() uint64 { return min(p.sw.Enforced(), p.settled.Load()) }

// recompile follows the rules.
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
	close(p.moved)
	p.moved = make(chan struct{})
	for _, address := range p.announce {
		if err := p.sw.Announce(address); err != nil {
			p.log.Warn("a public address was not announced", "err", err)
		}
	}
	p.announce = nil
}

// View is the View that the switch goes by.
func (p *Plane) View() *state.View {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.view
}

// Wait reports whether the switch goes by index before ctx ends.
func (p *Plane) Wait(ctx context.Context, index uint64) bool {
	for p.Enforced() < index {
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

// Close lets go of the devices; they stay, with their instances.
func (p *Plane) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, port := range p.sw.Ports() {
		if err := p.sw.RemovePort(port); err != nil {
			p.log.Warn("a port did not close", "err", err)
		}
	}
}

// BadRules are the rules that the tables leave out, each with the reason.
func (p *Plane) BadRules() (bad []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, err := range p.compiler.Errors() {
		bad = append(bad, err.Error())
	}
	return bad
}

// Explain says which rule admitted the packet of a step, or why none did.
func (p *Plane) Explain(s vswitch.Step) firewall.Explanation {
	return s.Table.Explain(s.Flow.Protocol, s.Key, s.Peer)
}
