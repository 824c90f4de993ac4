package conntrack

import (
	"time"

	"palisade/internal/failpoint"
	"palisade/internal/packet"
)

// A synNote is a SYN that the rules admitted in a live connection (synNoted). Its sender may open the
// next connection on the same ports; only the SYN+ACK that acknowledges it proves that. The note is
// not in the file: after a restart the sender must repeat its SYN.
type synNote struct {
	next     uint32 // the sequence number that the SYN+ACK acknowledges
	window   uint16
	scale    uint8
	hasScale bool
}

// noteSYN notes a SYN of the opening end of e. kind is synUntracked or 0.
func (s *shard) noteSYN(e *entry, p *packet.Packet, kind tcpFlags) {
	failpoint.Reach()
	e.tcp = e.tcp&^synUntracked | synNoted | kind
	s.noted[s.slotOf(e)] = synNote{segmentOf(p).next, p.TCPWindow, p.TCPScale, p.TCPHasScale}
}

// answersNotedSYN reports whether a segment outside of the windows of e opens the next connection on
// the same ports: it acknowledges a noted SYN of a kind.
func (s *shard) answersNotedSYN(e *entry, p *packet.Packet, w way, kind tcpFlags) bool {
	const synACK = packet.SYN | packet.ACK
	return w == reply && e.tcp&(synNoted|synUntracked) == synNoted|kind && p.TCPFlags&synACK == synACK && p.TCPAck == s.noted[s.slotOf(e)].next
}

// beginAgain makes e the next connection with the same ports, if p is its SYN+ACK. The rule and the
// revision are those of the noted SYN.
func (s *shard) beginAgain(e *entry, p *packet.Packet, w way, now time.Duration) {
	if e.tcp&synNoted != 0 && e.isOutside(p, w) && s.answersNotedSYN(e, p, w, 0) {
		s.restart(e, now)
	}
}

func (s *shard) restart(e *entry, now time.Duration) {
	n := s.noted[s.slotOf(e)]
	e.state, e.tcp, e.scales, e.windows, e.ends = synSent, 0, 0, [2]uint8{}, [2]end{}
	e.created = uint32(now / time.Second)
	e.packets, e.bytesLow, e.bytesHigh = [2]uint32{}, [2]uint32{}, [2]uint16{}
	e.begin(original, n.next, n.scale, n.hasScale)
	e.windows[original] = logarithm(uint32(n.window))
}
