// Package conntrack tracks connections, so that a connection that a rule admitted keeps
// working exactly as long as AWS says it does (EC2 User Guide, "Security group connection
// tracking").
//
// A Tracker holds the connections of one node in a file that outlives the process. A Zone
// holds those of one interface: the same five-tuple at two interfaces is two connections.
// The pipeline calls Observe for every packet. If the answer is New or Reused, it asks the
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
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const shardCount = 64

// DefaultCapacity is the default of Config.Capacity.
const DefaultCapacity = 262_144

// Config sizes a Tracker. The zero value is useful.
type Config struct {
	// Path is the file that holds the connections. Default: anonymous memory, which is
	// lost with the process. The file must be on a tmpfs, be of the user of the process, and
	// have mode 0600; otherwise Open returns an error.
	Path string
	// Capacity is the largest number of tracked connections, at least 64. Default: 262,144.
	// With the default of Untracked this takes 46 MiB, allocated on first use. Beyond
	// Capacity new connections are dropped (conntrack_allowance_exceeded). A changed
	// Capacity keeps the connections that the new one has room for.
	Capacity int
	// Ceiling is the largest number of tracked connections of one zone. Default: a quarter of
	// Capacity. Beyond it new connections of the zone are dropped. If it is too small, a busy
	// interface loses connections while the table has room. If it is too large, one interface
	// can take all room but the reserves of the others.
	Ceiling int
	// Untracked is the largest number of untracked connections that are kept, at least 64.
	// Default: 65,536. Beyond it the oldest of the zone are evicted: they are missing in listings.
	// When their rule is removed, their ports are watched instead (SetOpen). A changed Untracked
	// keeps the connections that the new one has room for.
	Untracked int
	// Reserve is the number of tracked connections that are guaranteed to each zone.
	// Default: 256. Once the reserves take three quarters of Capacity, zones that are added
	// later have no reserve. If Reserve is too small, a flood of one interface leaves
	// others no new connections. If it is too large, only few zones have a reserve.
	Reserve int
	// UntrackedReserve is the same for untracked connections. Default: a quarter of Reserve.
	UntrackedReserve int
}

// Tracker holds the connections of one node. The node owns it; pollers use it through its
// Zones.
//
// A connection lives in the shard that its flow hashes to. A shard owns its slots, its
// index and its mutex. Fragments of all zones share one mutex. RemoveZone, Forget,
// Cut, PurgeUnknown, Sweep, Usage, Connections and Describe walk all shards and lock one at a
// time.
//
// Lock order: mu, the shards' mutexes and the fragments' mutex are leaves: no goroutine
// holds two of them. While one is held, no function outside this package is called, except
// the functions that were passed to Forget and Cut.
type Tracker struct {
	arena     *arena
	shards    [shardCount]shard
	fragments fragments
	quotas    [2]quota // of the two pools
	ports     []portRange

	// zones is never changed, only replaced by a changed copy, so that give reads it
	// without mu.
	zones atomic.Pointer[map[uint64]*Zone] // by epoch

	mu sync.Mutex // guards the fields below, replacing zones, and the zones' port ranges
	// adopted counts connections of the file whose zone has not been added yet, by epoch and pool;
	// adoptedPorts has the port ranges of such zones.
	adopted      map[uint64][2]int32
	adoptedPorts map[uint64][]*portRange
	freePorts    []*portRange // the free ones of ports
}

// Open returns a Tracker of the connections in the file at c.Path. It adopts those whose
// checksums are right. It creates a missing file. It converts a file of another size, or of
// layout 2, and keeps its connections. It empties a file of another boot of the machine, whose
// connections have ended and whose times are of another clock; Note tells that. It returns an
// error for a file that somebody else may have written, because connections in it would pass.
func Open(c Config) (*Tracker, error) {
	if c.Capacity == 0 {
		c.Capacity = DefaultCapacity
	}
	if c.Untracked == 0 {
		c.Untracked = 65_536
	}
	if c.Reserve == 0 {
		c.Reserve = 256
	}
	if c.UntrackedReserve == 0 {
		c.UntrackedReserve = c.Reserve / 4
	}
	if c.Ceiling == 0 {
		c.Ceiling = c.Capacity / 4
	}
	if c.Capacity < shardCount || c.Untracked < shardCount {
		return nil, fmt.Errorf("conntrack: capacity %d and untracked %d must be at least %d", c.Capacity, c.Untracked, shardCount)
	}
	// Hashing spreads unevenly. With an eighth more slots than connections, the capacity is
	// reached before one shard is full.
	a, err := openArena(c.Path, c.Capacity/shardCount*9/8, c.Untracked/shardCount*9/8)
	if err != nil {
		return nil, fmt.Errorf("conntrack: %w", err)
	}
	t := &Tracker{arena: a, adopted: map[uint64][2]int32{}}
	q := &t.quotas[tracked]
	q.capacity, q.reserve, q.ceiling = int32(c.Capacity), int32(c.Reserve), int32(c.Ceiling)
	q = &t.quotas[untracked]
	q.capacity, q.reserve, q.ceiling = int32(c.Untracked), int32(c.UntrackedReserve), int32(c.Untracked)
	t.zones.Store(&map[uint64]*Zone{})
	t.fragments.init()
	if a.old != nil {
		if err := t.convert(); err != nil {
			return nil, errors.Join(fmt.Errorf("conntrack: convert the connections at %q: %w", c.Path, err), a.close())
		}
	}
	t.adoptPorts(a)
	for i := range t.shards {
		t.shards[i].adopt(t, a, i)
	}
	return t, nil
}

