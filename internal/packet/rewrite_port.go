package packet

import (
	"encoding/binary"

	"palisade/internal/failpoint"
)

const (
	icmpChecksumAt   = 2
	icmpIdentifierAt = 4
)

// RewriteSourcePort changes the packet's source port to to, as a NAT gateway does for packets from inside. In
// an ICMP query it changes the identifier. It corrects the transport checksum and updates p.
func RewriteSourcePort(frame []byte, p *Packet, to uint16) {
	failpoint.Reach()
	rewritePort(frame, p, 0, to)
	p.Flow.SrcPort = to
	if p.Flow.Protocol == ProtocolICMP {
		p.Flow.DstPort = to
	}
}

// RewriteDestinationPort changes the packet's destination port, as RewriteSourcePort changes the source port.
func RewriteDestinationPort(frame []byte, p *Packet, to uint16) {
	failpoint.Reach()
	rewritePort(frame, p, 2, to)
	p.Flow.DstPort = to
	if p.Flow.Protocol == ProtocolICMP {
		p.Flow.SrcPort = to
	}
}

// rewritePort changes the port at an offset of the transport header. A partial checksum covers no ports.
func rewritePort(frame []byte, p *Packet, at int, to uint16) {
	failpoint.Reach()
	checksum := 0
	switch p.Flow.Protocol {
	case ProtocolTCP:
		checksum = tcpChecksumAt
	case ProtocolUDP:
		checksum = udpChecksumAt
	case ProtocolICMP:
		at, checksum = icmpIdentifierAt, icmpChecksumAt
	}
	was := changePort(frame[p.L4+at:], to)
	field := frame[p.L4+checksum:]
	if p.Partial || p.Flow.Protocol == ProtocolUDP && binary.BigEndian.Uint16(field) == 0 {
		return
	}
	updatePort(field, was, to)
	if p.Flow.Protocol == ProtocolUDP && binary.BigEndian.Uint16(field) == 0 {
		binary.BigEndian.PutUint16(field, 0xffff)
	}
}

// RewriteQuotedSourcePort changes the source port of the packet that an ICMP error quotes, or the identifier of
// a quoted ICMP query. It corrects the checksum of the error and updates p. It does not change the quoted
// transport checksum, like rewriteQuoted.
func RewriteQuotedSourcePort(frame []byte, p *Packet, to uint16) {
	failpoint.Reach()
	rewriteQuotedPort(frame, p, 0, to)
	p.Quoted.SrcPort = to
}

// RewriteQuotedDestinationPort changes the destination port of the packet that an ICMP error quotes.
func RewriteQuotedDestinationPort(frame []byte, p *Packet, to uint16) {
	failpoint.Reach()
	rewriteQuotedPort(frame, p, 2, to)
	p.Quoted.DstPort = to
}

func rewriteQuotedPort(frame []byte, p *Packet, at int, to uint16) {
	failpoint.Reach()
	if p.Quoted.Protocol == ProtocolICMP {
		at = icmpIdentifierAt
		p.Quoted.SrcPort, p.Quoted.DstPort = to, to
	}
	quotedL4 := p.QuotedL3 + int(frame[p.QuotedL3]&15)*4
	was := changePort(frame[quotedL4+at:], to)
	updatePort(frame[p.L4+icmpChecksumAt:], was, to)
}

func changePort(field []byte, to uint16) (was uint16) {
	was = binary.BigEndian.Uint16(field)
	binary.BigEndian.PutUint16(field, to)
	return was
}

// updatePort corrects a complete checksum for a changed port (RFC 1624, eqn. 3).
func updatePort(field []byte, old, new uint16) {
	failpoint.Reach()
	var o, n [4]byte
	binary.BigEndian.PutUint16(o[:], old)
	binary.BigEndian.PutUint16(n[:], new)
	update(field, o, n)
}
