package oracle

import (
	"fmt"
	"net/netip"
	"strings"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/node/plane/planetest"
)

func typeName(r state.Request) string { return strings.TrimPrefix(fmt.Sprintf("%T", r), "*state.") }

// A change makes one random request. EC2 may refuse it.
type change struct {
	weight int
	make   func(*world, *ec2.VPC) state.Request
}

var changes = []change{
	{6, (*world).addRule}, {5, (*world).removeRule}, {3, (*world).regroup}, {2, (*world).uncheck},
	{6, (*world).addEntry}, {2, (*world).replaceEntry}, {3, (*world).removeEntry},
	{1, (*world).addACL}, {2, (*world).replaceACL}, {1, (*world).removeACL},
	{5, (*world).addRoute}, {2, (*world).replaceRoute}, {3, (*world).removeRoute},
	{2, (*world).associate}, {1, (*world).disassociate}, {1, (*world).detach}, {2, (*world).attachGateway},
	{1, (*world).track},
	{3, (*world).requestPeering}, {5, (*world).acceptPeering}, {1, (*world).endPeering},
	{2, (*world).addList}, {6, (*world).modifyList}, {2, (*world).restoreList}, {1, (*world).removeList},
	{1, (*world).shareGroup}, {1, (*world).unshareGroup},
}

// change makes a random change, and compares the tables with rebuilt ones if EC2 does not refuse it.
func (w *world) change() {
	total := 0
	for _, c := range changes {
		total += c.weight
	}
	n := w.r.IntN(total)
	for _, c := range changes {
		if n -= c.weight; n < 0 {
			if r := c.make(w, pick(w, w.vpcs...)); r != nil {
				if _, err := w.do(r); err == nil {
					w.compareRebuilt()
				}
			}
			return
		}
	}
}

func (w *world) group(v *ec2.VPC) *ec2.Group {
	g, _ := w.view.Group(pick(w, w.groups[v.ID]...))
	return g
}

func (w *world) rule(v *ec2.VPC) state.RuleSpec {
	r := state.RuleSpec{Protocol: pick(w, ec2.AnyProtocol, ec2.TCP, ec2.UDP, ec2.UDP, ec2.ICMP), From: -1, To: -1}
	switch r.Protocol {
	case ec2.TCP, ec2.UDP:
		r.From, r.To = 0, 65535
		if w.r.IntN(2) == 0 {
			r.From = pick(w, 22, 53, 80, 1000)
			r.To = pick(w, r.From, 1000, 65535)
		}
	case ec2.ICMP:
		r.From = pick(w, -1, 8, 3)
	}
	switch w.r.IntN(8) {
	case 6, 7:
		if r.PrefixList = w.listOf(v); r.PrefixList == "" {
			r.Prefix = w.block()
		}
	case 0, 1:
		r.Group = ec2.GroupRef{ID: pick(w, w.groups[v.ID]...)}
	case 2:
		o := pick(w, w.vpcs...)
		r.Group = ec2.GroupRef{ID: pick(w, w.groups[o.ID]...), Account: o.Account}
	default:
		r.Prefix = w.block()
	}
	return r
}

// block returns a block of addresses of one of the VPCs, of the outside, or of public addresses.
func (w *world) block() netip.Prefix {
	return netip.MustParsePrefix(pick(w, "0.0.0.0/0", "0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/16", "10.1.0.0/24", "10.1.1.0/24", "10.2.0.0/15",
		"10.0.1.0/25", "10.0.0.4/32", "10.1.0.0/29", "203.0.113.0/24", "203.0.113.128/25", "198.18.0.0/16", "198.51.100.7/32"))
}

func (w *world) addRule(v *ec2.VPC) state.Request {
	g := w.group(v)
	return &state.AuthorizeRules{Account: v.Account, Region: v.Region, Group: state.GroupSelector{ID: g.ID},
		Direction: pick(w, ec2.Ingress, ec2.Ingress, ec2.Egress), Rules: []state.RuleSpec{w.rule(v)}}
}

func (w *world) removeRule(v *ec2.VPC) state.Request {
	g := w.group(v)
	if len(g.Rules) == 0 {
		return nil
	}
	r := pick(w, g.Rules...)
	return &state.RevokeRules{Account: v.Account, Region: v.Region, Group: state.GroupSelector{ID: g.ID}, Direction: r.Direction, IDs: []ec2.RuleID{r.ID}}
}

// interfaceIn returns an interface of a VPC.
func (w *world) interfaceIn(v *ec2.VPC) *ec2.Interface {
	for {
		if eni := pick(w, w.interfaces()...); eni.VPC == v.ID {
			return eni
		}
	}
}

func (w *world) regroup(v *ec2.VPC) state.Request {
	eni := w.interfaceIn(v)
	groups := []ec2.GroupID{pick(w, w.groups[v.ID]...)}
	if g := pick(w, w.groups[pick(w, v, v, pick(w, w.vpcs...)).ID]...); g != groups[0] {
		groups = append(groups, g)
	}
	return &state.ModifyNetworkInterface{Account: v.Account, Region: v.Region, Interface: eni.ID, Groups: groups}
}

func (w *world) uncheck(v *ec2.VPC) state.Request {
	eni := w.interfaceIn(v)
	return &state.ModifyNetworkInterface{Account: v.Account, Region: v.Region, Interface: eni.ID, Unchecked: new(w.r.IntN(3) == 0)}
}

