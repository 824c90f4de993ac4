// Package conntrack tracks connections, so that a connection that a rule admitted keeps
// working exactly as long as AWS says it does (EC2 User Guide, "Security group connection
// tracking").
//
// A Tracker holds the connections of one node in a file that outlives the process. A Zone
// holds those of one interface: the same five-tuple at two interfaces is two connections.
// The pipeline calls Observe for every packet. If the answer is New, the pipeline asks the
// rules, and Admit records a connection that they allow. Related judges ICMP errors,
// AdmitFragment and Fragment judge fragments.
//
// A tracked connection passes in both directions until it ends or expires, even after its
// rule is removed. A connection admitted by a rule for the whole world is untracked: the
// rules judge each of its packets. Its entry, in a pool of its own, serves only to block
// both directions at once when the rule is removed. A blocked entry is marked and not
// deleted, because the server's next packet would create it again.
//
// The package does not know rules. Its callers pass what the rules decided, and when a
// rule was last removed.
package conntrack

import (
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"palisade/internal/failpoint"
)

const shardCount = 64

// Config sizes a Tracker. The zero value is useful.
type Config struct {
	// Path is the file that holds the connections. Default: anonymous memory, which is
	// lost with the process. The file must be on a tmpfs: on a disk it would survive a
	// reboot, and its deadlines would be compared with another monotonic clock.
	Path string
	// Capacity is the number of tracked connections, at least 64. Default 262,144, which
	// with Untracked takes 40 MiB, allocated as it is used. If it is too small, new
	// connections are dropped (conntrack_allowance_exceeded). A change of it replaces the
	// file, and all connections are lost.
	Capacity int
	// Untracked is the number of untracked connections that are kept, at least 64; the
	// oldest are evicted. Default 65,536. If it is too small, connections are missing in
	// listings, and are not blocked in both directions when their rule is removed. A
	// change of it replaces the file.
	Untracked int
	// Reserve is the number of tracked connections that are guaranteed to each zone, until
	// the reserves take three quarters of Capacity; later zones have none. Default 256. If
	// it is too small, a flood of one interface leaves others no new connections. If it is
	// too large, later zones have no reserve.
	Reserve int
}

// Tracker holds the connections of one node. The node owns it; pollers use it by its Zones.
//
// A connection lives in the shard that its flow hashes to. A shard owns its slots, its
// index and its mutex. Fragments of all zones share one mutex. RemoveZone, Forget,
// PurgeUnknown, Sweep, Usage, Connections and Describe walk all shards and lock one at a
// time.
//
// Lock order: mu, the mutexes of the shards and that of the fragments are leaves. No
// goroutine holds two of them, and under one nothing outside this package is called but
// the function that was passed to Forget.
type Tracker struct {
	arena     *arena
	shards    [shardCount]shard
	fragments fragments
	reserve   int32

	reserved    atomic.Int32 // sum of the reserves of all zones
	surplusUsed atomic.Int32 // tracked connections beyond their zone's reserve
	capacity    int32

	// zones is copied and replaced, so that a shard can give room back without taking mu.
	zones atomic.Pointer[map[uint32]*Zone]

	mu sync.Mutex // guards writes to zones, and adopted
	// adopted counts connections of the file whose zone has not been added yet.
	adopted map[zoneKey]int32
}

type zoneKey struct {
	id    uint32
	epoch uint64
}

// Open maps the file at c.Path and adopts its connections whose checksums are right. It
// creates the file if there is none, and replaces one of another layout or size.
func Open(c Config) (*Tracker, error) {
	if c.Capacity == 0 {
		c.Capacity = 262_144
	}
	if c.Untracked == 0 {
		c.Untracked = 65_536
	}
	if c.Reserve == 0 {
		c.Reserve = 256
	}
	if c.Capacity < shardCount || c.Untracked < shardCount {
		return nil, fmt.Errorf("conntrack: capacity %d and untracked %d must be at least %d", c.Capacity, c.Untracked, shardCount)
	}
	// Hashing spreads unevenly. With an eighth more slots than connections, Capacity is
	// reached before one shard is full.
	a, err := openArena(c.Path, c.Capacity/shardCount*9/8, c.Untracked/shardCount)
	if err != nil {
		return nil, fmt.Errorf("conntrack: %w", err)
	}
	t := &Tracker{
		arena: a, reserve: int32(c.Reserve), capacity: int32(c.Capacity),
		adopted: map[zoneKey]int32{},
	}
	t.zones.Store(&map[uint32]*Zone{})
	t.fragments.init()
	for i := range t.shards {
		t.shards[i].adopt(t, a, i)
	}
	return t, nil
}

// Close unmaps the memory. The file stays for the next process. No Zone may be used after it.
func (t *Tracker) Close() error { return t.arena.close() }

