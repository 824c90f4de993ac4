package packet_test

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

const mtu = 1500

func decode(t *testing.T, frame []byte) packet.Packet {
	t.Helper()
	var p packet.Packet
	if v, ok := packet.NewDecoder().Decode(frame, &p); !ok {
		t.Fatalf("Decode refused the frame with %v\n% x", v, frame)
	}
	return p
}

func ones(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		v := uint32(b[i]) << 8
		if i+1 < len(b) {
			v |= uint32(b[i+1])
		}
		sum += v
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

// checksumsHold reports whether every checksum of an IPv4 frame is right, by the naive sum.
func checksumsHold(t *testing.T, frame []byte) bool {
	p := decode(t, frame)
	if ones(frame[p.L3:p.L4]) != 0xffff {
		return false
	}
	l4 := frame[p.L4:p.Len]
	switch p.Flow.Protocol {
	case packet.ProtocolTCP, packet.ProtocolUDP:
		src, dst := p.Flow.Src.As4(), p.Flow.Dst.As4()
		pseudo := append(append(src[:], dst[:]...), 0, p.Flow.Protocol, byte(len(l4)>>8), byte(len(l4)))
		return ones(append(pseudo, l4...)) == 0xffff
	case packet.ProtocolICMP:
		return ones(l4) == 0xffff
	}
	return true
}

func TestRewriteKeepsEveryChecksumRight(t *testing.T) {
	to := netip.MustParseAddr("10.10.1.44")
	frames := map[string][]byte{
		"tcp": packettest.Build(tcp(packet.ACK, "hello")), "udp": packettest.Build(udp("hello!!")), "icmp": packettest.Build(echo()),
		"icmp error": packettest.ICMPError(3, 3, server, client, packettest.Build(udp("x")), ec2.MAC{2}, ec2.MAC{4}),
	}
	for name, frame := range frames {
		p := decode(t, frame)
		packet.RewriteSource(frame, &p, to)
		packet.RewriteDestination(frame, &p, client)
		again := decode(t, frame)
		if again.Flow.Src != to || again.Flow.Dst != client || again.Flow != p.Flow {
			t.Errorf("%s: the rewritten frame has flow %v, want %v as in p", name, again.Flow, p.Flow)
		}
		if !checksumsHold(t, frame) {
			t.Errorf("%s: a checksum is wrong after the rewrite", name)
		}
		if again.HasQuoted {
			if again.Quoted.Src != client || again.Quoted.Dst != to {
				t.Errorf("%s: quoted flow %v after the rewrite, want source %v and destination %v", name, again.Quoted, client, to)
			}
			if ones(frame[again.QuotedL3:again.QuotedL3+20]) != 0xffff {
				t.Errorf("%s: the quoted IP checksum is wrong", name)
			}
		}
	}
}

// offload returns a virtio header with these fields.
func offload(flags, gso byte, size, start, offset uint16) []byte {
	b := make([]byte, packet.OffloadLen)
	b[0], b[1] = flags, gso
	binary.NativeEndian.PutUint16(b[4:], size)
	binary.NativeEndian.PutUint16(b[6:], start)
	binary.NativeEndian.PutUint16(b[8:], offset)
	return b
}

// partial builds a frame whose transport checksum covers the pseudo-header only.
func partial(f packettest.Frame, at int) []byte {
	frame := packettest.Build(f)
	src, dst := f.Flow.Src.As4(), f.Flow.Dst.As4()
	n := len(frame) - 34
	pseudo := append(append(src[:], dst[:]...), 0, f.Flow.Protocol, byte(n>>8), byte(n))
	binary.BigEndian.PutUint16(frame[34+at:], ones(pseudo))
	return frame
}

func TestForgedVirtioHeadersAreRefused(t *testing.T) {
	big := string(make([]byte, 4000))
	tests := []struct {
		name    string
		frame   []byte
		offload []byte
		want    verdict.Verdict
	}{
		{"checksum over the ports", partial(tcp(packet.ACK, "x"), 16), offload(1, 0, 0, 34, 0), verdict.BadOffload},
		{"checksum start in the IP header", partial(tcp(packet.ACK, "x"), 16), offload(1, 0, 0, 14, 16), verdict.BadOffload},
		{"checksum start past the frame", partial(tcp(packet.ACK, "x"), 16), offload(1, 0, 0, 9000, 16), verdict.BadOffload},
		{"checksum of ICMP", packettest.Build(echo()), offload(1, 0, 0, 34, 2), verdict.BadOffload},
		{"checksum of a fragment", fragment(udp(""), 0, true, 64), offload(1, 0, 0, 34, 6), verdict.BadOffload},
		{"segments without a checksum", packettest.Build(tcp(packet.ACK, big)), offload(0, 1, 1400, 0, 0), verdict.BadOffload},
		{"TCP cut as UDP", partial(tcp(packet.ACK, big), 16), offload(1, 5, 1400, 34, 16), verdict.BadOffload},
		{"TCP cut as TCPv6", partial(tcp(packet.ACK, big), 16), offload(1, 4, 1400, 34, 16), verdict.BadOffload},
		{"UFO", partial(udp(big), 6), offload(1, 3, 1400, 34, 6), verdict.BadOffload},
		{"segments of one byte", partial(tcp(packet.ACK, big), 16), offload(1, 1, 1, 34, 16), verdict.BadOffload},
		{"segments of no bytes", partial(udp(big), 6), offload(1, 5, 0, 34, 6), verdict.BadOffload},
		{"segments of nothing", partial(tcp(packet.ACK, ""), 16), offload(1, 1, 1400, 34, 16), verdict.BadOffload},
	}
	for _, tt := range tests {
		p := decode(t, tt.frame)
		if got, ok := packet.Sanitize(tt.offload, &p); ok || got != tt.want {
			t.Errorf("%s: Sanitize = %v, %t; want %v, false", tt.name, got, ok, tt.want)
		}
	}
}

func TestValidVirtioHeaderIsRebuilt(t *testing.T) {
	frame := partial(tcp(packet.ACK, string(make([]byte, 4000))), 16)
	h := offload(1, 1|0x80, 1400, 34, 16)
	binary.NativeEndian.PutUint16(h[2:], 9999) // Sanitize replaces hdr_len
	p := decode(t, frame)
	if v, ok := packet.Sanitize(h, &p); !ok {
		t.Fatalf("Sanitize refused a valid header with %v", v)
	}
	if got := binary.NativeEndian.Uint16(h[2:]); got != 54 || p.Segments != 3 || !p.Partial {
		t.Errorf("hdr_len %d, segments %d, partial %t; want 54, 3, true", got, p.Segments, p.Partial)
	}
	h = offload(2, 0, 77, 88, 99) // DATA_VALID and garbage
	plain := packettest.Build(udp("x"))
	p = decode(t, plain)
	if v, ok := packet.Sanitize(h, &p); !ok || [10]byte(h) != [10]byte{} {
		t.Errorf("Sanitize = %v, %t, header % x; want true and a header of zeros", v, ok, h)
	}
}

func TestSegmentsAreCompletePackets(t *testing.T) {
	payload := make([]byte, 3333)
	for i := range payload {
		payload[i] = byte(i)
	}
	for name, c := range map[string]struct {
		f       packettest.Frame
		gso     byte
		at      int
		headers int
	}{"tcp": {tcp(packet.ACK|packet.PSH, string(payload)), 1, 16, 54}, "udp": {udp(string(payload)), 5, 6, 42}} {
		frame := partial(c.f, c.at)
		h := offload(1, c.gso, 1000, 34, uint16(c.at))
		p := decode(t, frame)
		if v, ok := packet.Sanitize(h, &p); !ok {
			t.Fatalf("%s: Sanitize refused a valid header with %v", name, v)
		}
		var got []byte
		n := 0
		err := packet.Segment(h, frame, &p, make([]byte, 2048), func(out []byte) error {
			if !checksumsHold(t, out) {
				t.Errorf("%s: segment %d has a wrong checksum", name, n)
			}
			n++
			got = append(got, out[c.headers:]...)
			return nil
		})
		if err != nil || n != 4 || string(got) != string(payload) {
			t.Errorf("%s: Segment emitted %d segments with %d payload bytes, error %v; want 4 segments with the %d bytes of the frame", name, n, len(got), err, len(payload))
		}
	}
}

func TestFinishedChecksumIsRight(t *testing.T) {
	for at, f := range map[int]packettest.Frame{16: tcp(packet.ACK, "hello"), 6: udp("hello")} {
		frame := partial(f, at)
		h := offload(1, 0, 0, 34, uint16(at))
		p := decode(t, frame)
		packet.Sanitize(h, &p)
		packet.RewriteSource(frame, &p, netip.MustParseAddr("198.18.7.7"))
		packet.FinishChecksum(h, frame, &p)
		if !checksumsHold(t, frame) || h[0] != 0 {
			t.Errorf("%v: wrong checksum after FinishChecksum, or virtio header % x does not begin with 0", f.Flow, h)
		}
	}
}

// For any input, Sanitize writes a virtio header that names no other checksum field than
// the packet's own, and segments that begin after the headers.
func FuzzSanitize(f *testing.F) {
	f.Add(offload(1, 1, 1400, 34, 16), []byte("some payload that is cut"), true)
	f.Add(offload(1, 5, 8, 34, 6), make([]byte, 300), false)
	f.Add(offload(3, 0x85, 0, 34, 2), []byte{}, false)
	f.Fuzz(func(t *testing.T, header, payload []byte, isTCP bool) {
		if len(header) < packet.OffloadLen || len(payload) > 60000 {
			return
		}
		build, at := udp(string(payload)), uint16(6)
		if isTCP {
			build, at = tcp(packet.ACK, string(payload)), 16
		}
		p := decode(t, packettest.Build(build))
		h := header[:packet.OffloadLen]
		if v, ok := packet.Sanitize(h, &p); !ok {
			if !v.Drops() {
				t.Fatalf("Sanitize refused a header with verdict %v, want one that drops", v)
			}
			return
		}
		if h[0]&^1 != 0 || h[0] == 1 && (binary.NativeEndian.Uint16(h[6:]) != 34 || binary.NativeEndian.Uint16(h[8:]) != at) {
			t.Fatalf("Sanitize returned header % x, want only the checksum field of the packet", h)
		}
		if h[1] != 0 && (h[0] != 1 || int(binary.NativeEndian.Uint16(h[2:])) != p.Payload || p.Segments == 0) {
			t.Fatalf("Sanitize returned header % x for %d segments, want segments that begin at the payload", h, p.Segments)
		}
	})
}
