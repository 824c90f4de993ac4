package control

import (
	"fmt"
	"net/netip"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/packet"
	"palisade/internal/verdict"
	vswitch "palisade/switch"
)

// This file finds the ends of an imagined packet, and says what its route lacks.

// A traceEnd is one end of an imagined packet.
type traceEnd struct {
	address netip.Addr // as given, or the first private one of what was named
	owner   *vswitch.Endpoint
	named   *ec2.Interface // nil for an address
}

// ends finds both ends. A private address is one of the network that the other end is in,
// if that is named by an id; else of EC2-Classic.
func (s *Server) ends(view *state.View, r traceRequest) (src, dst traceEnd, err error) {
	if src.named, err = interfaceNamed(view, r.From); err != nil {
		return
	}
	if dst.named, err = interfaceNamed(view, r.To); err != nil {
		return
	}
	vni := s.classicVNI(view)
	for _, named := range []*ec2.Interface{dst.named, src.named} {
		if named != nil {
			vni = named.VNI
		}
	}
	if err = s.find(&src, r.From, vni); err != nil {
		return
	}
	if err = s.find(&dst, r.To, vni); err != nil {
		return
	}
	if dst.named != nil && dst.named.VNI != vni { // another network: by its public address
		if !dst.named.Public.IsValid() {
			err = fmt.Errorf("%s is in another network than %s, and has no public address", r.To, r.From)
		}
		dst.address = dst.named.Public
	}
	return
}

// classicVNI is the VNI of the region's EC2-Classic network.
func (s *Server) classicVNI(view *state.View) ec2.VNI {
	for network := range view.Networks() {
		if network.VPC == "" && network.Region == s.Region {
			return network.VNI
		}
	}
	return 0
}

// interfaceNamed is the interface of that id, or the first of an instance of that id; nil
// for anything else.
func interfaceNamed(view *state.View, text string) (*ec2.Interface, error) {
	if in, ok := view.Instance(ec2.InstanceID(text)); ok {
		eni, ok := view.Interface(in.Interface)
		if !ok || eni.State != ec2.Active {
			return nil, fmt.Errorf("%s is %s and has no address", text, in.State)
		}
		return eni, nil
	}
	eni, ok := view.Interface(ec2.InterfaceID(text))
	if ok && eni.State != ec2.Active {
		return nil, fmt.Errorf("%s is attached to nothing that runs", text)
	}
	return eni, nil
}

func (s *Server) find(e *traceEnd, text string, vni ec2.VNI) error {
	snapshot := s.Switch.Snapshot()
	if e.named != nil {
		e.address, e.owner = e.named.Private, snapshot.PortOf(vswitch.VNI(e.named.VNI), e.named.Private)
		return nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil || !a.Is4() {
		return fmt.Errorf("%q is neither an instance's id, nor an interface's, nor an IPv4 address", text)
	}
	e.address, e.owner = a, snapshot.PortOf(vswitch.VNI(vni), a)
	return nil
}

// aim addresses the packet and returns the port it enters by. From an instance the
// target's address is taken as given; from outside only its public one can be reached.
func (s *Server) aim(src, dst traceEnd, t *packet.Template) (*vswitch.Port, error) {
	t.Flow.Src, t.Flow.Dst = src.address, dst.address
	if src.owner != nil {
		if src.owner.Port == nil {
			return nil, fmt.Errorf("%s is not on this node", src.address)
		}
		if !src.owner.Owns(src.address) {
			t.Flow.Src = src.owner.PrivateOf(src.address)
		}
		t.SrcMAC, t.DstMAC = src.owner.MAC, vswitch.GatewayMAC
		return src.owner.Port, nil
	}
	up := s.Switch.Snapshot().UplinkPort()
	if up == nil {
		return nil, fmt.Errorf("%s is no instance, and this node has no uplink it could come by", src.address)
	}
	if dst.owner != nil {
		if public := dst.owner.PublicOf(dst.address); public.IsValid() {
			t.Flow.Dst = public
		}
	}
	t.SrcMAC, t.DstMAC = up.NextHop, up.MAC
	return up.Port, nil
}

// reason says why there is no way out of a subnet, or none back.
func reason(view *state.View, result vswitch.Trace) string {
	u := result.Unrouted
	if result.Verdict != verdict.NotRouted || u == nil {
		return ""
	}
	network, ok := view.Network(ec2.VNI(u.Network))
	if !ok {
		return ""
	}
	for s := range view.SubnetsIn(network.VPC) {
		if s.CIDR == u.Subnet.Prefix {
			return "no route to an internet gateway: " + whyUnrouted(view, s, u.Remote)
		}
	}
	return ""
}

func whyUnrouted(view *state.View, s *ec2.Subnet, far netip.Addr) string {
	table := view.RouteTableOf(s)
	if table == nil {
		return fmt.Sprintf("%s has no route table", s.ID)
	}
	var best *ec2.Route
	for i, r := range table.Routes {
		if r.Destination.Contains(far) && (best == nil || r.Destination.Bits() > best.Destination.Bits()) {
			best = &table.Routes[i]
		}
	}
	if best == nil {
		return fmt.Sprintf("%s goes by %s, which has no route to %s", s.ID, table.ID, far)
	}
	return fmt.Sprintf("%s goes by %s, where %s leads to %s, which is not attached to %s", s.ID, table.ID, best.Destination, best.Gateway, s.VPC)
}
