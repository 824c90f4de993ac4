package overlay

import (
	"encoding/binary"
	"fmt"

	"palisade/internal/failpoint"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// Form is the format in which frames travel between the nodes of a cluster. All nodes of a cluster
// use the same Form.
type Form uint8

const (
	// Sealed: nobody on the underlay can read, change, replay or invent a frame, and each frame
	// names the interface that sent it.
	Sealed Form = iota
	// VXLAN is RFC 7348, for an underlay that is trusted like a wire. Whoever can send there from a
	// node's address can send as any interface of that node; whoever can listen reads everything. A
	// frame does not name the sending interface: the receiver takes it from the leases, by VNI and
	// source address, and the datagram must come from the node that has the lease.
	VXLAN
)

var forms = [...]string{Sealed: "sealed", VXLAN: "vxlan"}

func (f Form) String() string { return forms[f] }

// UnmarshalText sets f to the form with the name text.
func (f *Form) UnmarshalText(text []byte) error {
	for i, name := range forms {
		if name == string(text) {
			*f = Form(i)
			return nil
		}
	}
	return fmt.Errorf(`%q is no form of tunnels; use "sealed" or "vxlan"`, text)
}

// VXLANPort is the UDP port on which VTEPs listen (RFC 7348 §5).
const VXLANPort = 4789

// MTU returns the size of the largest inner IP packet that fits in one packet of an IPv4 underlay.
// underlay is the underlay's MTU. Both are in bytes.
func (f Form) MTU(underlay int) int {
	const ipv4, udp, ethernet = 20, 8, 14
	return underlay - ipv4 - udp - f.overhead() - ethernet
}

// overhead returns how many bytes a datagram has besides the frame.
func (f Form) overhead() int {
	if f == VXLAN {
		return vxlanLen
	}
	return headerLen + innerLen + tagLen
}

// A VXLAN datagram is a header and a frame with all its checksums:
//
//	|R|R|R|R|I|R|R|R|            reserved                           |
//	|                VXLAN Network Identifier       |   reserved    |  RFC 7348 §5
//
// The I flag is set. Reserved bits are sent as zero and ignored when received.
const (
	vxlanLen  = 8
	vxlanFlag = 0x08
)

// putVXLAN writes a datagram with frame, which is a packet of p's frame, to q.out[at:] and returns
// the datagram's length; 0 if there is no room. If marks has Unfinished, it computes
// the checksum.
func (q *sender) putVXLAN(at int, from packet.Origin, frame []byte, p *packet.Packet, marks packet.Marks) int {
	failpoint.Reach()
	if at+vxlanLen+len(frame) > len(q.out) {
		return 0
	}
	out := q.out[at : at+vxlanLen+len(frame)]
	binary.BigEndian.PutUint32(out, vxlanFlag<<24)
	binary.BigEndian.PutUint32(out[4:], from.VNI<<8)
	copy(out[vxlanLen:], frame)
	if marks&packet.Unfinished != 0 {
		packet.Finish(out[vxlanLen:], p)
	}
	return len(out)
}

// openVXLAN copies the frame of a datagram to dst, which must have the capacity, and returns the
// frame. A packet that can be joined with others and whose checksum is correct is marked
// Unfinished, as if it had no checksum; the checksum is computed again after the joining.
func (s *association) openVXLAN(dst, datagram []byte) (frame []byte, from packet.Origin, marks packet.Marks, v verdict.Verdict) {
	failpoint.Reach()
	if len(datagram) < vxlanLen || datagram[0]&vxlanFlag == 0 {
		return nil, from, 0, unknownDatagram()
	}
	from = packet.Origin{Node: s.node, VNI: binary.BigEndian.Uint32(datagram[4:]) >> 8, Unnamed: true}
	frame = append(dst[:0], datagram[vxlanLen:]...)
	if packet.Joinable(frame) {
		marks = packet.Unfinished
	}
	return frame, from, marks, verdict.Forward
}
