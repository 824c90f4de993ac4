package packet_test

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

var (
	client = netip.MustParseAddr("203.0.113.25")
	server = netip.MustParseAddr("198.18.0.9")
)

func tcp(flags uint8, payload string) packettest.Frame {
	return packettest.Frame{
		Flow:     packet.Flow{Src: client, Dst: server, SrcPort: 40000, DstPort: 22, Protocol: packet.ProtocolTCP},
		TCPFlags: flags, Payload: []byte(payload),
	}
}

func udp(payload string) packettest.Frame {
	return packettest.Frame{
		Flow:    packet.Flow{Src: client, Dst: server, SrcPort: 40000, DstPort: 53, Protocol: packet.ProtocolUDP},
		Payload: []byte(payload),
	}
}

func ipip() packettest.Frame {
	return packettest.Frame{Flow: packet.Flow{Src: server, Dst: client, Protocol: 4}, Payload: packettest.Build(echo())[14:]}
}

func echo() packettest.Frame {
	return packettest.Frame{
		Flow:     packet.Flow{Src: client, Dst: server, SrcPort: 7, DstPort: 7, Protocol: packet.ProtocolICMP},
		ICMPType: packet.ICMPEcho, Payload: []byte("abcdefgh"),
	}
}

// edit builds f and returns its bytes after change.
func edit(f packettest.Frame, change func(b []byte) []byte) []byte {
	return change(packettest.Build(f))
}

// set returns a change for edit that overwrites the bytes at an offset.
func set(at int, values ...byte) func([]byte) []byte {
	return func(b []byte) []byte { copy(b[at:], values); return b }
}

// cut returns a change for edit that shortens the frame to n bytes of IP, and its IP total
// length too.
func cut(n int) func([]byte) []byte {
	return func(b []byte) []byte {
		binary.BigEndian.PutUint16(b[16:], uint16(n))
		return b[:14+n]
	}
}

func withOptions(options ...byte) []byte {
	b := packettest.Build(tcp(packet.SYN, ""))
	b[14] = 4<<4 | byte(5+len(options)/4)
	b = append(b[:34:34], append(options, b[34:]...)...)
	binary.BigEndian.PutUint16(b[16:], uint16(len(b)-14))
	return b
}

func fragment(f packettest.Frame, offset int, more bool, payload int) []byte {
	f.FragOffset, f.MoreFollow, f.FragID, f.Payload = offset, more, 99, make([]byte, payload)
	return packettest.Build(f)
}

