package instance

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"github.com/vishvananda/netlink"

	"palisade/ec2"
)

// configureNamespace runs inside a new network namespace.
func configureNamespace() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set loopback up: %w", err)
	}
	// EC2-Classic has no IPv6. Without this the kernel announces itself by router
	// solicitations and multicast reports, which the switch would count as drops.
	for _, scope := range []string{"all", "default"} {
		err := os.WriteFile("/proc/sys/net/ipv6/conf/"+scope+"/disable_ipv6", []byte("1"), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("disable IPv6: %w", err)
		}
	}
	return nil
}

// configureDevice runs inside the instance's network namespace. Offloads are left as the
// switch's side of the device decided them.
func configureDevice(s Spec) error {
	link, err := netlink.LinkByName(s.device())
	if err != nil {
		return fmt.Errorf("find %s: %w", s.device(), err)
	}
	if s.MAC != (ec2.MAC{}) && link.Attrs().HardwareAddr.String() != s.MAC.String() {
		if err := netlink.LinkSetDown(link); err != nil {
			return fmt.Errorf("set %s down: %w", s.device(), err)
		}
		if err := netlink.LinkSetHardwareAddr(link, net.HardwareAddr(s.MAC[:])); err != nil {
			return fmt.Errorf("set MAC %v on %s: %w", s.MAC, s.device(), err)
		}
	}
	if s.MTU > 0 {
		if err := netlink.LinkSetMTU(link, s.MTU); err != nil {
			return fmt.Errorf("set MTU %d on %s: %w", s.MTU, s.device(), err)
		}
	}
	if err := setAddress(link, s); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", s.device(), err)
	}
	if !s.Gateway.IsValid() {
		return nil
	}
	// On-link by flag: in EC2-Classic one gateway serves every pool.
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: s.Gateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("set default route by %v: %w", s.Gateway, err)
	}
	return nil
}

// setAddress makes the instance's address the only one of the device: a stopped and
// started instance must not keep its old one.
func setAddress(link netlink.Link, s Spec) error {
	if !s.Address.IsValid() {
		return nil
	}
	want := &net.IPNet{IP: s.Address.Addr().AsSlice(), Mask: net.CIDRMask(s.Address.Bits(), s.Address.Addr().BitLen())}
	have, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", s.device(), err)
	}
	for _, a := range have {
		if a.IPNet.String() == want.String() {
			continue
		}
		if err := netlink.AddrDel(link, &a); err != nil {
			return fmt.Errorf("remove address %v from %s: %w", a.IPNet, s.device(), err)
		}
	}
	if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: want}); err != nil {
		return fmt.Errorf("set address %v on %s: %w", s.Address, s.device(), err)
	}
	return nil
}
