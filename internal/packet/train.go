package packet

import (
	"bytes"
	"encoding/binary"

	"palisade/internal/failpoint"
)

// Marks are facts about a packet that its bytes do not show.
type Marks uint8

const (
	// Unfinished: the packet's transport checksum was never computed, because the seal of
	// its datagram protects it better. The checksum field has no meaning.
	Unfinished Marks = 1 << iota
	// Followed: the packet was cut from a frame, and the next packet of that frame follows
	// it.
	Followed
)

const (
	tcpCWR       = 0x80
	dontFragment = 0x40 // DF, in the first byte of flags and offset

	maxFrame = ethernetLen + 65535
	// maxTrainUDP is the number of datagrams in one frame that every Linux accepts
	// (UDP_MAX_SEGMENTS, which was 64 before 6.9).
	maxTrainUDP = 64
)

// A Train joins consecutive unfinished packets of one flow into a frame that stands for all
// of them, as the kernel's GRO does. Segment must restore the same packets, so packets that
// joining would change are not joined:
//
//   - Headers must be equal, except lengths, checksums, the identification, which increases
//     by one, and the sequence number, which continues where the packet before ended.
//   - All payloads have the size of the first. The last may be smaller.
//   - PSH and FIN end a train. Packets with SYN, RST, URG, CWR, IP options or fragments are
//     not joined.
//   - UDP datagrams are joined if the sender had them in one frame, or if they were queued
//     one after the other in a device (Lead and Follow) and have the don't-fragment flag. The
//     identification of the latter has no meaning and is not kept (RFC 6864 §4.1).
//
// One goroutine uses a Train. It starts again with each Begin or Lead.
type Train struct {
	b       []byte // virtio header and frame
	end     int    // where the frame ends in b
	l4      int    // where the transport header begins in the frame; 0 if the first packet cannot be joined
	payload int    // where the payload begins in the frame
	size    int    // length of the first payload
	pieces  int
	open    bool
	queued  bool             // Lead began the train: its packets come from the queue of a device
	first   [MaxHeaders]byte // the headers of the first packet
}

// Begin starts a train with a packet. b[:n] holds ten bytes for the virtio header and then
// the packet. A malformed packet becomes a train of its own, and Decode refuses it later.
func (t *Train) Begin(b []byte, n int, marks Marks) {
	failpoint.Reach()
	t.b, t.end, t.l4, t.pieces, t.open, t.queued = b, n, 0, 1, false, false
	clear(b[:OffloadLen])
	frame := b[OffloadLen:n]
	if marks&Unfinished == 0 {
		return
	}
	b[0] = needsChecksum // Sanitize refuses the header if its other fields stay zero
	l4, payload, ok := transportOf(frame)
	if !ok {
		return
	}
	t.l4, t.payload, t.size = l4, payload, len(frame)-payload
	t.open = l4 == ethernetLen+ipv4MinLen && validIPv4(frame) && t.mayLead(frame, marks)
	if t.open {
		copy(t.first[:payload], frame)
	}
}

// transportOf returns where the transport header and the payload of an unfragmented TCP or
// UDP packet begin; false for other packets and padded ones.
func transportOf(frame []byte) (l4, payload int, ok bool) {
	failpoint.Reach()
	if len(frame) < ethernetLen+ipv4MinLen || binary.BigEndian.Uint16(frame[12:]) != EtherTypeIPv4 {
		return 0, 0, false
	}
	ip := frame[ethernetLen:]
	l4 = ethernetLen + int(ip[0]&15)*4
	if ip[0]>>4 != 4 || l4 < ethernetLen+ipv4MinLen || int(binary.BigEndian.Uint16(ip[2:])) != len(ip) || binary.BigEndian.Uint16(ip[6:])&0x3fff != 0 {
		return 0, 0, false
	}
	switch {
	case ip[9] == ProtocolTCP && len(frame) >= l4+tcpMinLen:
		payload = l4 + int(frame[l4+12]>>4)*4
		return l4, payload, payload >= l4+tcpMinLen && payload <= len(frame)
	case ip[9] == ProtocolUDP && len(frame) >= l4+udpLen:
		return l4, l4 + udpLen, int(binary.BigEndian.Uint16(frame[l4+4:])) == len(frame)-l4
	}
	return 0, 0, false
}

