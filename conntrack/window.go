package conntrack

import (
	"math/bits"

	"palisade/internal/packet"
)

// An end is what one end of a TCP connection has sent, in sequence numbers. The windows of
// both ends tell which segments belong to the connection (van Rooij, "Real Stateful TCP
// Packet Filtering in IP Filter", 2001; the bounds are those of Linux's nf_conntrack).
type end struct {
	next    uint32 // sequence number after the last byte that it has sent
	allowed uint32 // sequence number after the last byte that the other end accepts from it
	acked   uint32 // the highest sequence number of the other end that it has acknowledged
}

// tcpFlags are facts about the ends of a TCP connection. Those of the opening end are in even
// bits, those of the other end in the bits above them.
type tcpFlags uint8

const (
	// finSent: the end has sent FIN.
	finSent tcpFlags = 1 << (2 * iota)
	// ackSent: the end has sent ACK, so its field acked is valid.
	ackSent
	// scaleSent: the SYN of the end had a window scale.
	scaleSent
	// synNoted: the rules have admitted a SYN of the opening end in a live connection. It may
	// open the next one on the same ports. A SYN+ACK outside of the windows proves that.
	synNoted
	// synUntracked: the rules admitted that SYN untracked.
	synUntracked tcpFlags = synNoted << 1
)

func (f tcpFlags) of(w way) tcpFlags { return f << w }

const bothFINs = finSent | finSent<<1

// maxAckDistance is how far behind the last byte an acknowledgment may be, in bytes. It is
// larger than a window without scale, so that repeated and late ACKs pass.
const maxAckDistance = 66_000

// before reports whether sequence number a precedes b (RFC 9293 §3.4).
func before(a, b uint32) bool { return int32(a-b) < 0 }

// A segment is the place of a TCP packet in the sequence numbers of its sender.
type segment struct{ first, next uint32 }

// segmentOf returns the segment of a packet. SYN and FIN count as one byte each.
func segmentOf(p *packet.Packet) segment {
	n := uint32(p.Len - p.Payload)
	if p.TCPFlags&packet.SYN != 0 {
		n++
	}
	if p.TCPFlags&packet.FIN != 0 {
		n++
	}
	return segment{p.TCPSeq, p.TCPSeq + n}
}

// window returns the largest window that end w has announced, rounded up to a power of two.
func (e *entry) window(w way) uint32 { return 1 << (e.windows[w] - 1) }

func (e *entry) scale(w way) uint8 { return e.scales >> (4 * w) & 15 }

// fits reports whether a segment of direction w lies in the windows of a tracked connection. A
// segment outside of them was not sent by an end of the connection, or belongs to an earlier or
// later connection with the same ports. It does not look at the state.
func (e *entry) fits(p *packet.Packet, w way) bool {
	if e.windows[w] == 0 {
		return e.fitsFirst(p, w)
	}
	s := segmentOf(p)
	sender := &e.ends[w]
	if w == reply && p.TCPFlags&packet.SYN != 0 && e.state == synReceived && before(sender.next, s.next) {
		return e.acks(p, w) // the other end answers again, with a new first sequence number
	}
	switch {
	case before(sender.allowed, s.first):
		return false // after the window
	case e.windows[1-w] != 0 && before(s.next, sender.next-e.window(1-w)):
		return false // received long ago
	case p.TCPFlags&packet.RST != 0 && p.TCPAck == 0:
		return true // some hosts send ACK without a number
	}
	return e.acks(p, w)
}

// fitsFirst is fits for the first packet that is seen of an end.
func (e *entry) fitsFirst(p *packet.Packet, w way) bool {
	if e.windows[1-w] == 0 {
		return true // nothing is known: the process has restarted
	}
	if e.state == synSent && w == reply && p.TCPFlags&(packet.SYN|packet.RST) == 0 {
		return e.isChallenge(p, w)
	}
	return e.acks(p, w)
}

// isChallenge reports whether a segment is the challenge ACK of an end that has an older connection
// on these ports (RFC 5961 §4.2). The opening end answers with a RST, and repeats its SYN.
func (e *entry) isChallenge(p *packet.Packet, w way) bool {
	const flags = packet.SYN | packet.FIN | packet.RST | packet.ACK
	return e.state == synSent && w == reply && p.TCPFlags&flags == packet.ACK && p.Len == p.Payload
}

// ignores reports whether a segment that fits changes nothing: a challenge ACK, or a RST that ends
// nothing.
func (e *entry) ignores(p *packet.Packet, w way) bool {
	return e.isChallenge(p, w) || p.TCPFlags&packet.RST != 0 && !e.resets(p, w)
}

// acks reports whether a segment acknowledges only bytes that the other end has sent, and not
// too long ago.
func (e *entry) acks(p *packet.Packet, w way) bool {
	if p.TCPFlags&packet.ACK == 0 || e.windows[1-w] == 0 {
		return true
	}
	next, window := e.ends[1-w].next, uint32(p.TCPWindow)<<e.scale(w)
	if e.windows[w] != 0 {
		window = max(window, e.window(w))
	}
	return !before(next, p.TCPAck) && !before(p.TCPAck, next-max(window, maxAckDistance))
}