// AddZone adds a zone for the lease of an interface. The zone has the connections of the
// file that belong to the same lease. timeouts may be zero.
func (t *Tracker) AddZone(epoch uint64, timeouts Timeouts) *Zone {
	t.mu.Lock()
	defer t.mu.Unlock()
	z := &Zone{tracker: t, id: uint32(epoch), salt: t.salt(uint32(epoch)), epoch: epoch, timeouts: timeouts.withDefaults()}
	if t.reserved.Load()+t.reserve <= t.capacity/4*3 {
		z.reserve = t.reserve
		t.reserved.Add(z.reserve)
	}
	key := zoneKey{z.id, epoch}
	z.used.Store(t.adopted[key])
	t.surplusUsed.Add(max(0, t.adopted[key]-z.reserve))
	delete(t.adopted, key)
	t.changeZones(func(zones map[uint32]*Zone) { zones[z.id] = z })
	return z
}

// RemoveZone removes a zone with its connections and fragments. No packet may be in the
// zone's pipeline any more.
func (t *Tracker) RemoveZone(z *Zone) {
	for i := range t.shards {
		t.shards[i].purge(t, func(e *entry) bool { return e.zone == z.id })
	}
	t.fragments.purgeIf(func(k *fragmentKey) bool { return k.zone == z.id })
	t.mu.Lock()
	defer t.mu.Unlock()
	t.changeZones(func(zones map[uint32]*Zone) { delete(zones, z.id) })
	t.reserved.Add(-z.reserve)
}

// Forget removes the zones' connections and fragments of addresses that no interface has
// any more, so that the next interface with such an address neither sends nor receives
// packets of an old connection. It calls gone with a shard's mutex held. Packets of these
// addresses may not be in the pipeline any more. It returns the number of connections
// removed.
func (t *Tracker) Forget(zones []*Zone, gone func(netip.Addr) bool) int {
	in := make(map[uint32]bool, len(zones))
	for _, z := range zones {
		in[z.id] = true
	}
	either := func(src, dst [16]byte) bool {
		return gone(netip.AddrFrom16(src).Unmap()) || gone(netip.AddrFrom16(dst).Unmap())
	}
	n := 0
	for i := range t.shards {
		n += t.shards[i].purge(t, func(e *entry) bool { return in[e.zone] && either(e.src, e.dst) })
	}
	t.fragments.purgeIf(func(k *fragmentKey) bool { return in[k.zone] && either(k.src, k.dst) })
	return n
}

func (t *Tracker) changeZones(change func(map[uint32]*Zone)) {
	next := maps.Clone(*t.zones.Load())
	change(next)
	t.zones.Store(&next)
}

// PurgeUnknown removes adopted connections whose lease has no zone. The node calls it
// after it has added the zones of its first View. It returns the number removed.
func (t *Tracker) PurgeUnknown() int {
	t.mu.Lock()
	clear(t.adopted)
	t.mu.Unlock()
	n := 0
	for i := range t.shards {
		n += t.shards[i].purge(t, func(e *entry) bool {
			z := (*t.zones.Load())[e.zone] // loaded each time: a zone may be added meanwhile
			return z == nil || z.epoch != e.epoch
		})
	}
	return n
}

// Sweep frees expired connections and fragments. In an empty Tracker it reads no slot. Until
// PurgeUnknown it frees nothing, because connections of a zone that is still to be added
// would stay counted in adopted.
func (t *Tracker) Sweep(now time.Duration) {
	t.mu.Lock()
	adopting := len(t.adopted) > 0
	t.mu.Unlock()
	if adopting {
		return
	}
	for i := range t.shards {
		t.shards[i].purge(t, func(e *entry) bool { return e.expired(now) })
	}
	t.fragments.sweep(now)
}

// Usage is the number of connections of a Tracker.
type Usage struct {
	Tracked   int `json:"tracked"`
	Untracked int `json:"untracked"`
	Capacity  int `json:"capacity"`
}

// Usage counts the live connections.
func (t *Tracker) Usage() Usage {
	u := Usage{Capacity: int(t.capacity)}
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		u.Tracked += s.pools[tracked].live
		u.Untracked += s.pools[untracked].live
		s.mu.Unlock()
	}
	return u
}

// take counts one more tracked connection of z, and reports whether there is room for it.
func (t *Tracker) take(z *Zone) bool {
	failpoint.Reach()
	if z.used.Add(1) <= z.reserve {
		return true
	}
	if t.surplusUsed.Add(1) <= t.capacity-t.reserved.Load() {
		return true
	}
	t.surplusUsed.Add(-1)
	z.used.Add(-1)
	return false
}

// yields reports whether a connection of zone may be evicted for z: if zone is beyond its
// reserve and has more connections than z. A zone that floods makes room for others, and
// they do not make room for it.
func (t *Tracker) yields(zone uint32, z *Zone) bool {
	failpoint.Reach()
	other := (*t.zones.Load())[zone]
	if other == nil {
		return false
	}
	used := other.used.Load()
	return used > other.reserve && used > z.used.Load()
}

// give gives back the room of one tracked connection.
func (t *Tracker) give(zone uint32) {
	z := (*t.zones.Load())[zone]
	if z == nil {
		return
	}
	if z.used.Add(-1) >= z.reserve {
		t.surplusUsed.Add(-1)
	}
}
