package state

import (
	"net/netip"
	"slices"

	"palisade/ec2"
)

// A leaser makes the interfaces of one launch into EC2-Classic. It remembers where its search for
// free addresses ended, so a launch of many instances walks the pools once.
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
		public:  t.newPublicAllocator(n.Region),
	}
}

// The method lease gives the instance a new interface with new addresses. It returns false if a
// pool is empty. A network without public pools leases private addresses only.
func (l *leaser) lease(i *ec2.Instance) bool {
	private, ok := l.private.next()
	if !ok {
		return false
	}
	var public netip.Addr
	if len(l.t.publicPools(l.network.Region)) > 0 {
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
	l.t.assign(eni.VNI, private, eni.ID)
	if public.IsValid() {
		l.t.assign(publicVNI, public, eni.ID)
	}
	return true
}

// release deletes an interface of EC2-Classic. Its addresses go into quarantine.
func (t *tx) release(eni *ec2.Interface) {
	t.del(tableInterface, eni)
	t.quarantine(eni.VNI, eni.Private)
	if eni.Public.IsValid() {
		t.quarantine(publicVNI, eni.Public)
	}
}
