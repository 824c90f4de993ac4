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

// A Zone holds the connections of one interface. Its Tracker owns it. Any number of
// goroutines may call its methods. Except Describe, they allocate nothing. In all of them
// now is the time on the monotonic clock, and u is the packet's Tuple. The shards' mutexes
// guard the entries, used is atomic, and the other fields do not change.
type Zone struct {
	tracker  *Tracker
	id       uint32
	salt     uint64
	epoch    uint64
	timeouts Timeouts
	reserve  int32
	used     atomic.Int32 // tracked connections
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
	// set for every Status except New.
	Outside   bool
	Reply     bool
	Untracked bool
}

// A Status is the kind of an Answer.
type Status uint8

const (
	New     Status = iota // no connection: the rules decide
	Live                  // a tracked connection: the packet passes
	Checked               // an untracked connection that the rules in force admit; they still judge this packet
	Stale                 // the rules have changed since the connection was judged: ask the rules, then call Rejudge
	Blocked               // the connection is blocked: drop the packet
)

// Observe finds the connection of a packet. If it is Live or Checked, Observe counts the
// packet and advances the connection's state.
func (z *Zone) Observe(p *packet.Packet, u *Tuple, now time.Duration, r Revision) Answer {
	failpoint.Reach()
	hash, s := z.tracker.home(u.hash, z.salt)
	s.mu.Lock()
	defer s.mu.Unlock()
	e, w := s.findLocked(z.id, &u.key, hash, now)
	if e == nil || e.reopens(p, w) {
		return Answer{}
	}
	a := e.answer(p, w, r)
	switch {
	case a.Status == Live || a.Status == Checked:
		z.count(e, p, w, now)
	case e.has(isBlocked):
		e.deadline = now + blockedTimeout
	}
	return a
}

// Peek returns what Observe would return, for a trace, and changes nothing.
func (z *Zone) Peek(p *packet.Packet, u *Tuple, now time.Duration, r Revision) Answer {
	hash, s := z.tracker.home(u.hash, z.salt)
	s.mu.Lock()
	defer s.mu.Unlock()
	e, w := s.findLocked(z.id, &u.key, hash, now)
	if e == nil || e.reopens(p, w) {
		return Answer{}
	}
	return e.answer(p, w, r)
}

// answer returns the Answer for a packet of e under the rules of revision r. A SYN is New
// even if e is live: its sender may be opening the next connection on the same ports, and
// only the rules may admit that. If they do, Admit counts the SYN for e.
func (e *entry) answer(p *packet.Packet, w way, r Revision) Answer {
	failpoint.Reach()
	a := Answer{Outside: e.has(fromOutside), Reply: w == reply, Untracked: e.has(isUntracked)}
	switch {
	case e.has(isBlocked) && e.revision < r.Generation:
		a.Status = Stale // a rule may admit it again
	case e.has(isBlocked):
		a.Status = Blocked
	case e.revision < r.Reset || e.revision < r.Shrunk && (e.has(isUntracked) || r.Strict):
		a.Status = Stale
	case e.has(isUntracked):
		a.Status = Checked
	case p.IsFirstSYN():
		return Answer{}
	default:
		a.Status = Live
	}
	return a
}

func (z *Zone) count(e *entry, p *packet.Packet, w way, now time.Duration) {
	failpoint.Reach()
	e.packets[w] += p.Segments
	e.bytes[w] += uint64(p.Len - p.L3)
	e.advance(p, w)
	e.deadline = now + e.timeout(&z.timeouts)
}

// Rejudge records whether the rules in force admit the connection of a packet that was
// Stale. If they do, it returns Forward. Otherwise it blocks the connection in both
// directions and returns Revoked.
func (z *Zone) Rejudge(p *packet.Packet, u *Tuple, now time.Duration, r Revision, admitted bool, rule uint64) verdict.Verdict {
	failpoint.Reach()
	hash, s := z.tracker.home(u.hash, z.salt)
	s.mu.Lock()
	defer s.mu.Unlock()
	e, w := s.findLocked(z.id, &u.key, hash, now)
	if e == nil {
		return z.blocked()
	}
	e.revision = r.Generation
	if !admitted {
		e.flags |= isBlocked
		e.deadline = now + blockedTimeout
		e.seal()
		return z.blocked()
	}
	e.flags &^= isBlocked
	e.rule = rule
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
// if its pool is full, it replaces an older one.
func (z *Zone) Admit(p *packet.Packet, u *Tuple, now time.Duration, a Admission) verdict.Verdict {
	failpoint.Reach()
	hash, s := z.tracker.home(u.hash, z.salt)
	s.mu.Lock()
	defer s.mu.Unlock()
	n := tracked
	if a.Untracked {
		n = untracked
	}
	if old, w := s.findLocked(z.id, &u.key, hash, now); old != nil {
		if !old.reopens(p, w) {
			z.count(old, p, w, now) // another poller has recorded the connection meanwhile
			return verdict.Forward
		}
		s.freeLocked(z.tracker, s.slotOf(old))
	}
	e, ok := z.allocateLocked(s, n, hash, now)
	if !ok {
		if a.Untracked {
			return verdict.Forward
		}
		return verdict.TableFull
	}
	k, w := u.key, original
	if a.Reversed {
		k = key{src: k.dst, dst: k.src, srcPort: k.dstPort, dstPort: k.srcPort, protocol: k.protocol}
		w = reply
	}
	*e = entry{
		zone: z.id, epoch: z.epoch, src: k.src, dst: k.dst, srcPort: k.srcPort, dstPort: k.dstPort,
		protocol: k.protocol, rule: a.Rule, revision: a.Revision.Generation, created: now,
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
	return verdict.Forward
}

// allocateLocked returns a slot for one connection. If none is free, it evicts another
// connection. It returns false if there is no room.
func (z *Zone) allocateLocked(s *shard, n int, hash uint64, now time.Duration) (*entry, bool) {
	failpoint.Reach()
	t := z.tracker
	if n == tracked && !t.take(z) {
		// No room is left: evict a connection of this zone, or of a zone that yields to it.
		if !s.evictLocked(t, tracked, z, now) || !t.take(z) {
			return nil, false
		}
	}
	e, ok := s.allocateLocked(n, hash)
	if !ok && s.evictLocked(t, n, nil, now) {
		e, ok = s.allocateLocked(n, hash)
	}
	if !ok && n == tracked {
		t.give(z.id)
	}
	return e, ok
}

// slotOf returns the slot of an entry of this shard.
func (s *shard) slotOf(e *entry) uint32 { return uint32(offset(s.slots, e)) }

// Related reports whether an ICMP error is about a tracked connection of the zone. It
// creates and refreshes nothing. An error is forged unless the packet that it quotes was
// sent by the error's receiver.
func (z *Zone) Related(p *packet.Packet, now time.Duration) bool {
	failpoint.Reach()
	if !p.HasQuoted || p.Quoted.Src != p.Flow.Dst {
		return false
	}
	switch p.ICMPType {
	case packet.ICMPUnreachable, packet.ICMPTimeExceeded, packet.ICMPParameter:
	default:
		return false // redirects and source quenches are never related
	}
	u := z.tracker.tuple(p.Quoted, p.QuotedICMP)
	hash, s := z.tracker.home(u.hash, z.salt)
	s.mu.Lock()
	defer s.mu.Unlock()
	e, _ := s.findLocked(z.id, &u.key, hash, now)
	return e != nil && e.flags&(isBlocked|isUntracked) == 0
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
