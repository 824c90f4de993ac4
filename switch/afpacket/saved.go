package afpacket

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"palisade/internal/netns"
)

// A savedState is the state of a device before it was taken. It is written into the device's alias,
// which moves with the device.
type savedState struct {
	owner     string
	up        bool
	ipv6      string // value of disable_ipv6; "" without IPv6
	addresses string // link-local ones that the kernel does not make itself; formatAddress, separated by commas
	alias     string
}

const aliasPrefix = "palisade "

// String returns the alias that the device has while it is taken.
func (f savedState) String() string {
	return fmt.Sprintf("%s%s up=%t ipv6=%s addr=%s was=%s", aliasPrefix, f.owner, f.up, f.ipv6, f.addresses, f.alias)
}

// parseAlias reads the alias of a device that was taken. Daemons that left the device in the host's
// namespace wrote no addresses.
func parseAlias(alias string) (f savedState, ok bool) {
	rest, ok := strings.CutPrefix(alias, aliasPrefix)
	if !ok {
		return f, false
	}
	rest, f.alias, ok = strings.Cut(rest, " was=")
	if !ok {
		return f, false
	}
	f.owner, rest, ok = strings.Cut(rest, " up=")
	for i, field := range strings.Split(rest, " ") {
		key, value, _ := strings.Cut(field, "=")
		switch {
		case i == 0:
			f.up = field == "true"
		case key == "ipv6":
			f.ipv6 = value
		case key == "addr":
			f.addresses = value
		}
	}
	return f, ok
}

func inUse(device, owner string) error {
	return fmt.Errorf("device %s is in use: it belongs to %s", device, owner)
}

// check returns the state of a device before owner took it, or its state now if nobody has taken
// it. It fails if the device has another use, or has settings that would be lost.
func check(link netlink.Link, owner string) (savedState, error) {
	a := link.Attrs()
	if f, taken := parseAlias(a.Alias); taken {
		if f.owner != owner {
			return f, inUse(a.Name, f.owner)
		}
		return f, nil
	}
	if kind := link.Type(); !isTAP(link) && kind != "veth" || a.EncapType != "ether" {
		return savedState{}, fmt.Errorf("device %s is neither a TAP nor a veth: it is a %s of type %s", a.Name, a.EncapType, kind)
	}
	if a.MasterIndex != 0 {
		master := fmt.Sprint(a.MasterIndex)
		if m, err := netlink.LinkByIndex(a.MasterIndex); err == nil {
			master = m.Attrs().Name
		}
		return savedState{}, fmt.Errorf("device %s is in use: it is a port of %s", a.Name, master)
	}
	if err := checkQdiscs(link); err != nil {
		return savedState{}, err
	}
	f := savedState{owner: owner, up: a.Flags&net.FlagUp != 0, alias: a.Alias}
	var err error
	if f.addresses, err = linkLocal(link); err != nil {
		return f, err
	}
	if f.ipv6, err = ipv6Setting(a.Name); err != nil {
		return f, err
	}
	if limit := 255; len(f.String()) > limit {
		return f, fmt.Errorf("device %s has an alias of %d bytes and the addresses %q, which leave no room for the state to restore", a.Name, len(a.Alias), f.addresses)
	}
	return f, nil
}

// checkQdiscs fails if a device has queueing disciplines that somebody has configured. The kernel
// removes them when the device moves to another network namespace.
func checkQdiscs(link netlink.Link) error {
	name := link.Attrs().Name
	all, err := netlink.QdiscList(link)
	if err != nil {
		return fmt.Errorf("list the queueing disciplines of %s: %w", name, err)
	}
	for _, q := range all {
		switch {
		case q.Type() == "clsact" || q.Type() == "ingress":
			return fmt.Errorf("device %s is in use: it has traffic filters (tc qdisc show dev %s)", name, name)
		case q.Attrs().Handle != 0: // the kernel's default has no handle
			return fmt.Errorf("device %s has the queueing discipline %s, which would be lost (tc qdisc del dev %s root)", name, q.Type(), name)
		}
	}
	return nil
}

// linkLocal returns the link-local addresses of a device, except the one that the kernel derives from
// its MAC. It fails if the device has other addresses.
func linkLocal(link netlink.Link) (string, error) {
	a := link.Attrs()
	all, err := netns.Dump(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return "", fmt.Errorf("list the addresses of %s: %w", a.Name, err)
	}
	var addresses []string
	for _, address := range all {
		if !address.IP.IsLinkLocalUnicast() {
			return "", fmt.Errorf("device %s is in use: the host has address %s on it", a.Name, address.IPNet)
		}
		if !isDerived(address.IP, a.HardwareAddr) {
			addresses = append(addresses, formatAddress(address))
		}
	}
	return strings.Join(addresses, ","), nil
}

