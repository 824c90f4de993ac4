package conntrack

import (
	"slices"
	"time"

	"palisade/internal/failpoint"
	"palisade/internal/packet"
)

// A synNote is a SYN that the rules admitted in a live connection (synNoted). Its sender may open the
// next connection on the same ports; only the SYN+ACK that acknowledges it proves that. The note is
// not in the file: after a restart the sender must repeat its SYN. So it must if its note was
// overwritten: a shard keeps the last 64.
type synNote struct {
	slot     uint32 // of the entry
	next     uint32 // the sequence number that the SYN+ACK acknowledges
	window   uint16
	scale    uint8
	hasScale bool
}

// synNotes is how many notes a shard keeps.
const synNotes = 64

// noteOf returns the note of an entry; the zero synNote if there is none.
func (s *shard) noteOf(e *entry) synNote {
	slot := s.slotOf(e)
	for _, n := range s.notes {
		if n.slot == slot && n.next != 0 {
			return n
		}
	}
	return synNote{}
}

// noteSYN notes a SYN of the opening end of e. kind is synUntracked or 0.
func (s *shard) noteSYN(e *entry, p *packet.Packet, kind tcpFlags) {
	failpoint.Reach()
	e.tcp = e.tcp&^synUntracked | synNoted | kind
	slot := s.slotOf(e)
	at := slices.IndexFunc(s.notes[:], func(n synNote) bool { return n.slot == slot && n.next != 0 })
	if at < 0 {
		at, s.lastNote = s.lastNote, (s.lastNote+1)%synNotes
	}
	s.notes[at] = synNote{slot, segmentOf(p).next, p.TCPWindow, p.TCPScale, p.TCPHasScale}
}

// answersNotedSYN reports whether a segment outside of the windows of e opens the next connection on
// the same ports: it acknowledges a noted SYN of a kind.
func (s *shard) answersNotedSYN(e *entry, p *packet.Packet, w way, kind tcpFlags) bool {
	const synACK = packet.SYN | packet.ACK
	if w != reply || e.tcp&(synNoted|synUntracked) != synNoted|kind || p.TCPFlags&synACK != synACK {
		return false
	}
	n := s.noteOf(e)
	return n.next != 0 && n.next == p.TCPAck
}

// beginAgain makes e the next connection with the same ports, if p is its SYN+ACK. The rule and the
// revision are those of the noted SYN.
func (s *shard) beginAgain(e *entry, p *packet.Packet, w way, now time.Duration) {
	if e.tcp&synNoted != 0 && e.isOutside(p, w) && s.answersNotedSYN(e, p, w, 0) {
		s.restart(e, now)
	}
}

func (s *shard) restart(e *entry, now time.Duration) {
	n := s.noteOf(e)
	e.state, e.tcp, e.scales, e.windows, e.ends = synSent, 0, 0, [2]uint8{}, [2]end{}
	e.created = uint32(now / time.Second)
	e.packets, e.bytesLow, e.bytesHigh = [2]uint32{}, [2]uint32{}, [2]uint16{}
	e.begin(original, n.next, n.scale, n.hasScale)
	e.windows[original] = logarithm(uint32(n.window))
}
