package oracle

import (
	"cmp"
	"net/netip"
	"slices"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/packet"
)

// A member is the interface at the other end of a packet, as rules for groups see it.
type member struct {
	*ec2.Interface
	peering *ec2.VPCPeering // that the packet uses; nil: both ends are in one VPC
}

// admits reports whether a rule of one of the interface's groups admits a packet. remote is the packet's other
// end, and far its interface, or nil.
func admits(view *state.View, eni *ec2.Interface, d ec2.Direction, p *probe, remote netip.Addr, far *member) bool {
	for _, id := range eni.Groups {
		g, ok := view.Group(id)
		if !ok {
			continue
		}
		for _, r := range g.Rules {
			if r.Direction == d && concerns(r, p) && contains(view, r.Source, remote, far) {
				return true
			}
		}
	}
	return false
}

// concerns reports whether a rule is for the protocol and the port of a packet (EC2 User Guide, "Security
// group rules").
func concerns(r ec2.Rule, p *probe) bool {
	switch {
	case r.Protocol == ec2.AnyProtocol:
		return true
	case r.Protocol != ec2.Protocol(p.flow.Protocol):
		return false
	case r.Protocol == ec2.TCP || r.Protocol == ec2.UDP:
		return r.From <= int(p.flow.DstPort) && int(p.flow.DstPort) <= r.To
	case r.Protocol == ec2.ICMP:
		return (r.From == -1 || r.From == int(p.icmpType)) && (r.To == -1 || r.To == 0)
	}
	return true
}

// contains reports whether the source of a rule has an address, or a group that the other end is in. A prefix list
// has the entries of its present version (Amazon VPC User Guide, "Managed prefix lists"). A group of a peer stands for the interfaces in the peer's VPC, if both VPCs are in one region and the peering is the one
// that the rule was made with (VPC Peering Guide, "Update your security groups to reference peer security
// groups").
func contains(view *state.View, s ec2.Source, remote netip.Addr, far *member) bool {
	switch g := s.Group; {
	case s.IsPrefixList():
		l, ok := view.PrefixList(s.PrefixList)
		return ok && slices.ContainsFunc(l.Entries, func(e ec2.PrefixEntry) bool { return e.CIDR.Contains(remote) })
	case !s.IsGroup():
	case far == nil || !slices.Contains(far.Groups, g.ID):
		return false
	case far.peering == nil:
		return g.Peering == ""
	default:
		return g.Peering == far.peering.ID && g.VPC == far.VPC && !g.Void && far.peering.SameRegion()
	}
	return s.Prefix.Contains(remote)
}

// passes reports whether the network ACL of a subnet lets a packet cross the subnet's edge: the entry with the
// lowest number that matches decides, and what no entry matches is denied (Amazon VPC User Guide, "Network
// ACL rules").
func passes(view *state.View, s *ec2.Subnet, egress bool, p *probe, remote netip.Addr) (bool, int) {
	var entries []ec2.ACLEntry
	for _, e := range aclOf(view, s).Entries {
		if e.Egress == egress && e.CIDR.Contains(remote) && covers(e.Traffic, p) {
			entries = append(entries, e)
		}
	}
	if len(entries) == 0 {
		return false, ec2.LastACLEntry
	}
	first := slices.MinFunc(entries, func(a, b ec2.ACLEntry) int { return cmp.Compare(a.Number, b.Number) })
	return first.Allow, first.Number
}

// aclOf returns the network ACL of a subnet: the one that is associated with it, or else the default one.
func aclOf(view *state.View, s *ec2.Subnet) *ec2.NetworkACL {
	vpc, _ := view.VPC(s.VPC)
	for acl := range view.NetworkACLsOf(s.Account, s.Region) {
		if acl.ID == cmp.Or(s.ACL, vpc.ACL) {
			return acl
		}
	}
	return nil
}

func covers(t ec2.ACLTraffic, p *probe) bool {
	switch {
	case !t.One:
		return true
	case t.Protocol != ec2.Protocol(p.flow.Protocol):
		return false
	case p.flow.Protocol == packet.ProtocolTCP || p.flow.Protocol == packet.ProtocolUDP:
		return t.From <= int(p.flow.DstPort) && int(p.flow.DstPort) <= t.To
	case p.flow.Protocol == packet.ProtocolICMP:
		return t.From == -1 || t.From == int(p.icmpType) && (t.To == -1 || t.To == 0)
	}
	return true
}

// A target is where the routes of a subnet lead a packet.
type target struct {
	kind    kind
	peering *ec2.VPCPeering
	via     *ec2.Interface // nil: it is down
}

type kind int

const (
	nowhere kind = iota // no route, or a black hole
	local
	internet
	peer
	middlebox
	kinds // the number of kinds
)

// route returns where a packet from a subnet to an address goes: the most specific route decides (Amazon VPC
// User Guide, "Route priority").
func route(view *state.View, s *ec2.Subnet, dst netip.Addr) target {
	vpc, _ := view.VPC(s.VPC)
	best, longest := target{}, -1
	for _, b := range vpc.Blocks() {
		if b.CIDR.Contains(dst) && b.CIDR.Bits() > longest {
			best, longest = target{kind: local}, b.CIDR.Bits()
		}
	}
	table := tableOf(view, s)
	for _, r := range table.Routes {
		if r.PrefixList == "" && r.Destination.Contains(dst) && r.Destination.Bits() >= longest {
			best, longest = leads(view, s, r), r.Destination.Bits()
		}
	}
	// Among equal prefixes a static route is before those of a prefix list.
	for _, r := range table.Routes {
		for _, p := range listed(view, vpc, r) {
			if p.Contains(dst) && p.Bits() > longest {
				best, longest = leads(view, s, r), p.Bits()
			}
		}
	}
	return best
}

// listed returns the destinations of a route for a prefix list: its entries outside of the VPC.
func listed(view *state.View, vpc *ec2.VPC, r ec2.Route) (all []netip.Prefix) {
	l, ok := view.PrefixList(r.PrefixList)
	if !ok {
		return nil
	}
	for _, e := range l.Entries {
		if !vpc.Contains(e.CIDR) {
			all = append(all, e.CIDR)
		}
	}
	return all
}

// tableOf returns the route table of a subnet: the one that is associated with it, or else the main table.
func tableOf(view *state.View, s *ec2.Subnet) *ec2.RouteTable {
	var main *ec2.RouteTable
	for t := range view.RouteTablesOf(s.Account, s.Region) {
		for _, a := range t.Associations {
			if a.Subnet == s.ID {
				return t
			}
		}
		if t.VPC == s.VPC && t.Main != "" {
			main = t
		}
	}
	return main
}

// leads returns where a route leads; nowhere if its target cannot carry anything.
func leads(view *state.View, s *ec2.Subnet, r ec2.Route) target {
	switch {
	case r.Peering != "":
		if p, ok := view.Peering(r.Peering); ok && p.Status == ec2.PeeringActive && (p.Requester.VPC == s.VPC || p.Accepter.VPC == s.VPC) {
			return target{kind: peer, peering: p}
		}
	case r.Interface != "":
		if eni, ok := view.Interface(r.Interface); ok && eni.State == ec2.Active && eni.VPC == s.VPC {
			return target{kind: middlebox, via: eni}
		}
	default:
		for g := range view.InternetGatewaysOf(s.Account, s.Region) {
			if g.ID == r.Gateway && g.VPC == s.VPC {
				return target{kind: internet}
			}
		}
	}
	return target{}
}
