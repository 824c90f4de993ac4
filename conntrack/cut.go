package conntrack

import (
	"time"

	"palisade/internal/failpoint"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// Cut ends the connections for which match returns true, and returns how many it ended. The packets
// of an ended connection are dropped in both directions, whatever the rules say, until none has come
// for 180 s. Before that, a TCP SYN that the rules admit opens a new connection on its ports if the
// other end answers it with SYN and ACK. An end that still has the old connection answers with ACK
// alone (RFC 9293 §3.10.7.4), so a SYN does not bring the old connection back. match is called with a
// shard's mutex held.
func (t *Tracker) Cut(now time.Duration, match func(Connection) bool) int {
	ended := map[pair]bool{}
	n := 0
	for i := range t.shards {
		n += t.shards[i].cut(now, match, ended)
	}
	if n > 0 { // fragments of datagrams whose first fragment has passed
		t.fragments.purgeIf(func(k *fragmentKey) bool {
			return ended[pair{k.zone, k.protocol, k.src, k.dst}] || ended[pair{k.zone, k.protocol, k.dst, k.src}]
		})
	}
	return n
}

// A pair is what the fragments of a connection have in common.
type pair struct {
	zone     uint32
	protocol uint8
	src, dst [16]byte
}

func (s *shard) cut(now time.Duration, match func(Connection) bool, ended map[pair]bool) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for e := range s.liveLocked(now) {
		if e.has(isCut) || !match(e.connection(now)) {
			continue
		}
		e.flags |= isBlocked | isCut
		e.tcp &^= synNoted | synUntracked
		e.deadline = now + blockedTimeout
		e.seal()
		ended[pair{uint32(e.epoch), e.protocol, e.src, e.dst}] = true
		n++
	}
	return n
}

// noteSYNOfCut notes in a connection that was cut that the rules admitted a SYN of direction w on its
// ports, and reports whether it did. how is synUntracked if they admitted it untracked, else 0. If
// the old connection was tracked and the new one is not, or the other way round, the old one stays
// cut: its entry is in the other pool.
func (s *shard) noteSYNOfCut(e *entry, p *packet.Packet, w way, how tcpFlags) bool {
	if w != original || e.has(isUntracked) != (how == synUntracked) {
		return false
	}
	s.noteSYN(e, p, how)
	return true
}

// admitToCut is Admit for a packet with the ports of a connection that was cut. A SYN passes, and is
// noted. Another packet was on its way when the connection was cut.
func (z *Zone) admitToCut(s *shard, e *entry, p *packet.Packet, w way, a Admission) verdict.Verdict {
	failpoint.Reach()
	if !p.IsFirstSYN() {
		return z.blocked()
	}
	if s.noteSYNOfCut(e, p, w, 0) {
		e.rule, e.revision = a.Rule, a.Revision.Generation
		e.seal()
	}
	return verdict.Forward
}

// beginsAnewLocked ends the block of a connection that was cut if a packet answers the SYN that
// noteSYNOfCut noted. It reports whether the entry is gone, because the new connection is untracked, and
// makes it that of the new connection otherwise.
func (z *Zone) beginsAnewLocked(s *shard, e *entry, p *packet.Packet, w way, now time.Duration) bool {
	failpoint.Reach()
	switch {
	case s.answersNotedSYN(e, p, w, synUntracked):
		s.freeLocked(z.tracker, s.slotOf(e))
		return true
	case s.answersNotedSYN(e, p, w, 0):
		e.flags &^= isBlocked | isCut
		s.restart(e, now)
		e.seal()
	}
	return false
}

// QuotesCut reports whether an ICMP error that crosses the interface in direction d is about a
// connection that was cut.
func (z *Zone) QuotesCut(p *packet.Packet, d Direction, now time.Duration) bool {
	failpoint.Reach()
	if !p.HasQuoted {
		return false
	}
	e, _ := z.quoted(p, d, now) // without a connection e is zero, which is not cut
	return e.has(isCut)
}
