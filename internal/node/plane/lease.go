package plane

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/firewall"
	"palisade/internal/packet"
	vswitch "palisade/switch"
)

// An endpoint is an active lease, and what of it is on this node. A lease is known by its
// epoch: an interface of a VPC that is active again is another one, and the port of its
// last may still be open.
type endpoint struct {
	lease *ec2.Interface
	owner *vswitch.Endpoint
	port  *vswitch.Port // nil until its device is there
	zone  *conntrack.Zone
	rules *firewall.Set // nil at other nodes
	// altered: owner or rules are to be attached with the next Snapshot.
	altered bool
	ended   bool // the lease is over; what is left is for detach to take down
}

// follow puts a change of an interface in force: it begins to be active, goes on with other
// addresses or groups, or has ended.
func (p *Plane) follow(edit *vswitch.Edit, c state.Change[ec2.Interface], generation uint64) {
	var was *endpoint
	if c.Before != nil {
		was = p.endpoints[c.Before.Epoch]
	}
	now := c.After
	if now != nil && now.State != ec2.Active {
		now = nil
	}
	if was != nil && !was.ended && (now == nil || now.Epoch != was.lease.Epoch) {
		p.end(edit, was, generation)
	}
	switch {
	case now == nil:
	case was != nil && !was.ended:
		p.alter(edit, was, now, generation)
	default:
		ep := &endpoint{lease: now, owner: p.owner(now, nil)}
		p.endpoints[now.Epoch] = ep
		if !p.down[now.Epoch] {
			edit.AddEndpoint(vswitch.VNI(now.VNI), ep.owner)
		}
	}
}

// end takes a lease out of its groups, off its addresses and its port with one Snapshot.
func (p *Plane) end(edit *vswitch.Edit, ep *endpoint, generation uint64) {
	edit.RemoveEndpoint(vswitch.VNI(ep.lease.VNI), ep.owner)
	ep.ended = true
	for _, a := range ep.lease.Addresses() {
		p.gone.add(ep.lease.VNI, a)
	}
	delete(p.failed, ep.lease.Epoch)
	if ep.port != nil {
		edit.Detach(ep.port)
	} else {
		delete(p.endpoints, ep.lease.Epoch)
	}
	p.lost[ep.lease.VNI] = generation
}

// alter puts in force what has changed of a lease that goes on. Its connections go on too,
// but for those with addresses that it has no more. It may be away by the word of its own
// node, and then it stays away.
func (p *Plane) alter(edit *vswitch.Edit, ep *endpoint, now *ec2.Interface, generation uint64) {
	was := ep.lease
	ep.lease = now
	if !p.down[now.Epoch] {
		edit.RemoveEndpoint(vswitch.VNI(was.VNI), ep.owner)
	}
	ep.owner = p.owner(now, ep.port)
	if !p.down[now.Epoch] {
		edit.AddEndpoint(vswitch.VNI(now.VNI), ep.owner)
	}
	before, after := was.Addresses(), now.Addresses()
	for _, a := range before {
		if !has(after, a.Private) {
			p.gone.add(was.VNI, ec2.AddressPair{Private: a.Private})
			p.lost[was.VNI] = generation
		}
		if a.Public.IsValid() && !hasPublic(after, a.Public) {
			p.gone.add(was.VNI, ec2.AddressPair{Public: a.Public})
		}
	}
	if slices.ContainsFunc(was.Groups, func(g ec2.GroupID) bool { return !slices.Contains(now.Groups, g) }) {
		p.lost[was.VNI] = generation
	}
	if ep.port == nil {
		return
	}
	for _, a := range after {
		if a.Public.IsValid() && !hasPublic(before, a.Public) {
			p.announce = append(p.announce, a.Public)
		}
	}
	if !slices.Equal(was.Groups, now.Groups) {
		rules := p.compiler.Acquire(p.view, now.Groups, generation)
		p.compiler.Release(ep.rules)
		ep.rules = rules
	}
	ep.altered = true
}

func has(pairs []ec2.AddressPair, private netip.Addr) bool {
	return slices.ContainsFunc(pairs, func(p ec2.AddressPair) bool { return p.Private == private })
}

