package overlay

import (
	"bytes"
	"encoding/binary"
	"testing"

	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
	vswitch "palisade/switch"
)

func dontFragment(frame []byte) []byte {
	frame[20] |= 0x40
	return frame
}

func TestPacketTooLargeForTheTunnelIsReportedOrFragmented(t *testing.T) {
	c := newCluster(t)
	n1, n2 := c.nodes[0], c.nodes[1]
	big := of("web", packet.ProtocolUDP, "10.10.0.4", "10.10.0.5", 1, 53)
	big.FragID = 77

	// A packet as large as the tunnel's MTU fits.
	big.Payload = make([]byte, tunnelMTU-28)
	n1.send("web", dontFragment(packettest.Build(big)), n2.ports["app"], verdict.Forward)
	n2.delivered("app")

	big.Payload = make([]byte, tunnelMTU-28+1)
	for i := range big.Payload {
		big.Payload[i] = byte(i)
	}
	for _, dst := range []string{"10.10.0.5", "198.18.0.5"} {
		big.Flow.Dst = addr(dst)
		frame := dontFragment(packettest.Build(big))
		n1.send("web", frame, n1.ports["web"], verdict.TooBig)
		p, told := n1.delivered("web")
		quoted := packet.Flow{Src: addr("10.10.0.4"), Dst: addr(dst), SrcPort: 1, DstPort: 53, Protocol: packet.ProtocolUDP}
		if p.Flow.Src != addr("10.0.0.1") || p.ICMPType != 3 || p.ICMPCode != 4 || p.Quoted != quoted ||
			binary.BigEndian.Uint16(told[p.L4+6:]) != tunnelMTU || p.SrcMAC != vswitch.GatewayMAC || p.DstMAC != macOf("web") {
			t.Errorf("packet to %s: the web received %v, ICMP type %d code %d, about %v; want the gateway's type 3 code 4 with the tunnel's MTU", dst, p.Flow, p.ICMPType, p.ICMPCode, p.Quoted)
		}
		if !checksums(told, &p) {
			t.Errorf("packet to %s: wrong checksums in the ICMP error % x", dst, told)
		}
	}

	// Without DF the packet is fragmented, and the receiver can reassemble it.
	big.Flow.Dst = addr("10.10.0.5")
	before := n2.ports["app"].Counters().Verdicts[verdict.Forward]
	if err := n1.devices["web"].Send(packettest.Build(big)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "second fragment", func() bool { return n2.ports["app"].Counters().Verdicts[verdict.Forward] == before+2 })
	var whole []byte
	for _, f := range n2.devices["app"].Take() {
		var p packet.Packet
		if v, ok := packet.NewDecoder().Decode(f[packet.OffloadLen:], &p); !ok || p.FragOffset != len(whole) || p.Len-p.L3 > tunnelMTU {
			t.Fatalf("fragment of %d bytes at offset %d: verdict %v; want it accepted, of at most the tunnel's MTU, and without a gap before it", p.Len-p.L3, p.FragOffset, v)
		}
		whole = append(whole, f[packet.OffloadLen+p.L4:packet.OffloadLen+p.Len]...)
	}
	if len(whole) < 8 || !bytes.Equal(whole[8:], big.Payload) {
		t.Errorf("the fragments have %d bytes, want the %d bytes of the UDP datagram unchanged", len(whole), 8+len(big.Payload))
	}
}

// checksums reports whether the checksums of the IP header and of the ICMP message are right.
func checksums(frame []byte, p *packet.Packet) bool {
	sum := func(b []byte) (s uint32) {
		for i := 0; i+1 < len(b); i += 2 {
			s += uint32(b[i])<<8 | uint32(b[i+1])
		}
		if len(b)%2 == 1 {
			s += uint32(b[len(b)-1]) << 8
		}
		for s>>16 != 0 {
			s = s&0xffff + s>>16
		}
		return s
	}
	return sum(frame[p.L3:p.L4]) == 0xffff && sum(frame[p.L4:p.Len]) == 0xffff
}

func superframe(size, payload int) (offload, frame []byte) {
	f := of("web", packet.ProtocolTCP, "10.10.0.4", "10.10.0.5", 1, 8000)
	f.TCPFlags, f.Payload = packet.ACK, make([]byte, payload)
	offload = make([]byte, packet.OffloadLen)
	offload[0], offload[1] = 1, 1
	binary.NativeEndian.PutUint16(offload[4:], uint16(size))
	binary.NativeEndian.PutUint16(offload[6:], 34)
	binary.NativeEndian.PutUint16(offload[8:], 16)
	return offload, dontFragment(packettest.Build(f))
}

func TestLargeFrameIsCutAndSealed(t *testing.T) {
	c := newCluster(t)
	n1, n2 := c.nodes[0], c.nodes[1]
	n1.send("web", packettest.Build(of("web", packet.ProtocolTCP, "10.10.0.4", "10.10.0.5", 1, 8000)), n2.ports["app"], verdict.Forward)

	// The size of the frame's packets matters, not the size of the frame.
	offload, frame := superframe(tunnelMTU-40, 4*(tunnelMTU-40)+100)
	if err := n1.devices["web"].SendOffload(offload, frame); err != nil {
		t.Fatal(err)
	}
	eventually(t, "fifth segment", func() bool { return n2.ports["app"].Counters().Verdicts[verdict.Forward] == 6 })

	offload, frame = superframe(tunnelMTU-40+1, 4*(tunnelMTU-40)+100)
	if err := n1.devices["web"].SendOffload(offload, frame); err != nil {
		t.Fatal(err)
	}
	eventually(t, "refusal of five packets", func() bool { return n1.ports["web"].Counters().Verdicts[verdict.TooBig] == 5 })
	if got := n2.ports["app"].Counters().Verdicts[verdict.Forward]; got != 6 {
		t.Errorf("the app received %d packets, want 6", got)
	}
}

