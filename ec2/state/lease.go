package state

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
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

func (a *address) rests() bool { return a.Interface == "" && a.Allocation == "" }

func (a *address) due(m *meta) time.Time { return a.Freed.Add(m.Settings.Quarantine) }

func forgottenAt(i *ec2.Instance, m *meta) time.Time { return i.Ended.Add(m.Settings.TerminatedFor) }

// SweepDue is the earliest time at which a Sweep without confirmations would change
// something.
func (v *View) SweepDue() (due time.Time, ok bool) { return v.SweepDueWith(nil) }

// SweepDueWith is the earliest time at which a Sweep with these confirmations would
// change something. What waits for a node's confirmation is not due.
func (v *View) SweepDueWith(confirmed map[ec2.NodeID]uint64) (due time.Time, ok bool) {
	everywhere := confirmedBy(v.txn(), confirmed)
	earlier := func(t time.Time) {
		if !ok || t.Before(due) {
			due, ok = t, true
		}
	}
	for a := range rows[address](v.txn(), tableAddress, indexID, "") {
		if a.rests() && a.FreedIndex <= everywhere {
			earlier(a.due(v.v.meta))
		}
	}
	for i := range v.Instances() {
		if i.State == ec2.Terminated {
			earlier(forgottenAt(i, v.v.meta))
		}
	}
	return due, ok
}

// confirmedBy is the newest index that every member has confirmed to enforce. A fenced
// node's word is not asked: it can no longer deliver to anybody. One that does not
// answer holds it at 0. Without confirmations nothing waits for them.
func confirmedBy(t *memdb.Txn, confirmed map[ec2.NodeID]uint64) uint64 {
	everywhere := uint64(math.MaxUint64)
	if confirmed == nil {
		return everywhere
	}
	for n := range rows[ec2.Node](t, tableNode, indexID, "") {
		if n.Member() {
			everywhere = min(everywhere, confirmed[n.ID])
		}
	}
	return everywhere
}

// A leaser makes the interfaces of one launch. It remembers how far it has searched, so
// that a launch of many walks the pools once.
type leaser struct {
	t       *tx
	network *ec2.Network
	private *allocator
	public  *allocator
}

func (t *tx) newLeaser(n *ec2.Network) *leaser {
	return &leaser{
		t:       t,
		network: n,
		private: &allocator{t: t, vni: n.VNI, pools: n.Pools, gateway: n.Gateway},
		public:  &allocator{t: t, vni: publicVNI, pools: n.PublicPools},
	}
}

// lease gives the instance a new interface with new addresses, or reports that a pool
// is empty. A network without public pools leases private addresses alone.
func (l *leaser) lease(i *ec2.Instance) bool {
	private, ok := l.private.next()
	if !ok {
		return false
	}
	var public netip.Addr
	if len(l.network.PublicPools) > 0 {
		if public, ok = l.public.next(); !ok {
			return false
		}
	}
	epoch := l.t.serial()
	eni := &ec2.Interface{
		ID:       ec2.InterfaceID(l.t.meta.classicID("eni", epoch)),
		Epoch:    epoch,
		Account:  i.Account,
		Region:   i.Region,
		Instance: i.ID,
		Node:     i.Node,
		VNI:      l.network.VNI,
		MAC:      l.t.meta.mac(l.network.VNI, private),
		Private:  private,
		Public:   public,
		Groups:   slices.Clone(i.Groups),
		State:    ec2.Active,
	}
	i.Interface = eni.ID
	l.t.put(tableInterface, eni)
	l.t.own(eni.VNI, private, eni.ID)
	if public.IsValid() {
		l.t.own(publicVNI, public, eni.ID)
	}
	return true
}

// own writes down whose an address is.
func (t *tx) own(vni ec2.VNI, addr netip.Addr, id ec2.InterfaceID) {
	t.put(tableAddress, &address{VNI: vni, Addr: addr, Interface: id})
}

// drain takes the addresses of an instance out of every set; they stay its own.
func (t *tx) drain(i *ec2.Instance) {
	interfaces := []*ec2.Interface{first[ec2.Interface](t.Txn, tableInterface, indexID, key(i.Interface))}
	if i.VPC != "" {
		interfaces = t.attached(i.ID)
	}
	for _, was := range interfaces {
		if was.State != ec2.Active {
			continue
		}
		eni := *was
		eni.State = ec2.Draining
		t.put(tableInterface, &eni)
	}
}

// disconnect is the end of what an instance did at its node: all of its ports are down, or
// the node is lost. In EC2-Classic its lease ends; in a VPC its interfaces wait for its
// start, or end as they are meant to when it has been terminated.
func (t *tx) disconnect(i *ec2.Instance) {
	if i.VPC == "" {
		if lease := first[ec2.Interface](t.Txn, tableInterface, indexID, key(i.Interface)); lease != nil {
			t.release(lease)
		}
		i.Interface = ""
		return
	}
	for _, eni := range t.attached(i.ID) {
		switch {
		case eni.Attachment.Detaching:
			t.ended(eni, false)
		case i.State == ec2.Terminated:
			t.ended(eni, true)
		default:
			t.put(tableInterface, t.idle(eni))
		}
	}
	if i.State == ec2.Terminated {
		i.Interface = ""
	}
}

// release removes an interface and lays its addresses to rest.
func (t *tx) release(eni *ec2.Interface) {
	t.del(tableInterface, eni)
	t.restAddress(eni.VNI, eni.Private)
	if eni.Public.IsValid() {
		t.restAddress(publicVNI, eni.Public)
	}
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
		panic(fmt.Sprintf("ec2: walk addresses: %v", err))
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
