package oracle

import (
	"net/netip"

	"palisade/ec2"
	"palisade/ec2/state"
)

// destinationBlock returns a destination of routes: addresses of the outside, of VPCs or of subnets.
func (w *world) destinationBlock() netip.Prefix {
	return netip.MustParsePrefix(pick(w, "0.0.0.0/0", "0.0.0.0/0", "203.0.113.0/24", "203.0.113.128/25", "198.18.0.0/16", "198.51.100.0/24", "10.0.0.0/8",
		"10.0.0.0/16", "10.1.0.0/16", "10.2.0.0/16", "10.0.1.0/24", "10.1.0.0/24", "10.2.1.0/24", "10.1.0.0/25"))
}

// addRoute makes a route to an internet gateway.
func (w *world) addRoute(v *ec2.VPC) state.Request {
	return &state.CreateRoute{Account: v.Account, Region: v.Region, RouteTable: w.table(v).ID, Destination: w.destinationBlock(), Gateway: w.gateway(v)}
}

// replaceRoute changes the target of a route.
func (w *world) replaceRoute(v *ec2.VPC) state.Request {
	return &state.ReplaceRoute{Account: v.Account, Region: v.Region, RouteTable: w.table(v).ID, Destination: w.destinationBlock(), Gateway: w.gateway(v)}
}
