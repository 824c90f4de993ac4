package conntrack

import (
	"sync/atomic"

	"palisade/internal/failpoint"
)

// A quota is the room of one pool of a Tracker. Each zone has a reserve that no other zone can
// take. What is not reserved is the surplus, which zones share.
type quota struct {
	capacity    int32
	reserve     int32        // of each zone
	ceiling     int32        // of each zone
	reserved    atomic.Int32 // sum of the reserves of all zones
	surplusUsed atomic.Int32 // connections beyond their zone's reserve
}

// A share is the room of one zone in one pool.
type share struct {
	reserve int32
	used    atomic.Int32
}

// add gives a new zone its share, with the connections that it has already. Once reserves take
// three quarters of the capacity, new zones get none.
func (q *quota) add(s *share, used int32) {
	if q.reserved.Load()+q.reserve <= q.capacity/4*3 {
		s.reserve = q.reserve
		q.reserved.Add(s.reserve)
	}
	s.used.Store(used)
	q.surplusUsed.Add(max(0, used-s.reserve))
}

// take counts one more connection of z in pool n, and returns true, if there is room for it.
// Otherwise it returns false and counts nothing.
func (t *Tracker) take(n int, z *Zone) bool {
	failpoint.Reach()
	q, s := &t.quotas[n], &z.shares[n]
	used := s.used.Add(1)
	switch {
	case used <= s.reserve:
		return true
	case used <= q.ceiling:
		if q.surplusUsed.Add(1) <= q.capacity-q.reserved.Load() {
			return true
		}
		q.surplusUsed.Add(-1)
	}
	s.used.Add(-1)
	return false
}

// yields reports whether a connection of another zone may be evicted for z. It may if the other
// zone exceeds its reserve and has more connections than z, and z is below its ceiling. So a zone
// that floods makes room for other zones, and they make no room for it.
func (t *Tracker) yields(n int, epoch uint64, z *Zone) bool {
	failpoint.Reach()
	other := (*t.zones.Load())[epoch]
	if other == nil {
		return false
	}
	s, mine := &other.shares[n], z.shares[n].used.Load()
	used := s.used.Load()
	return used > s.reserve && used > mine && mine < max(z.shares[n].reserve, t.quotas[n].ceiling)
}

// give undoes take for one connection of a zone.
func (t *Tracker) give(n int, epoch uint64) {
	z := (*t.zones.Load())[epoch]
	if z == nil {
		return
	}
	if s := &z.shares[n]; s.used.Add(-1) >= s.reserve {
		t.quotas[n].surplusUsed.Add(-1)
	}
}

// An Allowance is the room that an interface has for tracked connections, as AWS reports it (EC2
// User Guide, "Monitor network performance for ENA settings on your EC2 instance").
type Allowance struct {
	Available int    `json:"conntrack_allowance_available"` // connections that it can still open
	Exceeded  uint64 `json:"conntrack_allowance_exceeded"`  // packets of new connections that were dropped, since the daemon started
}

// Allowance returns the zone's allowance. Connections that can be evicted count as used.
func (z *Zone) Allowance() Allowance {
	q, s := &z.tracker.quotas[tracked], &z.shares[tracked]
	used := s.used.Load()
	surplus := q.capacity - q.reserved.Load() - q.surplusUsed.Load()
	room := max(0, s.reserve-used) + max(0, surplus)
	room = min(room, max(s.reserve, q.ceiling)-used)
	return Allowance{Available: int(max(0, room)), Exceeded: z.exceeded.Load()}
}
