package state

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/hashicorp/go-memdb"

	"palisade/ec2"
)

// publicVNI stands for the internet in the address table, where VNI 0 is: public
// addresses are unique over all networks.
const publicVNI ec2.VNI = 0

// An address is one that may not be leased: it is, or it was until a moment ago. The
// rest keeps a new owner from the flows and caches that still mean the old one
// (projectcalico/calico issues 3467 and 4152 tell of clusters without it).
type address struct {
	VNI       ec2.VNI
	Addr      netip.Addr
	Interface ec2.InterfaceID // "" while it rests
	Freed     time.Time       // since when it rests

	// FreedIndex is the index of the command that freed it: a node that has not
	// enforced it may still admit packets by the groups of the last owner.
	FreedIndex uint64 `json:",omitempty"`

	Allocation ec2.AllocationID `json:",omitempty"` // an account keeps it; whoever has it, it does not rest
}

func (a *address) inQuarantine() bool { return a.Interface == "" && a.Allocation == "" }

func (a *address) quarantineEnd(m *meta) time.Time { return a.Freed.Add(m.Settings.Quarantine) }

// own writes down whose an address is.
func (t *tx) assign(vni ec2.VNI, addr netip.Addr, id ec2.InterfaceID) {
	t.put(tableAddress, &address{VNI: vni, Addr: addr, Interface: id})
}

// restAddress lays an address to rest that is nobody's any more.
func (t *tx) quarantine(vni ec2.VNI, a netip.Addr) {
	t.put(tableAddress, &address{VNI: vni, Addr: a, Freed: t.meta.Time, FreedIndex: t.meta.Index})
}

// An allocator yields the free addresses of pools: pools in their order, addresses from
// the lowest. Not given out are the gateway and, of a pool wider than a /30, the first
// two (the network and, by custom, a router) and the last (broadcast).
type allocator struct {
	t       *tx
	vni     ec2.VNI
	pools   []netip.Prefix
	gateway netip.Addr
	low     netip.Addr // nothing below it is given out
	at      netip.Addr // the next candidate in pools[0]; zero: its first
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

// firstFree walks the taken addresses in step with the candidates: the first candidate
// that is not the next taken one is free.
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
