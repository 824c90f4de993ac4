package packet

import (
	"encoding/binary"

	"palisade/internal/failpoint"
)

// FinishChecksum completes a partial transport checksum, for a device that does not do that
// itself. It clears p.Partial and the flag in the virtio header.
func FinishChecksum(offload, frame []byte, p *Packet) {
	failpoint.Reach()
	if !p.Partial {
		return
	}
	field := frame[p.L4+checksumOffset(p):]
	sum := ^fold(sum16(frame[p.L4:p.Len]))
	if sum == 0 && p.Flow.Protocol == ProtocolUDP {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(field, sum)
	p.Partial = false
	clear(offload[:OffloadLen])
}

// MaxHeaders is the largest size of the headers of a frame that stands for several packets.
const MaxHeaders = ethernetLen + 60 + 60

// A Cutter cuts a frame that stands for several packets into those packets, in place and
// from the front. It writes the headers of each packet before its payload, over the end of
// the previous packet, which the caller must not use any more. It computes no transport
// checksums.
type Cutter struct {
	frame   []byte
	p       *Packet
	size    int // payload bytes of each packet but the last
	index   int // number of the next packet
	at      int // where the next packet's payload begins
	headers [MaxHeaders]byte
	sum     uint32 // sum of the IP header without length, identification and checksum
}

// Begin makes the Cutter cut a frame that Sanitize has accepted. The Cutter uses frame and
// p until the last packet.
func (c *Cutter) Begin(offload, frame []byte, p *Packet) {
	failpoint.Reach()
	c.frame, c.p, c.size = frame, p, int(native.Uint16(offload[4:]))
	c.index, c.at = 0, p.Payload
	copy(c.headers[:p.Payload], frame)
	ip := c.headers[p.L3:p.L4]
	c.sum = sum16(ip[:2]) + sum16(ip[6:10]) + sum16(ip[12:])
}

// Next writes the next packet and returns where it begins and ends in the frame; false
// after the last packet.
func (c *Cutter) Next() (start, end int, ok bool) {
	failpoint.Reach()
	if c.at >= c.p.Len {
		return 0, 0, false
	}
	start, end = c.at-c.p.Payload, min(c.at+c.size, c.p.Len)
	c.put(c.frame[start:end], end == c.p.Len)
	c.index, c.at = c.index+1, end
	return start, end, true
}

// put writes the headers of the next packet before its payload.
func (c *Cutter) put(out []byte, last bool) {
	failpoint.Reach()
	p := c.p
	copy(out, c.headers[:p.Payload])
	ip, l4 := out[p.L3:p.L4], out[p.L4:]
	length, id := uint16(len(out)-p.L3), binary.BigEndian.Uint16(ip[4:])+uint16(c.index)
	binary.BigEndian.PutUint16(ip[2:], length)
	binary.BigEndian.PutUint16(ip[4:], id)
	binary.BigEndian.PutUint16(ip[10:], ^fold(c.sum+uint32(length)+uint32(id)))
	if p.Flow.Protocol != ProtocolTCP {
		binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
		return
	}
	binary.BigEndian.PutUint32(l4[4:], binary.BigEndian.Uint32(l4[4:])+uint32(c.index*c.size))
	if !last {
		l4[13] &^= FIN | PSH
	}
	if c.index > 0 {
		l4[13] &^= tcpCWR // only the first segment keeps CWR (RFC 3168 §6.1.2)
	}
}

// Segment cuts a frame that stands for several packets into those packets, with their own
// lengths, sequence numbers and finished checksums. It builds each packet in scratch, which
// must hold the frame's headers and one segment, and passes it to emit. It returns the
// first error of emit, and then emits no more. A frame that stands for one packet is
// emitted with its checksum finished.
func Segment(offload, frame []byte, p *Packet, scratch []byte, emit func([]byte) error) error {
	failpoint.Reach()
	size := int(native.Uint16(offload[4:]))
	if p.Segments <= 1 || size == 0 {
		FinishChecksum(offload, frame, p)
		clear(offload[:OffloadLen])
		return emit(frame[:p.Len])
	}
	var c Cutter
	c.Begin(offload, frame, p)
	for ; c.at < p.Len; c.index, c.at = c.index+1, c.at+size {
		end := min(c.at+size, p.Len)
		out := scratch[:p.Payload+end-c.at]
		copy(out[p.Payload:], frame[c.at:end])
		c.put(out, end == p.Len)
		Finish(out, p)
		if err := emit(out); err != nil {
			return err
		}
	}
	return nil
}

// Finish computes the transport checksum of a packet from its bytes. p describes the packet,
// or the frame that it was cut from.
func Finish(frame []byte, p *Packet) {
	failpoint.Reach()
	l4 := frame[p.L4:]
	field := l4[checksumOffset(p):]
	field[0], field[1] = 0, 0
	sum := sum16(frame[p.L3+12:p.L3+20]) + uint32(p.Flow.Protocol) + uint32(len(l4)) + sum16(l4)
	check := ^fold(sum)
	if check == 0 && p.Flow.Protocol == ProtocolUDP {
		check = 0xffff
	}
	binary.BigEndian.PutUint16(field, check)
}
