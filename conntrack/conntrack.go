// Package conntrack remembers connections, so that what a rule admitted once keeps
// working exactly as long as AWS says it does (EC2 User Guide, "Security group
// connection tracking").
//
// A Tracker holds the connections of one node in a file that outlives the process. A
// Zone is one interface's share of it: the same five-tuple at two interfaces is two
// connections. The pipeline asks a Zone about every packet with Observe; where the answer
// is New it asks the rules, and lets Admit record a connection they allow. Related
// answers for ICMP errors, Fragment for what follows a first fragment.
//
// A tracked connection passes in both directions until it ends or idles out, whatever
// becomes of its rule. A connection admitted by a rule for the whole world is untracked:
// every packet is judged by the rules, and what is remembered of it, in a pool of its
// own, only serves to cut it in both directions at once when the rule goes. Cutting
// marks an entry blocked; deleting it would let the server's next packet make it anew.
//
// The package knows no rules: it is told what the rules said, and when they last shrank.
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
	// Path is the file that holds the connections, on a tmpfs so that it lives as long
	// as the kernel's monotonic clock. Empty: anonymous memory, lost with the process.
	Path string
	// Capacity is how many tracked connections there can be. Default 262,144, which
	// with Untracked is 40 MiB, touched only as it is used.
	Capacity int
	// Untracked is how many connections of the world's rules are remembered for
	// revocation and listings. The oldest make room. Default 65,536.
	Untracked int
	// Reserve is how many tracked connections each zone can count on, as long as the
	// reserves together leave a quarter of Capacity. Default 256.
	Reserve int
}

// Tracker holds the connections of one node.
//
// A connection lives in the shard its flow hashes to. A shard owns its slots, its index
// and its mutex; the mutex is a leaf, so nothing is called while it is held and no
// goroutine holds two. Sweep, run by the Switch, is the only goroutine that touches every
// shard in its turn.
type Tracker struct {
	arena     *arena
	shards    [shardCount]shard
	fragments fragments
	reserve   int32

	reserved    atomic.Int32 // the sum of all zones' reserves
	surplusUsed atomic.Int32 // tracked connections beyond their zone's reserve
	capacity    int32

	// zones is replaced, never changed, so that a shard can return room without a lock.
	zones atomic.Pointer[map[uint32]*Zone]

	mu sync.Mutex // guards the writing of zones, and adopted
	// adopted counts the connections found in the file, by zone, until the zone is added.
	adopted map[zoneKey]int32
}

type zoneKey struct {
	id    uint32
	epoch uint64
}

// Open maps the file of c.Path, or makes it, and adopts the connections in it whose
// checksums hold. A file of another layout or size is replaced.
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
	// Hashing spreads unevenly; an eighth more slots than connections keeps a full
	// shard from turning anybody away before the count does.
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

// Close unmaps the memory. The file stays for the next process. No Zone may be in use.
func (t *Tracker) Close() error { return t.arena.close() }

// AddZone begins a zone. epoch is that of the interface's lease: connections in the file
// that belong to the same lease are the zone's from the start. timeouts may be zero.
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

// RemoveZone ends a zone and forgets its connections and fragments. No packet may be on
// its way through the zone any more.
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

// Forget drops what the zones remember of addresses that have nobody any more: a later owner
// is somebody else, and shall neither answer in an old connection nor be answered. Of an
// address that is gone, no packet may be on its way any more. It returns how many
// connections it dropped. It walks the whole table.
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

// PurgeUnknown forgets adopted connections whose lease no zone was added for. The node
// calls it once its first table is in.
func (t *Tracker) PurgeUnknown() int {
	t.mu.Lock()
	clear(t.adopted)
	t.mu.Unlock()
	n := 0
	for i := range t.shards {
		n += t.shards[i].purge(t, func(e *entry) bool {
			z := (*t.zones.Load())[e.zone] // of now: an instance that boots may get one meanwhile
			return z == nil || z.epoch != e.epoch
		})
	}
	return n
}

// Sweep frees what has idled out by now. An idle tracker's sweep reads nothing. Before
// PurgeUnknown it frees nothing: what it took from a zone yet to come would stay counted.
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

// Usage is how much of a Tracker is taken.
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

// take reserves room for one more tracked connection of z.
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

// yields reports whether a zone is beyond its reserve and has more than z has, so that
// who floods makes room for the others and never they for him.
func (t *Tracker) yields(zone uint32, z *Zone) bool {
	failpoint.Reach()
	other := (*t.zones.Load())[zone]
	if other == nil {
		return false
	}
	used := other.used.Load()
	return used > other.reserve && used > z.used.Load()
}

// give returns the room of one tracked connection.
func (t *Tracker) give(zone uint32) {
	z := (*t.zones.Load())[zone]
	if z == nil {
		return
	}
	if z.used.Add(-1) >= z.reserve {
		t.surplusUsed.Add(-1)
	}
}
