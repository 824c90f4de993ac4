package packettest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"palisade/ec2"
	"palisade/internal/packet"
)

// A Host is an interface of a Field.
type Host struct {
	MAC  ec2.MAC
	Addr netip.Addr
}

// A Field is the network in which the frames of Threats are sent. All hosts are in one subnet
// with its gateway. The victim admits TCP to the port Open from everywhere, and nothing else.
// There are no other hosts.
type Field struct {
	Attacker, Victim, Gateway Host
	// Member is an interface on the victim's node whose address the attacker forges.
	Member Host
	// Unused is an address of the network that no interface has.
	Unused netip.Addr
	Open   uint16
}

// A Threat is a frame that must not reach the victim, and the verdicts that it must get if
// all Threats are sent in order. A verdict's name is followed by " at victim" if the
// victim's port counts it; otherwise the port that received the frame counts it.
type Threat struct {
	ID    string // its row of the table in docs/SECURITY.md
	Name  string
	Frame []byte

	SameNode  string // verdict if the attacker's interface is on the victim's node
	OtherNode string // verdict if a hostile node, which checks nothing, sends the frame
}

const (
	noRule  = "no-rule at victim"
	foreign = "tunnel-foreign"
)

// Threats returns all frames, in the order in which they must be sent.
func Threats(f Field) []Threat {
	c := corpus{Field: f}
	c.scans()
	c.headers()
	c.fragments()
	c.identities()
	c.arp()
	c.otherProtocols()
	c.manyReceivers()
	c.messages()
	return c.all
}

type named[T any] struct {
	name  string
	value T
}

type corpus struct {
	Field
	all []Threat
}

func (c *corpus) add(id, name string, frame []byte, sameNode, otherNode string) {
	c.all = append(c.all, Threat{id, name, frame, sameNode, otherNode})
}

// same adds a frame that gets the same verdict on one node and across nodes.
func (c *corpus) same(id, name string, frame []byte, fate string) { c.add(id, name, frame, fate, fate) }

// frame builds a valid frame from the attacker through the gateway to the victim, changed
// by edit.
func (c *corpus) frame(protocol uint8, port uint16, edit func(f *Frame)) []byte {
	f := Frame{
		Flow:   packet.Flow{Src: c.Attacker.Addr, Dst: c.Victim.Addr, SrcPort: 40000, DstPort: port, Protocol: protocol},
		SrcMAC: c.Attacker.MAC, DstMAC: c.Gateway.MAC, TCPFlags: packet.SYN, ICMPType: packet.ICMPEcho,
	}
	if edit != nil {
		edit(&f)
	}
	return Build(f)
}

func (c *corpus) syn() []byte { return c.frame(packet.ProtocolTCP, c.Open, nil) }

// poke builds a SYN to the open port, with the bytes at an offset replaced.
func (c *corpus) poke(at int, values ...byte) []byte {
	b := c.syn()
	copy(b[at:], values)
	return b
}

// typed builds a SYN to the open port, with link layer tags in place of its EtherType.
func (c *corpus) typed(tags ...byte) []byte {
	b := c.syn()
	return slices.Concat(b[:12], tags, b[14:])
}

// options builds a SYN with IP options before the TCP header.
func (c *corpus) options(port uint16, o ...byte) []byte {
	b := c.frame(packet.ProtocolTCP, port, nil)
	b = slices.Concat(b[:34], o, b[34:])
	b[14] += byte(len(o) / 4)
	return Sized(b)
}

// Sized writes an IPv4 frame's actual length into its header.
func Sized(b []byte) []byte {
	binary.BigEndian.PutUint16(b[16:], uint16(len(b)-14))
	return b
}