func hasPublic(pairs []ec2.AddressPair, public netip.Addr) bool {
	return slices.ContainsFunc(pairs, func(p ec2.AddressPair) bool { return p.Public == public })
}

func (p *Plane) owner(lease *ec2.Interface, port *vswitch.Port) *vswitch.Endpoint {
	o := &vswitch.Endpoint{
		Epoch: lease.Epoch, Address: lease.Private, Public: lease.Public, MAC: lease.MAC, Port: port,
		Unchecked: lease.Unchecked,
	}
	for _, a := range lease.Further {
		o.Further = append(o.Further, vswitch.Pair{Private: a.Private, Public: a.Public})
	}
	for _, id := range lease.Groups {
		o.Groups = append(o.Groups, p.compiler.Number(id))
	}
	if n, ok := p.view.Node(lease.Node); ok && lease.Node != p.node {
		o.Node = n.Number
	}
	return o
}

// Attach makes an open device the port of a lease and lets it pass by the tables in force.
// The lease must be active: a later View may have taken it back. It closes the device if it
// cannot.
func (p *Plane) Attach(epoch uint64, d vswitch.Device) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	ep := p.endpoints[epoch]
	switch {
	case ep == nil || ep.ended:
		return errors.Join(fmt.Errorf("attach a device: lease %d has ended", epoch), d.Close())
	case ep.port != nil:
		return errors.Join(fmt.Errorf("attach a device: %s has port %s already", ep.lease.ID, ep.port.Name()), d.Close())
	}
	name := portName(ep.lease)
	port, err := p.sw.AddPort(name, vswitch.InstancePort, d)
	if err != nil {
		return errors.Join(fmt.Errorf("attach %s: %w", ep.lease.ID, err), d.Close())
	}
	if d.Offloads() == packet.NoOffloads {
		p.log.Warn("a port works without offloads, and so at a fraction of the speed", "port", name)
	}
	generation := p.sw.Snapshot().Generation
	delete(p.failed, epoch)
	ep.port = port
	ep.zone = p.tracker.AddZone(ep.lease.Epoch, conntrack.Timeouts{})
	ep.rules = p.compiler.Acquire(p.view, ep.lease.Groups, generation)
	ep.owner = p.owner(ep.lease, port)
	edit := p.sw.Edit(generation)
	edit.AddEndpoint(vswitch.VNI(ep.lease.VNI), ep.owner)
	p.attachTo(edit, ep)
	for _, a := range ep.lease.Addresses() {
		if a.Public.IsValid() {
			p.announce = append(p.announce, a.Public)
		}
	}
	p.publish(edit)
	return nil
}

// portName is what an interface's port is called: by its instance, if it is that one's
// first, else by its own id.
func portName(lease *ec2.Interface) string {
	if lease.Instance == "" || lease.Attachment != nil && lease.Attachment.DeviceIndex > 0 {
		return string(lease.ID)
	}
	return string(lease.Instance)
}

// attachTo attaches an endpoint's port as it is now.
func (p *Plane) attachTo(edit *vswitch.Edit, ep *endpoint) {
	edit.Attach(ep.port, vswitch.VNI(ep.lease.VNI), vswitch.Attachment{
		Endpoint: ep.owner, Zone: ep.zone, Rules: ep.rules, Lost: p.lost[ep.lease.VNI],
	})
}

// Detach closes the port of a lease and forgets its connections. One that has not ended may
// get another port.
func (p *Plane) Detach(epoch uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	ep := p.endpoints[epoch]
	if ep == nil || ep.port == nil {
		return nil
	}
	edit := p.sw.Edit(p.sw.Snapshot().Generation)
	if ep.ended {
		delete(p.endpoints, epoch)
	} else {
		edit.RemoveEndpoint(vswitch.VNI(ep.lease.VNI), ep.owner)
	}
	edit.Detach(ep.port)
	p.publish(edit)
	err := p.sw.RemovePort(ep.port)
	p.tracker.RemoveZone(ep.zone)
	p.compiler.Release(ep.rules)
	ep.port, ep.zone, ep.rules = nil, nil, nil
	ep.owner = p.owner(ep.lease, nil)
	return err
}
