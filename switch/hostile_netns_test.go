package vswitch

import (
	"encoding/binary"
	"maps"
	"slices"
	"testing"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
)

// TestHostileFramesAreDropped sends each of hostileFrames to a victim that admits TCP 22. Each must
// be counted under its own verdict, and the victim's kernel must receive none.
func TestHostileFramesAreDropped(t *testing.T) {
	w := newWire(t, kernelHeader, permit(ec2.TCP, 22, 22, "0.0.0.0/0"))
	seen := verdictCounts{}
	for _, tt := range hostileFrames {
		if err := w.send(tt.frame); err != nil {
			t.Errorf("%s: the attacker's kernel refused the frame: %v", tt.name, err)
			continue
		}
		seen[tt.want]++
		if got := w.settled(tt.want, seen[tt.want]); !maps.Equal(got, seen) {
			t.Fatalf("%s: verdicts %v, want %v\n% x", tt.name, got, seen, tt.frame[:min(len(tt.frame), 60)])
		}
	}
	if n := w.received(); n != 0 {
		t.Errorf("the victim's eth0 received %d hostile packets, want 0", n)
	}
	// A packet that arrives is counted, so the count of 0 above is no accident.
	if err := w.send(attackerSYN); err != nil {
		t.Fatal(err)
	}
	w.settled("forward at victim", 1)
	if n := w.received(); n != 1 {
		t.Errorf("after one admitted packet the victim's eth0 has received %d, want 1", n)
	}
}

// shorten cuts the IPv4 packet of a frame to n bytes and sets its length.
func shorten(b []byte, n int) []byte {
	binary.BigEndian.PutUint16(b[16:], uint16(n))
	return b[:14+n]
}

// A hostileFrame is a frame that the attacker sends, and its verdict.
type hostileFrame struct {
	name  string
	frame []byte
	want  string // VERDICT at PORT
}

var (
	attackerSYN  = fromAttacker(6, 22, nil)
	broadcastMAC = ec2.MAC{255, 255, 255, 255, 255, 255}

	// hostileFrames has every kind of frame that has no place in a network, and some that no rule admits.
	hostileFrames = slices.Concat(refusedByRules, badTCP, badHeaders, otherProtocols, spoofed, badOptions, badFragments, misdirected)
)

var refusedByRules = []hostileFrame{
	{"no rule for the port", fromAttacker(6, 23, nil), "no-rule at victim"},
	{"no rule for udp", fromAttacker(17, 22, nil), "no-rule at victim"},
	{"echo request", fromAttacker(1, 1, nil), "no-rule at victim"},
	{"SCTP", fromAttacker(132, 0, nil), "no-rule at victim"},
	{"GRE", fromAttacker(47, 0, nil), "no-rule at victim"},
	{"ESP", fromAttacker(50, 0, nil), "no-rule at victim"},
	{"IP in IP", fromAttacker(4, 0, nil), "no-rule at victim"},
	{"SYN ACK to a closed port", fromAttacker(6, 23, func(f *packettest.Frame) { f.TCPFlags = packet.SYN | packet.ACK }), "no-rule at victim"},
}

var badTCP = []hostileFrame{
	{"null scan", withFlags(0), "bad-tcp at attacker"},
	{"FIN scan", withFlags(packet.FIN), "bad-tcp at attacker"},
	{"Xmas scan", withFlags(packet.FIN | packet.PSH | packet.URG), "bad-tcp at attacker"},
	{"SYN FIN", withFlags(packet.SYN | packet.FIN), "bad-tcp at attacker"},
	{"SYN RST", withFlags(packet.SYN | packet.RST), "bad-tcp at attacker"},
	{"all flags", withFlags(0x3f), "bad-tcp at attacker"},
	{"TCP data offset of 4", poked(46, 0x10), "bad-tcp at attacker"},
	{"TCP data offset of 60", poked(46, 0xf0), "bad-tcp at attacker"},
}

