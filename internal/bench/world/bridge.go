package world

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	vishnetns "github.com/vishvananda/netns"

	"palisade/internal/netns"
)

// buildBridge builds a Linux bridge in a namespace of its own, whose frames the kernel hands
// to iptables and its connection tracking.
func buildBridge(ctx context.Context, w *World) error {
	for _, role := range []string{"bridge", w.client.role, w.server.role} {
		if err := w.make(role); err != nil {
			return err
		}
	}
	inside := w.namespace("bridge")
	if err := netns.Do(inside, w.addBridge); err != nil {
		return err
	}
	for _, e := range []Endpoint{w.client, w.server} {
		if err := w.wireVeth(inside, e); err != nil {
			return fmt.Errorf("wire the %s: %w", e.role, err)
		}
	}
	if _, err := tool(ctx, inside, bridgeRules(w.config.Rules), "iptables-restore"); err != nil {
		return err
	}
	version, err := tool(ctx, inside, "", "iptables", "--version")
	if err != nil {
		return err
	}
	w.about = fmt.Sprintf("%d rules, veth, bridge-nf-call-iptables, %s", w.config.Rules+1, strings.TrimSpace(version))
	w.verify = func() error { return verifyFiltered(ctx, inside) }
	return nil
}

func (w *World) addBridge() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = "bridge", w.mtu
	snooping := false
	link := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
	if err := netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("add a bridge: %w", err)
	}
	if err := setting("net/bridge/bridge-nf-call-iptables", "1"); err != nil {
		return fmt.Errorf("hand bridged packets to iptables (is br_netfilter loaded?): %w", err)
	}
	return netlink.LinkSetUp(link)
}

// wireVeth puts a veth pair between a bridge and an endpoint.
func (w *World) wireVeth(inside string, e Endpoint) error {
	err := netns.Do(inside, func() error {
		there, err := vishnetns.GetFromPath(netns.Path(e.Namespace))
		if err != nil {
			return err
		}
		defer there.Close()
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = e.role, w.mtu
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: e.Device, PeerNamespace: netlink.NsFd(there), PeerHardwareAddr: net.HardwareAddr(e.MAC[:]), PeerMTU: uint32(w.mtu)}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		master, err := netlink.LinkByName("bridge")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetMaster(veth, master), netlink.LinkSetUp(veth))
	})
	if err != nil {
		return err
	}
	return w.plug(e)
}

// bridgeRules are what a careful operator would write: what is established first, then
// as many rules as the Switch has, the matching ones last.
func bridgeRules(count int) string {
	var b strings.Builder
	b.WriteString("*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n")
	b.WriteString("-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n")
	for i := range count - 2 {
		source, from, to := other(i)
		fmt.Fprintf(&b, "-A FORWARD -s %s/32 -p tcp --dport %d:%d -m conntrack --ctstate NEW -j ACCEPT\n", source, from, to)
	}
	for _, protocol := range []string{"tcp", "udp"} {
		fmt.Fprintf(&b, "-A FORWARD -s %s -p %s --dport %d:%d -m conntrack --ctstate NEW -j ACCEPT\n", clientAddress, protocol, FirstPort, LastPort)
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

// verifyFiltered reads the counters of the rules: both the one for established connections
// and the one that admits new ones must have seen packets, or they went past iptables.
func verifyFiltered(ctx context.Context, inside string) error {
	listing, err := tool(ctx, inside, "", "iptables", "-w", "-n", "-v", "-x", "-L", "FORWARD")
	if err != nil {
		return err
	}
	var established, admitted bool
	for line := range strings.Lines(listing) {
		fields := strings.Fields(line)
		if len(fields) < 3 {
			continue
		}
		if packets, err := strconv.ParseUint(fields[0], 10, 64); err == nil && packets > 0 {
			established = established || strings.Contains(line, "ESTABLISHED")
			admitted = admitted || strings.Contains(line, clientAddress.String())
		}
	}
	if !established || !admitted {
		return fmt.Errorf("packets went past iptables and its connection tracking:\n%s", listing)
	}
	return nil
}
