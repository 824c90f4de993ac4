package packet_test

import (
	"encoding/binary"
	"testing"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

// refused checks that Decode refuses a frame with the verdict want.
func refused(t *testing.T, name string, frame []byte, want verdict.Verdict) {
	t.Helper()
	var p packet.Packet
	if got, ok := packet.NewDecoder().Decode(frame, &p); ok || got != want {
		t.Errorf("%s: Decode = %v, %t; want %v, false\n% x", name, got, ok, want, frame)
	}
}

// Each case changes one field of an ARP frame from its value for IPv4 on Ethernet (RFC
// 826).
func TestMalformedARPIsRefused(t *testing.T) {
	valid := func() []byte { return packettest.ARP(1, ec2.MAC{2}, client, server) }
	for _, operation := range []uint16{1, 2} {
		decode(t, packettest.ARP(operation, ec2.MAC{2}, client, server))
	}
	for name, change := range map[string]func(b []byte){
		"hardware type 0":            func(b []byte) { b[15] = 0 },
		"hardware type 6":            func(b []byte) { b[15] = 6 },
		"hardware type 257":          func(b []byte) { b[14] = 1 },
		"protocol ARP":               func(b []byte) { b[17] = 6 },
		"protocol IPv6":              func(b []byte) { b[16], b[17] = 0x86, 0xdd },
		"MACs of 0 bytes":            func(b []byte) { b[18] = 0 },
		"MACs of 8 bytes":            func(b []byte) { b[18] = 8 },
		"addresses of 0 bytes":       func(b []byte) { b[19] = 0 },
		"addresses of 16 bytes":      func(b []byte) { b[19] = 16 },
		"operation 0":                func(b []byte) { b[21] = 0 },
		"operation 3, reverse ARP":   func(b []byte) { b[21] = 3 },
		"operation 8, inverse ARP":   func(b []byte) { b[21] = 8 },
		"operation 257, not request": func(b []byte) { b[20] = 1 },
	} {
		b := valid()
		change(b)
		refused(t, name, b, verdict.BadARP)
	}
	for n := 14; n < 42; n++ {
		refused(t, "truncated", valid()[:n:n], verdict.BadARP)
	}
}

// IP and TCP options with an invalid length are refused.
func TestMalformedOptionsAreRefused(t *testing.T) {
	withTCP := func(options ...byte) []byte {
		b := append(packettest.Build(tcp(packet.SYN, "")), options...)
		b[46] = byte(5+len(options)/4) << 4
		binary.BigEndian.PutUint16(b[16:], uint16(len(b)-14))
		return b
	}
	for name, options := range map[string][]byte{
		"length 0":                {7, 0, 4, 0},
		"length 1":                {7, 1, 4, 0},
		"longer than the header":  {7, 9, 4, 0},
		"a kind without a length": {1, 1, 1, 7},
		"after valid ones":        {1, 7, 3, 4, 7, 5, 0, 0},
	} {
		refused(t, "IP options, "+name, withOptions(options...), verdict.BadLength)
		refused(t, "TCP options, "+name, withTCP(options...), verdict.BadTCP)
	}
	refused(t, "an IP option of length 2", withOptions(7, 2, 0, 0), verdict.BadLength)
	// A source route is found after other options. It is not found inside another option or
	// after the end of the list.
	refused(t, "source route after another option", withOptions(7, 3, 4, 131, 3, 4, 0, 0), verdict.SourceRoute)
	decode(t, withOptions(7, 4, 4, 131))
	decode(t, withOptions(0, 131, 3, 4))
	decode(t, withTCP(2, 4, 5, 180))
	decode(t, withTCP(1, 1, 4, 2)) // the shortest option, SACK permitted
	decode(t, withTCP(4, 2, 4, 2))
	decode(t, withTCP(0, 9, 9, 9))
}

// IP options that look like a TCP header are not read as ports.
func TestPortsAreReadAfterIPOptions(t *testing.T) {
	fake := packettest.Build(tcp(packet.SYN, ""))[34:54]
	binary.BigEndian.PutUint16(fake[2:], 80)
	options := append([]byte{0x88, 40}, append(fake, make([]byte, 18)...)...)
	if p := decode(t, withOptions(options...)); p.Flow != tcp(0, "").Flow || p.L4 != 14+60 {
		t.Errorf("packet %v with transport header at %d, want flow %v with transport header at %d", &p, p.L4, tcp(0, "").Flow, 14+60)
	}
}

// These fragments are refused (RFC 1858, RFC 3128): first fragments without a whole
// transport header, later fragments that could overwrite it, and fragments of sizes that no
// sender makes.
func TestTinyFragmentsAreRefused(t *testing.T) {
	// body returns the IP payload of a first or later fragment.
	body := func(protocol uint8, n, offset int, more bool) []byte {
		f := packettest.Frame{Flow: packet.Flow{Src: client, Dst: server, Protocol: protocol}, FragID: 9, FragOffset: 8, MoreFollow: more, Payload: make([]byte, n)}
		b := packettest.Build(f)
		binary.BigEndian.PutUint16(b[20:], binary.BigEndian.Uint16(b[20:])&0x2000|uint16(offset/8))
		if offset == 0 && protocol == packet.ProtocolTCP && n > 13 {
			b[46], b[47] = 0x50, packet.SYN
		}
		if offset == 0 && protocol == packet.ProtocolUDP && n > 5 {
			b[39] = 8
		}
		return b
	}
	longHeader := func(n int) []byte { // the first n bytes of a TCP header of 40
		b := body(packet.ProtocolTCP, n, 0, true)
		b[46] = 0xa0
		return b
	}
	for _, protocol := range []uint8{packet.ProtocolTCP, packet.ProtocolUDP, packet.ProtocolICMP, 47} {
		for _, n := range []int{0, 1, 4, 7} {
			refused(t, "a first fragment of a few bytes", body(protocol, n, 0, true), verdict.TinyFragment)
		}
		refused(t, "a first fragment not of eighths", body(protocol, 60, 0, true), verdict.TinyFragment)
		refused(t, "a later fragment of nothing", body(protocol, 0, 64, false), verdict.TinyFragment)
		refused(t, "a later fragment of nothing, and more", body(protocol, 0, 64, true), verdict.TinyFragment)
		refused(t, "a later fragment not of eighths", body(protocol, 13, 64, true), verdict.TinyFragment)
		decode(t, body(protocol, 13, 64, false))
		decode(t, body(protocol, 64, 0, true))
	}
	for _, n := range []int{8, 16} {
		refused(t, "a first fragment of TCP without its flags", body(packet.ProtocolTCP, n, 0, true), verdict.TinyFragment)
	}
	for _, n := range []int{24, 32} {
		refused(t, "a first fragment of TCP without its options", longHeader(n), verdict.TinyFragment)
	}
	decode(t, longHeader(40))
	for offset := 8; offset < 64; offset += 8 {
		refused(t, "a later fragment within a TCP header", body(packet.ProtocolTCP, 24, offset, false), verdict.TinyFragment)
		decode(t, body(packet.ProtocolUDP, 24, offset, false))
	}
	decode(t, body(packet.ProtocolTCP, 24, 64, false))
}

// The test decodes TCP packets with all 256 sets of flags. PSH, ECE and CWR may be in any
// set.
func TestInvalidTCPFlagSetsAreRefused(t *testing.T) {
	const free = packet.PSH | 0x40 | 0x80
	valid := map[uint8]bool{}
	for _, set := range []uint8{
		packet.SYN, packet.SYN | packet.URG, packet.SYN | packet.ACK, packet.RST, packet.RST | packet.ACK,
		packet.ACK, packet.ACK | packet.URG, packet.FIN | packet.ACK, packet.FIN | packet.ACK | packet.URG,
	} {
		valid[set] = true
	}
	for flags := range 256 {
		frame := packettest.Build(tcp(packet.ACK, ""))
		frame[47] = byte(flags)
		if valid[uint8(flags)&^free] {
			decode(t, frame)
		} else {
			refused(t, "a set that no TCP sends", frame, verdict.BadTCP)
		}
	}
}

// An ICMP error has no quoted flow if its quote is truncated, is not IPv4 or is a later
// fragment, or if the error itself is a fragment.
func TestMalformedQuotesAreIgnored(t *testing.T) {
	build := func(change func(b []byte) []byte) []byte {
		b := packettest.ICMPError(packet.ICMPUnreachable, 3, server, client, packettest.Build(udp("0123456789")), ec2.MAC{2}, ec2.MAC{4})
		b = change(b)
		binary.BigEndian.PutUint16(b[16:], uint16(len(b)-14))
		return b
	}
	const quote = 14 + 20 + 8
	if p := decode(t, build(func(b []byte) []byte { return b })); !p.HasQuoted || p.Quoted != udp("").Flow {
		t.Fatalf("a valid ICMP error: %v, want quoted flow %v", &p, udp("").Flow)
	}
	for name, change := range map[string]func(b []byte) []byte{
		"nothing":                     func(b []byte) []byte { return b[:quote] },
		"half an IP header":           func(b []byte) []byte { return b[: quote+19 : quote+19] },
		"seven bytes after it":        func(b []byte) []byte { return b[: quote+27 : quote+27] },
		"version 6":                   func(b []byte) []byte { b[quote] = 0x65; return b },
		"a header of 16 bytes":        func(b []byte) []byte { b[quote] = 0x44; return b },
		"a header longer than itself": func(b []byte) []byte { b[quote] = 0x4f; return b },
		"a later fragment":            func(b []byte) []byte { b[quote+7] = 1; return b },
		"in a fragment":               func(b []byte) []byte { b[20] = 0x20; return append(b, make([]byte, 4)...) },
	} {
		if p := decode(t, build(change)); p.HasQuoted || !p.IsICMPError {
			t.Errorf("%s: quoted %v, ICMP error %v; want an ICMP error without a quote", name, p.Quoted, p.IsICMPError)
		}
	}
}

// Valid frames of every kind are truncated at every byte, with the old or an adjusted length
// in the header. None is read past its end.
func TestTruncatedFrameIsRefused(t *testing.T) {
	for name, whole := range map[string][]byte{
		"TCP": packettest.Build(tcp(packet.SYN, "")), "UDP": packettest.Build(udp("")), "ICMP": packettest.Build(echo())[:42],
		"TCP after options": withOptions(7, 4, 4, 0), "ARP": packettest.ARP(1, ec2.MAC{2}, client, server),
	} {
		if name == "ICMP" {
			binary.BigEndian.PutUint16(whole[16:], 28)
		}
		decode(t, whole)
		for n := range len(whole) {
			for _, adjusted := range []bool{false, true} {
				b := append([]byte(nil), whole[:n]...)
				if adjusted && n >= 18 && name != "ARP" {
					binary.BigEndian.PutUint16(b[16:], uint16(n-14))
				}
				var p packet.Packet
				v, ok := packet.NewDecoder().Decode(b[:n:n], &p)
				if ok || n < 34 && name != "ARP" && v != verdict.Runt {
					t.Errorf("%s truncated at byte %d (IP length adjusted: %v): Decode = %v, %v, want it refused, and before byte 34 as a runt", name, n, adjusted, v, ok)
				}
			}
		}
	}
}

// Decode refuses these frames before gopacket sees them, because gopacket allocates an error
// for each, which would make a flood expensive.
func TestRefusedFramesAllocateNothing(t *testing.T) {
	d := packet.NewDecoder()
	var p packet.Packet
	for name, frame := range map[string][]byte{
		"an IP option that is cut":    withOptions(1, 1, 1, 7),
		"an IP option of length 0":    withOptions(7, 0, 4, 0),
		"an IP option of length 1":    withOptions(7, 1, 1, 0),
		"an IP option of length 2":    withOptions(7, 2, 0, 0),
		"an IP option that is longer": withOptions(7, 9, 4, 0),
		"a UDP length of 7":           edit(udp("abc"), set(38, 0, 7)),
		"a UDP length of 0":           edit(udp("abc"), set(38, 0, 0)),
		"a TCP offset of 4":           edit(tcp(packet.SYN, ""), set(46, 0x40)),
		"an IP length of 0":           edit(tcp(packet.SYN, ""), set(16, 0, 0)),
		"an IP length of 19":          edit(tcp(packet.SYN, ""), set(16, 0, 19)),
		"a runt":                      packettest.Build(udp(""))[:20],
		"ARP that is cut":             packettest.ARP(1, ec2.MAC{2}, client, server)[:30],
		"IPv6":                        edit(tcp(packet.SYN, ""), set(12, 0x86, 0xdd)),
	} {
		if n := testing.AllocsPerRun(100, func() {
			if _, ok := d.Decode(frame, &p); ok {
				t.Errorf("Decode accepted %s, want it refused", name)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations, want 0", name, n)
		}
	}
}

// No kernel writes these virtio headers for UDP.
func TestForgedUDPSegmentationIsRefused(t *testing.T) {
	big := udp(string(make([]byte, 4000)))
	for name, header := range map[string][]byte{
		"UDP cut as TCP":               offload(1, 1, 1400, 34, 6),
		"UDP cut as TCP with ECN":      offload(1, 0x81, 1400, 34, 6),
		"more datagrams than allowed":  offload(1, 5, 31, 34, 6),
		"datagrams of one byte":        offload(1, 5, 1, 34, 6),
		"datagrams without a checksum": offload(0, 5, 1400, 0, 0),
		"datagrams with ECN":           offload(1, 0x85, 1400, 34, 6),
	} {
		p := decode(t, partial(big, 6))
		if v, ok := packet.Sanitize(header, &p); ok || v != verdict.BadOffload {
			t.Errorf("%s: Sanitize = %v, %t; want %v, false", name, v, ok, verdict.BadOffload)
		}
	}
	p := decode(t, partial(big, 6))
	if v, ok := packet.Sanitize(offload(1, 5, 32, 34, 6), &p); !ok || p.Segments != 125 {
		t.Errorf("a frame of 125 datagrams: Sanitize = %v, %t, %d segments; want true and 125", v, ok, p.Segments)
	}
}