func TestMalformedFramesGetTheirVerdict(t *testing.T) {
	tests := []struct {
		name  string
		frame []byte
		want  verdict.Verdict
	}{
		{"empty", nil, verdict.Runt},
		{"thirteen bytes", make([]byte, 13), verdict.Runt},
		{"ethernet only", edit(tcp(packet.SYN, ""), func(b []byte) []byte { return b[:14] }), verdict.Runt},
		{"802.1Q tag", edit(tcp(packet.SYN, ""), set(12, 0x81, 0x00)), verdict.NotIP},
		{"LLC length", edit(tcp(packet.SYN, ""), set(12, 0x00, 0x2e)), verdict.NotIP},
		{"MPLS", edit(tcp(packet.SYN, ""), set(12, 0x88, 0x47)), verdict.NotIP},
		{"IPv6", edit(tcp(packet.SYN, ""), set(12, 0x86, 0xdd)), verdict.IPv6},
		{"version 6 under 0800", edit(tcp(packet.SYN, ""), set(14, 0x65)), verdict.BadVersion},
		{"header length 4 words", edit(tcp(packet.SYN, ""), set(14, 0x44)), verdict.BadLength},
		{"header past the packet", edit(tcp(packet.SYN, ""), set(14, 0x4f)), verdict.BadLength},
		{"total length 0", edit(tcp(packet.SYN, ""), set(16, 0, 0)), verdict.BadLength},
		{"total length 19", edit(tcp(packet.SYN, ""), set(16, 0, 19)), verdict.BadLength},
		{"total length past the frame", edit(tcp(packet.SYN, ""), set(16, 0xff, 0xff)), verdict.BadLength},
		{"total length cuts TCP", edit(tcp(packet.SYN, ""), cut(39)), verdict.Runt},
		{"protocol 0", edit(tcp(packet.SYN, ""), set(23, 0)), verdict.BadProtocol},
		{"loose source route", withOptions(131, 7, 4, 10, 0, 0, 1, 0), verdict.SourceRoute},
		{"strict source route", withOptions(137, 7, 4, 10, 0, 0, 1, 0), verdict.SourceRoute},
		{"source route after a NOP", withOptions(1, 131, 7, 4, 10, 0, 0, 1), verdict.SourceRoute},
		{"option past the header", withOptions(7, 9, 4, 0), verdict.BadLength},
		{"TCP data offset 4", edit(tcp(packet.SYN, ""), set(46, 0x40)), verdict.BadTCP},
		{"TCP data offset past the end", edit(tcp(packet.SYN, ""), set(46, 0xf0)), verdict.BadTCP},
		{"null scan", packettest.Build(tcp(0, "")), verdict.BadTCP},
		{"fin scan", packettest.Build(tcp(packet.FIN, "")), verdict.BadTCP},
		{"xmas scan", packettest.Build(tcp(packet.FIN|packet.PSH|packet.URG, "")), verdict.BadTCP},
		{"syn and fin", packettest.Build(tcp(packet.SYN|packet.FIN, "")), verdict.BadTCP},
		{"syn and rst", packettest.Build(tcp(packet.SYN|packet.RST, "")), verdict.BadTCP},
		{"UDP length 7", edit(udp("abc"), set(38, 0, 7)), verdict.BadLength},
		{"UDP length past the packet", edit(udp("abc"), set(38, 0, 99)), verdict.BadLength},
		{"UDP cut", edit(udp("abc"), cut(27)), verdict.Runt},
		{"ICMP cut", edit(echo(), cut(27)), verdict.Runt},
		{"tiny first fragment", edit(tcp(packet.SYN, "12345678"), func(b []byte) []byte { b[20] = 0x20; return cut(28)(b) }), verdict.TinyFragment},
		{"second fragment inside the TCP header", fragment(tcp(packet.SYN, ""), 8, false, 64), verdict.TinyFragment},
		{"first fragment not of eighths", edit(udp("12345"), set(20, 0x20)), verdict.TinyFragment},
		{"fragment past 65535", fragment(udp(""), 65528, false, 64), verdict.BadLength},
		{"ARP of five-byte addresses", edit(packettest.Frame{Flow: echo().Flow}, func([]byte) []byte {
			b := packettest.ARP(1, ec2.MAC{2}, client, server)
			b[18] = 5
			return b
		}), verdict.BadARP},
		{"RARP operation", packettest.ARP(3, ec2.MAC{2}, client, server), verdict.BadARP},
		{"ARP cut", packettest.ARP(1, ec2.MAC{2}, client, server)[:41], verdict.BadARP},
	}
	d := packet.NewDecoder()
	for _, tt := range tests {
		var p packet.Packet
		if got, ok := d.Decode(tt.frame, &p); ok || got != tt.want {
			t.Errorf("%s: Decode = %v, %t; want %v, false\n% x", tt.name, got, ok, tt.want, tt.frame)
		}
	}
}

