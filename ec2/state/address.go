package state

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/hashicorp/go-memdb"

	"palisade/ec2"
)

// publicVNI is the VNI of public addresses in the address table. They are unique across all
// networks, and no network has VNI 0.
const publicVNI ec2.VNI = 0

// An address is the row of an IP address that cannot be leased, because it is in use or in
// quarantine after its last use. Without quarantine, packets and caches meant for the last
// interface would reach the next one (projectcalico/calico issues 3467 and 4152).
type address struct {
	VNI       ec2.VNI
	Addr      netip.Addr
	Interface ec2.InterfaceID // the interface that leases it; "" in quarantine
	Freed     time.Time       // when its quarantine began

	// FreedIndex is the log index of the command that freed the address. A node that does not
	// enforce this index yet may still admit packets because of the groups of the last interface.
	FreedIndex uint64 `json:",omitempty"`

	Allocation ec2.AllocationID `json:",omitempty"` // set if the address is elastic; an account keeps it, so it is never in quarantine
}

func (a *address) inQuarantine() bool { return a.Interface == "" && a.Allocation == "" }

func (a *address) quarantineEnd(m *meta) time.Time { return a.Freed.Add(m.Settings.Quarantine) }

// assign records the interface that leases an address.
func (t *tx) assign(vni ec2.VNI, addr netip.Addr, id ec2.InterfaceID) {
	t.put(tableAddress, &address{VNI: vni, Addr: addr, Interface: id})
}

// The method quarantine begins the quarantine of an address that no interface leases any more.
func (t *tx) quarantine(vni ec2.VNI, a netip.Addr) {
	t.put(tableAddress, &address{VNI: vni, Addr: a, Freed: t.meta.Time, FreedIndex: t.meta.Index})
}

// An allocator yields the free addresses of pools: the pools in their order, the addresses from
// the lowest up. It never yields the gateway and, in a pool wider than a /30, the first two
// addresses (network and, by custom, router) and the last one (broadcast).
type allocator struct {
	t       *tx
	vni     ec2.VNI
	pools   []netip.Prefix
	gateway netip.Addr
	low     netip.Addr // no address below low is yielded
	at      netip.Addr // the next candidate in pools[0]; zero: the first of the pool
}

func (a *allocator) next() (netip.Addr, bool) {
	for ; len(a.pools) > 0; a.pools, a.at = a.pools[1:], (netip.Addr{}) {
		low, high := usable(a.pools[0])
		if a.low.Compare(low) > 0 {
			low = a.low
		}
		if a.at.IsValid() {
			low = a.at
		}
		if free, ok := a.firstFree(low, high); ok {
			a.at = free.Next()
			return free, true
		}
	}
	return netip.Addr{}, false
}

// firstFree returns the lowest free address from low to high, and false if there is none. It walks
// the candidates and the taken addresses side by side: the first candidate that differs from the
// next taken address is free.
func (a *allocator) firstFree(low, high netip.Addr) (netip.Addr, bool) {
	taken, err := a.t.LowerBound(tableAddress, indexID, addressKey(a.vni, low))
	if err != nil {
		panic(fmt.Sprintf("state: walk addresses: %v", err))
	}
	next := takenAfter(taken, a.vni)
	for c := low; c.IsValid() && c.Compare(high) <= 0; c = c.Next() {
		if c == next {
			next = takenAfter(taken, a.vni)
			continue
		}
		if c != a.gateway {
			return c, true
		}
	}
	return netip.Addr{}, false
}

func takenAfter(it memdb.ResultIterator, vni ec2.VNI) netip.Addr {
	row := it.Next()
	if row == nil || row.(*address).VNI != vni {
		return netip.Addr{}
	}
	return row.(*address).Addr
}

func usable(p netip.Prefix) (low, high netip.Addr) {
	low, high = p.Addr(), ec2.LastAddress(p)
	if p.Bits() < 30 {
		low, high = low.Next().Next(), high.Prev()
	}
	return low, high
}
