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

// A traceHost is the sender or the receiver of an imagined packet.
type traceHost struct {
	address  netip.Addr        // as given, or the first private address of the named interface
	endpoint *vswitch.Endpoint // that has the address; nil for a host outside the cluster
	named    *ec2.Interface    // the interface, if the host was given by id; else nil
}

// findHosts finds sender and receiver. If one host is given by id, a private address of the other
// is looked up in the same network; without an id, in EC2-Classic.
func (s *Server) findHosts(view *state.View, r traceRequest) (src, dst traceHost, err error) {
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
	if err = s.findHost(&src, r.From, vni); err != nil {
		return
	}
	if err = s.findHost(&dst, r.To, vni); err != nil {
		return
	}
	if dst.named != nil && dst.named.VNI != vni { // in another network it is reached by its public address
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

// interfaceNamed returns the interface with the id text, or the first interface of the instance
// with that id. It returns nil without an error if there is no such interface or instance.
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
		return nil, fmt.Errorf("%s is not attached to a running instance or a device", text)
	}
	return eni, nil
}

func (s *Server) findHost(h *traceHost, text string, vni ec2.VNI) error {
	snapshot := s.Switch.Snapshot()
	if h.named != nil {
		h.address, h.endpoint = h.named.Private, snapshot.PortOf(vswitch.VNI(h.named.VNI), h.named.Private)
		return nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil || !a.Is4() {
		return fmt.Errorf("%q is neither the id of an instance or interface nor an IPv4 address", text)
	}
	h.address, h.endpoint = a, snapshot.PortOf(vswitch.VNI(vni), a)
	return nil
}

// aim sets the packet's addresses and returns the port where the packet enters the switch. From
// outside the cluster an instance is reached only by its public address.
func (s *Server) aim(src, dst traceHost, t *packet.Template) (*vswitch.Port, error) {
	t.Flow.Src, t.Flow.Dst = src.address, dst.address
	if src.endpoint != nil {
		if src.endpoint.Port == nil {
			return nil, fmt.Errorf("%s is not on this node", src.address)
		}
		if !src.endpoint.Owns(src.address) {
			t.Flow.Src = src.endpoint.PrivateOf(src.address)
		}
		t.SrcMAC, t.DstMAC = src.endpoint.MAC, vswitch.GatewayMAC
		return src.endpoint.Port, nil
	}
	up := s.Switch.Snapshot().UplinkPort()
	if up == nil {
		return nil, fmt.Errorf("%s is outside the cluster, and this node has no uplink for its packets", src.address)
	}
	if dst.endpoint != nil {
		if public := dst.endpoint.PublicOf(dst.address); public.IsValid() {
			t.Flow.Dst = public
		}
	}
	t.SrcMAC, t.DstMAC = up.NextHop, up.MAC
	return up.Port, nil
}

// reason returns why a subnet has no route for the packet or for its reply; "" with another verdict
// than NotRouted.
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

func whyUnrouted(view *state.View, s *ec2.Subnet, remote netip.Addr) string {
	table := view.RouteTableOf(s)
	if table == nil {
		return fmt.Sprintf("%s has no route table", s.ID)
	}
	var best *ec2.Route
	for i, r := range table.Routes {
		if r.Destination.Contains(remote) && (best == nil || r.Destination.Bits() > best.Destination.Bits()) {
			best = &table.Routes[i]
		}
	}
	if best == nil {
		return fmt.Sprintf("%s uses %s, which has no route to %s", s.ID, table.ID, remote)
	}
	return fmt.Sprintf("%s uses %s, where %s leads to %s, which is not attached to %s", s.ID, table.ID, best.Destination, best.Gateway, s.VPC)
}
