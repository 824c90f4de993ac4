package packet

import (
	"encoding/binary"

	"github.com/google/gopacket/layers"

	"palisade/internal/failpoint"
	"palisade/internal/verdict"
)

// check compares a frame's lengths, header sizes and flags with each other, down to the
// transport header. If it returns false, the verdict says what is wrong. No other function
// makes a verdict of Decode; the functions below only return what they found.
//
//	 0                   1                   2                   3
//	|Version|  IHL  |Type of Service|          Total Length         |
//	|         Identification        |Flags|     Fragment Offset     |
//	|  Time to Live |    Protocol   |        Header Checksum        |
//	|                       Source, Destination                     |
//	|                    Options                    |    Padding    |  RFC 791 §3.1
func check(frame []byte) (v verdict.Verdict, ok bool) {
	failpoint.Reach()
	if len(frame) < ethernetLen {
		return verdict.Runt, false
	}
	b := frame[ethernetLen:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case EtherTypeIPv4:
	case EtherTypeARP:
		if !validARP(b) {
			return verdict.BadARP, false
		}
		return verdict.Unset, true
	case EtherTypeIPv6:
		return verdict.IPv6, false
	default:
		return verdict.NotIP, false
	}
	switch {
	case len(b) < ipv4MinLen:
		return verdict.Runt, false
	case b[0]>>4 != 4:
		return verdict.BadVersion, false
	}
	headerLen, totalLen := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if headerLen < ipv4MinLen || headerLen > totalLen || totalLen > len(b) {
		return verdict.BadLength, false
	}
	switch walkOptions(b[ipv4MinLen:headerLen]) {
	case sourceRoute:
		return verdict.SourceRoute, false
	case malformed:
		return verdict.BadLength, false
	}
	flags := binary.BigEndian.Uint16(b[6:])
	offset, more := int(flags&0x1fff)*8, flags&0x2000 != 0
	protocol, body := b[9], b[headerLen:totalLen]
	switch {
	case offset+len(body) > 65535-headerLen:
		return verdict.BadLength, false
	case offset == 0 && protocol == 0:
		return verdict.BadProtocol, false
	case (more || offset > 0) && isTiny(protocol, body, offset, more):
		return verdict.TinyFragment, false
	case offset > 0:
		return verdict.Unset, true
	case len(body) < minTransport(protocol):
		return verdict.Runt, false
	case protocol == ProtocolTCP && !validTCP(body):
		return verdict.BadTCP, false
	case protocol == ProtocolUDP && !validUDPLength(body, more):
		return verdict.BadLength, false
	}
	return verdict.Unset, true
}

// validARP reports whether b is an Ethernet/IPv4 ARP request or reply (RFC 826).
func validARP(b []byte) bool {
	return len(b) >= arpLen &&
		binary.BigEndian.Uint16(b[0:]) == 1 && binary.BigEndian.Uint16(b[2:]) == EtherTypeIPv4 &&
		b[4] == 6 && b[5] == 4 &&
		(binary.BigEndian.Uint16(b[6:]) == layers.ARPRequest || binary.BigEndian.Uint16(b[6:]) == layers.ARPReply)
}

// An optionFault is what walkOptions found.
type optionFault uint8

const (
	noFault optionFault = iota
	malformed
	sourceRoute
)

// walkOptions returns the first fault of a list of IPv4 options, or noFault. With a source
// route a sender could choose a path around the switch's forwarding (RFC 7126 §4.3, §4.4).
func walkOptions(b []byte) optionFault {
	for len(b) > 0 {
		switch kind := b[0]; {
		case kind == 0:
			return noFault
		case kind == 1:
			b = b[1:]
		case len(b) < 2 || b[1] < 3 || int(b[1]) > len(b): // no option has 2 bytes, and gopacket refuses them
			return malformed
		case kind == 131 || kind == 137:
			return sourceRoute
		default:
			b = b[b[1]:]
		}
	}
	return noFault
}

// minTransport returns the size of a protocol's smallest header, and 0 for protocols that
// Decode does not read.
func minTransport(protocol uint8) int {
	switch protocol {
	case ProtocolTCP:
		return tcpMinLen
	case ProtocolUDP:
		return udpLen
	case ProtocolICMP:
		return icmpLen
	}
	return 0
}

// isTiny reports whether a fragment is too small. A first fragment must carry the whole
// transport header, and no later fragment may begin inside a TCP header. Otherwise the
// ports that were judged could differ from the ports that arrive (RFC 1858 §3).
func isTiny(protocol uint8, b []byte, offset int, more bool) bool {
	failpoint.Reach()
	if offset > 0 {
		return offset < 64 && protocol == ProtocolTCP || len(b) == 0 || more && len(b)%8 != 0
	}
	need := minTransport(protocol)
	if protocol == ProtocolTCP && len(b) > 12 {
		need = max(need, int(b[12]>>4)*4)
	}
	return len(b) < need || len(b) == 0 || len(b)%8 != 0
}

// validTCP reports whether the header size, options and flags are possible. It rejects sets
// of flags that no TCP sends, as stealth scans do: PSH, ECE and CWR are free, the other
// flags must follow RFC 9293 §3.5.
func validTCP(b []byte) bool {
	failpoint.Reach()
	headerLen := int(b[12]>>4) * 4
	if headerLen < tcpMinLen || headerLen > len(b) {
		return false
	}
	switch b[13] & (FIN | SYN | RST | ACK | URG) {
	case SYN, SYN | URG, SYN | ACK, RST, RST | ACK, ACK, ACK | URG, FIN | ACK, FIN | ACK | URG:
	default:
		return false
	}
	for options := b[tcpMinLen:headerLen]; len(options) > 0; {
		switch kind := options[0]; {
		case kind == 0:
			return true
		case kind == 1:
			options = options[1:]
		case len(options) < 2 || options[1] < 2 || int(options[1]) > len(options):
			return false
		default:
			options = options[options[1]:]
		}
	}
	return true
}

// validUDPLength reports whether the length field agrees with the number of bytes in b. The
// length field of a fragmented datagram also counts the fragments to come.
func validUDPLength(b []byte, more bool) bool {
	n := int(binary.BigEndian.Uint16(b[4:]))
	return n >= udpLen && (more || n <= len(b))
}
