package packettest

import (
	"fmt"
	"net/netip"
	"slices"

	"palisade/ec2"
	"palisade/internal/packet"
)

// ip6 builds an IPv6 frame with a payload.
func (c *corpus) ip6(to ec2.MAC, dst string, next byte, payload ...byte) []byte {
	b := slices.Concat(to[:], c.Attacker.MAC[:], []byte{0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(len(payload)), next, 255})
	src, target := netip.MustParseAddr("fe80::ff:fe00:1").As16(), netip.MustParseAddr(dst).As16()
	return slices.Concat(b, src[:], target[:], payload)
}

func (c *corpus) otherProtocols() {
	const hopByHop, routing, fragment, icmp6, udp, tcp, destination = 0, 43, 44, 58, 17, 6, 60
	all := ec2.MAC{0x33, 0x33, 0, 0, 0, 1}
	advertisement := append([]byte{134, 0, 0, 0, 64, 0, 7, 8}, make([]byte, 8)...)
	neighbour := append([]byte{136, 0, 0, 0, 0x60, 0, 0, 0}, make([]byte, 24)...)
	syn := c.syn()[34:54]
	pad := func(next byte) []byte { return []byte{next, 0, 1, 4, 0, 0, 0, 0} }
	frames := []struct {
		id, name string
		next     byte
		payload  []byte
	}{
		{"T30", "DHCPv6 server", udp, []byte{2, 35, 2, 34, 0, 12, 0, 0, 7, 1, 2, 3}},
		{"T31", "router advertisement", icmp6, advertisement},
		{"T31", "router advertisement behind hop-by-hop options", hopByHop, slices.Concat(pad(icmp6), advertisement)},
		{"T31", "router advertisement behind destination options", destination, slices.Concat(pad(icmp6), advertisement)},
		{"T31", "router advertisement in a fragment", fragment, slices.Concat([]byte{icmp6, 0, 0, 0, 0, 0, 0, 1}, advertisement)},
		{"T32", "neighbour advertisement", icmp6, neighbour},
		{"T32", "neighbour solicitation", icmp6, append([]byte{135}, neighbour[1:]...)},
		{"T33", "redirect of IPv6", icmp6, append([]byte{137}, make([]byte, 39)...)},
		{"T34", "SYN to the open port over IPv6", tcp, syn},
		{"T34", "ping over IPv6", icmp6, []byte{128, 0, 0, 0, 0, 1, 0, 1}},
		{"T35", "31 extension headers", hopByHop, slices.Concat(slices.Repeat(pad(destination), 30), pad(tcp), syn)},
		{"T35", "routing header 0", routing, slices.Concat([]byte{tcp, 0, 0, 1, 0, 0, 0, 0}, syn)},
		{"T36", "first fragment without its upper header", fragment, []byte{destination, 0, 0, 1, 0, 0, 0, 1, tcp, 9, 0, 0, 0, 0, 0, 0}},
		{"T36", "atomic fragment", fragment, slices.Concat([]byte{tcp, 0, 0, 0, 0, 0, 0, 1}, syn)},
		{"T36", "fragment that overlaps", fragment, slices.Concat([]byte{tcp, 0, 0, 8, 0, 0, 0, 1}, syn)},
		{"T40", "multicast listener query", hopByHop, slices.Concat([]byte{icmp6, 0, 5, 2, 0, 0, 1, 0}, []byte{130}, make([]byte, 23))},
	}
	for _, f := range frames {
		c.same(f.id, f.name+", to all", c.ip6(all, "ff02::1", f.next, f.payload...), "ipv6")
		c.same(f.id, f.name+", to the victim", c.ip6(c.Victim.MAC, "fe80::ff:fe00:2", f.next, f.payload...), "ipv6")
	}
	for _, n := range []named[[]byte]{
		{"VLAN 0", []byte{0x81, 0, 0, 0, 8, 0}}, {"VLAN 7", []byte{0x81, 0, 0, 7, 8, 0}}, {"VLAN 4095", []byte{0x81, 0, 0x0f, 0xff, 8, 0}}, {"two VLANs", []byte{0x81, 0, 0, 7, 0x81, 0, 0, 8, 8, 0}},
		{"802.1ad", []byte{0x88, 0xa8, 0, 7, 0x81, 0, 0, 7, 8, 0}}, {"old stacked VLANs", []byte{0x91, 0, 0, 7, 8, 0}},
	} {
		name, tag := n.name, n.value
		c.same("T37", name, c.typed(tag...), "not-ip")
		arp := ARP(2, c.Attacker.MAC, c.Gateway.Addr, c.Victim.Addr)
		copy(arp[6:], c.Attacker.MAC[:])
		c.same("T37", "ARP under "+name, slices.Concat(arp[:12], tag[:len(tag)-2], arp[12:]), "not-ip")
	}
	for _, n := range []named[[]byte]{
		{"LLC and SNAP with IP", []byte{0, 48, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0}}, {"raw 802.3", []byte{0, 40}}, {"LLC", []byte{0, 43, 6, 6, 3}}, {"MPLS", []byte{0x88, 0x47, 0, 1, 1, 64}}, {"MPLS multicast", []byte{0x88, 0x48, 0, 1, 1, 64}}, {"PPPoE discovery", []byte{0x88, 0x63}},
		{"PPPoE", []byte{0x88, 0x64, 0x11, 0, 0, 1, 0, 42, 0, 0x21}}, {"MACsec", []byte{0x88, 0xe5}}, {"EAPOL", []byte{0x88, 0x8e}}, {"LLDP", []byte{0x88, 0xcc}}, {"NSH", []byte{0x89, 0x4f}}, {"Transparent Ethernet", []byte{0x65, 0x58}}, {"an experiment", []byte{0x88, 0xb5}}, {"EtherType 0", []byte{0, 0}}, {"EtherType 0xffff", []byte{0xff, 0xff}},
	} {
		name, tag := n.name, n.value
		c.same("T38", name, c.typed(tag...), "not-ip")
	}
	group := func(name string, last byte, tag ...byte) {
		b := c.typed(tag...)
		copy(b, []byte{1, 0x80, 0xc2, 0, 0, last})
		c.same("T39", name, b, "not-ip")
	}
	group("spanning tree", 0, 0, 38, 0x42, 0x42, 3)
	group("LACP", 2, 0x88, 0x09, 1, 1)
	group("pause", 1, 0x88, 0x08, 0, 1)
	group("LLDP", 14, 0x88, 0xcc)
}

