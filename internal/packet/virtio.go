package packet

import (
	"encoding/binary"

	"palisade/internal/failpoint"
	"palisade/internal/verdict"
)

// OffloadLen is the size of the virtio header before every frame.
//
//	|  flags  |gso_type |     hdr_len     |     gso_size    |
//	|    csum_start     |   csum_offset   |   virtio 1.2 §5.1.6, native byte order
const OffloadLen = 10

// Offloads say which unfinished frames a device takes.
type Offloads uint8

const (
	NoOffloads       Offloads = iota
	StreamOffloads            // frames with unfinished checksums, and frames that stand for several TCP segments
	DatagramOffloads          // the same, and frames that stand for several UDP datagrams: Linux 6.2 and later (TUN_F_USO4)
)

// Take reports whether a device with these offloads takes the frame without changes.
func (o Offloads) Take(p *Packet) bool {
	return o == DatagramOffloads || o == StreamOffloads && (p.Segments <= 1 || p.Flow.Protocol == ProtocolTCP)
}

const (
	needsChecksum = 1 // flags: the checksum at csum_start+csum_offset covers the pseudo-header only

	gsoNone  = 0
	gsoTCPv4 = 1
	gsoUDPL4 = 5
	gsoECN   = 0x80

	tcpChecksumAt = 16
	udpChecksumAt = 6

	minTCPSegment  = 48  // Linux refuses a smaller MSS (tcp_min_snd_mss)
	maxUDPSegments = 128 // Linux splits one send into at most so many datagrams (UDP_MAX_SEGMENTS)
)

var native = binary.NativeEndian

// Sanitize compares the virtio header with the packet after it. It writes the header again
// from what Decode found, so that no byte remains that a sender chose freely. With a forged
// csum_start the receiving kernel would overwrite a port after the verdict; with a forged
// gso_size it would cut the frame into packets that were not judged. Sanitize sets p.Partial,
// p.Segments and p.Largest. If it returns false, the verdict says what is wrong.
func Sanitize(offload []byte, p *Packet) (verdict.Verdict, bool) {
	failpoint.Reach()
	flags, gso, size := offload[0], offload[1], int(native.Uint16(offload[4:]))
	start, offset := int(native.Uint16(offload[6:])), int(native.Uint16(offload[8:]))
	clear(offload[:OffloadLen])

	if flags&needsChecksum != 0 {
		at := checksumOffset(p)
		if at < 0 || start != p.L4 || offset != at {
			return verdict.BadOffload, false
		}
		p.Partial = true
		offload[0] = needsChecksum
		native.PutUint16(offload[6:], uint16(p.L4))
		native.PutUint16(offload[8:], uint16(at))
	}
	if gso == gsoNone {
		return verdict.Unset, true
	}
	payload := p.Len - p.Payload
	switch {
	case !p.Partial || payload <= 0:
		return verdict.BadOffload, false
	case gso&^gsoECN == gsoTCPv4 && p.Flow.Protocol == ProtocolTCP && size >= minTCPSegment:
	case gso == gsoUDPL4 && p.Flow.Protocol == ProtocolUDP && size > 0 && payload <= size*maxUDPSegments:
	default:
		return verdict.BadOffload, false
	}
	offload[1] = gso
	native.PutUint16(offload[2:], uint16(p.Payload))
	native.PutUint16(offload[4:], uint16(size))
	p.Segments = uint32((payload + size - 1) / size)
	p.Largest = p.Payload - p.L3 + min(size, payload)
	return verdict.Unset, true
}

// Fits reports whether the IP packet has at most mtu bytes. If the frame stands for several
// packets, each of them must fit. If it returns false, the verdict is TooBig.
func Fits(p *Packet, mtu int) (verdict.Verdict, bool) {
	failpoint.Reach()
	if p.Largest > mtu {
		return verdict.TooBig, false
	}
	return verdict.Unset, true
}

// checksumOffset returns the offset of the checksum in the transport header, or -1 if the
// checksum of such a packet cannot be left to offloads.
func checksumOffset(p *Packet) int {
	switch {
	case p.Fragment || !p.HasL4: // ARP has no transport header
	case p.Flow.Protocol == ProtocolTCP:
		return tcpChecksumAt
	case p.Flow.Protocol == ProtocolUDP:
		return udpChecksumAt
	}
	return -1
}