// validIPv4 reports whether the checksum of an IP header without options is right. A packet
// with a wrong checksum must not be joined, because joining would correct the checksum.
func validIPv4(frame []byte) bool {
	return fold(sum16(frame[ethernetLen:ethernetLen+ipv4MinLen])) == 0xffff
}

// mayLead reports whether other packets may be joined to frame, the first packet of the
// train.
func (t *Train) mayLead(frame []byte, marks Marks) bool {
	if frame[ethernetLen+9] == ProtocolUDP {
		return marks&Followed != 0 && t.size > 0
	}
	return frame[t.l4+13]&(FIN|SYN|RST|PSH|ACK|URG|tcpCWR) == ACK && t.size >= minTCPSegment
}

// Joinable reports whether a packet with a computed checksum can be part of a Train: it
// must be TCP, have enough payload, and its checksum must be right.
func Joinable(frame []byte) bool {
	failpoint.Reach()
	l4, payload, ok := transportOf(frame)
	if !ok || frame[ethernetLen+9] != ProtocolTCP || len(frame)-payload < minTCPSegment {
		return false
	}
	return rightChecksum(frame, l4)
}

// Joined returns the number of packets in a frame that Finish has completed. b begins with
// the virtio header.
func Joined(b []byte) int {
	size, headers := int(native.Uint16(b[4:])), int(native.Uint16(b[2:]))
	if b[1] == gsoNone || size == 0 {
		return 1
	}
	return max(1, (len(b)-OffloadLen-headers+size-1)/size)
}

// Lead starts a train with a virtio header and frame from a device, b[:n], and does not
// change b. It reports whether other frames may Follow: the frame must be one unfragmented
// UDP datagram.
func (t *Train) Lead(b []byte, n int) bool {
	failpoint.Reach()
	t.b, t.end, t.l4, t.pieces, t.open, t.queued = b, n, 0, 1, false, true
	frame := b[OffloadLen:n]
	l4, payload, ok := transportOf(frame)
	if !ok || l4 != ethernetLen+ipv4MinLen || frame[ethernetLen+9] != ProtocolUDP || frame[ethernetLen+6]&dontFragment == 0 ||
		b[1] != gsoNone || len(frame) == payload || !validIPv4(frame) {
		return false
	}
	t.l4, t.payload, t.size, t.open = l4, payload, len(frame)-payload, true
	copy(t.first[:payload], frame)
	return true
}

// Follow joins a copy of the device's next frame to the train, if that is a datagram of the
// same flow, and reports whether it did. The checksum of each datagram must be right, or
// left to offloads.
func (t *Train) Follow(b []byte) bool {
	failpoint.Reach()
	frame := b[OffloadLen:]
	if !t.open || !t.Room(len(frame)) || !t.continues(frame) || !intact(b, t.l4) {
		return false
	}
	if t.pieces == 1 && !intact(t.b[:t.end], t.l4) {
		return false
	}
	copy(t.b[t.end:], frame[t.payload:])
	t.take(frame, Unfinished|Followed)
	t.b[0] = needsChecksum // Finish writes the other fields
	return true
}

// intact reports whether a virtio header and UDP frame are one datagram whose checksum is
// right, or is left to offloads in the way that Sanitize accepts.
func intact(b []byte, l4 int) bool {
	failpoint.Reach()
	if b[1] != gsoNone {
		return false
	}
	if b[0]&needsChecksum != 0 {
		return int(native.Uint16(b[6:])) == l4 && native.Uint16(b[8:]) == udpChecksumAt
	}
	frame := b[OffloadLen:]
	absent := binary.BigEndian.Uint16(frame[l4+udpChecksumAt:]) == 0 // a train would add a checksum to a datagram that has none
	return !absent && rightChecksum(frame, l4)
}

// rightChecksum reports whether the transport checksum of an unfragmented IPv4 packet is right.
func rightChecksum(frame []byte, l4 int) bool {
	ip := frame[ethernetLen:]
	return fold(sum16(ip[12:20])+uint32(ip[9])+uint32(len(frame)-l4)+sum16(frame[l4:])) == 0xffff
}

// Open reports whether another packet may be joined to the train.
func (t *Train) Open() bool { return t.open }

// End returns the offset in b where the payload of the next packet must be placed.
func (t *Train) End() int { return t.end }

