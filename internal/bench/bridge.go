package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	vishnetns "github.com/vishvananda/netns"

	"palisade/internal/netns"
)

// newBridge builds a Linux bridge in a namespace of its own, whose frames the kernel hands
// to iptables and its connection tracking.
func newBridge(ctx context.Context, config Config) (c *Contestant, err error) {
	c = &Contestant{name: bridge}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("build %s: %w", bridge, err), c.close())
		}
	}()
	for _, role := range []string{"bridge", client.role, server.role} {
		if err := c.make(role); err != nil {
			return c, err
		}
	}
	if err := netns.Do(c.namespace("bridge"), addBridge); err != nil {
		return c, err
	}
	for _, e := range []endpoint{client, server} {
		if err := c.wire(e); err != nil {
			return c, fmt.Errorf("wire the %s: %w", e.role, err)
		}
	}
	if _, err := c.iptables(ctx, bridgeRules(), "iptables-restore"); err != nil {
		return c, err
	}
	version, err := c.iptables(ctx, "", "iptables", "--version")
	if err != nil {
		return c, err
	}
	c.about = fmt.Sprintf("%d rules, veth, bridge-nf-call-iptables, %s", ruleCount+1, strings.TrimSpace(version))
	c.verify = func() error { return c.verifyFiltered(ctx) }
	return c, c.serve(ctx, config)
}

func addBridge() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = "bridge", mtu
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

// wire puts a veth pair between the bridge and an endpoint.
func (c *Contestant) wire(e endpoint) error {
	err := netns.Do(c.namespace("bridge"), func() error {
		there, err := vishnetns.GetFromPath(netns.Path(c.namespace(e.role)))
		if err != nil {
			return err
		}
		defer there.Close()
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = e.role, mtu
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(there), PeerHardwareAddr: net.HardwareAddr(e.mac[:]), PeerMTU: mtu}
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
	return c.plug(e)
}

// bridgeRules are what a careful operator would write: what is established first, then
// as many rules as the Switch has, the matching ones last.
func bridgeRules() string {
	var b strings.Builder
	b.WriteString("*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n")
	b.WriteString("-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n")
	for i := range ruleCount - 2 {
		fmt.Fprintf(&b, "-A FORWARD -s 192.0.2.%d/32 -p tcp --dport %d:%d -m conntrack --ctstate NEW -j ACCEPT\n", i, 1000+10*i, 1009+10*i)
	}
	fmt.Fprintf(&b, "-A FORWARD -s %s -p tcp --dport %d:%d -m conntrack --ctstate NEW -j ACCEPT\n", client.address, iperfPort, echoPort)
	fmt.Fprintf(&b, "-A FORWARD -s %s -p udp --dport %d -m conntrack --ctstate NEW -j ACCEPT\n", client.address, echoPort)
	b.WriteString("COMMIT\n")
	return b.String()
}

// iptables runs a tool of iptables beside the bridge.
func (c *Contestant) iptables(ctx context.Context, input string, argv ...string) (string, error) {
	var out, problem bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &problem
	if err := c.start(cmd, endpoint{role: "bridge"}); err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", argv[0], err, strings.TrimSpace(problem.String()))
	}
	return out.String(), nil
}

// verifyFiltered reads the counters of the rules: both the one for established connections
// and the one that admits new ones must have seen packets, or they went past iptables.
func (c *Contestant) verifyFiltered(ctx context.Context) error {
	listing, err := c.iptables(ctx, "", "iptables", "-w", "-n", "-v", "-x", "-L", "FORWARD")
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
			admitted = admitted || strings.Contains(line, client.address.String())
		}
	}
	if !established || !admitted {
		return fmt.Errorf("packets went past iptables and its connection tracking:\n%s", listing)
	}
	return nil
}
