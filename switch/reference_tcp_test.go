package vswitch

import (
	"time"

	"palisade/internal/packet"
)

// A refState is the progress of a TCP connection.
type refState int

const (
	refSYNSent refState = iota
	refSYNReceived
	refEstablished
	refClosing  // one end has sent FIN
	refTimeWait // both have
	refClosed   // one end has sent RST
)

var refTimeouts = map[refState]time.Duration{
	refSYNSent: 30 * time.Second, refSYNReceived: 30 * time.Second, refEstablished: 432_000 * time.Second,
	refClosing: 120 * time.Second, refTimeWait: 60 * time.Second, refClosed: 10 * time.Second,
}

// A refTCP is what is known of a TCP connection.
type refTCP struct {
	state refState
	fins  [2]bool
	ends  [2]refEnd

	// noted: the rules admitted a SYN on this live connection. Only the SYN+ACK that acknowledges
	// it opens the next connection.
	noted          bool
	notedUntracked bool
	notedSeq       uint32
	notedScale     uint8
	notedWindow    uint16
}

// A refEnd is what one end has sent, in sequence numbers.
type refEnd struct {
	seen    bool
	next    uint32 // after the last byte that it sent
	limit   uint32 // after the last byte that the other end accepts from it
	window  uint64 // the largest that it announced
	scale   uint8
	scales  bool   // its SYN had a window scale
	acked   uint32 // the highest byte of the other end that it acknowledged
	hasACKs bool
}

type refPlace int

const (
	refInside refPlace = iota
	refOutside
	// refGrey: outside of the exact window, but not by much. The switch stores the largest window
	// rounded up to a power of two.
	refGrey
)

// refRounding is by how much the switch may overrate a window.
const refRounding = 2

func refBefore(a, b uint32) bool { return int32(a-b) < 0 }

func refSpan(p *refPacket) (first, next uint32) {
	n := uint32(len(p.Payload))
	if p.TCPFlags&packet.SYN != 0 {
		n++
	}
	if p.TCPFlags&packet.FIN != 0 {
		n++
	}
	return p.TCPSeq, p.TCPSeq + n
}

// place tells whether a segment lies in the windows of the connection.
func (t *refTCP) place(p *refPacket, w int) refPlace {
	s, r := &t.ends[w], &t.ends[1-w]
	first, next := refSpan(p)
	syn, rst := p.TCPFlags&packet.SYN != 0, p.TCPFlags&packet.RST != 0
	switch {
	case !s.seen && !r.seen:
		return refInside
	case !s.seen && t.isChallenge(p, w):
		return refInside
	case !s.seen && t.state == refSYNSent && w == refReply && !syn && !rst:
		return refOutside
	case !s.seen, syn && w == refReply && t.state == refSYNReceived && refBefore(s.next, next):
		return t.placeACK(p, w)
	case refBefore(s.limit, first):
		return refOutside
	}
	if r.seen {
		switch {
		case refBefore(next, s.next-uint32(min(r.window*refRounding, 1<<30))):
			return refOutside
		case refBefore(next, s.next-uint32(r.window)):
			return refGrey
		}
	}
	if rst && p.TCPAck == 0 {
		return refInside
	}
	return t.placeACK(p, w)
}

// isChallenge reports whether a segment answers a SYN with an ACK: the other end has an older
// connection on these ports, and asks whether it is over (RFC 5961 §4.2).
func (t *refTCP) isChallenge(p *refPacket, w int) bool {
	const flags = packet.SYN | packet.FIN | packet.RST | packet.ACK
	return t.state == refSYNSent && w == refReply && p.TCPFlags&flags == packet.ACK && len(p.Payload) == 0
}

// placeACK tells whether a segment acknowledges what the other end has sent, and not too long ago.
func (t *refTCP) placeACK(p *refPacket, w int) refPlace {
	s, r := &t.ends[w], &t.ends[1-w]
	if p.TCPFlags&packet.ACK == 0 || !r.seen {
		return refInside
	}
	if refBefore(r.next, p.TCPAck) {
		return refOutside
	}
	window := s.window
	if now := uint64(p.TCPWindow) << s.scale; now > window {
		window = now
	}
	switch {
	case refBefore(p.TCPAck, r.next-uint32(max(66_000, min(window*refRounding, 1<<30)))):
		return refOutside
	case refBefore(p.TCPAck, r.next-uint32(max(66_000, window))):
		return refGrey
	}
	return refInside
}