// Note says why Open did not keep the connections of the file; "" if it kept all.
func (t *Tracker) Note() string { return t.arena.note }

// Close unmaps the memory and leaves the file for the next process. No Zone may be used
// afterwards.
func (t *Tracker) Close() error { return t.arena.close() }

// AddZone adds the zone of an interface's lease, which epoch identifies, and returns it.
// The zone has the connections of the file that belong to the same lease. timeouts may be
// zero.
func (t *Tracker) AddZone(epoch uint64, timeouts Timeouts) *Zone {
	t.mu.Lock()
	defer t.mu.Unlock()
	z := &Zone{tracker: t, id: uint32(epoch), salt: t.salt(uint32(epoch)), epoch: epoch, timeouts: timeouts.withDefaults()}
	for n := range z.shares {
		t.quotas[n].add(&z.shares[n], t.adopted[epoch][n])
	}
	delete(t.adopted, epoch)
	t.addPortsLocked(z)
	t.changeZones(func(zones map[uint64]*Zone) { zones[epoch] = z })
	return z
}

// RemoveZone removes a zone with its connections and fragments. No packet may use the zone
// any more.
func (t *Tracker) RemoveZone(z *Zone) {
	for i := range t.shards {
		t.shards[i].purge(t, func(e *entry) bool { return e.epoch == z.epoch })
	}
	t.fragments.purgeIf(func(k *fragmentKey) bool { return k.zone == z.id })
	t.mu.Lock()
	defer t.mu.Unlock()
	t.changeZones(func(zones map[uint64]*Zone) { delete(zones, z.epoch) })
	for n := range z.shares {
		t.quotas[n].reserved.Add(-z.shares[n].reserve)
	}
	t.removePortsLocked(z)
}

// Forget removes the zones' connections and fragments of the addresses for which gone
// returns true, and returns the number of removed connections. These are addresses that no
// interface has any more: the next interface with such an address must neither send nor
// receive packets of an old connection. No packet of these addresses may be in the pipeline
// any more. gone is called with a shard's mutex held.
func (t *Tracker) Forget(zones []*Zone, gone func(netip.Addr) bool) int {
	in, ids := make(map[uint64]bool, len(zones)), make(map[uint32]bool, len(zones))
	for _, z := range zones {
		in[z.epoch], ids[z.id] = true, true
	}
	either := func(src, dst [16]byte) bool {
		return gone(netip.AddrFrom16(src).Unmap()) || gone(netip.AddrFrom16(dst).Unmap())
	}
	n := 0
	for i := range t.shards {
		n += t.shards[i].purge(t, func(e *entry) bool { return in[e.epoch] && either(e.src, e.dst) })
	}
	t.fragments.purgeIf(func(k *fragmentKey) bool { return ids[k.zone] && either(k.src, k.dst) })
	return n
}

func (t *Tracker) changeZones(change func(map[uint64]*Zone)) {
	next := maps.Clone(*t.zones.Load())
	change(next)
	t.zones.Store(&next)
}

// PurgeUnknown removes adopted connections whose lease has no zone, and returns their
// number. The node calls it after it has added the zones of its first View.
func (t *Tracker) PurgeUnknown() int {
	t.mu.Lock()
	clear(t.adopted)
	for _, ranges := range t.adoptedPorts {
		t.dropPortsLocked(ranges)
	}
	clear(t.adoptedPorts)
	t.mu.Unlock()
	n := 0
	for i := range t.shards {
		n += t.shards[i].purge(t, func(e *entry) bool {
			return (*t.zones.Load())[e.epoch] == nil // loaded each time: a zone may be added meanwhile
		})
	}
	return n
}

// Sweep frees expired connections and fragments. In an empty Tracker it reads no slot.
// Before PurgeUnknown it frees nothing: adopted would still count the freed connections
// when their zone is added.
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

// Usage returns the numbers of live connections, and the capacity.
func (t *Tracker) Usage() Usage {
	u := Usage{Capacity: int(t.quotas[tracked].capacity)}
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		u.Tracked += s.pools[tracked].live
		u.Untracked += s.pools[untracked].live
		s.mu.Unlock()
	}
	return u
}
