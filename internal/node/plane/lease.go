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

// A lease is an active lease on any node, with its endpoint in the switch and, on this node, its
// port. Leases are told apart by epoch: when an interface becomes active again it has a new lease,
// and the port of the old one may still be open.
type lease struct {
	eni      *ec2.Interface // as in the View that was applied last
	endpoint *vswitch.Endpoint
	gateway  *vswitch.NATGateway // of a NAT gateway at this node; nil: the lease is none
	port     *vswitch.Port       // nil on other nodes, and until the device is attached
	zone     *conntrack.Zone     // nil without a port
	rules    *firewall.Set       // nil without a port
	mtu      int                 // of the port's device; 0: the network's
	changed  bool                // the port must be attached again: endpoint or rules have changed
	ended    bool                // the state ended the lease; the port remains until Detach
}

// applyInterface applies a change of an interface: its lease begins, changes or ends.
func (p *Plane) applyInterface(edit *vswitch.Edit, c state.Change[ec2.Interface], generation uint64) {
	var was *lease
	if c.Before != nil {
		was = p.leases[c.Before.Epoch]
	}
	now := c.After
	if now != nil && now.State != ec2.Active {
		now = nil
	}
	if was != nil && !was.ended && (now == nil || now.Epoch != was.eni.Epoch) {
		p.end(edit, was, generation)
	}
	switch {
	case now == nil:
	case was != nil && !was.ended:
		p.update(edit, was, now, generation)
	default:
		l := &lease{eni: now, gateway: p.openGateway(now)}
		l.endpoint = p.endpoint(l, nil)
		p.leases[now.Epoch] = l
		for _, a := range now.Addresses() {
			p.gain(now, a)
		}
		if !p.down[now.Epoch] {
			edit.AddEndpoint(vswitch.VNI(now.VNI), l.endpoint)
		}
	}
}

// end removes the endpoint of a lease and detaches its port, both in one Snapshot.
func (p *Plane) end(edit *vswitch.Edit, l *lease, generation uint64) {
	edit.RemoveEndpoint(vswitch.VNI(l.eni.VNI), l.endpoint)
	l.ended = true
	for _, a := range l.eni.Addresses() {
		p.released.add(l.eni.VNI, a)
	}
	delete(p.failed, l.eni.Epoch)
	if l.gateway != nil {
		p.closeGateway(l.gateway)
	}
	if l.port != nil {
		edit.Detach(l.port)
	} else {
		delete(p.leases, l.eni.Epoch)
	}
	p.lose(l.eni.VNI, generation)
}

// update applies changes of a lease that stays active. Its connections stay, except those of
// addresses that the interface loses. If the lease's own node reports the lease down, its endpoint
// stays removed.
func (p *Plane) update(edit *vswitch.Edit, l *lease, now *ec2.Interface, generation uint64) {
	was := l.eni
	l.eni = now
	if !p.down[now.Epoch] {
		edit.RemoveEndpoint(vswitch.VNI(was.VNI), l.endpoint)
	}
	l.endpoint = p.endpoint(l, l.port)
	if !p.down[now.Epoch] {
		edit.AddEndpoint(vswitch.VNI(now.VNI), l.endpoint)
	}
	before, after := was.Addresses(), now.Addresses()
	for _, a := range before {
		if !hasPrivate(after, a.Private) {
			p.released.add(was.VNI, ec2.AddressPair{Private: a.Private})
			p.lose(was.VNI, generation)
		}
		if !hasPublic(after, a.Public) {
			p.released.add(was.VNI, ec2.AddressPair{Public: a.Public})
		}
	}
	for _, a := range after {
		if !hasPrivate(before, a.Private) {
			p.gain(now, ec2.AddressPair{Private: a.Private})
		}
		if !hasPublic(before, a.Public) {
			p.gain(now, ec2.AddressPair{Public: a.Public})
		}
	}
	if slices.ContainsFunc(was.Groups, func(g ec2.GroupID) bool { return !slices.Contains(now.Groups, g) }) {
		p.lose(was.VNI, generation)
	}
	if l.port == nil {
		return
	}
	for _, a := range after {
		if a.Public.IsValid() && !hasPublic(before, a.Public) {
			p.announce = append(p.announce, a.Public)
		}
	}
	if !slices.Equal(was.Groups, now.Groups) {
		rules := p.compiler.AcquireIn(p.view, now.VPC, now.Groups, generation)
		p.compiler.Release(l.rules)
		l.rules = rules
	}
	l.changed = true
}

// gain notes that a lease has got addresses.
func (p *Plane) gain(by *ec2.Interface, pair ec2.AddressPair) {
	for _, of := range ownedBy(by.VNI, pair) {
		p.gained = append(p.gained, ownership{of, by.Epoch})
	}
}

func hasPrivate(pairs []ec2.AddressPair, private netip.Addr) bool {
	return slices.ContainsFunc(pairs, func(p ec2.AddressPair) bool { return p.Private == private })
}

func hasPublic(pairs []ec2.AddressPair, public netip.Addr) bool {
	return slices.ContainsFunc(pairs, func(p ec2.AddressPair) bool { return p.Public == public })
}