func TestDecodeReadsWhatWasSent(t *testing.T) {
	d := packet.NewDecoder()
	var p packet.Packet
	for _, f := range []packettest.Frame{tcp(packet.SYN, ""), tcp(packet.ACK|packet.PSH, "hello"), udp("hello"), echo()} {
		frame := append(packettest.Build(f), 0, 0, 0) // padding
		if v, ok := d.Decode(frame, &p); !ok {
			t.Fatalf("Decode refused %v with verdict %v", f.Flow, v)
		}
		if p.Flow != f.Flow || p.TCPFlags != f.TCPFlags || p.ICMPType != f.ICMPType || p.Len != len(frame)-3 {
			t.Errorf("Decode of %v: flow %v, flags %x, ICMP type %d, length %d; want flags %x, ICMP type %d, length %d", f.Flow, p.Flow, p.TCPFlags, p.ICMPType, p.Len, f.TCPFlags, f.ICMPType, len(frame)-3)
		}
		if got, want := string(frame[p.Payload:p.Len]), string(f.Payload); got != want {
			t.Errorf("payload of %v = %q, want %q", f.Flow, got, want)
		}
	}
}

// gopacket decodes no transport header of a fragment. Decode reads the ports of a first
// fragment itself.
func TestFirstFragmentHasItsPorts(t *testing.T) {
	d := packet.NewDecoder()
	var p packet.Packet
	if v, ok := d.Decode(fragment(udp(""), 0, true, 64), &p); !ok || p.Flow != udp("").Flow || !p.Fragment || !p.HasL4 {
		t.Errorf("first fragment: Decode = %v, %t, flow %v, want flow %v", v, ok, p.Flow, udp("").Flow)
	}
	if v, ok := d.Decode(fragment(udp(""), 72, false, 5), &p); !ok || p.HasL4 || p.Flow.DstPort != 0 || p.FragOffset != 72 {
		t.Errorf("second fragment: Decode = %v, %t, flow %v, offset %d, want no ports and offset 72", v, ok, p.Flow, p.FragOffset)
	}
}

// An encapsulated packet is judged by its outer header.
func TestFlowComesFromTheOuterHeader(t *testing.T) {
	outer := ipip()
	if p := decode(t, packettest.Build(outer)); p.Flow != outer.Flow {
		t.Errorf("flow %v, want the outer flow %v", p.Flow, outer.Flow)
	}
}

func TestICMPErrorQuotesItsPacket(t *testing.T) {
	d := packet.NewDecoder()
	var p packet.Packet
	frame := packettest.ICMPError(packet.ICMPUnreachable, 3, server, client, packettest.Build(udp("x")), ec2.MAC{2}, ec2.MAC{4})
	if v, ok := d.Decode(frame, &p); !ok || !p.HasQuoted || p.Quoted != udp("").Flow {
		t.Errorf("Decode of an ICMP error = %v, %t, quoted flow %v, want %v", v, ok, p.Quoted, udp("").Flow)
	}
	cutOff := edit(packettest.Frame{Flow: echo().Flow, ICMPType: 3, Payload: make([]byte, 27)}, set(42, 0x45))
	if v, ok := d.Decode(cutOff, &p); !ok || p.HasQuoted {
		t.Errorf("ICMP error with a cut-off quote: Decode = %v, %t, has a quote %v, want true and no quote", v, ok, p.HasQuoted)
	}
}

func TestNoAllocs(t *testing.T) {
	d := packet.NewDecoder()
	var p packet.Packet
	frames := [][]byte{
		packettest.Build(tcp(packet.ACK, "hello")), packettest.Build(udp("x")), packettest.Build(echo()),
		packettest.ARP(1, ec2.MAC{2}, client, server), packettest.Build(tcp(0, "")),
		fragment(udp(""), 0, true, 64), fragment(udp(""), 72, false, 5),
		withOptions(7, 4, 4, 0), withOptions(7, 9, 4, 0), {1, 2, 3},
		packettest.ICMPError(3, 1, server, client, packettest.Build(udp("x")), ec2.MAC{2}, ec2.MAC{4}),
	}
	for i, frame := range frames {
		offload := make([]byte, packet.OffloadLen)
		if n := testing.AllocsPerRun(100, func() {
			if _, ok := d.Decode(frame, &p); ok {
				packet.Sanitize(offload, &p)
			}
		}); n != 0 {
			t.Errorf("frame %d: %v allocations, want 0", i, n)
		}
	}
}