func (w *world) subnetIn(v *ec2.VPC) *ec2.Subnet {
	for {
		if s := pick(w, w.subnets...); s.VPC == v.ID {
			now, _ := w.view.Subnet(s.ID)
			return now
		}
	}
}

func (w *world) entry() ec2.ACLEntry {
	e := ec2.ACLEntry{Number: pick(w, 10, 50, 99, 100, 101, 200, 300), Egress: w.r.IntN(2) == 0, Allow: w.r.IntN(2) == 0, CIDR: w.block()}
	switch w.r.IntN(4) {
	case 0, 1:
		from := pick(w, 0, 22, 53, 80, 1024)
		e.Traffic = ec2.ACLTraffic{One: true, Protocol: pick(w, ec2.TCP, ec2.UDP), From: from, To: pick(w, from, 1024, 65535)}
	case 2:
		e.Traffic = ec2.ACLTraffic{One: true, Protocol: ec2.ICMP, From: pick(w, -1, 0, 8), To: -1}
	}
	return e
}

func (w *world) addEntry(v *ec2.VPC) state.Request {
	return &state.CreateACLEntry{Account: v.Account, Region: v.Region, ACL: w.acl(v).ID, Entry: w.entry()}
}

func (w *world) replaceEntry(v *ec2.VPC) state.Request {
	return &state.ReplaceACLEntry{Account: v.Account, Region: v.Region, ACL: w.acl(v).ID, Entry: w.entry()}
}

func (w *world) removeEntry(v *ec2.VPC) state.Request {
	acl := w.acl(v)
	if len(acl.Entries) == 0 {
		return nil
	}
	e := pick(w, acl.Entries...)
	if e.Number == 100 && e.Allow && w.r.IntN(4) > 0 { // so that much is delivered
		return nil
	}
	return &state.DeleteACLEntry{Account: v.Account, Region: v.Region, ACL: acl.ID, Number: e.Number, Egress: e.Egress}
}

// acl returns a network ACL of a VPC.
func (w *world) acl(v *ec2.VPC) *ec2.NetworkACL {
	var all []*ec2.NetworkACL
	for a := range w.view.NetworkACLsOf(v.Account, v.Region) {
		if a.VPC == v.ID {
			all = append(all, a)
		}
	}
	return pick(w, all...)
}

// addACL makes a network ACL, or opens one that has no entries.
func (w *world) addACL(v *ec2.VPC) state.Request {
	if a := w.acl(v); len(a.Entries) < 2 {
		return &state.CreateACLEntry{Account: v.Account, Region: v.Region, ACL: a.ID,
			Entry: ec2.ACLEntry{Number: 100, Egress: w.r.IntN(2) == 0, Allow: true, CIDR: planetest.Everywhere}}
	}
	return &state.CreateNetworkACL{Account: v.Account, Region: v.Region, VPC: v.ID}
}

func (w *world) replaceACL(v *ec2.VPC) state.Request {
	return &state.ReplaceACLAssociation{Account: v.Account, Region: v.Region, Association: w.subnetIn(v).AssociationWithACL(), ACL: w.acl(v).ID}
}

func (w *world) removeACL(v *ec2.VPC) state.Request {
	return &state.DeleteNetworkACL{Account: v.Account, Region: v.Region, ACL: w.acl(v).ID}
}

// table returns a route table of a VPC.
func (w *world) table(v *ec2.VPC) *ec2.RouteTable {
	t, _ := w.view.RouteTable(pick(w, w.tables[v.ID]...))
	return t
}

func (w *world) gateway(v *ec2.VPC) ec2.GatewayID {
	var all []ec2.GatewayID
	for g := range w.view.InternetGatewaysOf(v.Account, v.Region) {
		all = append(all, g.ID)
	}
	return pick(w, all...)
}

func (w *world) removeRoute(v *ec2.VPC) state.Request {
	t := w.table(v)
	if len(t.Routes) == 0 {
		return nil
	}
	r := pick(w, t.Routes...)
	return &state.DeleteRoute{Account: v.Account, Region: v.Region, RouteTable: t.ID, Destination: r.Destination, PrefixList: r.PrefixList}
}

func (w *world) associate(v *ec2.VPC) state.Request {
	return &state.AssociateRouteTable{Account: v.Account, Region: v.Region, RouteTable: w.table(v).ID, Subnet: w.subnetIn(v).ID}
}

func (w *world) disassociate(v *ec2.VPC) state.Request {
	for _, a := range w.table(v).Associations {
		return &state.DisassociateRouteTable{Account: v.Account, Region: v.Region, Association: a.ID}
	}
	return nil
}

func (w *world) detach(v *ec2.VPC) state.Request {
	return &state.DetachInternetGateway{Account: v.Account, Region: v.Region, Gateway: w.gateway(v), VPC: v.ID}
}

func (w *world) attachGateway(v *ec2.VPC) state.Request {
	return &state.AttachInternetGateway{Account: v.Account, Region: v.Region, Gateway: w.gateway(v), VPC: v.ID}
}

// track turns the strict mode of a VPC on or off.
func (w *world) track(v *ec2.VPC) state.Request {
	return &state.SetTracking{Region: planetest.Region, VPC: v.ID, Mode: pick(w, ec2.TrackStrict, ec2.TrackAWS)}
}