func (c *corpus) scans() {
	const tcp, udp, icmp = packet.ProtocolTCP, packet.ProtocolUDP, packet.ProtocolICMP
	closed := c.Open + 1
	flags := func(port uint16, set uint8) []byte { return c.frame(tcp, port, func(f *Frame) { f.TCPFlags = set }) }
	from := func(protocol uint8, src, dst uint16) []byte {
		return c.frame(protocol, dst, func(f *Frame) { f.Flow.SrcPort = src })
	}
	c.same("T01", "SYN to a closed port", flags(closed, packet.SYN), noRule)
	c.same("T01", "UDP to a closed port", c.frame(udp, 53, nil), noRule)
	c.same("T02", "ping", c.frame(icmp, 40000, nil), noRule)
	for _, n := range []named[uint8]{{"ACK", packet.ACK}, {"SYN ACK", packet.SYN | packet.ACK}, {"RST", packet.RST}, {"RST ACK", packet.RST | packet.ACK}, {"FIN ACK (Maimon)", packet.FIN | packet.ACK}} {
		name, set := n.name, n.value
		c.same("T03", name+" to a closed port", flags(closed, set), noRule)
	}
	for _, n := range []named[uint8]{
		{"null", 0}, {"FIN", packet.FIN}, {"Xmas", packet.FIN | packet.PSH | packet.URG}, {"SYN FIN", packet.SYN | packet.FIN}, {"SYN RST", packet.SYN | packet.RST},
		{"PSH", packet.PSH}, {"URG", packet.URG}, {"FIN RST ACK", packet.FIN | packet.RST | packet.ACK}, {"SYN FIN ACK", packet.SYN | packet.FIN | packet.ACK}, {"all", 0x3f},
	} {
		name, set := n.name, n.value
		c.same("T03", name+" scan of a closed port", flags(closed, set), "bad-tcp")
		c.same("T14", name+" to the open port", flags(c.Open, set), "bad-tcp")
	}
	for _, port := range []uint16{0, 20, 53, 80, 88} {
		c.same("T04", fmt.Sprint("TCP from port ", port), from(tcp, port, closed), noRule)
		c.same("T04", fmt.Sprint("UDP from port ", port), from(udp, port, closed), noRule)
	}
	c.same("T04", "TCP from port 67", from(tcp, 67, closed), noRule)
	c.same("T04", "TCP to port 0", from(tcp, 40000, 0), noRule)
	c.same("T05", "UDP to the port that is open for TCP", c.frame(udp, c.Open, nil), noRule)
	c.same("T05", "the port below", c.frame(tcp, c.Open-1, nil), noRule)
	c.same("T05", "the port with its bytes swapped", c.frame(tcp, c.Open<<8|c.Open>>8, nil), noRule)
	inner := c.syn()[34:]
	for _, protocol := range []uint8{2, 4, 41, 47, 50, 51, 58, 89, 112, 132, 136, 200, 253, 255} {
		id, name := "T06", "protocol %d"
		switch protocol {
		case 200, 253:
			id, name = "T08", "protocol %d with what looks like TCP to the open port"
		case 4, 41, 47:
			id, name = "T09", "protocol %d with a packet to the open port inside"
		}
		c.same(id, fmt.Sprintf(name, protocol), c.frame(protocol, 0, func(f *Frame) {
			f.Payload = inner
			if id == "T09" {
				f.Payload = c.syn()[14:]
			}
		}), noRule)
	}
	c.same("T07", "protocol 0", c.poke(23, 0), "bad-protocol")
}

func (c *corpus) headers() {
	c.same("T10", "IP header of 16 bytes", c.poke(14, 0x44), "bad-length")
	c.same("T10", "IP header of 0 bytes", c.poke(14, 0x40), "bad-length")
	c.same("T10", "IP header past the packet", c.poke(14, 0x4f), "bad-length")
	for _, n := range []uint16{0, 19, 41, 1500, 65535} {
		c.same("T10", fmt.Sprintf("IP length of %d", n), c.poke(16, byte(n>>8), byte(n)), "bad-length")
	}
	for _, n := range []byte{20, 33, 39} {
		c.same("T10", fmt.Sprintf("IP length of %d, within TCP", n), c.poke(16, 0, n), "runt")
	}
	c.same("T11", "version 6 under the EtherType of 4", c.poke(14, 0x65), "bad-version")
	c.same("T11", "version 5 under the EtherType of 4", c.poke(14, 0x55), "bad-version")
	fake := append([]byte{0x88, 40}, append(slices.Clone(c.syn()[34:54]), make([]byte, 18)...)...)
	c.same("T12", "a TCP header to the open port among the options", c.options(c.Open+1, fake...), noRule)
	c.same("T12", "loose source route", c.options(c.Open, 131, 7, 4, 10, 10, 0, 9, 0), "source-route")
	c.same("T12", "strict source route", c.options(c.Open, 137, 7, 4, 10, 10, 0, 9, 0), "source-route")
	c.same("T12", "source route behind padding", c.options(c.Open, 1, 1, 1, 1, 131, 3, 4, 0), "source-route")
	c.same("T12", "option longer than the header", c.options(c.Open, 68, 40, 5, 0), "bad-length")
	c.same("T12", "option of length 0", c.options(c.Open, 7, 0, 4, 0), "bad-length")
	for _, offset := range []byte{0, 1, 2, 3, 4, 6, 15} {
		c.same("T13", fmt.Sprintf("TCP data offset of %d", offset), c.poke(46, offset<<4), "bad-tcp")
	}
	c.same("T13", "UDP length of 7", c.udpLength(7), "bad-length")
	c.same("T13", "UDP length past the packet", c.udpLength(9), "bad-length")
	c.same("T14", "the middle of a connection to a closed port", c.frame(packet.ProtocolTCP, c.Open+1, func(f *Frame) { f.TCPFlags, f.Payload = packet.ACK|packet.PSH, []byte("GET /") }), noRule)
	for n := 14; n < 54; n++ {
		want := "runt"
		if n >= 34 {
			want = "bad-length"
		}
		c.same("T15", fmt.Sprintf("a frame of %d bytes", n), c.syn()[:n:n], want)
	}
}

