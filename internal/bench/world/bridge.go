package world

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	vishnetns "github.com/vishvananda/netns"

	"palisade/internal/netns"
)

// buildBridge builds a Linux bridge in a namespace of its own. The kernel passes its frames
// through iptables and connection tracking.
func buildBridge(ctx context.Context, w *World) error {
	if err := errors.Join(w.make("bridge"), w.makeEndpoints()); err != nil {
		return err
	}
	inside := w.namespace("bridge")
	if err := netns.Do(inside, w.addBridge); err != nil {
		return err
	}
	for _, e := range w.endpoints() {
		if err := w.wireVeth(inside, e); err != nil {
			return fmt.Errorf("wire the %s: %w", e.role, err)
		}
	}
	version, err := w.filter(ctx, inside)
	if err != nil {
		return err
	}
	w.about = fmt.Sprintf("%d ports, %v, veth, bridge-nf-call-iptables, %s", w.config.Ports, w.policy, version)
	w.verify = func() error { return verifyFiltered(context.WithoutCancel(ctx), inside) }
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
		return fmt.Errorf("pass bridged packets through iptables (is br_netfilter loaded?): %w", err)
	}
	return netlink.LinkSetUp(link)
}

// wireVeth puts a veth pair between a bridge and an endpoint.
func (w *World) wireVeth(inside string, e Endpoint) error {
	err := netns.Do(inside, func() error {
		other, err := vishnetns.GetFromPath(netns.Path(e.Namespace))
		if err != nil {
			return err
		}
		defer other.Close()
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = e.role, w.mtu
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: e.Device, PeerNamespace: netlink.NsFd(other), PeerHardwareAddr: net.HardwareAddr(e.MAC[:]), PeerMTU: uint32(w.mtu)}
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