func (c *corpus) manyReceivers() {
	const tcp, udp = packet.ProtocolTCP, packet.ProtocolUDP
	broadcast := ec2.MAC{255, 255, 255, 255, 255, 255}
	to := func(protocol uint8, port uint16, mac ec2.MAC, ip string) []byte {
		return c.frame(protocol, port, func(f *Frame) {
			f.DstMAC = mac
			if ip != "" {
				f.Flow.Dst = netip.MustParseAddr(ip)
			}
		})
	}
	group := func(last byte) ec2.MAC { return ec2.MAC{1, 0, 0x5e, 0, 0, last} }
	for _, m := range []struct {
		id, name, ip string
		protocol     uint8
		port         uint16
		mac          ec2.MAC
	}{
		{"T30", "DHCP discover", "255.255.255.255", udp, 67, broadcast},
		{"T40", "UDP to all of the link", "255.255.255.255", udp, 53, broadcast},
		{"T40", "UDP to a group", "224.0.0.251", udp, 5353, group(251)},
		{"T40", "UDP to a group, by the victim's MAC", "224.0.0.251", udp, 5353, c.Victim.MAC},
		{"T40", "UDP to a group, by the gateway", "239.1.2.3", udp, 5353, c.Gateway.MAC},
		{"T40", "IGMP query", "224.0.0.1", 2, 0, group(1)},
		{"T40", "VRRP", "224.0.0.18", 112, 0, group(18)},
	} {
		c.add(m.id, m.name, to(m.protocol, m.port, m.mac, m.ip), "not-unicast", "no-route")
	}
	c.add("T41", "the victim's address to all", to(tcp, c.Open, broadcast, ""), "not-unicast", "wrong-mac")
	c.add("T41", "the victim's address to a group", to(tcp, c.Open, group(1), ""), "not-unicast", "wrong-mac")
	c.same("T42", "an address that no interface has", to(tcp, c.Open, c.Gateway.MAC, c.Unused.String()), "no-route")
	c.same("T42", "the victim's MAC, an address that no interface has", to(tcp, c.Open, c.Victim.MAC, c.Unused.String()), "no-route")
	// Within a node, the address decides, and the rules of its owner; a MAC opens no port.
	c.add("T42", "the victim's address, another's MAC", to(tcp, c.Open+1, c.Member.MAC, ""), noRule, "wrong-mac")
	c.add("T42", "the victim's address, a MAC that no interface has", to(tcp, c.Open+1, ec2.MAC{2, 9, 9, 9, 9, 9}, ""), noRule, "wrong-mac")
	c.add("T42", "the victim's MAC, an address outside", to(tcp, c.Open, c.Victim.MAC, "203.0.113.25"), "wrong-mac", "no-route")
	c.add("T42", "the gateway itself", to(tcp, c.Open, c.Gateway.MAC, c.Gateway.Addr.String()), "gateway-local", "no-route")
	c.same("T42", "loopback", to(tcp, c.Open, c.Victim.MAC, "127.0.0.1"), "no-route")
	c.all[len(c.all)-1].SameNode = "not-unicast"
	server := c.frame(udp, 68, func(f *Frame) { f.Flow.SrcPort = 67 })
	c.same("T30", "DHCP offer", server, "dhcp-server")
	c.same("T30", "DHCP offer to another port", c.frame(udp, c.Open, func(f *Frame) { f.Flow.SrcPort = 67 }), "dhcp-server")
}