func (c *corpus) udpLength(n uint16) []byte {
	b := c.frame(packet.ProtocolUDP, 53, nil)
	binary.BigEndian.PutUint16(b[38:], n)
	return b
}

// part builds a fragment with n bytes after the IP header.
func (c *corpus) part(protocol uint8, port, id uint16, offset, n int, more bool) []byte {
	b := c.frame(protocol, port, func(f *Frame) { f.FragID, f.MoreFollow, f.Payload = id, more, make([]byte, 64) })
	if offset > 0 {
		b = append(b[:34:34], make([]byte, n)...)
	}
	binary.BigEndian.PutUint16(b[20:], binary.BigEndian.Uint16(b[20:])&0x2000|uint16(offset/8))
	return Sized(b[:34+n])
}

func (c *corpus) fragments() {
	const tcp, udp, icmp = packet.ProtocolTCP, packet.ProtocolUDP, packet.ProtocolICMP
	const tiny, orphan = "tiny-fragment", "orphan-fragment"
	for _, n := range []int{0, 8, 16} {
		c.same("T16", fmt.Sprintf("a first fragment with %d bytes of TCP", n), c.part(tcp, c.Open, 1, 0, n, true), tiny)
	}
	c.same("T16", "an empty first fragment of UDP", c.part(udp, c.Open, 1, 0, 0, true), tiny)
	c.same("T16", "a first fragment of UDP without its ports", c.part(udp, c.Open, 1, 0, 4, true), tiny)
	// A later fragment without a first one is counted at the port whose rules would have
	// judged the first.
	c.add("T17", "a later fragment of TCP alone", c.part(tcp, c.Open, 2, 1480, 40, false), orphan, orphan+" at victim")
	c.add("T17", "a later fragment of UDP alone", c.part(udp, c.Open, 3, 1480, 40, true), orphan, orphan+" at victim")
	c.add("T17", "a later fragment of ICMP alone", c.part(icmp, 1, 4, 64, 40, false), orphan, orphan+" at victim")
	c.same("T17", "a first fragment to a closed port", c.part(udp, 53, 5, 0, 64, true), noRule)
	c.same("T17", "the next part of it", c.part(udp, 53, 5, 64, 40, true), orphan+" at victim")
	c.same("T17", "its end", c.part(udp, 53, 5, 104, 40, false), orphan+" at victim")
	c.same("T18", "a fragment that would overwrite the ports", c.part(tcp, c.Open, 6, 8, 24, false), tiny)
	c.same("T18", "a fragment that would overwrite the flags", c.part(tcp, c.Open, 6, 16, 24, false), tiny)
	c.same("T18", "a first fragment to a closed port, to be overwritten", c.part(udp, 53, 7, 0, 64, true), noRule)
	c.add("T18", "a part that overlaps it", c.part(udp, 53, 7, 8, 64, true), "overlapping-fragment", orphan+" at victim")
	c.add("T18", "the same first fragment again, to the open port", c.part(tcp, c.Open+1, 8, 0, 64, true), noRule, noRule)
	c.same("T19", "a fragment beyond 65535 bytes", c.part(udp, 53, 9, 65528, 16, false), "bad-length")
	c.same("T19", "a fragment of ICMP beyond 65535 bytes", c.part(icmp, 1, 9, 65528, 1000, false), "bad-length")
}

// by builds a SYN to the open port from a forged MAC and IP address.
func (c *corpus) by(mac ec2.MAC, ip netip.Addr) []byte {
	return c.frame(packet.ProtocolTCP, c.Open, func(f *Frame) { f.SrcMAC, f.Flow.Src = mac, ip })
}

