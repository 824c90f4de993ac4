package world

import (
	"errors"
	"net"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	vishnetns "github.com/vishvananda/netns"

	"palisade/internal/netns"
)

// The method make makes a namespace without IPv6, because IPv6 would send packets during
// measurements.
func (w *World) make(role string) error {
	name := w.namespace(role)
	if err := netns.New(name); err != nil {
		return err
	}
	w.namespaces = append(w.namespaces, name)
	return netns.Do(name, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetUp(lo), setting("net/ipv6/conf/default/disable_ipv6", "1"), setting("net/ipv6/conf/all/disable_ipv6", "1"))
	})
}

// makeEndpoints makes the namespaces of all endpoints.
func (w *World) makeEndpoints() error {
	roles := []string{w.client.role, w.server.role}
	if w.config.Ports > len(roles) {
		roles = append(roles, "idle")
	}
	for _, role := range roles {
		if err := w.make(role); err != nil {
			return err
		}
	}
	return nil
}

// setting writes a kernel setting of the caller's network namespace.
func setting(name, value string) error {
	err := os.WriteFile("/proc/sys/"+name, []byte(value), 0)
	if errors.Is(err, os.ErrNotExist) && strings.Contains(name, "ipv6") {
		return nil
	}
	return err
}

// plug configures an endpoint's device, which exists already, and its addresses.
func (w *World) plug(e Endpoint) error {
	return netns.Do(e.Namespace, func() error {
		link, err := netlink.LinkByName(e.Device)
		if err != nil {
			return err
		}
		err = errors.Join(
			netlink.LinkSetHardwareAddr(link, net.HardwareAddr(e.MAC[:])),
			netlink.LinkSetMTU(link, w.mtu),
			netlink.LinkSetUp(link))
		if err != nil || e.idle {
			return err // idle endpoints share a namespace and need no IP address
		}
		return netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: e.Address.AsSlice(), Mask: net.CIDRMask(onLink.Bits(), 32)}})
	})
}

// moveLink moves a device to an endpoint and renames it to the endpoint's device.
func moveLink(from, name string, e Endpoint) error {
	err := netns.Do(from, func() error {
		target, err := vishnetns.GetFromPath(netns.Path(e.Namespace))
		if err != nil {
			return err
		}
		defer target.Close()
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetDown(link), netlink.LinkSetNsFd(link, int(target)))
	})
	if err != nil {
		return err
	}
	return netns.Do(e.Namespace, func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.LinkSetName(link, e.Device)
	})
}