func TestPeekFlowReadsPlainTCPAndUDPOnly(t *testing.T) {
	for _, frame := range [][]byte{packettest.Build(udp("abc")), packettest.Build(tcp(packet.SYN, ""))} {
		if flow, ok := packet.PeekFlow(frame); !ok || flow != decode(t, frame).Flow {
			t.Errorf("PeekFlow = %v, %v, want %v; frame % x", flow, ok, decode(t, frame).Flow, frame)
		}
	}
	for _, frame := range [][]byte{
		nil, packettest.Build(udp(""))[:41], packettest.Build(echo()), packettest.ARP(1, ec2.MAC{2}, client, server),
		withOptions(7, 4, 4, 0), fragment(udp(""), 0, true, 64), fragment(udp(""), 64, false, 64),
	} {
		if flow, ok := packet.PeekFlow(frame); ok {
			t.Errorf("PeekFlow = %v, true, want false; frame % x", flow, frame)
		}
	}
}

// FuzzDecode compares Decode with gopacket's own decoding of the same bytes. It also checks
// every offset in the Packet.
func FuzzDecode(f *testing.F) {
	for _, frame := range [][]byte{
		packettest.Build(tcp(packet.SYN, "")), packettest.Build(udp("abc")), packettest.Build(echo()), packettest.Build(ipip()),
		packettest.ARP(1, ec2.MAC{2}, client, server), withOptions(131, 7, 4, 10, 0, 0, 1, 0),
		fragment(udp(""), 0, true, 64), fragment(tcp(packet.SYN, ""), 64, false, 64),
		packettest.ICMPError(3, 1, server, client, packettest.Build(udp("x")), ec2.MAC{2}, ec2.MAC{4}),
	} {
		f.Add(frame)
	}
	d := packet.NewDecoder()
	f.Fuzz(func(t *testing.T, frame []byte) {
		var p packet.Packet
		if v, ok := d.Decode(frame, &p); !ok {
			if !v.Drops() || v == verdict.Unset {
				t.Fatalf("Decode refused a frame with verdict %v, want one that drops", v)
			}
			return
		}
		if p.L3 > p.L4 && p.EtherType == packet.EtherTypeIPv4 || p.L4 > p.Payload || p.Payload > p.Len || p.Len > len(frame) {
			t.Fatalf("IP header at %d, transport header at %d, payload at %d, length %d of a frame of %d bytes: want them ascending", p.L3, p.L4, p.Payload, p.Len, len(frame))
		}
		if flow, ok := packet.PeekFlow(frame); ok && flow != p.Flow {
			t.Fatalf("PeekFlow returned %v, want %v as in Decode", flow, p.Flow)
		}
		if p.Fragment || p.Flow.Protocol != packet.ProtocolTCP && p.Flow.Protocol != packet.ProtocolUDP {
			return // gopacket also decodes encapsulated packets, and Decode does not
		}
		// The port that rules judge must be the port that a receiver reads.
		all := gopacket.NewPacket(frame[:p.Len], layers.LayerTypeEthernet, gopacket.NoCopy)
		switch l := all.TransportLayer().(type) {
		case *layers.TCP:
			if uint16(l.DstPort) != p.Flow.DstPort || p.Flow.Protocol != packet.ProtocolTCP {
				t.Fatalf("Decode reads TCP port %d, gopacket reads %d", p.Flow.DstPort, l.DstPort)
			}
		case *layers.UDP:
			if uint16(l.DstPort) != p.Flow.DstPort || p.Flow.Protocol != packet.ProtocolUDP {
				t.Fatalf("Decode reads UDP port %d, gopacket reads %d", p.Flow.DstPort, l.DstPort)
			}
		}
	})
}
