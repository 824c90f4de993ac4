package oracle

import (
	"fmt"
	"net/netip"
	"slices"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// A fate is what must become of a packet: to and flow say who receives what. If there are reasons, the packet
// is dropped for one of them.
type fate struct {
	to      *ec2.Interface // nil: it leaves by the uplink of the sender's node
	flow    packet.Flow    // as the receiver sees it
	reasons []verdict.Verdict
	by      kind // where a route led it
	entry   int  // of the network ACL that denies it first; 0: none does
	// sure is false if the packet may be dropped by the groups, too: rules have changed since they
	// admitted the packet that it answers.
	sure bool
}

func (f *fate) deny(v verdict.Verdict) *fate {
	f.reasons = append(f.reasons, v)
	return f
}

func (f *fate) String() string {
	switch {
	case len(f.reasons) > 0:
		return fmt.Sprintf("dropped as %v", f.reasons)
	case f.to == nil:
		return fmt.Sprintf("%v at the uplink", f.flow)
	}
	return fmt.Sprintf("%v at %s", f.flow, f.to.ID)
}

// judge decides about a packet. It looks at everything, one after the other.
func judge(view *state.View, p *probe) *fate {
	f := &fate{flow: p.flow, sure: !p.reply || p.current}
	if p.from == nil {
		return fromOutside(view, p, f)
	}
	from := p.from
	s, _ := view.Subnet(from.Subnet)
	if !has(from, p.flow.Src) && !from.Unchecked {
		return f.deny(verdict.SpoofedIP)
	}
	if p.via != nil { // addressed to a neighbour's MAC address, so within the subnet
		f.to = p.via
		checkEgress(view, p, f, memberAt(p.via, p.flow.Dst))
		checkIngress(view, p, f, p.via, memberAt(from, p.flow.Src))
		return f
	}
	to := target{kind: local}
	if !s.CIDR.Contains(p.flow.Dst) {
		to = route(view, s, p.flow.Dst)
	}
	f.by = to.kind
	switch to.kind {
	case local:
		return within(view, p, f)
	case internet:
		return toInternet(view, p, f)
	case peer:
		return toPeer(view, p, f, to.peering)
	case middlebox:
		if has(to.via, p.flow.Dst) {
			return within(view, p, f)
		}
		return toMiddlebox(view, p, f, to.via)
	}
	checkEgress(view, p, f, nil)
	checkOut(view, p, f)
	return f.deny(verdict.NotRouted)
}

// within decides about a packet to an address of the sender's own VPC.
func within(view *state.View, p *probe, f *fate) *fate {
	s, _ := view.Subnet(p.from.Subnet)
	owner := find(view, s.VPC, p.flow.Dst)
	checkEgress(view, p, f, memberAt(owner, p.flow.Dst))
	if owner == nil {
		for o := range view.SubnetsIn(s.VPC) {
			if o.CIDR.Contains(p.flow.Dst) && o.CIDR.Addr().Next() == p.flow.Dst {
				return f.deny(verdict.GatewayLocal)
			}
		}
		return f.deny(verdict.NoRoute)
	}
	f.to = owner
	if owner.Subnet != p.from.Subnet {
		checkOut(view, p, f)
		checkIn(view, p, f, owner)
	}
	checkIngress(view, p, f, owner, memberAt(p.from, p.flow.Src))
	return f
}

// toMiddlebox decides about a packet that a route leads to an interface, which forwards it if its
// source/destination check is off (Amazon VPC User Guide, "Routing for a middlebox appliance").
func toMiddlebox(view *state.View, p *probe, f *fate, via *ec2.Interface) *fate {
	checkEgress(view, p, f, nil)
	f.to = via
	if via.Subnet != p.from.Subnet {
		checkOut(view, p, f)
		checkIn(view, p, f, via)
	}
	if via.ID == p.from.ID || !via.Unchecked {
		return f.deny(verdict.NotRouted)
	}
	checkIngress(view, p, f, via, memberAt(p.from, p.flow.Src))
	return f
}

// toPeer decides about a packet that a route leads to a peering. It must come from an address of the sender's own
// VPC, and be for an interface of the other (VPC Peering Guide, "VPC peering limitations").
func toPeer(view *state.View, p *probe, f *fate, by *ec2.VPCPeering) *fate {
	s, _ := view.Subnet(p.from.Subnet)
	vpc, _ := view.VPC(s.VPC)
	other := by.Requester.VPC
	if other == s.VPC {
		other = by.Accepter.VPC
	}
	owner := find(view, other, p.flow.Dst)
	far, near := memberAt(owner, p.flow.Dst), memberAt(p.from, p.flow.Src)
	for _, m := range []*member{far, near} {
		if m != nil {
			m.peering = by
		}
	}
	checkEgress(view, p, f, far)
	checkOut(view, p, f)
	if !slices.ContainsFunc(vpc.Blocks(), func(b ec2.VPCBlock) bool { return b.CIDR.Contains(p.flow.Src) }) {
		f.deny(verdict.NotRouted)
	}
	if f.to = owner; owner == nil {
		return f.deny(verdict.NoRoute)
	}
	checkIn(view, p, f, owner)
	checkIngress(view, p, f, owner, near)
	return f
}

// toInternet decides about a packet that a route leads to an internet gateway. The gateway translates the
// sender's address to its public one (Amazon VPC User Guide, "Internet gateways").
func toInternet(view *state.View, p *probe, f *fate) *fate {
	checkEgress(view, p, f, nil)
	checkOut(view, p, f)
	public := publicOf(p.from, p.flow.Src)
	if !public.IsValid() {
		return f.deny(verdict.NoRoute)
	}
	f.flow.Src = public
	if !publicPool.Contains(p.flow.Dst) {
		return f
	}
	return toPublic(view, p, f)
}

// fromOutside decides about a packet that comes in by the uplink of a node.
func fromOutside(view *state.View, p *probe, f *fate) *fate {
	if publicPool.Contains(p.flow.Src) {
		f.deny(verdict.BadSource)
	}
	toPublic(view, p, f)
	if f.to != nil && f.to.Node != p.node {
		return f.deny(verdict.NoRoute) // the other node announces the address
	}
	return f
}

// toPublic decides about a packet to a public address of the cluster.
func toPublic(view *state.View, p *probe, f *fate) *fate {
	owner := findPublic(view, p.flow.Dst)
	if owner == nil {
		return f.deny(verdict.NoRoute)
	}
	f.to, f.flow.Dst = owner, privateOf(owner, p.flow.Dst)
	s, _ := view.Subnet(owner.Subnet)
	if vpc, _ := view.VPC(s.VPC); slices.ContainsFunc(vpc.Blocks(), func(b ec2.VPCBlock) bool { return b.CIDR.Contains(f.flow.Src) }) {
		return f.deny(verdict.BadSource)
	}
	if route(view, s, f.flow.Src).kind != internet {
		f.deny(verdict.NotRouted) // it could not be answered
	}
	checkIn(view, p, f, owner)
	checkIngress(view, p, f, owner, nil)
	return f
}

func checkEgress(view *state.View, p *probe, f *fate, far *member) {
	if !p.reply && !admits(view, p.from, ec2.Egress, p, p.flow.Dst, far) {
		f.deny(verdict.NoRule)
	}
}

func checkIngress(view *state.View, p *probe, f *fate, to *ec2.Interface, far *member) {
	if !p.reply && !admits(view, to, ec2.Ingress, p, f.flow.Src, far) {
		f.deny(verdict.NoRule)
	}
}

// checkOut asks the ACL of the subnet that a packet leaves.
func checkOut(view *state.View, p *probe, f *fate) {
	s, _ := view.Subnet(p.from.Subnet)
	checkACL(view, p, f, s, true, p.flow.Dst)
}

// checkIn asks the ACL of the subnet that a packet enters.
func checkIn(view *state.View, p *probe, f *fate, to *ec2.Interface) {
	s, _ := view.Subnet(to.Subnet)
	checkACL(view, p, f, s, false, f.flow.Src)
}

func checkACL(view *state.View, p *probe, f *fate, s *ec2.Subnet, egress bool, remote netip.Addr) {
	if ok, entry := passes(view, s, egress, p, remote); !ok {
		if f.entry == 0 {
			f.entry = entry
		}
		f.deny(verdict.ACLDenied)
	}
}

// find returns the interface of a VPC that has a private address.
func find(view *state.View, vpc ec2.VPCID, a netip.Addr) *ec2.Interface {
	for eni := range view.Interfaces() {
		if eni.State == ec2.Active && eni.VPC == vpc && has(eni, a) {
			return eni
		}
	}
	return nil
}

// findPublic returns the interface that has a public address.
func findPublic(view *state.View, a netip.Addr) *ec2.Interface {
	for eni := range view.Interfaces() {
		if eni.State == ec2.Active && privateOf(eni, a).IsValid() {
			return eni
		}
	}
	return nil
}

func has(eni *ec2.Interface, a netip.Addr) bool {
	return slices.ContainsFunc(eni.Addresses(), func(p ec2.AddressPair) bool { return p.Private == a })
}

func publicOf(eni *ec2.Interface, private netip.Addr) netip.Addr {
	for _, p := range eni.Addresses() {
		if p.Private == private {
			return p.Public
		}
	}
	return netip.Addr{}
}

func privateOf(eni *ec2.Interface, public netip.Addr) netip.Addr {
	for _, p := range eni.Addresses() {
		if p.Public == public {
			return p.Private
		}
	}
	return netip.Addr{}
}

// memberAt returns the member that a private address stands for; nil if it is not the interface's.
func memberAt(eni *ec2.Interface, a netip.Addr) *member {
	if eni == nil || !has(eni, a) {
		return nil
	}
	return &member{Interface: eni}
}