func (c *corpus) identities() {
	own := c.Attacker.Addr
	for _, m := range []struct {
		id, name string
		mac      ec2.MAC
	}{
		{"T21", "a MAC that no interface has", ec2.MAC{2, 9, 9, 9, 9, 9}}, {"T21", "the gateway's MAC", c.Gateway.MAC}, {"T22", "the victim's MAC", c.Victim.MAC},
		{"T23", "a group's MAC", ec2.MAC{1, 0, 0x5e, 0, 0, 1}}, {"T23", "the broadcast MAC", ec2.MAC{255, 255, 255, 255, 255, 255}}, {"T23", "the zero MAC", ec2.MAC{}},
	} {
		b := c.syn()
		copy(b[6:], m.mac[:])
		c.add(m.id, "from "+m.name, b, "spoofed-mac", foreign)
	}
	for _, n := range []named[Host]{{"a member", c.Member}, {"the gateway", c.Gateway}} {
		name, h := n.name, n.value
		c.add("T24", "from the address of "+name, c.by(c.Attacker.MAC, h.Addr), "spoofed-ip", foreign)
		c.add("T24", "from address and MAC of "+name, c.by(h.MAC, h.Addr), "spoofed-mac", foreign)
		c.add("T24", "from the MAC of "+name, c.by(h.MAC, own), "spoofed-mac", foreign)
	}
	c.add("T24", "from an address that no interface has", c.by(c.Attacker.MAC, c.Unused), "spoofed-ip", foreign)
	c.add("T25", "LAND: from the victim's own address", c.by(c.Attacker.MAC, c.Victim.Addr), "spoofed-ip", foreign)
	for _, ip := range []string{"127.0.0.1", "0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "169.254.1.1", "203.0.113.25", "198.18.9.9"} {
		c.add("T25", "from "+ip, c.by(c.Attacker.MAC, netip.MustParseAddr(ip)), "spoofed-ip", foreign)
	}
}

func (c *corpus) arp() {
	const spoofed, ignored = "spoofed-arp", "arp-ignored"
	broadcast := ec2.MAC{255, 255, 255, 255, 255, 255}
	arp := func(operation uint16, sender Host, target netip.Addr, to ec2.MAC) []byte {
		b := ARP(operation, sender.MAC, sender.Addr, target)
		copy(b, to[:])
		copy(b[6:], c.Attacker.MAC[:])
		return b
	}
	mine := func(ip netip.Addr) Host { return Host{c.Attacker.MAC, ip} }
	for _, to := range []ec2.MAC{broadcast, c.Victim.MAC} {
		c.add("T26", "ARP reply that the gateway is here", arp(2, mine(c.Gateway.Addr), c.Victim.Addr, to), spoofed, foreign)
		c.add("T26", "ARP reply that another is here", arp(2, mine(c.Member.Addr), c.Victim.Addr, to), spoofed, foreign)
		c.same("T26", "unasked ARP reply", arp(2, mine(c.Attacker.Addr), c.Victim.Addr, to), ignored)
		c.add("T27", "ARP request in the gateway's name", arp(1, mine(c.Gateway.Addr), c.Victim.Addr, to), spoofed, foreign)
		c.add("T27", "ARP request in the victim's name", arp(1, mine(c.Victim.Addr), c.Victim.Addr, to), spoofed, foreign)
		c.same("T27", "gratuitous ARP", arp(1, mine(c.Attacker.Addr), c.Attacker.Addr, to), ignored)
	}
	c.add("T28", "ARP with another MAC inside", arp(1, Host{c.Victim.MAC, c.Attacker.Addr}, c.Gateway.Addr, broadcast), spoofed, ignored)
	odd := func(name string, at int, values ...byte) {
		b := arp(1, mine(c.Attacker.Addr), c.Gateway.Addr, broadcast)
		copy(b[at:], values)
		c.same("T28", "ARP with "+name, b, "bad-arp")
	}
	odd("hardware type 6", 14, 0, 6)
	odd("protocol IPv6", 16, 0x86, 0xdd)
	odd("MACs of 8 bytes", 18, 8)
	odd("addresses of 16 bytes", 19, 16)
	odd("operation 0", 20, 0, 0)
	odd("operation 3", 20, 0, 3)
	odd("operation 8", 20, 0, 8)
	c.same("T28", "ARP that is cut", arp(1, mine(c.Attacker.Addr), c.Gateway.Addr, broadcast)[:41:41], "bad-arp")
	reverse := arp(3, mine(c.Attacker.Addr), c.Gateway.Addr, broadcast)
	reverse[12], reverse[13] = 0x80, 0x35
	c.same("T28", "reverse ARP", reverse, "not-ip")
	c.same("T29", "ARP for an address that no interface has", arp(1, mine(c.Attacker.Addr), c.Unused, broadcast), ignored)
}
