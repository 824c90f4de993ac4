package instance

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"palisade/ec2"
	"palisade/internal/netns"
)

// A NIC describes how the device of an interface is configured in its network namespace.
type NIC struct {
	Device    string         // "eth0"
	MAC       ec2.MAC        // zero: unchanged
	Addresses []netip.Prefix // with the on-link prefix length; the first is the default source address
	Gateway   netip.Addr     // next hop of other destinations; invalid: no route
	MTU       int            // bytes; 0: unchanged. In a foreign namespace it is set once, and is its user's from then on
	// Table is the NIC's own routing table for packets from its addresses, so that replies leave by
	// the interface on which the request arrived. 0: the NIC uses the main table, and its gateway is
	// the default route of the namespace.
	Table int
	// Foreign means that the namespace was not made by Palisade: Configure changes nothing in it but
	// the device and its routes and rules. The NIC gets its own routing table if the namespace has a
	// default route that is not by one of our devices, or if Second is set, because another of our
	// NICs has the default route. It has one as well if Several is set, because the namespace has
	// another of our NICs.
	Foreign, Second, Several bool
	// Reach has the prefixes that are reached by a Foreign NIC which does not have the default route:
	// the subnet, and others by the gateway.
	Reach []netip.Prefix
	// Alias marks the device in a foreign namespace as a device of Palisade; see AliasOf. "": no
	// alias.
	Alias string

	rulesTo int // the table to which routing rules lead, for packets from the NIC's addresses; 0: none. Set by settle
}

// TableOf returns the number of the routing table for the NIC with this device index, as in Amazon
// Linux: 10000 + index. For the first NIC it returns 0, the main table.
func TableOf(index int) int {
	if index == 0 {
		return 0
	}
	return 10000 + index
}

// Configure configures the device in the namespace as n says, and brings it up. It changes only what
// differs from n, so it can be called again after any change of n. It does not change offloads, which
// the switch sets at its side of the device.
func Configure(namespace string, n NIC) error {
	if err := netns.Do(namespace, n.configure); err != nil {
		return fmt.Errorf("configure %s in namespace %q: %w", n.Device, namespace, err)
	}
	return nil
}

// Unplug removes the device and its routing rules. It returns nil if the device or the namespace does
// not exist.
func Unplug(namespace string, n NIC) error {
	if namespace != "" && !netns.Exists(namespace) {
		return nil
	}
	n.rulesTo = n.Table
	err := netns.Do(namespace, func() error {
		link, err := netlink.LinkByName(n.Device)
		if _, none := errors.AsType[netlink.LinkNotFoundError](err); none {
			return n.setRules(nil)
		}
		if err != nil {
			return err
		}
		if n.Foreign {
			n.rulesTo = foreignTable(link)
		}
		return errors.Join(n.setRules(nil), netlink.LinkDel(link)) // with the device, the kernel removes its addresses and routes
	})
	if err != nil {
		return fmt.Errorf("unplug %s from namespace %q: %w", n.Device, namespace, err)
	}
	return nil
}

// AliasOf returns the alias that marks the device of the interface eni in a foreign namespace. prefix
// is the prefix of the namespaces of the node's lab, or "" if the node is not in a lab.
func AliasOf(eni, prefix string) string {
	if prefix == "" {
		return eni
	}
	return eni + " of " + prefix
}

// ourAlias is the prefix of the aliases that AliasOf returns.
const ourAlias = "eni-"