// resets reports whether a RST of direction w, which fits, ends the connection. It does so if its
// sequence number is exactly the next one that its receiver expects. The receiver of another one
// answers with a challenge ACK and the connection goes on (RFC 5961 §3.2). A RST that answers a
// SYN is known by its acknowledgment (RFC 9293 §3.10.7.3).
func (e *entry) resets(p *packet.Packet, w way) bool {
	sender, receiver := &e.ends[w], &e.ends[1-w]
	if e.state == synSent && w == reply {
		return p.TCPFlags&packet.ACK != 0 && p.TCPAck == receiver.next
	}
	if e.tcp&ackSent.of(1-w) != 0 && p.TCPSeq == receiver.acked {
		return true
	}
	return e.windows[w] != 0 && p.TCPSeq == sender.next
}

// follow moves the windows for a segment that fits. A RST moves none.
func (e *entry) follow(p *packet.Packet, w way) {
	if p.TCPFlags&packet.RST != 0 {
		return
	}
	s := segmentOf(p)
	sender, receiver := &e.ends[w], &e.ends[1-w]
	syn := p.TCPFlags&packet.SYN != 0
	window := uint32(p.TCPWindow)
	if !syn {
		window <<= e.scale(w)
	}
	switch {
	case syn && (e.windows[w] == 0 || w == reply && e.state == synReceived && before(sender.next, s.next)):
		e.begin(w, s.next, p.TCPScale, p.TCPHasScale)
	case e.windows[w] == 0:
		// The beginning of the connection was not seen.
		sender.next, sender.allowed = s.next, s.next+window
		if e.windows[1-w] == 0 {
			receiver.next, receiver.allowed = p.TCPAck, p.TCPAck
		}
	}
	e.windows[w] = max(e.windows[w], logarithm(window))
	next := s.next
	if p.Fragment { // the rest of the segment is in later fragments
		if next = s.first + 1<<16; before(sender.allowed, next) {
			next = sender.allowed
		}
	}
	if before(sender.next, next) {
		sender.next = next
		if before(sender.allowed, next) && e.windows[1-w] != 0 { // its last byte is beyond the window
			e.windows[1-w] = max(e.windows[1-w], logarithm(next-e.acknowledged(w)))
		}
	}
	if p.TCPFlags&packet.ACK == 0 {
		return
	}
	if e.tcp&ackSent.of(w) == 0 || before(sender.acked, p.TCPAck) {
		sender.acked = p.TCPAck
		e.tcp |= ackSent.of(w)
	}
	if allowed := p.TCPAck + max(window, 1); before(receiver.allowed, allowed) {
		receiver.allowed = allowed
	}
}

// acknowledged returns the sequence number after the last byte of end w that the other end has
// acknowledged. End w may send again what follows it.
func (e *entry) acknowledged(w way) uint32 {
	if e.tcp&ackSent.of(1-w) == 0 {
		return e.ends[w].allowed // the other end has said nothing yet
	}
	return e.ends[1-w].acked
}

// logarithm returns a window as the field windows stores it. No window is larger than 2^30 (RFC
// 7323 §2.3).
func logarithm(window uint32) uint8 { return 1 + uint8(min(bits.Len32(max(window, 1)-1), 30)) }

// continues handles the usual segment of an established connection with few comparisons: it follows
// the last one of its end, or acknowledges, and lies in the windows. If it is one, continues moves the
// windows as follow does and returns true. Otherwise it changes nothing, and fits and follow decide.
func (e *entry) continues(p *packet.Packet, w way) bool {
	const flags = packet.SYN | packet.FIN | packet.RST | packet.ACK
	if e.state != established || p.TCPFlags&flags != packet.ACK || p.Fragment || e.windows[1-w] == 0 || e.tcp&ackSent.of(w) == 0 {
		return false
	}
	sender, receiver := &e.ends[w], &e.ends[1-w]
	next, window := p.TCPSeq+uint32(p.Len-p.Payload), uint32(p.TCPWindow)<<e.scale(w)
	switch {
	case before(sender.allowed, sender.next), next-sender.next > sender.allowed-sender.next:
		return false
	case before(p.TCPAck, sender.acked), before(receiver.next, p.TCPAck), receiver.next-p.TCPAck > maxAckDistance:
		return false
	case window > e.window(w):
		return false
	}
	sender.next, sender.acked = next, p.TCPAck
	if allowed := p.TCPAck + max(window, 1); before(receiver.allowed, allowed) {
		receiver.allowed = allowed
	}
	return true
}

// begin starts the windows of an end at its SYN. Windows are scaled only if the SYNs of both ends
// say so (RFC 7323 §2.2).
func (e *entry) begin(w way, next uint32, scale uint8, hasScale bool) {
	e.ends[w].next, e.ends[w].allowed, e.windows[w] = next, next, 0
	e.tcp &^= scaleSent.of(w) | ackSent.of(w)
	e.scales &^= 15 << (4 * w)
	if hasScale {
		e.tcp |= scaleSent.of(w)
		e.scales |= min(scale, 14) << (4 * w)
	}
	if e.windows[1-w] != 0 && e.tcp&(scaleSent|scaleSent<<1) != scaleSent|scaleSent<<1 {
		e.scales = 0
	}
}
