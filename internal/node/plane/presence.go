package plane

import (
	"slices"
	"strings"

	"palisade/cluster/gossip"
	"palisade/ec2"
	vswitch "palisade/switch"
)

// SetDown gets the epochs of all leases that their own node reports down. It removes the
// endpoints of these leases, and adds the endpoints of active leases that are no longer reported
// down.
func (p *Plane) SetDown(epochs map[uint64]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.view == nil {
		p.down = epochs
		return
	}
	generation := p.sw.Snapshot().Generation
	edit := p.sw.Edit(generation)
	changed := false
	for _, l := range p.leases {
		was, is := p.down[l.eni.Epoch], epochs[l.eni.Epoch]
		if was == is || l.eni.Node == p.node { // ended leases are of this node: the others are deleted
			continue
		}
		changed = true
		if is {
			edit.RemoveEndpoint(vswitch.VNI(l.eni.VNI), l.endpoint)
			p.lose(l.eni.VNI, generation)
		} else {
			edit.AddEndpoint(vswitch.VNI(l.eni.VNI), l.endpoint)
		}
	}
	p.down = epochs
	if changed {
		p.publish(edit)
	}
}

// Fail marks an active lease of this node as down until it has a port again or ends. The fleet
// calls it when the lease's instance or device is gone and the state does not say so yet.
func (p *Plane) Fail(eni *ec2.Interface) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.leases[eni.Epoch]; l != nil && !l.ended {
		p.failed[eni.Epoch] = true
	}
}

// Presence returns what this node reports to the other nodes: its active leases, and whether each
// is up.
func (p *Plane) Presence() []gossip.Presence {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := []gossip.Presence{}
	for _, l := range p.leases {
		if l.eni.Node != p.node || l.ended {
			continue
		}
		all = append(all, gossip.Presence{
			Interface: l.eni.ID, Epoch: l.eni.Epoch, Private: l.eni.Private, MAC: l.eni.MAC,
			Up: !p.failed[l.eni.Epoch],
		})
	}
	slices.SortFunc(all, func(a, b gossip.Presence) int { return strings.Compare(string(a.Interface), string(b.Interface)) })
	return all
}
