package oracle

import (
	"net/netip"
	"slices"

	"palisade/ec2"
	"palisade/ec2/state"
)

// destinationBlock returns a destination of routes: addresses of the outside, of VPCs or of subnets.
func (w *world) destinationBlock() netip.Prefix {
	return netip.MustParsePrefix(pick(w, "0.0.0.0/0", "0.0.0.0/0", "203.0.113.0/24", "203.0.113.128/25", "198.18.0.0/16", "198.51.100.0/24", "10.0.0.0/8",
		"10.0.0.0/16", "10.1.0.0/16", "10.2.0.0/16", "10.0.1.0/24", "10.1.0.0/24", "10.2.1.0/24", "10.1.0.0/25"))
}

// addRoute makes a route to an internet gateway, a peering or an interface.
func (w *world) addRoute(v *ec2.VPC) state.Request {
	t := w.table(v)
	r := &state.CreateRoute{Account: v.Account, Region: v.Region, RouteTable: t.ID, Destination: w.destinationBlock()}
	switch w.r.IntN(6) {
	case 0, 1, 2:
		if p := w.peering(v); p != nil {
			_, other, _ := p.Side(v.ID)
			peer, _ := w.view.VPC(other.VPC)
			r.Peering, r.Destination = p.ID, pick(w, peer.CIDR, peer.CIDR, r.Destination)
			break
		}
		fallthrough
	case 3, 4:
		r.Gateway = w.gateway(v)
	default:
		r.Interface = w.interfaceIn(v).ID
	}
	// AWS does not say which of two lists with the same block decides, so a table has one.
	hasList := slices.ContainsFunc(t.Routes, func(r ec2.Route) bool { return r.PrefixList != "" })
	if list := w.listOf(v); list != "" && !hasList && w.r.IntN(3) == 0 {
		r.Destination, r.PrefixList = netip.Prefix{}, list
	}
	return r
}

// replaceRoute changes the target of a route. Only a route to an interface can take the place of the local route.
func (w *world) replaceRoute(v *ec2.VPC) state.Request {
	t := w.table(v)
	r := &state.ReplaceRoute{Account: v.Account, Region: v.Region, RouteTable: t.ID, Destination: v.CIDR}
	if len(t.Routes) > 0 && w.r.IntN(3) > 0 {
		old := pick(w, t.Routes...)
		r.Destination, r.PrefixList = old.Destination, old.PrefixList
	}
	switch {
	case r.Destination == v.CIDR && w.r.IntN(3) > 0:
		r.Local = true
	case w.r.IntN(2) == 0:
		r.Gateway = w.gateway(v)
	default:
		r.Interface = w.interfaceIn(v).ID
	}
	return r
}