// HeaderLen returns the size of the headers that the next packet must have to be joined.
func (t *Train) HeaderLen() int { return t.payload }

// Room reports whether a next packet of n bytes has a size that can be joined.
func (t *Train) Room(n int) bool {
	payload := n - t.payload
	return payload > 0 && payload <= t.size && t.end+payload <= OffloadLen+maxFrame
}

// Join joins the next packet if it belongs to the train, and reports whether it did. The
// packet's payload must be at End already. Its headers stand before End, where they
// overwrite earlier payload; the caller restores that afterwards.
func (t *Train) Join(piece []byte, marks Marks) bool {
	failpoint.Reach()
	if !t.open || marks&Unfinished == 0 || !t.Room(len(piece)) || !t.continues(piece) {
		return false
	}
	t.take(piece, marks)
	return true
}

// take adds a packet that belongs to the train.
func (t *Train) take(piece []byte, marks Marks) {
	failpoint.Reach()
	n := len(piece) - t.payload
	t.end += n
	t.pieces++
	if n < t.size {
		t.open = false
	}
	if t.first[ethernetLen+9] == ProtocolUDP {
		t.open = t.open && marks&Followed != 0 && t.pieces < maxTrainUDP
	} else if last := piece[t.l4+13] & (PSH | FIN); last != 0 {
		t.first[t.l4+13] |= last
		t.open = false
	}
}

// continues reports whether a packet has headers that continue those of the train.
func (t *Train) continues(piece []byte) bool {
	failpoint.Reach()
	l4, payload, ok := transportOf(piece)
	if !ok || l4 != t.l4 || payload != t.payload || !validIPv4(piece) {
		return false
	}
	first, ip := t.first[:payload], ethernetLen
	numbered := binary.BigEndian.Uint16(piece[ip+4:]) == binary.BigEndian.Uint16(first[ip+4:])+uint16(t.pieces)
	if !bytes.Equal(piece[:ip+2], first[:ip+2]) || !numbered && !t.queued ||
		!bytes.Equal(piece[ip+6:ip+10], first[ip+6:ip+10]) || !bytes.Equal(piece[ip+12:l4+4], first[ip+12:l4+4]) {
		return false
	}
	if first[ip+9] == ProtocolUDP {
		return true
	}
	sequence := binary.BigEndian.Uint32(first[l4+4:]) + uint32(t.end-OffloadLen-payload)
	return binary.BigEndian.Uint32(piece[l4+4:]) == sequence &&
		bytes.Equal(piece[l4+8:l4+13], first[l4+8:l4+13]) &&
		piece[l4+13]&^(PSH|FIN) == first[l4+13] &&
		bytes.Equal(piece[l4+14:l4+16], first[l4+14:l4+16]) && bytes.Equal(piece[l4+18:payload], first[l4+18:payload])
}

// Finish completes the frame and its virtio header and returns the length of both.
func (t *Train) Finish() int {
	failpoint.Reach()
	if t.l4 == 0 || t.queued && t.pieces == 1 { // the frame stays unchanged
		return t.end
	}
	offload, frame := t.b[:OffloadLen], t.b[OffloadLen:t.end]
	field := udpChecksumAt
	tcp := frame[ethernetLen+9] == ProtocolTCP
	if tcp {
		field = tcpChecksumAt
	}
	native.PutUint16(offload[6:], uint16(t.l4))
	native.PutUint16(offload[8:], uint16(field))
	ip, l4 := frame[ethernetLen:t.l4], frame[t.l4:]
	if t.pieces > 1 {
		offload[1] = gsoUDPL4
		if tcp {
			offload[1] = gsoTCPv4
			l4[13] = t.first[t.l4+13]
		} else {
			binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
		}
		native.PutUint16(offload[2:], uint16(t.payload))
		native.PutUint16(offload[4:], uint16(t.size))
		binary.BigEndian.PutUint16(ip[2:], uint16(len(frame)-ethernetLen))
		ip[10], ip[11] = 0, 0
		binary.BigEndian.PutUint16(ip[10:], ^fold(sum16(ip)))
	}
	// An unfinished checksum is the sum of the pseudo-header alone.
	binary.BigEndian.PutUint16(l4[field:], fold(sum16(ip[12:20])+uint32(ip[9])+uint32(len(l4))))
	t.open = false
	return t.end
}
