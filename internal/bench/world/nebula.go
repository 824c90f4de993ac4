package world

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"palisade/ec2"
	"palisade/internal/netns"
)

// nebulaOverhead is what Nebula adds to an IP packet, in bytes: the outer IPv4 and UDP headers,
// its own header, and the tag of the cipher.
const nebulaOverhead = 20 + 8 + 16 + 16

// A nebula is Nebula as Debian packages it, 1.6.1, which has no offloads; later releases are
// faster. It carries IP and not Ethernet, so each endpoint is a node: its eth0 is Nebula's tun
// device, and its underlay device is in the endpoint's namespace. Hosts use Nebula in this way,
// and it spares Nebula the path from an endpoint to its node.
type nebula struct {
	*World
	packets uint64 // that the server had received when the World was built
}

func buildNebula(ctx context.Context, w *World) error {
	w.mtu = w.config.MTU - nebulaOverhead
	for _, e := range []*Endpoint{&w.client, &w.server} {
		e.MAC, e.Peer = ec2.MAC{}, ec2.MAC{}
	}
	if err := errors.Join(w.makeEndpoints(), w.joinByUnderlay(w.client.Namespace, w.server.Namespace)); err != nil {
		return err
	}
	n := &nebula{World: w}
	if err := os.MkdirAll(w.files(), 0o700); err != nil {
		return err
	}
	if err := n.cert(ctx, "ca", "-name", "bench", "-out-crt", n.file("ca.crt"), "-out-key", n.file("ca.key")); err != nil {
		return err
	}
	for i, e := range []Endpoint{w.client, w.server} {
		if err := n.start(ctx, i, e); err != nil {
			return fmt.Errorf("start at the %s: %w", e.role, err)
		}
	}
	if err := await(ctx, "a tunnel", n.up); err != nil {
		return err
	}
	version, err := tool(ctx, w.client.Namespace, "", "nebula", "-version")
	if err != nil {
		return err
	}
	if n.packets, err = n.received(); err != nil {
		return err
	}
	w.about = fmt.Sprintf("%d rules, tun devices without offloads, AES, on an underlay of MTU %d, Nebula %s as packaged", len(w.policy.rules), w.config.MTU, strings.TrimPrefix(strings.TrimSpace(version), "Version: "))
	w.verify = n.verifyTunnelled
	return nil
}

func (n *nebula) file(name string) string { return filepath.Join(n.files(), name) }

func (n *nebula) cert(ctx context.Context, argv ...string) error {
	_, err := tool(ctx, n.client.Namespace, "", append([]string{"nebula-cert"}, argv...)...)
	return err
}

// start runs Nebula at the i-th endpoint. The certificate names the endpoint's group.
func (n *nebula) start(ctx context.Context, i int, e Endpoint) error {
	address := netip.PrefixFrom(e.Address, onLink.Bits()).String()
	if err := n.cert(ctx, "sign", "-ca-crt", n.file("ca.crt"), "-ca-key", n.file("ca.key"), "-name", e.role, "-ip", address,
		"-groups", e.role, "-out-crt", n.file(e.role+".crt"), "-out-key", n.file(e.role+".key")); err != nil {
		return err
	}
	other, rules := n.server, ""
	if e.role == n.server.role {
		other, rules = n.client, nebulaRules(n.policy)
	}
	config := fmt.Sprintf(`pki: {ca: %s, cert: %s, key: %s}
static_host_map: {"%s": ["%s:%d"]}
lighthouse: {am_lighthouse: false}
listen: {host: %s, port: %d, read_buffer: 10485760, write_buffer: 10485760}
tun: {dev: %s, mtu: %d}
logging: {level: warning}
firewall:
  outbound: [{port: any, proto: any, host: any}]
  inbound: [%s]
`, n.file("ca.crt"), n.file(e.role+".crt"), n.file(e.role+".key"), other.Address, underlay[1-i], tunnelPort, underlay[i], tunnelPort, e.Device, n.mtu, rules)
	if err := os.WriteFile(n.file(e.role+".yml"), []byte(config), 0o600); err != nil {
		return err
	}
	return n.runBetween(e.Namespace, nil, "nebula", "-config", n.file(e.role+".yml"))
}

// nebulaRules returns the policy in the format of Nebula's configuration. Certificates name the
// members of a group.
func nebulaRules(p policy) string {
	var all []string
	for _, r := range p.rules {
		source := fmt.Sprintf("group: other%d", r.group)
		switch {
		case r.address.IsValid():
			source = fmt.Sprintf("cidr: %s/32", r.address)
		case r.group == clientGroup:
			source = "group: client"
		}
		all = append(all, fmt.Sprintf("{port: %d-%d, proto: %s, %s}", r.from, r.to, r.protocol, source))
	}
	return "\n" + strings.Join(all, ",\n") + "\n"
}

// up reports whether the client reaches the server: a port that the rules admit, without a
// listener, refuses the connection.
func (n *nebula) up() (bool, error) {
	err := netns.Do(n.client.Namespace, func() error {
		return dialTCP(netip.AddrPortFrom(n.server.Address, LastPort), time.Second)
	})
	return errors.Is(err, syscall.ECONNREFUSED), nil
}

// received returns the number of packets that the server's tun device got from the tunnel.
func (n *nebula) received() (packets uint64, err error) {
	err = netns.Do(n.server.Namespace, func() error {
		link, err := netlink.LinkByName(n.server.Device)
		if err == nil {
			packets = link.Attrs().Statistics.RxPackets
		}
		return err
	})
	return packets, err
}

// verifyTunnelled checks that the tunnel has carried traffic. It cannot check that Nebula's
// rules were applied, because Nebula does not count that.
func (n *nebula) verifyTunnelled() error {
	packets, err := n.received()
	if err == nil && packets == n.packets {
		err = errors.New("the tunnel has carried no packet to the server")
	}
	return err
}