var badHeaders = []hostileFrame{
	{"an Ethernet header alone", attackerSYN[:14], "runt at attacker"},
	{"half an IP header", attackerSYN[:24], "runt at attacker"},
	{"half a TCP header", append(append([]byte(nil), attackerSYN[:16]...), append([]byte{0, 28}, attackerSYN[18:42]...)...), "runt at attacker"},
	{"IP version 6 in an IPv4 frame", poked(14, 0x65), "bad-version at attacker"},
	{"IP header of 4 bytes", poked(14, 0x41), "bad-length at attacker"},
	{"IP length of 0", poked(16, 0, 0), "bad-length at attacker"},
	{"IP length beyond the frame", poked(16, 5, 0), "bad-length at attacker"},
	{"IP protocol 0", poked(23, 0), "bad-protocol at attacker"},
}

var otherProtocols = []hostileFrame{
	{"VLAN", append(append(append([]byte(nil), attackerSYN[:12]...), 0x81, 0, 0, 7), attackerSYN[12:]...), "not-ip at attacker"},
	{"stacked VLANs", append(append(append([]byte(nil), attackerSYN[:12]...), 0x88, 0xa8, 0, 7, 0x81, 0, 0, 7), attackerSYN[12:]...), "not-ip at attacker"},
	{"MPLS", poked(12, 0x88, 0x47), "not-ip at attacker"},
	{"spanning tree", poked(0, 1, 0x80, 0xc2, 0, 0, 0, 2, 0, 0, 1, 0, 'a', 0, 38, 0x42, 0x42, 3), "not-ip at attacker"},
	{"LLDP", poked(12, 0x88, 0xcc), "not-ip at attacker"},
	{"PPPoE", poked(12, 0x88, 0x64), "not-ip at attacker"},
	{"IPv6", poked(12, 0x86, 0xdd, 0x60), "ipv6 at attacker"},
}

var spoofed = []hostileFrame{
	{"another's MAC", fromAttacker(6, 22, func(f *packettest.Frame) { f.SrcMAC = victimMAC }), "spoofed-mac at attacker"},
	{"the gateway's MAC", fromAttacker(6, 22, func(f *packettest.Frame) { f.SrcMAC = GatewayMAC }), "spoofed-mac at attacker"},
	{"LAND", withSource("10.10.0.5"), "spoofed-ip at attacker"},
	{"the gateway's address", withSource("10.0.0.1"), "spoofed-ip at attacker"},
	{"loopback", withSource("127.0.0.1"), "spoofed-ip at attacker"},
	{"ARP reply for the gateway", packettest.ARP(2, attackerMAC, addr("10.0.0.1"), victimIP), "spoofed-arp at attacker"},
	{"ARP request in the victim's name", packettest.ARP(1, attackerMAC, victimIP, addr("10.0.0.1")), "spoofed-arp at attacker"},
	{"gratuitous ARP", packettest.ARP(1, attackerMAC, attackerIP, attackerIP), "arp-ignored at attacker"},
	{"unsolicited ARP reply", packettest.ARP(2, attackerMAC, attackerIP, victimIP), "arp-ignored at attacker"},
	{"ARP for tokens", append(append([]byte(nil), poked(12, 8, 6, 0, 4)...), make([]byte, 20)...), "bad-arp at attacker"},
	{"reverse ARP", poked(12, 0x80, 0x35), "not-ip at attacker"},
}

var badOptions = []hostileFrame{
	{"loose source route", withOptions(131, 7, 4, 10, 10, 0, 9, 0), "source-route at attacker"},
	{"strict source route", withOptions(137, 7, 4, 10, 10, 0, 9, 0), "source-route at attacker"},
	{"source route after padding", withOptions(1, 1, 1, 1, 131, 3, 4, 0), "source-route at attacker"},
	{"option that never ends", withOptions(68, 40, 5, 0), "bad-length at attacker"},
	{"option of length 0", withOptions(7, 0, 4, 0), "bad-length at attacker"},
}

var badFragments = []hostileFrame{
	{"first fragment of 8 bytes", fragmentOf(6, 22, 1, 0, 0, true)[:42], "bad-length at attacker"},
	{"first fragment without its header", shorten(fragmentOf(6, 22, 2, 0, 0, true), 28), "tiny-fragment at attacker"},
	{"fragment that would overwrite the ports", fragmentOf(6, 22, 3, 8, 24, false), "tiny-fragment at attacker"},
	{"fragment that would overwrite the flags", fragmentOf(6, 22, 4, 16, 24, false), "tiny-fragment at attacker"},
	{"last fragment without a first", fragmentOf(17, 22, 5, 1480, 40, false), "orphan-fragment at attacker"},
	{"first fragment of what no rule admits", fragmentOf(17, 22, 6, 0, 1472, true), "no-rule at victim"},
	{"the next part of it", fragmentOf(17, 22, 6, 1480, 40, true), "orphan-fragment at victim"},
	{"a part that overlaps it", fragmentOf(17, 22, 6, 8, 40, false), "overlapping-fragment at attacker"},
	{"fragment beyond 65535", fragmentOf(17, 22, 7, 65528, 16, false), "bad-length at attacker"},
}

