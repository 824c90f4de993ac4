package packet

import (
	"encoding/binary"
	"math/bits"
	"net/netip"

	"palisade/ec2"
	"palisade/internal/failpoint"
)

// SetMACs writes the frame's destination and source MAC.
func SetMACs(frame []byte, dst, src ec2.MAC) {
	copy(frame[0:6], dst[:])
	copy(frame[6:12], src[:])
}

// RewriteSource changes the packet's source address to to, as 1:1 NAT does for outgoing
// packets. It corrects the IP checksum and the transport checksum, be it full or partial.
// In an ICMP error it also changes the destination of the quoted packet, if that was the
// old address. It updates p.
func RewriteSource(frame []byte, p *Packet, to netip.Addr) {
	failpoint.Reach()
	rewrite(frame, p, p.L3+12, to)
	if p.HasQuoted && p.Quoted.Dst == p.Flow.Src {
		rewriteQuoted(frame, p, 16, to)
		p.Quoted.Dst = to
	}
	p.Flow.Src = to
}

// RewriteDestination changes the packet's destination address to to. In an ICMP error it
// also changes the source of the quoted packet. Otherwise it works like RewriteSource.
func RewriteDestination(frame []byte, p *Packet, to netip.Addr) {
	failpoint.Reach()
	rewrite(frame, p, p.L3+16, to)
	if p.HasQuoted && p.Quoted.Src == p.Flow.Dst {
		rewriteQuoted(frame, p, 12, to)
		p.Quoted.Src = to
	}
	p.Flow.Dst = to
}

func rewrite(frame []byte, p *Packet, at int, to netip.Addr) {
	failpoint.Reach()
	old, new := [4]byte(frame[at:at+4]), to.As4()
	copy(frame[at:], new[:])
	update(frame[p.L3+10:], old, new)
	if !p.HasL4 {
		return
	}
	switch p.Flow.Protocol {
	case ProtocolTCP:
		updateTransport(frame[p.L4+tcpChecksumAt:], old, new, p.Partial)
	case ProtocolUDP:
		field := frame[p.L4+udpChecksumAt:]
		if !p.Partial && binary.BigEndian.Uint16(field) == 0 {
			return // no checksum was sent (RFC 768)
		}
		updateTransport(field, old, new, p.Partial)
		if !p.Partial && binary.BigEndian.Uint16(field) == 0 {
			binary.BigEndian.PutUint16(field, 0xffff)
		}
	}
}

// rewriteQuoted changes an address of the packet inside an ICMP error, and the checksum of the
// quoted IP header. The ICMP checksum covers both, so it stays right: the one change cancels the
// other. It does not change the quoted transport checksum: receivers do not check it, because a
// quote is usually truncated.
func rewriteQuoted(frame []byte, p *Packet, at int, to netip.Addr) {
	failpoint.Reach()
	field := frame[p.QuotedL3+at : p.QuotedL3+at+4]
	old, new := [4]byte(field), to.As4()
	copy(field, new[:])
	update(frame[p.QuotedL3+10:], old, new)
}

// update corrects a complete checksum for four changed bytes (RFC 1624, eqn. 3).
func update(field []byte, old, new [4]byte) {
	sum := uint32(^binary.BigEndian.Uint16(field))
	binary.BigEndian.PutUint16(field, ^fold(sum+difference(old, new)))
}

// updateTransport corrects a transport checksum as update() does. It also handles the
// partial form, which is the sum and not its complement.
func updateTransport(field []byte, old, new [4]byte, partial bool) {
	if !partial {
		update(field, old, new)
		return
	}
	sum := uint32(binary.BigEndian.Uint16(field))
	binary.BigEndian.PutUint16(field, fold(sum+difference(old, new)))
}

func difference(old, new [4]byte) uint32 {
	return uint32(^binary.BigEndian.Uint16(old[0:])) + uint32(^binary.BigEndian.Uint16(old[2:])) +
		uint32(binary.BigEndian.Uint16(new[0:])) + uint32(binary.BigEndian.Uint16(new[2:]))
}

func fold(sum uint32) uint16 {
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

// sum16 returns the ones' complement sum of b. It adds words of the processor's size and
// folds the sum at the end (RFC 1071 §2).
func sum16(b []byte) uint32 {
	var sum, carry uint64
	for len(b) >= 32 {
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b), carry)
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b[8:]), carry)
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b[16:]), carry)
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b[24:]), carry)
		b = b[32:]
	}
	for len(b) >= 8 {
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b), carry)
		b = b[8:]
	}
	if len(b) >= 4 {
		sum, carry = bits.Add64(sum, uint64(binary.BigEndian.Uint32(b)), carry)
		b = b[4:]
	}
	var last uint64
	if len(b) >= 2 {
		last = uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		last += uint64(b[0]) << 8
	}
	sum, carry = bits.Add64(sum, last, carry)
	sum += carry // cannot overflow: the sum is small after an overflow
	sum = sum>>32 + sum&0xffffffff
	return uint32(fold(uint32(sum>>32 + sum&0xffffffff)))
}

// ARPReply turns an ARP request in place into the reply that its target address has the MAC
// address mac, and returns the frame to send.
func ARPReply(frame []byte, p *Packet, mac ec2.MAC) []byte {
	failpoint.Reach()
	SetMACs(frame, p.ARPSender, mac)
	b := frame[p.L3:]
	binary.BigEndian.PutUint16(b[6:], 2)
	target, sender := p.ARPTargetIP.As4(), p.ARPSenderIP.As4()
	copy(b[8:14], mac[:])
	copy(b[14:18], target[:])
	copy(b[18:24], p.ARPSender[:])
	copy(b[24:28], sender[:])
	return frame[:ethernetLen+arpLen]
}

// Announcement writes to frame a gratuitous ARP request that mac has addr (RFC 5227 §1.1),
// and returns it. frame must hold 42 bytes.
func Announcement(frame []byte, mac ec2.MAC, addr netip.Addr) []byte {
	copy(frame[0:6], []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	copy(frame[6:12], mac[:])
	binary.BigEndian.PutUint16(frame[12:], EtherTypeARP)
	b := frame[ethernetLen : ethernetLen+arpLen]
	copy(b, []byte{0, 1, 8, 0, 6, 4, 0, 1})
	ip := addr.As4()
	copy(b[8:14], mac[:])
	copy(b[14:18], ip[:])
	clear(b[18:24])
	copy(b[24:28], ip[:])
	return frame[:ethernetLen+arpLen]
}
