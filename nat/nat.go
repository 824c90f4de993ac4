// Package nat translates the addresses and ports of NAT gateways, as AWS's NAT gateways do (VPC User
// Guide, "NAT gateways").
//
// A Table holds the translations of one node in a file that outlives the process. A Gateway is one NAT
// gateway at this node. The pipeline calls Out for every packet that leaves through a gateway, and In for
// every packet that comes to its address from outside. OutError and InError are for ICMP errors.
//
// Only a packet from inside makes a translation: its source gets a port of the gateway that no other
// translation to the same destination has. A packet from outside passes only as an answer in a translation.
// The package knows neither rules nor routes, and changes no frame.
package nat

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Config sizes a Table. The zero value is useful.
type Config struct {
	// Path is the file that holds the translations. Default: anonymous memory, which is lost with the process.
	// The file must be on a tmpfs, be of the user of the process, and have mode 0600; otherwise Open returns an
	// error.
	Path string
	// Capacity is the largest number of translations of all gateways. Default: 262,144, which take 10 MiB
	// of the file and 25 MiB of the process, allocated on first use.
	Capacity int
	// PerGateway is the largest number of translations of one gateway. Default: half of Capacity.
	PerGateway int
	// PerSource is the largest number of translations of one address behind a gateway. Default: half of PerGateway.
	PerSource int
	// PerDestination is the largest number of translations of one gateway to one address, port and protocol.
	// Default: 55,000, as at AWS. At most 60,000, because a search for a free port must end soon.
	PerDestination int
}

const (
	// Idle is how long a translation without packets stays (VPC User Guide, "NAT gateway idle timeout").
	Idle = 350 * time.Second
	// A TCP connection that both ends have closed stays for closedIdle, and one that was reset for resetIdle.
	closedIdle = 60 * time.Second
	resetIdle  = 10 * time.Second

	firstPort, ports = 1024, 65536 - 1024
)

// A Table holds the translations of all gateways of one node. The node owns it; pollers use it through its
// Gateways. Its methods may be called from any goroutine.
//
// mu guards all fields but those of the Config, and the entries. It is a leaf: while it is held, nothing
// outside of the package is called.
type Table struct {
	config Config
	memory *memory

	mu           sync.Mutex
	entries      []entry
	free         uint32 // head of the list of free slots; none: there is none below memory.used
	out, in      index
	sources      counts
	destinations counts
	live         int
	gateways     map[uint64]*Gateway // by epoch
	adopted      map[uint64]int      // translations of the file whose gateway has not been added yet, by epoch
	fragments    fragments
}

// A Gateway is a NAT gateway at this node: one lease of its interface.
type Gateway struct {
	table     *Table
	epoch     uint64
	live      int // guarded by table.mu
	exhausted atomic.Uint64
}

// Open returns a Table of the translations in the file at c.Path. It adopts those whose checksums are right. It
// empties a file of another size, layout or boot of the machine; Note tells that.
func Open(c Config) (*Table, error) {
	if c.Capacity == 0 {
		c.Capacity = 262_144
	}
	if c.PerGateway == 0 {
		c.PerGateway = c.Capacity / 2
	}
	if c.PerSource == 0 {
		c.PerSource = c.PerGateway / 2
	}
	if c.PerDestination == 0 {
		c.PerDestination = 55_000
	}
	if c.Capacity < 1 || c.PerDestination > 60_000 {
		return nil, fmt.Errorf("nat: capacity %d must be positive, and %d translations to a destination at most 60,000", c.Capacity, c.PerDestination)
	}
	m, err := openMemory(c.Path, c.Capacity)
	if err != nil {
		return nil, fmt.Errorf("nat: %w", err)
	}
	t := &Table{config: c, memory: m, entries: m.entries(), free: none, gateways: map[uint64]*Gateway{}, adopted: map[uint64]int{}}
	t.out, t.in = newIndex(c.Capacity), newIndex(c.Capacity)
	t.sources, t.destinations = newCounts(c.Capacity), newCounts(c.Capacity)
	t.fragments.init()
	t.adopt()
	return t, nil
}

// Note says why Open did not keep the translations of the file; "" if it kept all.
func (t *Table) Note() string { return t.memory.note }

// Close unmaps the memory and leaves the file for the next process. No Gateway may be used afterwards.
func (t *Table) Close() error { return t.memory.close() }

// Gateway adds the gateway with an epoch. It has the translations of the file that belong to the same epoch.
func (t *Table) Gateway(epoch uint64) *Gateway {
	t.mu.Lock()
	defer t.mu.Unlock()
	g := &Gateway{table: t, epoch: epoch, live: t.adopted[epoch]}
	delete(t.adopted, epoch)
	t.gateways[epoch] = g
	return g
}

// Remove removes a gateway with its translations. A packet that is under way with the Gateway gets none.
func (t *Table) Remove(g *Gateway) {
	t.mu.Lock()
	delete(t.gateways, g.epoch)
	t.mu.Unlock()
	t.purge(func(e *entry) bool { return e.epoch == g.epoch })
}

// PurgeUnknown removes adopted translations whose gateway was not added, and returns their number.
func (t *Table) PurgeUnknown() int {
	return t.purge(func(e *entry) bool { return t.gateways[e.epoch] == nil })
}

// Forget removes the translations of which gone returns true for an end: the address behind the gateway, or the
// remote one. The next interface with such an address must neither get nor continue them. gone is called with the
// mutex held, and must not call the Table.
func (t *Table) Forget(gone func(epoch uint64, end netip.Addr) bool) int {
	return t.purge(func(e *entry) bool { return gone(e.epoch, address(e.inside)) || gone(e.epoch, address(e.remote)) })
}

// Sweep removes the translations that have been idle for too long.
func (t *Table) Sweep(now time.Duration) {
	t.purge(func(e *entry) bool { return e.expired(now) })
}

// purgeAtOnce is the number of slots that purge looks at with the mutex held.
const purgeAtOnce = 4096

func (t *Table) purge(gone func(*entry) bool) (n int) {
	for first := 0; ; first += purgeAtOnce {
		more := func() bool {
			t.mu.Lock()
			defer t.mu.Unlock()
			used := int(*t.memory.used())
			for slot := first; slot < min(first+purgeAtOnce, used); slot++ {
				if e := &t.entries[slot]; e.sum != 0 && gone(e) {
					t.removeLocked(uint32(slot))
					n++
				}
			}
			return first+purgeAtOnce < used
		}()
		if !more {
			return n
		}
	}
}

// Usage is how much of its bounds a gateway uses, and how often it was full.
type Usage struct {
	Translations int    `json:"translations"`
	Exhausted    uint64 `json:"error_port_allocation"` // packets that got no port, since the process began (AWS's metric ErrorPortAllocation)
}

// Usage returns the usage of a gateway.
func (g *Gateway) Usage() Usage {
	g.table.mu.Lock()
	defer g.table.mu.Unlock()
	return Usage{g.live, g.exhausted.Load()}
}

// Epoch returns the epoch that the Gateway was added with.
func (g *Gateway) Epoch() uint64 { return g.epoch }

var errSize = errors.New("the file has another size, layout or boot of the machine")