func (c *corpus) messages() {
	const icmp, udp = packet.ProtocolICMP, packet.ProtocolUDP
	sent := Build(Frame{Flow: packet.Flow{Src: c.Victim.Addr, Dst: c.Attacker.Addr, SrcPort: c.Open, DstPort: 40000, Protocol: packet.ProtocolUDP}})
	other := Build(Frame{Flow: packet.Flow{Src: c.Member.Addr, Dst: c.Victim.Addr, SrcPort: 1, DstPort: 2, Protocol: packet.ProtocolTCP}})
	for _, m := range []struct {
		name       string
		kind, code uint8
	}{{"unreachable", 3, 1}, {"port unreachable", 3, 3}, {"fragmentation needed", 3, 4}, {"source quench", 4, 0}, {"time exceeded", 11, 0}, {"parameter problem", 12, 0}, {"redirect", 5, 1}} {
		id := "T44"
		if m.kind == 5 {
			id = "T33"
		}
		// EC2-Classic admits all egress, except ICMP errors about no connection.
		c.add(id, m.name+" about no connection", ICMPError(m.kind, m.code, c.Attacker.Addr, c.Victim.Addr, sent, c.Attacker.MAC, c.Gateway.MAC), c.error(m.kind), "no-connection at victim")
		c.add(id, m.name+" about a connection of others", ICMPError(m.kind, m.code, c.Attacker.Addr, c.Victim.Addr, other, c.Attacker.MAC, c.Gateway.MAC), "no-connection", "no-connection at victim")
	}
	for _, kind := range []uint8{0, 9, 10, 13, 14, 15, 16, 17, 18, 40, 255} {
		c.same("T44", fmt.Sprintf("ICMP type %d", kind), c.frame(icmp, 40000, func(f *Frame) { f.ICMPType = kind }), noRule)
	}
	inside := append([]byte{8, 0, 0, 0, 0, 0, 7, 0}, c.syn()...)
	c.same("T45", "VXLAN with a frame to the open port inside", c.frame(udp, 4789, func(f *Frame) { f.Payload = inside }), noRule)
	c.same("T45", "Geneve with a frame to the open port inside", c.frame(udp, 6081, func(f *Frame) { f.Payload = append([]byte{0, 0, 0x65, 0x58, 0, 0, 7, 0}, c.syn()...) }), noRule)
	c.same("T45", "this cluster's own tunnels", c.frame(udp, 7401, func(f *Frame) {
		f.Payload = append([]byte{1, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1}, make([]byte, 80)...)
	}), noRule)
	c.same("T47", "SYN ACK out of nothing", c.frame(packet.ProtocolTCP, 40000, func(f *Frame) { f.Flow.SrcPort, f.TCPFlags = c.Open, packet.SYN|packet.ACK }), noRule)
	c.same("T47", "bare SYN from the port that is open", c.frame(packet.ProtocolTCP, 40000, func(f *Frame) { f.Flow.SrcPort = c.Open }), noRule)
}

// error returns the verdict of an ICMP error about a packet that the victim may have sent.
// The attacker's own port passes ICMP errors, except of the types that never pass.
func (c *corpus) error(kind uint8) string {
	if kind == packet.ICMPRedirect || kind == packet.ICMPSourceQuench {
		return "no-connection"
	}
	return "no-connection at victim"
}
