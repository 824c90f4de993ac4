package packet_test

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"testing"

	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
)

// The test fragments random packets, fragments the fragments again, and reassembles the
// result.
func TestFragmentsReassembleToTheOriginal(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	decoder := packet.NewDecoder()
	for i := range 2000 {
		payload := make([]byte, 8+r.IntN(4000))
		for j := range payload {
			payload[j] = byte(r.Uint32())
		}
		whole := packettest.Build(packettest.Frame{Flow: packet.Flow{Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"), SrcPort: 1, DstPort: 2, Protocol: packet.ProtocolUDP}, Payload: payload, FragID: uint16(i)})
		body := bytes.Clone(whole[34:])
		pieces := [][]byte{whole}
		for _, mtu := range []int{576 + r.IntN(1000), 68 + r.IntN(200)} { // the first for the packets, the second for their fragments
			var next [][]byte
			for _, piece := range pieces {
				scratch := make([]byte, 14+mtu)
				if err := packet.Fragment(piece, 14, mtu, scratch, func(b []byte) error {
					if len(b)-14 > mtu {
						t.Fatalf("a fragment has %d bytes, want at most the MTU of %d", len(b)-14, mtu)
					}
					next = append(next, bytes.Clone(b))
					return nil
				}); err != nil {
					t.Fatal(err)
				}
			}
			pieces = next
		}
		got := make([]byte, len(body))
		for n, piece := range pieces {
			var p packet.Packet
			if v, ok := decoder.Decode(piece, &p); !ok {
				t.Fatalf("fragment %d of %d is refused as %v: % x", n, len(pieces), v, piece)
			}
			if p.MoreFollow != (n < len(pieces)-1) || p.FragID != uint16(i) || sumOf(piece[p.L3:p.L4]) != 0xffff {
				t.Fatalf("fragment %d of %d: more fragments %v, id %d, sum of the IP header %x; want id %d, sum ffff, and more fragments except after the last", n, len(pieces), p.MoreFollow, p.FragID, sumOf(piece[p.L3:p.L4]), uint16(i))
			}
			copy(got[p.FragOffset:], piece[p.L4:p.Len])
		}
		if !bytes.Equal(got, body) {
			t.Fatalf("%d fragments reassemble to other bytes than the %d payload bytes of the packet", len(pieces), len(body))
		}
	}
}

// RFC 791 §3.1: all fragments carry the options with the copied flag, and only the first
// carries the others.
func TestLaterFragmentsCarryOnlyCopiedOptions(t *testing.T) {
	frame := packettest.Build(packettest.Frame{Flow: packet.Flow{Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"), SrcPort: 1, DstPort: 2, Protocol: packet.ProtocolUDP}, Payload: make([]byte, 200)})
	options := []byte{7, 3, 4, 148, 4, 0, 0, 0} // record route; router alert, which is copied
	frame = append(frame[:34:34], append(options, frame[34:]...)...)
	frame[14] = 0x47
	frame[17] += 8
	var got [][]byte
	if err := packet.Fragment(frame, 14, 128, make([]byte, 142), func(b []byte) error {
		got = append(got, bytes.Clone(b[34:42]))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	want := [][]byte{options, {1, 1, 1, 148, 4, 0, 0, 0}, {1, 1, 1, 148, 4, 0, 0, 0}}
	if len(got) < 2 || !bytes.Equal(got[0], want[0]) || !bytes.Equal(got[1], want[1]) {
		t.Errorf("options of the fragments %v, want %v for the first and the later ones", got, want)
	}
}

func sumOf(b []byte) uint32 {
	var s uint32
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return s
}
