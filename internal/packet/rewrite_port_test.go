package packet_test

import (
	"testing"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
)

func TestRewrittenPortsKeepEveryChecksumRight(t *testing.T) {
	frames := map[string][]byte{
		"tcp": packettest.Build(tcp(packet.ACK, "hello")), "udp": packettest.Build(udp("hello!!")), "icmp": packettest.Build(echo()),
		"icmp error": packettest.ICMPError(3, 3, server, client, packettest.Build(udp("x")), ec2.MAC{2}, ec2.MAC{4}),
	}
	for name, frame := range frames {
		p := decode(t, frame)
		if p.IsICMPError {
			packet.RewriteQuotedSourcePort(frame, &p, 61234)
			packet.RewriteQuotedDestinationPort(frame, &p, 7)
		} else {
			packet.RewriteSourcePort(frame, &p, 61234)
			packet.RewriteDestinationPort(frame, &p, 7)
		}
		again := decode(t, frame)
		flow, source := again.Flow, uint16(61234)
		if p.IsICMPError {
			flow = again.Quoted
		}
		if flow.Protocol == packet.ProtocolICMP {
			source = 7
		}
		if flow.SrcPort != source || flow.DstPort != 7 || again.Flow != p.Flow || again.Quoted != p.Quoted {
			t.Errorf("%s: the frame has flow %v and quotes %v, want ports %d and 7, as in p", name, again.Flow, again.Quoted, source)
		}
		if !checksumsHold(t, frame) {
			t.Errorf("%s: a checksum is wrong after the rewrite", name)
		}
	}
}

// A partial checksum covers no ports, and a UDP datagram without a checksum gets none.
func TestRewrittenPortsLeavePartialAndMissingChecksums(t *testing.T) {
	frame := packettest.Build(tcp(packet.ACK, "hello"))
	p := decode(t, frame)
	p.Partial = true
	was := [2]byte(frame[p.L4+16:])
	packet.RewriteSourcePort(frame, &p, 61234)
	if [2]byte(frame[p.L4+16:]) != was {
		t.Error("a partial checksum was changed")
	}
	frame = packettest.Build(udp("hello"))
	p = decode(t, frame)
	frame[p.L4+6], frame[p.L4+7] = 0, 0
	packet.RewriteSourcePort(frame, &p, 61234)
	if frame[p.L4+6] != 0 || frame[p.L4+7] != 0 {
		t.Error("a datagram without a checksum got one")
	}
}

func TestResetAnswersASegment(t *testing.T) {
	for _, tt := range []struct {
		flags uint8
		want  uint8
		seq   uint32
		ack   uint32
	}{
		{packet.ACK, packet.RST, 900, 0},
		{packet.SYN, packet.RST | packet.ACK, 0, 501},
	} {
		f := tcp(tt.flags, "")
		f.TCPSeq, f.TCPAck = 500, 900
		frame := packettest.Build(f)
		p := decode(t, frame)
		out := packet.Reset(make([]byte, 60), frame, &p)
		got := decode(t, out)
		if got.Flow != packettest.Reverse(p.Flow) || got.TCPFlags != tt.want || got.TCPSeq != tt.seq || got.TCPAck != tt.ack || !checksumsHold(t, out) {
			t.Errorf("flags %#x are answered by %+v, want flags %#x, sequence %d and acknowledgement %d", tt.flags, got, tt.want, tt.seq, tt.ack)
		}
	}
}
