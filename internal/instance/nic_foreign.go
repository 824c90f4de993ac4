package instance

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"palisade/internal/netns"
)

// foreignTable returns the number of a routing table that no other NIC of the namespace has. It is also the
// metric of the NIC's routes in the main table, so that they never replace a route of the namespace.
func foreignTable(link netlink.Link) int { return 11000 + link.Attrs().Index }

// settle chooses the routing tables of a NIC in a foreign namespace. It also disables IPv6 on the
// device, because the kernel would send announcements, which the switch counts as drops.
func (n *NIC) settle(link netlink.Link) error {
	n.rulesTo = n.Table
	if !n.Foreign {
		return nil
	}
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+n.Device+"/disable_ipv6", []byte("1"), 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("disable IPv6: %w", err)
	}
	own := foreignTable(link)
	n.Table, n.rulesTo = own, own
	if n.Second {
		return nil
	}
	others, err := n.routesOfOthers()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(others, func(p netip.Prefix) bool { return p.Bits() == 0 }) {
		return nil // the default route is not by one of our devices, so the NIC keeps its own table
	}
	n.Table = 0
	if n.Several { // answers from its addresses must not leave by the device of another NIC, in whose subnet the peer is
		return nil
	}
	if err := n.setRules(nil); err != nil { // the NIC may have had its own table until now
		return err
	}
	n.rulesTo = 0
	return nil
}

// routesOfOthers returns the destinations of those routes of the main table that are not by a device of this
// node or lab.
func (n *NIC) routesOfOthers() ([]netip.Prefix, error) {
	routes, err := netns.Dump(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var all []netip.Prefix
	for _, r := range routes {
		if by, err := netlink.LinkByIndex(r.LinkIndex); err == nil && n.isOurs(by.Attrs().Alias) {
			continue
		}
		if p, ok := destination(r); ok {
			all = append(all, p)
		}
	}
	return all, nil
}

// isOurs reports whether a device with this alias is of the same node or lab as the NIC.
func (n *NIC) isOurs(alias string) bool {
	_, ofNIC, _ := strings.Cut(n.Alias, " of ")
	_, of, _ := strings.Cut(alias, " of ")
	return strings.HasPrefix(alias, ourAlias) && of == ofNIC
}

// destination returns the prefix of the addresses that a route leads to.
func destination(r netlink.Route) (netip.Prefix, bool) {
	if r.Dst == nil {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0), true
	}
	a, ok := netip.AddrFromSlice(r.Dst.IP.To4())
	ones, _ := r.Dst.Mask.Size()
	return netip.PrefixFrom(a, ones), ok
}

// reachable returns which of the prefixes in Reach the NIC leads to. A prefix that a route of the namespace
// contains stays with that route: attaching an interface takes nothing away from the networks that the namespace
// has already. conflicts says which routes remain as they are.
func (n *NIC) reachable() (reach []netip.Prefix, conflicts []string, err error) {
	others, err := n.routesOfOthers()
	if err != nil {
		return nil, nil, err
	}
	for _, p := range n.Reach {
		taken := false
		for _, o := range others {
			switch {
			case !o.Overlaps(p) || o.Bits() <= 1: // two halves are a default route, as VPN clients set it
			case o.Bits() <= p.Bits():
				taken = true
				conflicts = append(conflicts, fmt.Sprintf("%s is not reached by %s: the namespace has a route of its own to %s", p, n.Device, o))
			default:
				conflicts = append(conflicts, fmt.Sprintf("%s is reached by %s without %s, to which the namespace has a route of its own", p, n.Device, o))
			}
		}
		if !taken {
			reach = append(reach, p)
		}
	}
	return reach, conflicts, nil
}

// Conflicts says which of the prefixes in n.Reach overlap with routes that the foreign namespace has of its own.
// Those routes stay in force.
func Conflicts(namespace string, n NIC) (conflicts []string, err error) {
	err = netns.Do(namespace, func() error {
		link, err := netlink.LinkByName(n.Device)
		if err != nil {
			return err
		}
		if err := n.settle(link); err != nil || n.Table == 0 {
			return err // with the default route, the NIC needs no others
		}
		_, conflicts, err = n.reachable()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("compare the routes of %s in namespace %q: %w", n.Device, namespace, err)
	}
	return conflicts, nil
}

// foreignRoutes returns the routes of a NIC in a foreign namespace besides those of its Table: to the prefixes in
// Reach if another device has the default route, and those of the table to which its rules lead.
func (n *NIC) foreignRoutes(link netlink.Link) ([]*netlink.Route, error) {
	index, source, subnet := link.Attrs().Index, n.Addresses[0].Addr().AsSlice(), n.Addresses[0].Masked()
	if n.Table == 0 {
		if n.rulesTo == 0 {
			return nil, nil
		}
		return []*netlink.Route{
			{LinkIndex: index, Dst: ipNet(subnet), Scope: netlink.SCOPE_LINK, Src: source, Table: n.rulesTo},
			{LinkIndex: index, Gw: n.Gateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK), Table: n.rulesTo},
		}, nil
	}
	reach, _, err := n.reachable()
	var routes []*netlink.Route
	for _, p := range reach {
		r := &netlink.Route{LinkIndex: index, Dst: ipNet(p), Src: source, Priority: foreignTable(link)}
		if p == subnet {
			r.Scope = netlink.SCOPE_LINK
		} else {
			r.Gw, r.Flags = n.Gateway.AsSlice(), int(netlink.FLAG_ONLINK)
		}
		routes = append(routes, r)
	}
	return routes, err
}

// removeOldRoutes removes the NIC's routes from the main table that are not in want.
func (n *NIC) removeOldRoutes(link netlink.Link, want []*netlink.Route) error {
	have, err := netns.Dump(func() ([]netlink.Route, error) { return netlink.RouteList(link, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range have {
		if r.Priority != foreignTable(link) {
			continue
		}
		old, _ := destination(r)
		wanted := func(w *netlink.Route) bool {
			p, _ := destination(*w)
			return w.Table == 0 && w.Priority == r.Priority && p == old
		}
		if slices.ContainsFunc(want, wanted) {
			continue
		}
		if err := netlink.RouteDel(&r); err != nil {
			return fmt.Errorf("remove route %v: %w", r, err)
		}
	}
	return nil
}
