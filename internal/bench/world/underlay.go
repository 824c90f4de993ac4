package world

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	vishnetns "github.com/vishvananda/netns"

	"palisade/internal/netns"
)

// The nodes of a World on two nodes, and their addresses on the underlay.
var (
	nodeRoles = [2]string{"node1", "node2"}
	underlay  = [2]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}
)

// tunnelPort is the UDP port of every contestant's tunnel.
const tunnelPort = 4789

// addUnderlay makes two nodes that are joined by a veth pair.
func (w *World) addUnderlay() error {
	for _, role := range nodeRoles {
		if err := w.make(role); err != nil {
			return err
		}
	}
	return w.joinByUnderlay(w.namespace(nodeRoles[0]), w.namespace(nodeRoles[1]))
}

// joinByUnderlay joins two namespaces by devices named underlay. They have the offloads of a
// veth pair: a large segment or datagram that would be cut later arrives in one piece, for all
// contestants.
func (w *World) joinByUnderlay(one, two string) error {
	err := netns.Do(one, func() error {
		other, err := vishnetns.GetFromPath(netns.Path(two))
		if err != nil {
			return err
		}
		defer other.Close()
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = "underlay", w.config.MTU
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "underlay", PeerNamespace: netlink.NsFd(other), PeerMTU: uint32(w.config.MTU)})
	})
	if err != nil {
		return fmt.Errorf("make the underlay: %w", err)
	}
	for i, name := range []string{one, two} {
		err := netns.Do(name, func() error {
			link, err := netlink.LinkByName("underlay")
			if err != nil {
				return err
			}
			address := &netlink.Addr{IPNet: &net.IPNet{IP: underlay[i].AsSlice(), Mask: net.CIDRMask(24, 32)}}
			return errors.Join(netlink.AddrAdd(link, address), netlink.LinkSetUp(link))
		})
		if err != nil {
			return fmt.Errorf("address the underlay: %w", err)
		}
	}
	return nil
}