func TestMTULeavesRoomForTheTunnelsHeaders(t *testing.T) {
	if got := Sealed.MTU(1500); got != 1406 {
		t.Errorf("Sealed.MTU(1500) = %d, want 1406", got)
	}
}

// TestSmallerMTUOfTheOtherNodeHolds: each node tells the other the MTU of its underlay, and the smaller one decides.
func TestSmallerMTUOfTheOtherNodeHolds(t *testing.T) {
	for _, form := range []Form{Sealed, VXLAN} {
		c := (&cluster{form: form, mtu: map[string]int{"node1": tunnelMTU, "node2": 1300}}).begin(t)
		n1, n2 := c.nodes[0], c.nodes[1]
		eventually(t, "both MTUs are known", func() bool {
			return n1.overlay.Status()[0].MTU == 1300 && n2.overlay.Status()[0].MTU == tunnelMTU
		})
		f := of("web", packet.ProtocolUDP, "10.10.0.4", "10.10.0.5", 1, 53)
		f.Payload = make([]byte, 1300-28)
		n1.send("web", dontFragment(packettest.Build(f)), n2.ports["app"], verdict.Forward)
		n2.delivered("app")
		f.Payload = make([]byte, 1301-28)
		n1.send("web", dontFragment(packettest.Build(f)), n1.ports["web"], verdict.TooBig)
		if p, told := n1.delivered("web"); p.ICMPCode != 4 || binary.BigEndian.Uint16(told[p.L4+6:]) != 1300 {
			t.Errorf("%v: the web is told code %d and MTU %d, want 4 and 1300", form, p.ICMPCode, binary.BigEndian.Uint16(told[p.L4+6:]))
		}
		before := n2.ports["app"].Counters().Verdicts[verdict.Forward]
		if err := n1.devices["web"].Send(packettest.Build(f)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "two fragments", func() bool { return n2.ports["app"].Counters().Verdicts[verdict.Forward] == before+2 })
		n1.stop()
		n2.stop()
	}
}

// TestSenderAtAnotherNodeLearnsTheMTUOfTheReceiversDevice: the receiver's node sends the error through the tunnel,
// and the sender's node delivers it as one about a connection of the sender.
func TestSenderAtAnotherNodeLearnsTheMTUOfTheReceiversDevice(t *testing.T) {
	for _, form := range []Form{Sealed, VXLAN} {
		c := (&cluster{form: form, ports: map[string]int{"app": 1000}}).begin(t)
		n1, n2 := c.nodes[0], c.nodes[1]
		f := of("web", packet.ProtocolUDP, "10.10.0.4", "10.10.0.5", 1, 53)
		f.Payload = make([]byte, 1001-28)
		n1.send("web", dontFragment(packettest.Build(f)), n2.ports["app"], verdict.TooBig)
		p, told := n1.delivered("web")
		if p.Flow.Src != addr("10.10.0.5") || p.ICMPType != 3 || p.ICMPCode != 4 || p.Quoted != f.Flow || binary.BigEndian.Uint16(told[p.L4+6:]) != 1000 || !checksums(told, &p) {
			t.Errorf("%v: the web received %v, ICMP type %d code %d, about %v, MTU %d; want from the app type 3 code 4 about %v with 1000", form, p.Flow, p.ICMPType, p.ICMPCode, p.Quoted, binary.BigEndian.Uint16(told[p.L4+6:]), f.Flow)
		}
		n1.stop()
		n2.stop()
	}
}

// TestNoticeOfTheMTUMayComeInPieces: between the zero bytes of the stream. What no link has is ignored.
func TestNoticeOfTheMTUMayComeInPieces(t *testing.T) {
	for _, tt := range []struct {
		bytes string
		want  int32
	}{
		{"", 0}, {"\x00\x00", 0}, {"\x01\x05\x14", 1300}, {"\x00\x01\x05\x14\x00", 1300}, {"\x01\x05", 0}, {"\x01\x00\x44", 0},
		{"\x02\x05\x14", 0}, {"\x01\x05\x14\x00\x01\x05\x7e", 1406}, {"\x01\xff\xff", 65535}, {"\x01\x02\x3f", 0}, {"\x01\x02\x40", 576},
	} {
		for piece := 1; piece <= 4; piece++ {
			var s association
			var r noticeReader
			for b := []byte(tt.bytes); len(b) > 0; b = b[min(piece, len(b)):] {
				r.read(b[:min(piece, len(b))], &s)
			}
			if got := s.mtu.Load(); got != tt.want {
				t.Errorf("% x in pieces of %d: the MTU is %d, want %d", tt.bytes, piece, got, tt.want)
			}
		}
	}
}