// Devices returns the names of the devices in a namespace.
func Devices(namespace string) ([]string, error) {
	var names []string
	err := netns.Do(namespace, func() error {
		links, err := netns.Dump(netlink.LinkList)
		for _, l := range links {
			names = append(names, l.Attrs().Name)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the devices in namespace %q: %w", namespace, err)
	}
	return names, nil
}

func (n NIC) configure() error {
	link, err := netlink.LinkByName(n.Device)
	if err != nil {
		return fmt.Errorf("find the device: %w", err)
	}
	if n.Alias != "" && link.Attrs().Alias != n.Alias {
		if err := netlink.LinkSetAlias(link, n.Alias); err != nil {
			return fmt.Errorf("set alias %q: %w", n.Alias, err)
		}
	}
	if err := n.settle(link); err != nil {
		return err
	}
	if n.MAC != (ec2.MAC{}) && link.Attrs().HardwareAddr.String() != n.MAC.String() {
		if err := netlink.LinkSetDown(link); err != nil {
			return fmt.Errorf("set the device down: %w", err)
		}
		if err := netlink.LinkSetHardwareAddr(link, net.HardwareAddr(n.MAC[:])); err != nil {
			return fmt.Errorf("set MAC %v: %w", n.MAC, err)
		}
	}
	known := n.Foreign && n.Alias != "" && link.Attrs().Alias == n.Alias
	if n.MTU > 0 && link.Attrs().MTU != n.MTU && !known {
		if err := netlink.LinkSetMTU(link, n.MTU); err != nil {
			return fmt.Errorf("set MTU %d: %w", n.MTU, err)
		}
	}
	if err := n.setAddresses(link); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set the device up: %w", err)
	}
	return n.setRoutes(link)
}

// setAddresses sets the NIC's addresses and removes all others from the device, because an instance
// must not keep its old address after a stop and start.
func (n NIC) setAddresses(link netlink.Link) error {
	have, err := netns.Dump(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	flags := 0
	if n.Table != 0 {
		// The kernel must not add the on-link route to the main table, so that the route is only in
		// the NIC's own table. In the main table it would make packets from another interface's
		// address leave by this interface, and the switch drops them as forged.
		flags = unix.IFA_F_NOPREFIXROUTE
	}
	for _, a := range have {
		wanted := slices.ContainsFunc(n.Addresses, func(want netip.Prefix) bool { return ipNet(want).String() == a.IPNet.String() })
		if wanted && a.Flags&unix.IFA_F_NOPREFIXROUTE == flags {
			continue
		}
		if err := netlink.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) { // not available: the kernel has removed it together with its primary address
			return fmt.Errorf("remove address %v: %w", a.IPNet, err)
		}
	}
	for _, want := range n.Addresses {
		if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: ipNet(want), Flags: flags}); err != nil {
			return fmt.Errorf("set address %v: %w", want, err)
		}
	}
	return nil
}

func (n NIC) setRoutes(link netlink.Link) error {
	if !n.Gateway.IsValid() {
		return nil
	}
	index := link.Attrs().Index
	// The gateway is set as on-link although no prefix of the device contains it, because in
	// EC2-Classic one gateway serves every address pool.
	routes := []*netlink.Route{{LinkIndex: index, Gw: n.Gateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK), Table: n.Table}}
	if n.Table != 0 {
		on := ipNet(n.Addresses[0].Masked())
		local := &netlink.Route{LinkIndex: index, Dst: on, Scope: netlink.SCOPE_LINK, Src: n.Addresses[0].Addr().AsSlice(), Table: n.Table}
		routes = append([]*netlink.Route{local}, routes...)
	}
	if n.Foreign {
		more, err := n.foreignRoutes(link)
		if err != nil {
			return err
		}
		if err := n.removeOldRoutes(link, more); err != nil {
			return err
		}
		routes = append(routes, more...)
	}
	for _, r := range routes {
		if err := netlink.RouteReplace(r); err != nil {
			return fmt.Errorf("set route %v: %w", r, err)
		}
	}
	if n.rulesTo == 0 {
		return nil
	}
	// With arp_announce 2 an ARP request has a source address of this interface. The switch would
	// drop a request with the address of another interface as forged.
	if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+n.Device+"/arp_announce", []byte("2"), 0); err != nil {
		return fmt.Errorf("set arp_announce: %w", err)
	}
	return n.setRules(n.Addresses)
}

// setRules sets the routing rules that lead to the NIC's own table, rulesTo: one for each of the addresses in
// want, and no others.
func (n NIC) setRules(want []netip.Prefix) error {
	if n.rulesTo == 0 {
		return nil
	}
	have, err := netns.Dump(func() ([]netlink.Rule, error) { return netlink.RuleList(netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("list routing rules: %w", err)
	}
	present := map[netip.Addr]bool{}
	for _, r := range have {
		if r.Table != n.rulesTo {
			continue
		}
		if r.Src != nil {
			a, _ := netip.AddrFromSlice(r.Src.IP.To4())
			if slices.ContainsFunc(want, func(p netip.Prefix) bool { return p.Addr() == a }) {
				present[a] = true
				continue
			}
		}
		if err := netlink.RuleDel(&r); err != nil {
			return fmt.Errorf("remove routing rule %v: %w", r, err)
		}
	}
	for _, p := range want {
		if present[p.Addr()] {
			continue
		}
		rule := netlink.NewRule()
		rule.Family, rule.Table, rule.Priority, rule.Src = netlink.FAMILY_V4, n.rulesTo, n.rulesTo, ipNet(netip.PrefixFrom(p.Addr(), 32))
		if err := netlink.RuleAdd(rule); err != nil {
			return fmt.Errorf("add routing rule %v: %w", rule, err)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