// answersNoted reports whether a segment is the SYN+ACK for the SYN that was noted.
func (t *refTCP) answersNoted(p *refPacket, w int) bool {
	return t.noted && w == refReply && p.TCPFlags&packet.SYN != 0 && p.TCPFlags&packet.ACK != 0 && p.TCPAck == t.notedSeq+1
}

// beginAgain begins the connection that the noted SYN opens.
func (t *refTCP) beginAgain() {
	seq, scale, window := t.notedSeq, t.notedScale, t.notedWindow
	*t = refTCP{state: refSYNSent}
	t.ends[refOriginal] = refEnd{seen: true, next: seq + 1, limit: seq + 1, window: uint64(max(1, window)), scale: scale, scales: scale != 0}
}

// forgetWindows makes the windows unknown: packets were dropped that may have moved them. What each end
// sent last is not forgotten, so that a repeated SYN is known.
func (t *refTCP) forgetWindows() {
	for w := range t.ends {
		t.ends[w].seen, t.ends[w].window = false, 0
	}
}

// advance changes the state and moves the windows for a segment that belongs to the connection. It
// reports whether the segment changes the connection.
func (t *refTCP) advance(p *refPacket, w int, tracked bool) bool {
	f := p.TCPFlags
	switch {
	case f&packet.RST != 0:
		if tracked && !t.resets(p, w) {
			return false
		}
		t.state = refClosed
		return true
	case tracked && t.isChallenge(p, w):
		return false
	case t.state == refClosed && !tracked && f&packet.SYN == 0:
		t.state = refEstablished // nobody checks the sequence number of a RST: it was forged, or ignored
	case t.state == refSYNSent && w == refReply && f&packet.SYN != 0:
		t.state = refSYNReceived
	case t.state == refSYNReceived && w == refOriginal && f&packet.ACK != 0:
		t.state = refEstablished
	}
	if f&packet.FIN != 0 && t.state != refSYNSent && t.state != refClosed {
		t.fins[w] = true
		t.state = refClosing
		if t.fins[0] && t.fins[1] {
			t.state = refTimeWait
		}
	}
	if tracked {
		t.move(p, w)
	}
	return true
}

// resets reports whether a RST in the window ends the connection (RFC 5961 §3.2): only the next
// sequence number that its receiver expects does, which is the one that the receiver acknowledged
// last, or the one after the last byte that was sent to it.
func (t *refTCP) resets(p *refPacket, w int) bool {
	s, r := &t.ends[w], &t.ends[1-w]
	if t.state == refSYNSent && w == refReply {
		return p.TCPFlags&packet.ACK != 0 && p.TCPAck == r.next
	}
	return r.hasACKs && p.TCPSeq == r.acked || s.seen && p.TCPSeq == s.next
}

func (t *refTCP) move(p *refPacket, w int) {
	s, r := &t.ends[w], &t.ends[1-w]
	first, next := refSpan(p)
	_ = first
	syn, ack := p.TCPFlags&packet.SYN != 0, p.TCPFlags&packet.ACK != 0
	window := uint64(p.TCPWindow)
	if !syn {
		window <<= s.scale
	}
	switch {
	case syn && (!s.seen || w == refReply && t.state == refSYNReceived && refBefore(s.next, next)):
		*s = refEnd{next: next, limit: next, scale: p.TCPScale, scales: p.TCPScale != 0}
		if r.seen && !(s.scales && r.scales) {
			s.scale, r.scale = 0, 0
		}
	case !s.seen:
		s.next, s.limit = next, next+uint32(window)
		if !r.seen {
			r.next, r.limit = p.TCPAck, p.TCPAck
		}
	}
	s.seen = true
	s.window = max(s.window, window, 1)
	if refBefore(s.next, next) {
		s.next = next
		if refBefore(s.limit, next) && r.seen {
			from := s.limit
			if r.hasACKs {
				from = r.acked
			}
			r.window = max(r.window, uint64(next-from)) // all that is not acknowledged may be sent again
		}
	}
	if !ack {
		return
	}
	if !s.hasACKs || refBefore(s.acked, p.TCPAck) {
		s.acked, s.hasACKs = p.TCPAck, true
	}
	if limit := p.TCPAck + uint32(max(window, 1)); refBefore(r.limit, limit) {
		r.limit = limit
	}
}
