package lab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"github.com/vishvananda/netlink"
	vishnetns "github.com/vishvananda/netns"

	"palisade/internal/netns"
)

// The hosts of a lab, apart from its nodes. Each is a network namespace.
const (
	internetHost = "internet" // the router; its bridge of the same name is the segment with the uplinks
	underlayHost = "underlay" // the switch between the nodes
	laptopHost   = "laptop"
	strangerHost = "stranger"
)

// The addresses of the hosts behind the router, as in the examples of the EC2 guide.
const (
	LaptopAddress   = "203.0.113.25"
	StrangerAddress = "198.51.100.7"
)

// gatewayMAC is the MAC of the router on the segment. Every uplink sends its frames to it.
const gatewayMAC = "02:00:00:00:00:01"

// publicPool has the public addresses of instances. The router routes it to the segment without NAT, and
// 2001:db8::/32 too.
const publicPool = "198.18.0.0/16"

// outsiders are the machines behind the router. Each has a network of its own.
var outsiders = []struct{ host, address, router string }{
	{laptopHost, LaptopAddress + "/24", "203.0.113.1/24"},
	{strangerHost, StrangerAddress + "/24", "198.51.100.1/24"},
}

func underlayAddress(index int) string { return fmt.Sprintf("192.0.2.%d", 11+index) }

// The TCP and UDP ports on which a node listens on the underlay.
const (
	peerPort   = 7400
	gossipPort = peerPort + 1
)

func peerAddress(index int) string {
	return net.JoinHostPort(underlayAddress(index), strconv.Itoa(peerPort))
}

// hosts returns the names of all namespaces except those of instances.
func (l *Lab) hosts() []string {
	return append([]string{internetHost, underlayHost, laptopHost, strangerHost}, l.Nodes...)
}

// build makes the namespaces and the veth pairs between them. All devices are made inside the lab's
// namespaces, so that the kernel removes them with the namespaces.
func (l *Lab) build() error {
	for _, host := range l.hosts() {
		if err := netns.New(l.namespace(host)); err != nil {
			return err
		}
		if err := netns.Do(l.namespace(host), func() error { return configureHost(host) }); err != nil {
			return fmt.Errorf("configure %s: %w", l.namespace(host), err)
		}
	}
	if err := netns.Do(l.namespace(internetHost), buildRouter); err != nil {
		return fmt.Errorf("configure %s: %w", l.namespace(internetHost), err)
	}
	for _, o := range outsiders {
		if err := l.wire(end{internetHost, o.host, o.router, 0}, end{o.host, "eth0", o.address, 0}); err != nil {
			return err
		}
		gateway, _, _ := net.ParseCIDR(o.router)
		err := netns.Do(l.namespace(o.host), func() error { return netlink.RouteAdd(&netlink.Route{Gw: gateway}) })
		if err != nil {
			return fmt.Errorf("route of %s: %w", o.host, err)
		}
	}
	if err := netns.Do(l.namespace(underlayHost), func() error { return addBridge(underlayHost, nil) }); err != nil {
		return fmt.Errorf("configure %s: %w", l.namespace(underlayHost), err)
	}
	for i, node := range l.Nodes {
		if err := l.wire(end{underlayHost, node, "", l.UnderlayMTU}, end{node, "underlay", underlayAddress(i) + "/24", l.UnderlayMTU}); err != nil {
			return err
		}
	}
	return nil
}

// configureHost configures the current network namespace, the one of host. Only the router has IPv6. Other
// hosts do not need it, and with it they would send announcements.
func configureHost(host string) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	if host != internetHost {
		return setting("net/ipv6/conf/default/disable_ipv6", "1")
	}
	return errors.Join(
		setting("net/ipv4/ip_forward", "1"),
		setting("net/ipv6/conf/all/forwarding", "1"))
}

// setting writes a kernel setting of the current network namespace. It does nothing if the setting does not
// exist: a machine without IPv6 lacks some settings.
func setting(name, value string) error {
	err := os.WriteFile("/proc/sys/"+name, []byte(value), 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// buildRouter makes the router's bridge and gives it its addresses. It runs inside the router's namespace.
func buildRouter() error {
	mac, err := net.ParseMAC(gatewayMAC)
	if err != nil {
		return err
	}
	if err := addBridge(internetHost, mac); err != nil {
		return err
	}
	bridge, err := netlink.LinkByName(internetHost)
	if err != nil {
		return err
	}
	return errors.Join(addAddress(bridge, "198.18.0.1/16"), addAddress(bridge, "2001:db8::1/32"))
}

// addBridge makes a bridge, without multicast snooping, and sets it up.
func addBridge(name string, mac net.HardwareAddr) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = name, mac
	snooping := false
	bridge := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
	if err := netlink.LinkAdd(bridge); err != nil {
		return fmt.Errorf("add bridge %s: %w", name, err)
	}
	return netlink.LinkSetUp(bridge)
}

// An end is one end of a veth pair: a device with this name in the namespace of host. An end without an
// address is a port of the bridge of its host. An MTU of 0 is that of Ethernet.
type end struct {
	host, name, address string
	mtu                 int
}

// wire connects two namespaces by a veth pair.
func (l *Lab) wire(a, b end) error {
	err := netns.Do(l.namespace(a.host), func() error {
		peer, err := vishnetns.GetFromPath(netns.Path(l.namespace(b.host)))
		if err != nil {
			return err
		}
		defer peer.Close()
		attrs := netlink.NewLinkAttrs()
		attrs.Name = a.name
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: b.name, PeerNamespace: netlink.NsFd(peer)}
		return netlink.LinkAdd(veth)
	})
	if err != nil {
		return fmt.Errorf("wire %s to %s: %w", a.host, b.host, err)
	}
	for _, e := range []end{a, b} {
		if err := netns.Do(l.namespace(e.host), e.plug); err != nil {
			return fmt.Errorf("wire %s to %s: %w", a.host, b.host, err)
		}
	}
	return nil
}

// plug gives the device its address, or makes it a port of the bridge, and sets it up. It runs inside the
// namespace of the end.
func (e end) plug() error {
	link, err := netlink.LinkByName(e.name)
	if err != nil {
		return err
	}
	if e.mtu != 0 {
		if err := netlink.LinkSetMTU(link, e.mtu); err != nil {
			return fmt.Errorf("set MTU %d of %s: %w", e.mtu, e.name, err)
		}
	}
	if e.address != "" {
		err = addAddress(link, e.address)
	} else {
		var bridge netlink.Link
		if bridge, err = netlink.LinkByName(e.host); err == nil {
			err = netlink.LinkSetMaster(link, bridge)
		}
	}
	return errors.Join(err, netlink.LinkSetUp(link))
}

func addAddress(link netlink.Link, address string) error {
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	if addr.IP.To4() == nil {
		addr.Flags = 0x02 // IFA_F_NODAD: usable at once; no other host has this address
	}
	return netlink.AddrAdd(link, addr)
}
