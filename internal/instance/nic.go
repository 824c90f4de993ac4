package instance

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"palisade/ec2"
	"palisade/internal/netns"
)

// A NIC is an interface as the kernel in the namespace behind it knows it.
type NIC struct {
	Device    string         // "eth0"
	MAC       ec2.MAC        // zero leaves the device's own
	Addresses []netip.Prefix // with the length of what is on-link; the first is the default source
	Gateway   netip.Addr     // next hop of what is not on-link; invalid means no route
	MTU       int            // bytes; 0 leaves the device's own
	// Table is a routing table of the NIC's own, which what is sent from its addresses goes
	// by: so that replies leave by the interface that the question came in by. 0: its
	// gateway is the namespace's default route.
	Table int
	// Foreign: the namespace is somebody else's, and is left alone but for the device. The
	// NIC has a table of its own where somebody else has set the default route, and where
	// Second says that another NIC of ours is to have it.
	Foreign, Second bool
	// Alias marks the device as one of ours; see Foreign.
	Alias string
}

// TableOf is the routing table of the NIC with that device index, as Amazon Linux numbers
// them. The first one has the main table.
func TableOf(index int) int {
	if index == 0 {
		return 0
	}
	return 10000 + index
}

// Configure makes the device in the namespace what n says, and brings it up. What is so
// already is left alone, so it may be called again after any change. Offloads are left as
// the switch's side of the device decided them.
func Configure(namespace string, n NIC) error {
	if err := netns.Do(namespace, n.configure); err != nil {
		return fmt.Errorf("configure %s in namespace %q: %w", n.Device, namespace, err)
	}
	return nil
}

// Unplug removes the device, and what Configure made for it besides. One that is gone, or
// whose namespace is, is no error.
func Unplug(namespace string, n NIC) error {
	if namespace != "" && !netns.Exists(namespace) {
		return nil
	}
	err := netns.Do(namespace, func() error {
		link, err := netlink.LinkByName(n.Device)
		if _, none := errors.AsType[netlink.LinkNotFoundError](err); none {
			return n.setRules(nil)
		}
		if err != nil {
			return err
		}
		if n.Foreign {
			n.Table = foreignTable(link)
		}
		return errors.Join(n.setRules(nil), netlink.LinkDel(link)) // its addresses and routes go with it
	})
	if err != nil {
		return fmt.Errorf("unplug %s from namespace %q: %w", n.Device, namespace, err)
	}
	return nil
}

// foreignTable is a table that no other NIC of the namespace has.
func foreignTable(link netlink.Link) int { return 11000 + link.Attrs().Index }

// settle finds out which table a NIC of a foreign namespace goes by, and keeps the device
// quiet: the kernel would announce itself by IPv6, which the switch counts as drops.
func (n *NIC) settle(link netlink.Link) error {
	if !n.Foreign {
		return nil
	}
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+n.Device+"/disable_ipv6", []byte("1"), 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("disable IPv6: %w", err)
	}
	n.Table = foreignTable(link)
	if n.Second {
		return nil
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst != nil && r.Dst.String() != "0.0.0.0/0" {
			continue
		}
		if by, err := netlink.LinkByIndex(r.LinkIndex); err != nil || !strings.HasPrefix(by.Attrs().Alias, ourAlias) {
			return err // somebody else's
		}
	}
	if err := n.setRules(nil); err != nil { // it may have been second until now
		return err
	}
	n.Table = 0
	return nil
}

// AliasOf is the alias of a device that is an interface's in a foreign namespace. prefix is
// that of the namespaces of the lab that its node is in; "" is none.
func AliasOf(eni, prefix string) string {
	if prefix == "" {
		return eni
	}
	return eni + " of " + prefix
}

// ourAlias begins every such alias.
const ourAlias = "eni-"

// Devices are the names of the devices in a namespace.
func Devices(namespace string) ([]string, error) {
	var names []string
	err := netns.Do(namespace, func() error {
		links, err := netlink.LinkList()
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
		return fmt.Errorf("find it: %w", err)
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
			return fmt.Errorf("set it down: %w", err)
		}
		if err := netlink.LinkSetHardwareAddr(link, net.HardwareAddr(n.MAC[:])); err != nil {
			return fmt.Errorf("set MAC %v: %w", n.MAC, err)
		}
	}
	if n.MTU > 0 && link.Attrs().MTU != n.MTU {
		if err := netlink.LinkSetMTU(link, n.MTU); err != nil {
			return fmt.Errorf("set MTU %d: %w", n.MTU, err)
		}
	}
	if err := n.setAddresses(link); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set it up: %w", err)
	}
	return n.setRoutes(link)
}

// setAddresses makes the NIC's addresses the only ones of the device: a stopped and started
// instance must not keep its old one.
func (n NIC) setAddresses(link netlink.Link) error {
	have, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	flags := 0
	if n.Table != 0 {
		// Its link is in its own table only: through the main one, what is from another
		// interface's address would leave by this one, and be dropped as forged.
		flags = unix.IFA_F_NOPREFIXROUTE
	}
	for _, a := range have {
		wanted := slices.ContainsFunc(n.Addresses, func(want netip.Prefix) bool { return ipNet(want).String() == a.IPNet.String() })
		if wanted && a.Flags&unix.IFA_F_NOPREFIXROUTE == flags {
			continue
		}
		if err := netlink.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) { // went with its primary
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
	// On-link by flag: in EC2-Classic one gateway serves every pool.
	routes := []*netlink.Route{{LinkIndex: index, Gw: n.Gateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK), Table: n.Table}}
	if n.Table != 0 {
		on := ipNet(n.Addresses[0].Masked())
		local := &netlink.Route{LinkIndex: index, Dst: on, Scope: netlink.SCOPE_LINK, Src: n.Addresses[0].Addr().AsSlice(), Table: n.Table}
		routes = append([]*netlink.Route{local}, routes...)
	}
	for _, r := range routes {
		if err := netlink.RouteReplace(r); err != nil {
			return fmt.Errorf("set route %v: %w", r, err)
		}
	}
	if n.Table == 0 {
		return nil
	}
	// An ARP request must not carry the address of another interface, which the switch
	// would drop as forged.
	if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+n.Device+"/arp_announce", []byte("2"), 0); err != nil {
		return fmt.Errorf("set arp_announce: %w", err)
	}
	return n.setRules(n.Addresses)
}

// setRules makes the rules that lead to the NIC's own table those of these addresses.
func (n NIC) setRules(want []netip.Prefix) error {
	if n.Table == 0 {
		return nil
	}
	have, err := netlink.RuleList(netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list routing rules: %w", err)
	}
	there := map[netip.Addr]bool{}
	for _, r := range have {
		if r.Table != n.Table {
			continue
		}
		if r.Src != nil {
			a, _ := netip.AddrFromSlice(r.Src.IP.To4())
			if slices.ContainsFunc(want, func(p netip.Prefix) bool { return p.Addr() == a }) {
				there[a] = true
				continue
			}
		}
		if err := netlink.RuleDel(&r); err != nil {
			return fmt.Errorf("remove routing rule %v: %w", r, err)
		}
	}
	for _, p := range want {
		if there[p.Addr()] {
			continue
		}
		rule := netlink.NewRule()
		rule.Family, rule.Table, rule.Priority, rule.Src = netlink.FAMILY_V4, n.Table, n.Table, ipNet(netip.PrefixFrom(p.Addr(), 32))
		if err := netlink.RuleAdd(rule); err != nil {
			return fmt.Errorf("add routing rule %v: %w", rule, err)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
