package packettest

import (
	"encoding/binary"
	"net/netip"

	"palisade/internal/packet"
)

// A Party is one end of a hostile frame.
type Party struct {
	MAC     packet.MAC
	Address netip.Addr
}

// A HostileFrame is one that must not arrive where it is sent.
type HostileFrame struct {
	Name  string
	Frame []byte
	Want  string // its fate in a switch where the victim admits TCP on port 22: "verdict at interface"
}

// Hostile returns every kind of frame that has no business in a network, and some that only
// lack a rule, as the attacker sends them to a victim that admits tcp 22. Parts of a
// datagram stand in the order in which they are to be sent.
func Hostile(attacker, victim Party, gateway packet.MAC) []HostileFrame {
	build := func(protocol uint8, port uint16, edit func(f *Frame)) []byte {
		f := Frame{Flow: packet.Flow{Protocol: protocol, Src: attacker.Address, Dst: victim.Address, SrcPort: 40000, DstPort: port}, TCPFlags: packet.SYN, ICMPType: 8}
		f.SrcMAC, f.DstMAC = attacker.MAC, gateway
		if edit != nil {
			edit(&f)
		}
		return Build(f)
	}
	syn := build(6, 22, nil)
	poke := func(at int, values ...byte) []byte {
		b := append([]byte(nil), syn...)
		copy(b[at:], values)
		return b
	}
	flags := func(f uint8) []byte { return poke(47, f) }
	part := func(protocol uint8, port, id uint16, offset, n int, more bool) []byte {
		return build(protocol, port, func(f *Frame) {
			f.FragID, f.FragOffset, f.MoreFollow, f.Payload = id, offset, more, make([]byte, n)
		})
	}
	from := func(ip string) []byte {
		return build(6, 22, func(f *Frame) { f.Flow.Src = netip.MustParseAddr(ip) })
	}
	to := func(protocol uint8, ip string, mac packet.MAC) []byte {
		return build(protocol, 67, func(f *Frame) { f.Flow.Dst, f.DstMAC = netip.MustParseAddr(ip), mac })
	}
	// options puts IP options between the header and TCP.
	options := func(o ...byte) []byte {
		b := append(append(append([]byte(nil), syn[:34]...), o...), syn[34:]...)
		b[14] += byte(len(o) / 4)
		binary.BigEndian.PutUint16(b[16:], uint16(len(b)-14))
		return b
	}
	broadcast := packet.MAC{255, 255, 255, 255, 255, 255}
	return []HostileFrame{
		{"no rule for the port", build(6, 23, nil), "no-rule at victim"},
		{"no rule for udp", build(17, 22, nil), "no-rule at victim"},
		{"echo request", build(1, 1, nil), "no-rule at victim"},
		{"SCTP", build(132, 0, nil), "no-rule at victim"},
		{"GRE", build(47, 0, nil), "no-rule at victim"},
		{"ESP", build(50, 0, nil), "no-rule at victim"},
		{"IP in IP", build(4, 0, nil), "no-rule at victim"},
		{"SYN ACK to a closed port", build(6, 23, func(f *Frame) { f.TCPFlags = packet.SYN | packet.ACK }), "no-rule at victim"},

		{"null scan", flags(0), "bad-tcp at attacker"},
		{"FIN scan", flags(packet.FIN), "bad-tcp at attacker"},
		{"Xmas scan", flags(packet.FIN | packet.PSH | packet.URG), "bad-tcp at attacker"},
		{"SYN FIN", flags(packet.SYN | packet.FIN), "bad-tcp at attacker"},
		{"SYN RST", flags(packet.SYN | packet.RST), "bad-tcp at attacker"},
		{"all flags", flags(0x3f), "bad-tcp at attacker"},
		{"TCP data offset of 4", poke(46, 0x10), "bad-tcp at attacker"},
		{"TCP data offset of 60", poke(46, 0xf0), "bad-tcp at attacker"},

		{"nothing behind Ethernet", syn[:14], "runt at attacker"},
		{"half an IP header", syn[:24], "runt at attacker"},
		{"half a TCP header", append(append([]byte(nil), syn[:16]...), append([]byte{0, 28}, syn[18:42]...)...), "runt at attacker"},
		{"IP version 6 in an IPv4 frame", poke(14, 0x65), "bad-version at attacker"},
		{"IP header of 4 bytes", poke(14, 0x41), "bad-length at attacker"},
		{"IP length of 0", poke(16, 0, 0), "bad-length at attacker"},
		{"IP length beyond the frame", poke(16, 5, 0), "bad-length at attacker"},
		{"IP protocol 0", poke(23, 0), "bad-protocol at attacker"},

		{"VLAN", append(append(append([]byte(nil), syn[:12]...), 0x81, 0, 0, 7), syn[12:]...), "not-ip at attacker"},
		{"stacked VLANs", append(append(append([]byte(nil), syn[:12]...), 0x88, 0xa8, 0, 7, 0x81, 0, 0, 7), syn[12:]...), "not-ip at attacker"},
		{"MPLS", poke(12, 0x88, 0x47), "not-ip at attacker"},
		{"spanning tree", poke(0, 1, 0x80, 0xc2, 0, 0, 0, 2, 0, 0, 1, 0, 'a', 0, 38, 0x42, 0x42, 3), "not-ip at attacker"},
		{"LLDP", poke(12, 0x88, 0xcc), "not-ip at attacker"},
		{"PPPoE", poke(12, 0x88, 0x64), "not-ip at attacker"},
		{"IPv6", poke(12, 0x86, 0xdd, 0x60), "ipv6 at attacker"},

		{"another's MAC", build(6, 22, func(f *Frame) { f.SrcMAC = victim.MAC }), "spoofed-mac at attacker"},
		{"the gateway's MAC", build(6, 22, func(f *Frame) { f.SrcMAC = gateway }), "spoofed-mac at attacker"},
		{"LAND", from(victim.Address.String()), "spoofed-ip at attacker"},
		{"the gateway's address", from("10.0.0.1"), "spoofed-ip at attacker"},
		{"loopback", from("127.0.0.1"), "spoofed-ip at attacker"},
		{"ARP reply for the gateway", ARP(2, attacker.MAC, netip.MustParseAddr("10.0.0.1"), victim.Address), "spoofed-arp at attacker"},
		{"ARP request in the victim's name", ARP(1, attacker.MAC, victim.Address, netip.MustParseAddr("10.0.0.1")), "spoofed-arp at attacker"},
		{"gratuitous ARP", ARP(1, attacker.MAC, attacker.Address, attacker.Address), "arp-ignored at attacker"},
		{"ARP reply that nobody asked for", ARP(2, attacker.MAC, attacker.Address, victim.Address), "arp-ignored at attacker"},
		{"ARP for tokens", append(append([]byte(nil), poke(12, 8, 6, 0, 4)...), make([]byte, 20)...), "bad-arp at attacker"},
		{"reverse ARP", poke(12, 0x80, 0x35), "not-ip at attacker"},

		{"loose source route", options(131, 7, 4, 10, 10, 0, 9, 0), "source-route at attacker"},
		{"strict source route", options(137, 7, 4, 10, 10, 0, 9, 0), "source-route at attacker"},
		{"source route behind padding", options(1, 1, 1, 1, 131, 3, 4, 0), "source-route at attacker"},
		{"option that never ends", options(68, 40, 5, 0), "bad-length at attacker"},
		{"option of length 0", options(7, 0, 4, 0), "bad-length at attacker"},

		{"first fragment of 8 bytes", part(6, 22, 1, 0, 0, true)[:42], "bad-length at attacker"},
		{"first fragment without its header", shorten(part(6, 22, 2, 0, 0, true), 28), "tiny-fragment at attacker"},
		{"fragment that would overwrite the ports", part(6, 22, 3, 8, 24, false), "tiny-fragment at attacker"},
		{"fragment that would overwrite the flags", part(6, 22, 4, 16, 24, false), "tiny-fragment at attacker"},
		{"last fragment without a first", part(17, 22, 5, 1480, 40, false), "orphan-fragment at attacker"},
		{"first fragment of what no rule admits", part(17, 22, 6, 0, 1472, true), "no-rule at victim"},
		{"the next part of it", part(17, 22, 6, 1480, 40, true), "orphan-fragment at victim"},
		{"a part that overlaps it", part(17, 22, 6, 8, 40, false), "overlapping-fragment at attacker"},
		{"fragment beyond 65535", part(17, 22, 7, 65528, 16, false), "bad-length at attacker"},

		{"DHCP server", build(17, 68, func(f *Frame) { f.Flow.SrcPort = 67 }), "dhcp-server at attacker"},
		{"DHCP discover", to(17, "255.255.255.255", broadcast), "not-unicast at attacker"},
		{"broadcast of the network", to(17, "10.255.255.255", broadcast), "not-unicast at attacker"},
		{"unicast in a broadcast frame", build(6, 22, func(f *Frame) { f.DstMAC = broadcast }), "not-unicast at attacker"},
		{"IGMP", to(2, "224.0.0.22", packet.MAC{1, 0, 0x5e, 0, 0, 0x16}), "not-unicast at attacker"},
		{"multicast DNS", to(17, "224.0.0.251", packet.MAC{1, 0, 0x5e, 0, 0, 0xfb}), "not-unicast at attacker"},
		{"multicast address in a unicast frame", to(17, "224.0.0.1", victim.MAC), "not-unicast at attacker"},
		{"the victim's address, another's MAC", build(6, 22, func(f *Frame) { f.DstMAC = packet.MAC{2, 9, 9, 9, 9, 9} }), "wrong-mac at attacker"},
		{"nobody's address", to(6, "10.10.9.9", gateway), "no-route at attacker"},
		{"the world, without a public address", to(6, "203.0.113.25", gateway), "no-route at attacker"},
		{"the gateway itself", to(6, "10.0.0.1", gateway), "gateway-local at attacker"},
		{"ICMP redirect", ICMPError(5, 1, attacker.Address, victim.Address, syn, attacker.MAC, gateway), "no-connection at attacker"},
		{"ICMP error about a connection of others", ICMPError(3, 1, attacker.Address, victim.Address, syn, attacker.MAC, gateway), "no-connection at attacker"},
	}
}

// shorten cuts an IPv4 frame to n bytes behind Ethernet and says so in its header.
func shorten(b []byte, n int) []byte {
	binary.BigEndian.PutUint16(b[16:], uint16(n))
	return b[:14+n]
}