var misdirected = []hostileFrame{
	{"DHCP server", fromAttacker(17, 68, func(f *packettest.Frame) { f.Flow.SrcPort = 67 }), "dhcp-server at attacker"},
	{"DHCP discover", withDestination(17, "255.255.255.255", broadcastMAC), "not-unicast at attacker"},
	{"broadcast of the network", withDestination(17, "10.255.255.255", broadcastMAC), "not-unicast at attacker"},
	{"unicast in a broadcast frame", fromAttacker(6, 22, func(f *packettest.Frame) { f.DstMAC = broadcastMAC }), "not-unicast at attacker"},
	{"IGMP", withDestination(2, "224.0.0.22", ec2.MAC{1, 0, 0x5e, 0, 0, 0x16}), "not-unicast at attacker"},
	{"multicast DNS", withDestination(17, "224.0.0.251", ec2.MAC{1, 0, 0x5e, 0, 0, 0xfb}), "not-unicast at attacker"},
	{"multicast address in a unicast frame", withDestination(17, "224.0.0.1", victimMAC), "not-unicast at attacker"},
	{"the victim's address, an unknown MAC, a closed port", fromAttacker(6, 23, func(f *packettest.Frame) { f.DstMAC = ec2.MAC{2, 9, 9, 9, 9, 9} }), "no-rule at victim"},
	{"the victim's MAC, an address outside", withDestination(6, "203.0.113.25", victimMAC), "wrong-mac at attacker"},
	{"unused address", withDestination(6, "10.10.9.9", GatewayMAC), "no-route at attacker"},
	{"the internet, without a public address", withDestination(6, "203.0.113.25", GatewayMAC), "no-route at attacker"},
	{"the gateway itself", withDestination(6, "10.0.0.1", GatewayMAC), "gateway-local at attacker"},
	{"ICMP redirect", packettest.ICMPError(5, 1, attackerIP, victimIP, attackerSYN, attackerMAC, GatewayMAC), "no-connection at attacker"},
	{"ICMP error about a connection of others", packettest.ICMPError(3, 1, attackerIP, victimIP, attackerSYN, attackerMAC, GatewayMAC), "no-connection at attacker"},
}

func fromAttacker(protocol uint8, port uint16, edit func(f *packettest.Frame)) []byte {
	f := template(protocol, attackerIP, victimIP, 40000, port)
	f.SrcMAC, f.DstMAC = attackerMAC, GatewayMAC
	if edit != nil {
		edit(&f)
	}
	return packettest.Build(f)
}

// poked returns the attacker's SYN with the bytes at offset at replaced.
func poked(at int, values ...byte) []byte {
	b := fromAttacker(6, 22, nil)
	copy(b[at:], values)
	return b
}

func withFlags(f uint8) []byte { return poked(47, f) }

func fragmentOf(protocol uint8, port, id uint16, offset, n int, more bool) []byte {
	return fromAttacker(protocol, port, func(f *packettest.Frame) {
		f.FragID, f.FragOffset, f.MoreFollow, f.Payload = id, offset, more, make([]byte, n)
	})
}

func withSource(ip string) []byte {
	return fromAttacker(6, 22, func(f *packettest.Frame) { f.Flow.Src = addr(ip) })
}

func withDestination(protocol uint8, ip string, mac ec2.MAC) []byte {
	return fromAttacker(protocol, 67, func(f *packettest.Frame) { f.Flow.Dst, f.DstMAC = addr(ip), mac })
}

// withOptions returns the attacker's SYN with IP options between the IP and the TCP header.
func withOptions(o ...byte) []byte {
	syn := fromAttacker(6, 22, nil)
	b := slices.Concat(syn[:34], o, syn[34:])
	b[14] += byte(len(o) / 4)
	binary.BigEndian.PutUint16(b[16:], uint16(len(b)-14))
	return b
}
