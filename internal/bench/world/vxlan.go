package world

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"

	"palisade/internal/netns"
)

// vxlanOverhead is what RFC 7348 §5 adds before an IP packet, in bytes: the outer IPv4 and UDP
// headers, the VXLAN header, and the inner Ethernet header.
const vxlanOverhead = 20 + 8 + 8 + 14

// buildVXLAN builds two nodes, each with a bridge as buildBridge makes it, and the kernel's
// VXLAN between them. Nothing is sealed. Each node filters for its own endpoint, like a
// security group: the client's node lets the client open connections, the server's node has
// the policy.
func buildVXLAN(ctx context.Context, w *World) error {
	if err := errors.Join(w.addUnderlay(), w.makeEndpoints()); err != nil {
		return err
	}
	w.mtu = w.config.MTU - vxlanOverhead
	for i, e := range []Endpoint{w.client, w.server} {
		inside := w.namespace(nodeRoles[i])
		if err := netns.Do(inside, func() error { return errors.Join(w.addBridge(), w.addVXLAN(i)) }); err != nil {
			return err
		}
		if err := w.wireVeth(inside, e); err != nil {
			return fmt.Errorf("wire the %s: %w", e.role, err)
		}
	}
	sender, receiver := w.namespace(nodeRoles[0]), w.namespace(nodeRoles[1])
	if _, err := tool(ctx, sender, egressRules, "iptables-restore"); err != nil {
		return err
	}
	w.tracking = append(w.tracking, sender)
	version, err := w.filter(ctx, receiver)
	if err != nil {
		return err
	}
	w.about = fmt.Sprintf("%v, veth, bridge-nf-call-iptables and conntrack at both nodes, VXLAN, not sealed, on an underlay of MTU %d, %s", w.policy, w.config.MTU, version)
	w.verify = func() error { return verifyFiltered(context.WithoutCancel(ctx), receiver) }
	return nil
}

// egressRules are the rules of the client's node: the client may open connections, and accepts
// none.
var egressRules = fmt.Sprintf(`*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A FORWARD -s %s/32 -m conntrack --ctstate NEW -j ACCEPT
COMMIT
`, clientAddress)

// addVXLAN adds the tunnel from the i-th node to the other. The caller is in the i-th node's
// namespace.
func (w *World) addVXLAN(i int) error {
	under, err := netlink.LinkByName("underlay")
	if err != nil {
		return err
	}
	master, err := netlink.LinkByName("bridge")
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = "vxlan", w.mtu
	local, remote := underlay[i], underlay[1-i]
	link := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: vni, VtepDevIndex: under.Attrs().Index,
		SrcAddr: net.IP(local.AsSlice()), Group: net.IP(remote.AsSlice()), Port: tunnelPort, Learning: true}
	if err := netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("add a VXLAN device: %w", err)
	}
	return errors.Join(netlink.LinkSetMaster(link, master), netlink.LinkSetUp(link))
}