// endpoint returns the forwarding entry of an interface.
func (p *Plane) endpoint(l *lease, port *vswitch.Port) *vswitch.Endpoint {
	eni := l.eni
	endpoint := &vswitch.Endpoint{
		Epoch: eni.Epoch, Address: eni.Private, Public: eni.Public, MAC: eni.MAC, Port: port,
		Unchecked: eni.Unchecked, IsNAT: eni.NATGateway != "", NAT: l.gateway,
	}
	for _, a := range eni.Secondary {
		endpoint.Further = append(endpoint.Further, vswitch.Pair{Private: a.Private, Public: a.Public})
	}
	for _, id := range eni.Groups {
		endpoint.Groups = append(endpoint.Groups, p.compiler.NumberIn(p.view, eni.VPC, id))
	}
	if n, ok := p.view.Node(eni.Node); ok && eni.Node != p.node {
		endpoint.Node = n.Number
	}
	return endpoint
}

// Attach makes an open device the port of an active lease, with the rules in force. If a View has
// ended the lease meanwhile, it returns an error. On an error it closes the device.
func (p *Plane) Attach(epoch uint64, d vswitch.Device) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.leases[epoch]
	switch {
	case l == nil || l.ended:
		return errors.Join(fmt.Errorf("attach device: the lease with epoch %d has ended", epoch), d.Close())
	case l.port != nil:
		return errors.Join(fmt.Errorf("attach device: interface %s already has port %s", l.eni.ID, l.port.Name()), d.Close())
	}
	name := portName(l.eni)
	port, err := p.sw.AddPort(name, vswitch.InstancePort, d)
	if err != nil {
		return errors.Join(fmt.Errorf("attach %s: %w", l.eni.ID, err), d.Close())
	}
	if d.Offloads() == packet.NoOffloads {
		p.log.Warn("port has no offloads: its throughput is a fraction of normal", "port", name)
	}
	generation := p.sw.Snapshot().Generation
	delete(p.failed, epoch)
	l.port = port
	l.zone = p.tracker.AddZone(l.eni.Epoch, conntrack.Timeouts{})
	l.rules = p.compiler.AcquireIn(p.view, l.eni.VPC, l.eni.Groups, generation)
	l.endpoint = p.endpoint(l, port)
	edit := p.sw.Edit(generation)
	edit.AddEndpoint(vswitch.VNI(l.eni.VNI), l.endpoint)
	p.attachTo(edit, l)
	for _, a := range l.eni.Addresses() {
		if a.Public.IsValid() {
			p.announce = append(p.announce, a.Public)
		}
	}
	p.publish(edit)
	p.logBadRules()
	return nil
}

// portName returns the name of an interface's port: the instance id for an instance's first
// interface, else the interface id.
func portName(eni *ec2.Interface) string {
	if eni.Instance == "" || eni.Attachment != nil && eni.Attachment.DeviceIndex > 0 {
		return string(eni.ID)
	}
	return string(eni.Instance)
}

// Allowances returns how many connections each interface with a port can still open.
func (p *Plane) Allowances() map[*ec2.Interface]conntrack.Allowance {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := map[*ec2.Interface]conntrack.Allowance{}
	for _, l := range p.leases {
		if l.zone != nil {
			all[l.eni] = l.zone.Allowance()
		}
	}
	return all
}

// attachTo attaches the port of a lease with its present endpoint, zone and rules.
func (p *Plane) attachTo(edit *vswitch.Edit, l *lease) {
	edit.Attach(l.port, vswitch.VNI(l.eni.VNI), vswitch.Attachment{
		Endpoint: l.endpoint, Zone: l.zone, Rules: l.rules, Lost: p.lost[l.eni.VNI], MTU: l.mtu,
	})
}

// SetMTU tells the switch the MTU of the device of a lease's port, in bytes of an IP packet. It does nothing
// if the lease has no port.
func (p *Plane) SetMTU(epoch uint64, mtu int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.leases[epoch]
	if l == nil || l.ended || l.port == nil || l.mtu == mtu {
		return
	}
	l.mtu = mtu
	edit := p.sw.Edit(p.sw.Snapshot().Generation)
	p.attachTo(edit, l)
	p.publish(edit)
}

// Detach removes the port of a lease, its endpoint and its connections. A lease that has not ended
// may get another port.
func (p *Plane) Detach(epoch uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.leases[epoch]
	if l == nil || l.port == nil {
		return nil
	}
	edit := p.sw.Edit(p.sw.Snapshot().Generation)
	if l.ended {
		delete(p.leases, epoch)
	} else {
		edit.RemoveEndpoint(vswitch.VNI(l.eni.VNI), l.endpoint)
	}
	edit.Detach(l.port)
	p.publish(edit)
	err := p.sw.RemovePort(l.port)
	p.tracker.RemoveZone(l.zone)
	p.compiler.Release(l.rules)
	l.port, l.zone, l.rules, l.mtu = nil, nil, nil, 0
	l.endpoint = p.endpoint(l, nil)
	return err
}
