package conntrack

import (
	"sync/atomic"
	"time"

	"palisade/internal/failpoint"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// A Direction is a packet's direction as the zone's interface sees it.
type Direction uint8

const (
	In Direction = iota
	Out
)

func (d Direction) opposite() Direction { return 1 - d }

// AtEdge returns the same direction at the edge of the interface's subnet, for Fragment and AdmitFragment. A
// datagram that the network ACL must admit too has a record of its own there, because an interface
// may send the first fragment to a neighbour, which no ACL judges, and the others out of the subnet.
func (d Direction) AtEdge() Direction { return d + 2 }

// A Zone holds the connections of one interface. Its Tracker owns it. Any number of
// goroutines may call its methods. Except Describe and SetOpen, they allocate nothing. In all
// of them d is the direction in which the packet crosses the interface, now is the time on
// the monotonic clock, and u is the packet's Tuple. The shards' mutexes guard the entries;
// the Tracker's mutex guards open and replacing lost; shares and exceeded are atomic; the
// other fields do not change.
type Zone struct {
	tracker  *Tracker
	id       uint32
	salt     uint64
	epoch    uint64
	timeouts Timeouts
	shares   [2]share      // of the two pools
	exceeded atomic.Uint64 // new connections that were dropped because there was no room

	open []*portRange                // ports that rules open now
	lost atomic.Pointer[[]lostRange] // ports that rules opened until a moment ago; the slice is not changed
	full *portRange                  // until when an untracked connection may be without an entry
}

// A Revision tells which rules are in force.
type Revision struct {
	Generation uint64 // of the last change
	Shrunk     uint64 // generation of the last change that removed a rule
	Reset      uint64 // generation from which on tracked connections must have been judged, Strict or not
	Strict     bool   // a tracked connection also ends when no rule admits it any more
}

// An Answer tells which connection a packet belongs to.
type Answer struct {
	Status Status
	// Outside: the peer of the interface opened the connection. Reply: the packet goes to
	// the end that opened it. Untracked: the rules must admit each packet. All three are
	// false if the packet belongs to no connection.
	Outside   bool
	Reply     bool
	Untracked bool
	// The compiler keeps a struct of at most four fields in registers. A fifth makes each
	// packet 5 % slower.
}

// A Status is the kind of an Answer.
type Status uint8

const (
	New     Status = iota // no connection: the rules decide
	Reused                // no connection: a SYN with the ports of an earlier one, whose entry is still there; the rules decide
	Live                  // a tracked connection: the packet passes
	Checked               // an untracked connection that the rules in force admit; they still judge this packet
	Stale                 // the rules have changed since the connection was judged: ask the rules, then call Rejudge
	Blocked               // the connection is blocked: drop the packet
)

// Observe finds the connection of a packet. If it is Live or Checked, Observe counts the
// packet and advances the connection's state.
func (z *Zone) Observe(p *packet.Packet, u *Tuple, d Direction, now time.Duration, r Revision) Answer {
	failpoint.Reach()
	hash, s := z.tracker.home(u.hash, z.salt)
	s.mu.Lock()
	defer s.mu.Unlock()
	e, w := s.findLocked(z.epoch, &u.key, d, hash, now)
	if e == nil {
		return Answer{}
	}
	if e.protocol == packet.ProtocolTCP && e.flags&(isUntracked|isBlocked) == 0 && !e.isStale(r) && e.continues(p, w) {
		e.packets[w] += p.Segments
		e.addBytes(w, uint64(p.Len-p.L3))
		e.deadline = now + z.timeouts.TCPEstablished
		return Answer{Status: Live, Outside: e.has(fromOutside), Reply: w == reply}
	}
	if e.has(isCut) && z.beginsAnewLocked(s, e, p, w, now) {
		return Answer{}
	}
	if e.isOutside(p, w) && !s.answersNotedSYN(e, p, w, 0) {
		if s.answersNotedSYN(e, p, w, synUntracked) {
			s.freeLocked(z.tracker, s.slotOf(e)) // the next connection is untracked
		}
		return Answer{}
	}
	a := e.answer(p, w, r)
	switch {
	case e.has(isBlocked):
		e.deadline = now + blockedTimeout
	case a.Status == Live || a.Status == Checked:
		s.beginAgain(e, p, w, now)
		z.count(e, p, w, now)
	}
	return a
}

// Peek returns what Observe would return, for a trace, and changes nothing. It takes a TCP segment
// as part of the connection whatever its sequence number, because a trace has none.
func (z *Zone) Peek(p *packet.Packet, u *Tuple, d Direction, now time.Duration, r Revision) Answer {
	hash, s := z.tracker.home(u.hash, z.salt)
	s.mu.Lock()
	defer s.mu.Unlock()
	e, w := s.findLocked(z.epoch, &u.key, d, hash, now)
	if e == nil {
		return Answer{}
	}
	return e.answer(p, w, r)
}

// answer returns the Answer for a packet of e under the rules of revision r. A SYN is New
// even if e is live: its sender may be opening the next connection on the same ports, and
// only the rules may admit that.
func (e *entry) answer(p *packet.Packet, w way, r Revision) Answer {
	failpoint.Reach()
	a := Answer{Outside: e.has(fromOutside), Reply: w == reply, Untracked: e.has(isUntracked)}
	if e.has(isCut) && (w == reply || !p.IsFirstSYN()) {
		a.Status = Blocked // no rule brings it back
		return a
	}
	if p.IsFirstSYN() {
		return Answer{Status: Reused}
	}
	switch {
	case e.has(isBlocked) && e.revision < r.Generation:
		a.Status = Stale // a rule may admit it again
	case e.has(isBlocked):
		a.Status = Blocked
	case e.isStale(r):
		a.Status = Stale
	case e.has(isUntracked):
		a.Status = Checked
	default:
		a.Status = Live
	}
	return a
}

// isStale reports whether the rules of revision r must judge the connection before it goes on.
func (e *entry) isStale(r Revision) bool {
	return e.revision < r.Reset || e.revision < r.Shrunk && (e.has(isUntracked) || r.Strict)
}

// isOutside reports whether a TCP segment is outside of the windows of a tracked connection, so it
// does not belong to the connection.
func (e *entry) isOutside(p *packet.Packet, w way) bool {
	return e.tracksTCP() && !e.has(isBlocked) && !p.IsFirstSYN() && !e.fits(p, w)
}

func (e *entry) tracksTCP() bool { return e.protocol == packet.ProtocolTCP && !e.has(isUntracked) }

// count counts a packet and advances the connection. A connection that was reset ends ten
// seconds later, whether or not packets follow.
func (z *Zone) count(e *entry, p *packet.Packet, w way, now time.Duration) {
	failpoint.Reach()
	e.packets[w] += p.Segments
	e.addBytes(w, uint64(p.Len-p.L3))
	if e.tracksTCP() && e.ignores(p, w) {
		return
	}
	was := e.state
	e.advance(p, w)
	if was == closed && e.state == closed {
		return
	}
	e.deadline = now + e.timeout(&z.timeouts)
}

// Rejudge records whether the rules in force admit the connection of a packet that was
// Stale. If they do, it returns Forward. Otherwise it blocks the connection in both
// directions and returns Revoked.
func (z *Zone) Rejudge(p *packet.Packet, u *Tuple, d Direction, now time.Duration, r Revision, admitted bool, rule uint64) verdict.Verdict {
	failpoint.Reach()
	hash, s := z.tracker.home(u.hash, z.salt)
	s.mu.Lock()
	defer s.mu.Unlock()
	e, w := s.findLocked(z.epoch, &u.key, d, hash, now)
	if e == nil {
		return z.blocked()
	}
	if e.has(isCut) { // since Observe
		return z.blocked()
	}
	e.revision = r.Generation
	if !admitted {
		e.flags |= isBlocked
		e.deadline = now + blockedTimeout
		e.seal()
		return z.blocked()
	}
	if e.has(isBlocked) {
		e.flags &^= isBlocked
		e.windows = [2]uint8{} // they have moved meanwhile
	}
	e.rule = rule
	s.beginAgain(e, p, w, now)
	e.seal()
	z.count(e, p, w, now)
	return verdict.Forward
}

// Refuse returns Revoked, the verdict of a packet that was Blocked.
func (z *Zone) Refuse() verdict.Verdict { return z.blocked() }

func (z *Zone) blocked() verdict.Verdict { return verdict.Revoked }

// An Admission is a connection that the rules allow.
type Admission struct {
	Direction Direction // of its first packet
	Rule      uint64    // serial of the rule
	Revision  Revision
	// Untracked: a rule for the whole world admits the packet, and a rule admits every reply.
	Untracked bool
	// Reversed: the packet is a reply, so its receiver opened the connection.
	Reversed bool
}

// Admit records the connection of a packet that was New. It returns Forward, or TableFull
// if there is no room for a tracked connection. An untracked connection is always forwarded;
// if its pool is full, it replaces an older one of its zone, or is not recorded.
func (z *Zone) Admit(p *packet.Packet, u *Tuple, now time.Duration, a Admission) verdict.Verdict {
	failpoint.Reach()
	hash, s := z.tracker.home(u.hash, z.salt)
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, w := s.findLocked(z.epoch, &u.key, a.Direction, hash, now); old != nil {
		if old.has(isCut) {
			return z.admitToCut(s, old, p, w, a)
		}
		if z.goesOn(s, old, p, w, now, a) {
			return verdict.Forward
		}
		s.freeLocked(z.tracker, s.slotOf(old))
	}
	n := tracked
	if a.Untracked {
		n = untracked
	}
	e, ok := z.allocateLocked(s, n, hash, now)
	switch {
	case !ok && a.Untracked:
		z.missEntry(now)
		return verdict.Forward
	case !ok:
		z.exceeded.Add(1)
		return verdict.TableFull
	}
	z.begin(e, p, &u.key, now, a)
	return verdict.Forward
}

// begin fills a free entry with the connection of packet p.
func (z *Zone) begin(e *entry, p *packet.Packet, k *key, now time.Duration, a Admission) {
	failpoint.Reach()
	w := original
	*e = entry{
		epoch: z.epoch, src: k.src, dst: k.dst, srcPort: k.srcPort, dstPort: k.dstPort,
		protocol: k.protocol, rule: a.Rule, revision: a.Revision.Generation, created: uint32(now / time.Second),
	}
	if a.Reversed {
		w = reply
		e.src, e.dst, e.srcPort, e.dstPort = k.dst, k.src, k.dstPort, k.srcPort
	}
	if a.Direction == In != a.Reversed {
		e.flags |= fromOutside
	}
	if a.Untracked {
		e.flags |= isUntracked
	}
	if e.protocol == packet.ProtocolTCP {
		e.state = synSent
		if a.Reversed && p.TCPFlags&packet.SYN == 0 {
			e.state = established // the handshake was complete before this entry was made
		}
	}
	z.count(e, p, w, now)
	e.seal()
}

// goesOn reports whether a packet that the rules admit continues the connection old, and if so
// counts it. Otherwise it opens a connection of its own, and old is removed.
func (z *Zone) goesOn(s *shard, old *entry, p *packet.Packet, w way, now time.Duration, a Admission) bool {
	failpoint.Reach()
	switch {
	case old.tracksTCP() && !old.has(isBlocked) && !p.IsFirstSYN():
		return true // outside of the windows of old, which it does not change
	case old.has(isBlocked) || old.has(isUntracked) != a.Untracked || old.ended():
		return false
	case !old.tracksTCP():
		if p.IsFirstSYN() {
			return false
		}
	case w == reply && old.state != synSent:
		return true // the other end cannot open a connection while this one lives; nothing changes
	case w == original && old.state <= synReceived && segmentOf(p).next != old.ends[original].next:
		return false // not a repeated SYN
	case w == original && old.state > synReceived:
		s.noteSYN(old, p, 0)
		old.rule, old.revision = a.Rule, a.Revision.Generation
		old.seal()
		return true
	}
	z.count(old, p, w, now) // repeated, or opened by both ends (RFC 9293 §3.5), or recorded by another poller
	return true
}

// ReuseUntracked takes a SYN that the rules admit untracked, with the ports of an earlier
// connection. That connection ends at once if it is over or half open. Otherwise it ends when the
// SYN is answered, because a SYN alone proves nothing.
func (z *Zone) ReuseUntracked(p *packet.Packet, u *Tuple, d Direction, now time.Duration) {
	failpoint.Reach()
	hash, s := z.tracker.home(u.hash, z.salt)
	s.mu.Lock()
	defer s.mu.Unlock()
	old, w := s.findLocked(z.epoch, &u.key, d, hash, now)
	switch {
	case old == nil || w == reply && !old.ended() && !old.has(isBlocked):
	case old.has(isCut):
		s.noteSYNOfCut(old, p, w, synUntracked)
	case old.tracksTCP() && !old.ended() && !old.has(isBlocked) && old.state > synReceived:
		s.noteSYN(old, p, synUntracked)
	default:
		s.freeLocked(z.tracker, s.slotOf(old))
	}
}

// allocateLocked returns a slot for one connection. If none is free, it evicts another
// connection of the zone, or of a zone that yields to it. It returns false if there is no room.
func (z *Zone) allocateLocked(s *shard, n int, hash uint64, now time.Duration) (*entry, bool) {
	failpoint.Reach()
	t := z.tracker
	if !t.take(n, z) && (!s.evictLocked(t, n, z, now) || !t.take(n, z)) {
		return nil, false
	}
	e, ok := s.allocateLocked(n, hash)
	if !ok && s.evictLocked(t, n, z, now) {
		e, ok = s.allocateLocked(n, hash)
	}
	if !ok {
		t.give(n, z.epoch)
	}
	return e, ok
}

// slotOf returns the slot of an entry of this shard.
func (s *shard) slotOf(e *entry) uint32 { return uint32(offset(s.slots, e)) }

// Related reports whether an ICMP error is about a tracked connection of the zone. It
// creates and refreshes nothing. An error is forged unless the packet that it quotes was
// sent by the error's receiver, so it crossed the interface in the other direction. In a
// strict network, errors about a connection pass only after the rules in force have judged it.
func (z *Zone) Related(p *packet.Packet, d Direction, now time.Duration, r Revision) bool {
	failpoint.Reach()
	if !p.HasQuoted || p.Quoted.Src != p.Flow.Dst {
		return false
	}
	switch p.ICMPType {
	case packet.ICMPUnreachable, packet.ICMPTimeExceeded, packet.ICMPParameter:
	default:
		return false // redirects and source quenches are never related
	}
	e, ok := z.quoted(p, d, now)
	return ok && e.flags&(isBlocked|isUntracked) == 0 && !e.isStale(r)
}

// quoted returns a copy of the entry of the packet that an ICMP error quotes. That packet crossed the
// interface in the direction opposite to the error's, d.
func (z *Zone) quoted(p *packet.Packet, d Direction, now time.Duration) (entry, bool) {
	failpoint.Reach()
	u := z.tracker.tuple(p.Quoted, p.QuotedICMP)
	hash, s := z.tracker.home(u.hash, z.salt)
	s.mu.Lock()
	defer s.mu.Unlock()
	e, _ := s.findLocked(z.epoch, &u.key, d.opposite(), hash, now)
	if e == nil {
		return entry{}, false
	}
	return *e, true
}

// Fragment returns the verdict of a fragment that is not the first of its datagram: it
// passes if the first was admitted and it overlaps no other fragment.
func (z *Zone) Fragment(p *packet.Packet, d Direction, now time.Duration) verdict.Verdict {
	return z.tracker.fragments.later(z.id, d, p, now)
}

// AdmitFragment records that the rules admit a first fragment. It returns Forward,
// FragmentsFull or OverlapFrag.
func (z *Zone) AdmitFragment(p *packet.Packet, d Direction, now time.Duration) verdict.Verdict {
	return z.tracker.fragments.first(z.id, d, p, now)
}
