package control

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/verdict"
	vswitch "palisade/switch"
)

// reason returns which entry of a network ACL denies a packet, or what is missing if a packet has no route: a route of
// a subnet, a public address, or an owner of the destination. It returns "" for other verdicts.
func reason(view *state.View, result vswitch.Trace) string {
	switch {
	case result.Verdict == verdict.ACLDenied:
		return deniedBy(view, result)
	case result.Verdict == verdict.NotRouted && result.Unrouted != nil:
		return noRoute(view, result.Unrouted)
	case result.Verdict != verdict.NoRoute:
		return ""
	case result.NoPublic != nil:
		return whoIs(view, result.NoPublic) + " has no public address, so it reaches nothing outside of its network"
	case result.Absent != nil:
		return absent(view, ec2.VNI(result.Absent.Network), result.Absent.Address)
	}
	return nowhere(view, result.Flow.Dst)
}

// noRoute says which subnet has no route to a remote address, and why. That the interface there has no public address is
// worth a word only if no route leads anywhere.
func noRoute(view *state.View, u *vswitch.Unrouted) string {
	s, ok := subnetRouting(view, &u.Routed)
	if !ok {
		return ""
	}
	why := whyUnrouted(view, s, u)
	if _, best := routeOf(view, s, u.Remote); best != nil && best.Gateway == "" {
		return fmt.Sprintf("%s: its subnet's route leads nowhere: %s", whoIs(view, u.Endpoint), why)
	}
	text := whoIs(view, u.Endpoint) + ": its subnet has no route to a gateway: " + why
	if !slices.ContainsFunc(append(u.Endpoint.Further, vswitch.Pair{Public: u.Endpoint.Public}), func(p vswitch.Pair) bool { return p.Public.IsValid() }) {
		text += "; and it has no public address"
	}
	return text
}

// absent says that no interface of a network has an address, and which interfaces of other networks have it.
func absent(view *state.View, vni ec2.VNI, address netip.Addr) string {
	where := "EC2-Classic"
	if n, ok := view.Network(vni); ok && n.VPC != "" {
		where = string(n.VPC)
	}
	text := fmt.Sprintf("no interface in %s has %s", where, address)
	var others []string
	for eni := range view.Interfaces() {
		if !slices.ContainsFunc(eni.Addresses(), func(p ec2.AddressPair) bool { return p.Private == address }) {
			continue
		}
		switch {
		case eni.VNI != vni:
			others = append(others, describe(view, eni))
		case eni.State == ec2.Active:
			return fmt.Sprintf("%s has %s, but its node %s reports it down", eni.ID, address, eni.Node)
		default:
			return fmt.Sprintf("%s has %s, but is not attached to a running instance or a device", eni.ID, address)
		}
	}
	if len(others) > 0 {
		text += fmt.Sprintf("; networks reach each other by public addresses alone, and it is the address of %s", strings.Join(others[:min(len(others), maxCandidates)], "; "))
	}
	return text
}

// nowhere says why a packet to an address outside of the sender's network goes nowhere.
func nowhere(view *state.View, address netip.Addr) string {
	for eni := range view.Interfaces() {
		for _, p := range eni.Addresses() {
			switch {
			case p.Public == address:
				return fmt.Sprintf("%s has %s, but has no port: it is not attached to something that runs, or its node reports it down", eni.ID, address)
			case p.Private == address && !p.Public.IsValid():
				return fmt.Sprintf("%s is the private address of %s, which has no public address", address, eni.ID)
			case p.Private == address:
				return fmt.Sprintf("%s is the private address of %s; outside of its network it is reached by its public address %s", address, eni.ID, p.Public)
			}
		}
	}
	return fmt.Sprintf("no interface has %s as its public address, and it is not outside of the cluster", address)
}

// whoIs returns the instance of an endpoint, or its interface if it is none's first.
func whoIs(view *state.View, e *vswitch.Endpoint) string {
	eni, ok := interfaceOf(view, e)
	switch {
	case !ok:
		return e.Address.String()
	case isPrimary(eni):
		return string(eni.Instance)
	}
	return string(eni.ID)
}
