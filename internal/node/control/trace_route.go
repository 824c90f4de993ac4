package control

import (
	"cmp"
	"fmt"
	"net/netip"

	"palisade/ec2"
	"palisade/ec2/state"
	vswitch "palisade/switch"
)

// routed says which route has led a packet out of its network, or to an interface that forwards it, and where to. It
// returns "" if no route had a say.
func routed(view *state.View, r *vswitch.Routed) string {
	if r == nil {
		return ""
	}
	s, ok := subnetRouting(view, r)
	if !ok {
		return ""
	}
	table, best := routeOf(view, s, r.Remote)
	if best == nil {
		return ""
	}
	return fmt.Sprintf("%s uses %s, where %s leads to %s", s.ID, table.ID, destination(*best), target(view, *best))
}

func subnetRouting(view *state.View, r *vswitch.Routed) (*ec2.Subnet, bool) {
	network, ok := view.Network(ec2.VNI(r.Network))
	if !ok {
		return nil, false
	}
	for s := range view.SubnetsIn(network.VPC) {
		if s.CIDR == r.Subnet.Prefix {
			return s, true
		}
	}
	return nil, false
}

// routeOf returns the route table of a subnet, and the route in it that decides about an address; nil if there is none.
func routeOf(view *state.View, s *ec2.Subnet, remote netip.Addr) (table *ec2.RouteTable, best *ec2.Route) {
	table = view.RouteTableOf(s)
	if table == nil {
		return nil, nil
	}
	longest := -1
	for i, r := range table.Routes {
		if bits := matchedBits(view, s.VPC, r, remote); bits > longest {
			best, longest = &table.Routes[i], bits
		}
	}
	return table, best
}

// matchedBits returns the length of the prefix by which a route leads to an address; -1 if it does not. Of a
// prefix list it is that of the longest entry outside of the VPC.
func matchedBits(view *state.View, vpc ec2.VPCID, r ec2.Route, remote netip.Addr) int {
	if r.PrefixList == "" {
		if r.Destination.Contains(remote) {
			return r.Destination.Bits()
		}
		return -1
	}
	bits := -1
	l, ok := view.PrefixList(r.PrefixList)
	v, known := view.VPC(vpc)
	if !ok || !known {
		return -1
	}
	for _, e := range l.Entries {
		if e.CIDR.Contains(remote) && !v.Contains(e.CIDR) {
			bits = max(bits, e.CIDR.Bits())
		}
	}
	return bits
}

func destination(r ec2.Route) string {
	if r.PrefixList != "" {
		return string(r.PrefixList)
	}
	return r.Destination.String()
}

// target names what a route leads to.
func target(view *state.View, r ec2.Route) string {
	if r.Interface != "" {
		if eni, ok := view.Interface(r.Interface); ok && eni.Instance != "" {
			return fmt.Sprintf("%s of %s", r.Interface, eni.Instance)
		}
		return string(r.Interface)
	}
	return cmp.Or(string(r.Gateway), string(r.NAT), string(r.Peering))
}

// whyUnrouted says why the routes of a subnet do not lead to a remote address.
func whyUnrouted(view *state.View, s *ec2.Subnet, u *vswitch.Unrouted) string {
	table, best := routeOf(view, s, u.Remote)
	switch {
	case table == nil:
		return fmt.Sprintf("%s has no route table", s.ID)
	case best == nil:
		return fmt.Sprintf("%s uses %s, which has no route to %s", s.ID, table.ID, u.Remote)
	}
	return fmt.Sprintf("%s uses %s, where %s leads to %s, which %s", s.ID, table.ID, destination(*best), target(view, *best), fault(view, s, *best, u.Fault))
}

// fault says what is wrong with the target of a route.
func fault(view *state.View, s *ec2.Subnet, r ec2.Route, f vswitch.RouteFault) string {
	switch f {
	case vswitch.TargetDown:
		return "is not attached to anything that runs"
	case vswitch.TargetChecked:
		return "forwards nothing: its source/destination check is on"
	case vswitch.LeadsBack:
		return "is the sender itself"
	case vswitch.ForeignSource:
		return fmt.Sprintf("carries only packets from addresses of %s", s.VPC)
	}
	switch {
	case r.Gateway != "":
		return "is not attached to " + string(s.VPC)
	case r.Peering != "":
		if p, ok := view.Peering(r.Peering); ok && !p.Active() {
			return "is not active: it is " + string(p.Status)
		}
	case r.Interface != "":
		if eni, ok := view.Interface(r.Interface); ok && eni.State == ec2.Active {
			return "leads to no internet gateway" // a packet from outside
		}
	}
	if view.Leads(s.VPC, r) {
		return "leads to no internet gateway"
	}
	return "does not exist"
}
