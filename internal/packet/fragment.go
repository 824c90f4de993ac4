package packet

import (
	"encoding/binary"
	"net/netip"

	"palisade/internal/failpoint"
)

// quotedLen is the number of bytes of a packet that an ICMP error quotes: as many as fit in
// an ICMP packet of 576 bytes (RFC 1812 §4.3.2.3).
const quotedLen = 576 - ipv4MinLen - icmpLen

// FragmentationNeeded writes to out the ICMP error that tells the sender of a packet the
// mtu. If the frame stands for several packets, the error is about the first of them. It
// returns the frame, without MACs. out must hold 590 bytes.
//
//	|   type 3      |    code 4     |           checksum            |
//	|            unused             |         next-hop MTU          |
//	|            IP header and first bytes of the packet            |  RFC 1191 §4
func FragmentationNeeded(out, frame []byte, p *Packet, gateway netip.Addr, mtu int) []byte {
	failpoint.Reach()
	quoted := frame[p.L3:min(p.Len, p.L3+quotedLen, p.L3+p.Largest)]
	out = out[:ethernetLen+ipv4MinLen+icmpLen+len(quoted)]
	binary.BigEndian.PutUint16(out[12:], EtherTypeIPv4)

	ip := out[ethernetLen : ethernetLen+ipv4MinLen]
	clear(ip)
	ip[0], ip[8], ip[9] = 0x45, 64, ProtocolICMP
	ip[1] = 0xc0 // internetwork control (RFC 1812 §4.3.2.5)
	binary.BigEndian.PutUint16(ip[2:], uint16(len(out)-ethernetLen))
	src, dst := gateway.As4(), p.Flow.Src.As4()
	copy(ip[12:], src[:])
	copy(ip[16:], dst[:])
	binary.BigEndian.PutUint16(ip[10:], ^fold(sum16(ip)))

	icmp := out[ethernetLen+ipv4MinLen:]
	clear(icmp[:icmpLen])
	icmp[0], icmp[1] = ICMPUnreachable, 4
	binary.BigEndian.PutUint16(icmp[6:], uint16(mtu))
	copy(icmp[icmpLen:], quoted)
	if p.Segments > 1 {
		quoteFirst(icmp[icmpLen:], p)
	}
	binary.BigEndian.PutUint16(icmp[2:], ^fold(sum16(icmp)))
	return out
}

// quoteFirst gives the quoted headers of a frame that stands for several packets the lengths
// of the first packet.
func quoteFirst(quoted []byte, p *Packet) {
	failpoint.Reach()
	binary.BigEndian.PutUint16(quoted[2:], uint16(p.Largest))
	quoted[10], quoted[11] = 0, 0
	binary.BigEndian.PutUint16(quoted[10:], ^fold(sum16(quoted[:p.L4-p.L3])))
	if p.Flow.Protocol == ProtocolUDP {
		binary.BigEndian.PutUint16(quoted[p.L4-p.L3+4:], uint16(p.Largest-(p.L4-p.L3)))
	}
}

// Fragment cuts a finished IPv4 packet into fragments of at most mtu bytes (RFC 791 §3.2,
// "An Example Fragmentation Procedure"). The packet begins at l3 of a frame that Decode has
// accepted. Fragment builds each fragment in scratch, which must hold mtu bytes and an
// Ethernet header, and passes it to emit. It returns the first error of emit, and then
// emits no more.
func Fragment(frame []byte, l3, mtu int, scratch []byte, emit func([]byte) error) error {
	failpoint.Reach()
	header := l3 + int(frame[l3]&15)*4
	step := (mtu - (header - l3)) &^ 7
	flags := binary.BigEndian.Uint16(frame[l3+6:])
	for at := header; at < len(frame); at += step {
		end := min(at+step, len(frame))
		out := scratch[:header+end-at]
		copy(out, frame[:header])
		copy(out[header:], frame[at:end])
		ip := out[l3:header]
		if at > header {
			keepCopied(ip[ipv4MinLen:])
		}
		offset := flags + uint16((at-header)/8)
		if end < len(frame) {
			offset |= 0x2000 // more follow
		}
		binary.BigEndian.PutUint16(ip[2:], uint16(len(out)-l3))
		binary.BigEndian.PutUint16(ip[6:], offset)
		ip[10], ip[11] = 0, 0
		binary.BigEndian.PutUint16(ip[10:], ^fold(sum16(ip)))
		if err := emit(out); err != nil {
			return err
		}
	}
	return nil
}

// keepCopied replaces options without the copied flag by NOPs, because only the first
// fragment carries them. Decode has checked the options.
func keepCopied(options []byte) {
	for len(options) > 0 && options[0] != 0 {
		n := 1
		if options[0] != 1 {
			n = int(options[1])
		}
		if options[0]&0x80 == 0 {
			for i := range options[:n] {
				options[i] = 1
			}
		}
		options = options[n:]
	}
}