// formatAddress returns prefix, broadcast address and scope, as 169.254.9.1/16~169.254.255.255~253.
func formatAddress(a netlink.Addr) string {
	broadcast := a.Broadcast
	if broadcast == nil {
		broadcast = net.IPv4zero // none
	}
	return fmt.Sprintf("%s~%s~%d", a.IPNet, broadcast, a.Scope)
}

func parseAddress(s string) (*netlink.Addr, error) {
	prefix, rest, _ := strings.Cut(s, "~")
	a, err := netlink.ParseAddr(prefix)
	if err != nil {
		return nil, err
	}
	broadcast, scope, _ := strings.Cut(rest, "~")
	if a.Broadcast = net.ParseIP(broadcast).To4(); a.Broadcast == nil {
		return nil, fmt.Errorf("%q is not a broadcast address", broadcast)
	}
	a.Scope, err = strconv.Atoi(scope)
	return a, err
}

// isDerived reports whether an address is fe80::/64 with the interface identifier that RFC 4291,
// appendix A, derives from a MAC.
func isDerived(ip net.IP, mac net.HardwareAddr) bool {
	return ip.To4() == nil && len(mac) == 6 && ip.Equal(net.IP{
		0xfe, 0x80, 0, 0, 0, 0, 0, 0, mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5],
	})
}

// restore gives a device of the host's namespace the state that its alias describes. It sets the
// alias last, so that a daemon that is killed meanwhile leaves the rest to the next.
func restore(link netlink.Link) error {
	name := link.Attrs().Name
	f, _ := parseAlias(link.Attrs().Alias)
	guards, err := filters(link)
	if err != nil {
		return fmt.Errorf("list the filters of %s: %w", name, err)
	}
	set, to := netlink.LinkSetDown, "down"
	if f.up {
		set, to = netlink.LinkSetUp, "up"
	} else if err := set(link); err != nil { // before the filters are removed
		return fmt.Errorf("set device %s down: %w", name, err)
	}
	for _, q := range guards {
		if err := netlink.QdiscDel(q); err != nil {
			return fmt.Errorf("unblock device %s for the host: %w", name, err)
		}
	}
	if err := setIPv6(name, f.ipv6); err != nil {
		return fmt.Errorf("restore IPv6 on device %s: %w", name, err)
	}
	if err := set(link); err != nil {
		return fmt.Errorf("set device %s %s: %w", name, to, err)
	}
	for _, s := range strings.FieldsFunc(f.addresses, func(r rune) bool { return r == ',' }) {
		address, err := parseAddress(s)
		if err == nil {
			err = netlink.AddrReplace(link, address)
		}
		if err != nil {
			return fmt.Errorf("give device %s its address %s again: %w", name, s, err)
		}
	}
	if err := netlink.LinkSetAlias(link, f.alias); err != nil {
		return fmt.Errorf("restore the alias of device %s: %w", name, err)
	}
	return nil
}

func ipv6File(name string) string { return "/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6" }

func ipv6Setting(name string) (string, error) {
	value, err := os.ReadFile(ipv6File(name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(value)), err
}

// setIPv6 does nothing on a kernel without IPv6.
func setIPv6(name, value string) error {
	if value == "" {
		return nil
	}
	err := os.WriteFile(ipv6File(name), []byte(value), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func isTAP(link netlink.Link) bool { return link.Type() == "tuntap" || link.Type() == "tun" }

// isUnopened reports whether a device is a TAP that no process has open. The kernel gives a TAP its
// carrier when a process opens it, also while it is down.
func isUnopened(link netlink.Link) (bool, error) {
	if !isTAP(link) {
		return false, nil
	}
	request := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_ACK)
	message := nl.NewIfInfomsg(unix.AF_UNSPEC)
	message.Index = int32(link.Attrs().Index)
	request.AddData(message)
	answers, err := request.Execute(unix.NETLINK_ROUTE, 0)
	if err == nil && len(answers) == 0 {
		err = unix.ENODEV
	}
	if err != nil {
		return false, fmt.Errorf("read the carrier of device %s: %w", link.Attrs().Name, err)
	}
	attributes, err := nl.ParseRouteAttr(answers[0][unix.SizeofIfInfomsg:])
	for _, attribute := range attributes {
		if attribute.Attr.Type == unix.IFLA_CARRIER && len(attribute.Value) > 0 {
			return attribute.Value[0] == 0, nil
		}
	}
	return false, errors.Join(err, fmt.Errorf("the kernel does not say whether device %s has a carrier", link.Attrs().Name))
}
