package overlay

import (
	"encoding/binary"
	"fmt"

	"palisade/internal/failpoint"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// Form is how frames travel between the nodes of a cluster. All nodes have the same one.
type Form uint8

const (
	// Sealed: nobody on the underlay reads, changes, replays or invents a frame, and each
	// names the interface that sent it.
	Sealed Form = iota
	// VXLAN is RFC 7348, for an underlay that is trusted as a wire is. Who can send there
	// in a node's name can send in the name of every interface of that node; who can listen
	// reads everything. Which interface sent a frame is not carried: the receiver takes it
	// from the leases, by VNI and source address, and the address that the datagram came
	// from must be that of the node that has the lease.
	VXLAN
)

var forms = [...]string{Sealed: "sealed", VXLAN: "vxlan"}

func (f Form) String() string { return forms[f] }

// UnmarshalText reads the name of a form.
func (f *Form) UnmarshalText(text []byte) error {
	for i, name := range forms {
		if name == string(text) {
			*f = Form(i)
			return nil
		}
	}
	return fmt.Errorf(`%q is no form of tunnels; "sealed" and "vxlan" are`, text)
}

// VXLANPort is where VTEPs listen (RFC 7348 §5).
const VXLANPort = 4789

// MTU is the largest inner IP packet where the underlay, of IPv4, carries packets of
// underlay bytes whole.
func (f Form) MTU(underlay int) int {
	const ipv4, udp, ethernet = 20, 8, 14
	return underlay - ipv4 - udp - f.overhead() - ethernet
}

// overhead is what a datagram has besides the frame.
func (f Form) overhead() int {
	if f == VXLAN {
		return vxlanLen
	}
	return headerLen + innerLen + tagLen
}

// A datagram of VXLAN is a header and a frame with all its checksums:
//
//	|R|R|R|R|I|R|R|R|            reserved                           |
//	|                VXLAN Network Identifier       |   reserved    |  RFC 7348 §5
//
// The I flag is set. What is reserved is zero, and not looked at.
const (
	vxlanLen  = 8
	vxlanFlag = 0x08
)

// putVXLAN makes a datagram of a packet of p's frame in q.out from at on and returns its
// length; 0 if there is no room. A checksum that was left out is computed.
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

// openVXLAN copies the frame of a datagram of a session's node to dst, which has the
// capacity. Its checksum counts as left out where that lets the packet be joined to others
// and it has proved right: then it is as good as one that is computed at the end.
func (s *session) openVXLAN(dst, datagram []byte) (frame []byte, from packet.Origin, marks packet.Marks, v verdict.Verdict) {
	failpoint.Reach()
	if len(datagram) < vxlanLen || datagram[0]&vxlanFlag == 0 {
		return nil, from, 0, notOurs()
	}
	from = packet.Origin{Node: s.node, VNI: binary.BigEndian.Uint32(datagram[4:]) >> 8, Unnamed: true}
	frame = append(dst[:0], datagram[vxlanLen:]...)
	if packet.Joinable(frame) {
		marks = packet.Unfinished
	}
	return frame, from, marks, verdict.Forward
}
