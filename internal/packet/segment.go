package packet

import "encoding/binary"

// FinishChecksum completes a partial transport checksum, for a device or a wire that
// will not. It clears p.Partial and the flag in the virtio header.
func FinishChecksum(offload, frame []byte, p *Packet) {
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

// Segment cuts a frame that stands for several packets into those packets, each with
// its own lengths, sequence number and finished checksums, and hands each to emit in
// scratch, which must hold the frame's headers and one segment. It stops at emit's
// first error. A frame that stands for one packet is emitted with its checksum finished.
func Segment(offload, frame []byte, p *Packet, scratch []byte, emit func([]byte) error) error {
	size := int(native.Uint16(offload[4:]))
	if p.Segments <= 1 || size == 0 {
		FinishChecksum(offload, frame, p)
		clear(offload[:OffloadLen])
		return emit(frame[:p.Len])
	}
	headers := frame[:p.Payload]
	id := binary.BigEndian.Uint16(frame[p.L3+4:])
	for i, at := 0, p.Payload; at < p.Len; i, at = i+1, at+size {
		end := min(at+size, p.Len)
		out := scratch[:p.Payload+end-at]
		copy(out, headers)
		copy(out[p.Payload:], frame[at:end])

		ip := out[p.L3:p.L4]
		binary.BigEndian.PutUint16(ip[2:], uint16(len(out)-p.L3))
		binary.BigEndian.PutUint16(ip[4:], id+uint16(i))
		ip[10], ip[11] = 0, 0
		binary.BigEndian.PutUint16(ip[10:], ^fold(sum16(ip)))

		l4 := out[p.L4:]
		if p.Flow.Protocol == ProtocolTCP {
			binary.BigEndian.PutUint32(l4[4:], binary.BigEndian.Uint32(l4[4:])+uint32(i*size))
			if end < p.Len {
				l4[13] &^= FIN | PSH
			}
			if i > 0 {
				l4[13] &^= 0x80 // CWR is for the first segment (RFC 3168 §6.1.2)
			}
		} else {
			binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
		}
		finish(out, p)
		if err := emit(out); err != nil {
			return err
		}
	}
	return nil
}

// finish computes a transport checksum from nothing.
func finish(frame []byte, p *Packet) {
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
