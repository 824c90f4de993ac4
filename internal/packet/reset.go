package packet

import (
	"encoding/binary"

	"palisade/internal/failpoint"
)

// Reset writes to out the TCP segment that resets the connection of a segment, as if its destination had no such
// connection (RFC 9293 §3.10.7.1). It returns the frame, without MACs. out must hold 54 bytes.
func Reset(out, frame []byte, p *Packet) []byte {
	failpoint.Reach()
	out = out[:ethernetLen+ipv4MinLen+tcpMinLen]
	clear(out)
	binary.BigEndian.PutUint16(out[12:], EtherTypeIPv4)
	ip := out[ethernetLen : ethernetLen+ipv4MinLen]
	ip[0], ip[8], ip[9] = 0x45, 64, ProtocolTCP
	ip[6] = 0x40 // DF
	binary.BigEndian.PutUint16(ip[2:], ipv4MinLen+tcpMinLen)
	src, dst := p.Flow.Dst.As4(), p.Flow.Src.As4()
	copy(ip[12:], src[:])
	copy(ip[16:], dst[:])
	binary.BigEndian.PutUint16(ip[10:], ^fold(sum16(ip)))

	tcp := out[ethernetLen+ipv4MinLen:]
	binary.BigEndian.PutUint16(tcp[0:], p.Flow.DstPort)
	binary.BigEndian.PutUint16(tcp[2:], p.Flow.SrcPort)
	tcp[12], tcp[13] = tcpMinLen/4<<4, RST
	if p.TCPFlags&ACK != 0 {
		binary.BigEndian.PutUint32(tcp[4:], p.TCPAck)
	} else {
		tcp[13] |= ACK
		length := uint32(p.Len - p.Payload)
		if p.TCPFlags&(SYN|FIN) != 0 {
			length++
		}
		binary.BigEndian.PutUint32(tcp[8:], p.TCPSeq+length)
	}
	pseudo := sum16(ip[12:20]) + ProtocolTCP + tcpMinLen
	binary.BigEndian.PutUint16(tcp[tcpChecksumAt:], ^fold(pseudo+sum16(tcp)))
	return out
}
