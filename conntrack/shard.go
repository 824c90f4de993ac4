package conntrack

import (
	"sync"
	"time"

	"palisade/internal/failpoint"
)

// The two pools of a shard.
const (
	tracked = iota
	untracked
)

// A shard is a hash table over its part of the arena. mu guards all fields and the entries.
type shard struct {
	mu       sync.Mutex
	slots    []entry
	index    index
	pools    [2]pool
	notes    [synNotes]synNote
	lastNote int      // the oldest of notes, which the next one replaces
	_        [64]byte // keeps shards that different cores use in different cache lines
}

// A pool is the range [first, end) of a shard's slots.
type pool struct {
	first, end uint32
	free       uint32 // head of the free list
	top        uint32 // no slot from here on is in use
	live       int
	hand       uint32 // slot where the next eviction starts to search
}

// adopt links the valid entries that an earlier process left in the shard, and clears the
// invalid ones.
func (s *shard) adopt(t *Tracker, a *arena, number int) {
	s.slots = a.slots(number)
	s.index = newIndex(len(s.slots))
	s.pools = [2]pool{
		{first: 0, end: uint32(a.tracked), free: none},
		{first: uint32(a.tracked), end: uint32(len(s.slots)), free: none},
	}
	for n := range s.pools {
		p := &s.pools[n]
		p.top, p.hand = p.first, p.first
		for i := p.end; i > p.first; i-- {
			slot := i - 1
			if a.fresh {
				s.release(p, slot)
				continue
			}
			e := &s.slots[slot]
			belongs := e.sum != 0 && e.sum == e.checksum() && e.has(isUntracked) == (n == untracked)
			hash, home := t.homeOf(e)
			if !belongs || home != s {
				if e.sum != 0 {
					*e = entry{}
				}
				s.release(p, slot)
				continue
			}
			s.index.link(slot, hash)
			p.live++
			p.top = max(p.top, slot+1)
			adopted := t.adopted[e.epoch]
			adopted[n]++
			t.adopted[e.epoch] = adopted
		}
	}
}

// release puts slot on the free list of its pool.
func (s *shard) release(p *pool, slot uint32) {
	s.index.setNext(slot, p.free)
	p.free = slot
}

// findLocked returns the connection of a packet in the zone of a lease, unless it has expired,
// and the packet's direction within it; nil and neither if there is none. k is the packet's key,
// d the direction in which it crosses the interface.
func (s *shard) findLocked(epoch uint64, k *key, d Direction, hash uint64, now time.Duration) (*entry, way) {
	failpoint.Reach()
	x, tag := &s.index, s.index.tag(hash)
	for link := *x.chain(hash); link != none; link = x.next[link&x.slots] {
		if link&^x.slots != tag {
			continue
		}
		e := &s.slots[link&x.slots]
		if e.epoch != epoch {
			continue
		}
		if w := e.wayOf(k, d); w != neither && !e.expired(now) {
			return e, w
		}
	}
	return nil, neither
}

// allocateLocked returns a free slot of pool n, linked under hash; false if no slot is
// free.
func (s *shard) allocateLocked(n int, hash uint64) (*entry, bool) {
	failpoint.Reach()
	p := &s.pools[n]
	if p.free == none {
		return nil, false
	}
	slot := p.free
	p.free = s.index.next[slot]
	p.live++
	p.top = max(p.top, slot+1)
	s.index.link(slot, hash)
	return &s.slots[slot], true
}

// freeLocked removes the connection in slot.
func (s *shard) freeLocked(t *Tracker, slot uint32) {
	failpoint.Reach()
	e := &s.slots[slot]
	n := tracked
	if slot >= s.pools[untracked].first {
		n = untracked
	}
	hash, _ := t.homeOf(e)
	s.index.unlink(slot, hash)
	epoch := e.epoch
	*e = entry{}
	p := &s.pools[n]
	s.release(p, slot)
	p.live--
	if p.live == 0 {
		p.top = p.first
	}
	t.give(n, epoch)
}

// evictLocked frees one slot of pool n for z and reports whether it found one. It frees an
// expired connection, an untracked connection, or a tracked one that is half open or
// unanswered, of z or of a zone that yields to z. It frees no blocked connection, because the next
// packet of the revoked connection would create it again.
func (s *shard) evictLocked(t *Tracker, n int, z *Zone, now time.Duration) bool {
	failpoint.Reach()
	p := &s.pools[n]
	span := p.top - p.first
	for range min(span, 256) {
		slot := p.hand
		if p.hand++; p.hand >= p.top {
			p.hand = p.first
		}
		e := &s.slots[slot]
		if e.sum == 0 || e.epoch != z.epoch && !t.yields(n, e.epoch, z) {
			continue
		}
		switch {
		case e.expired(now):
		case e.has(isBlocked) || n == tracked && e.assured():
			continue
		case n == untracked:
			if victim := (*t.zones.Load())[e.epoch]; victim != nil {
				victim.missEntry(now)
			}
		}
		s.freeLocked(t, slot)
		return true
	}
	return false
}

// purge removes the connections for which gone returns true, and returns how many.
func (s *shard) purge(t *Tracker, gone func(*entry) bool) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	count := 0
	for n := range s.pools {
		p := &s.pools[n]
		if p.live == 0 {
			continue
		}
		for slot := p.first; slot < p.top; slot++ {
			if e := &s.slots[slot]; e.sum != 0 && gone(e) {
				s.freeLocked(t, slot)
				count++
			}
		}
	}
	return count
}
