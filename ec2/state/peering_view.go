package state

import (
	"iter"

	"palisade/ec2"
)

// Peering returns a peering by its id. It may have ended.
func (v *View) Peering(id ec2.PeeringID) (*ec2.VPCPeering, bool) {
	return get[ec2.VPCPeering](v, tablePeering, key(id))
}

// PeeringsOf yields the peerings that an account sees in a region, by id.
func (v *View) PeeringsOf(account ec2.AccountID, region ec2.Region) iter.Seq[*ec2.VPCPeering] {
	return func(yield func(*ec2.VPCPeering) bool) {
		for p := range rows[ec2.VPCPeering](v.txn(), tablePeering, indexOwner, key(account)+key(region)) {
			if p.SeenBy(account, region, v.Time()) && !yield(p) {
				return
			}
		}
	}
}

// GroupsNaming yields the groups that have rules which name another group, by id.
func (v *View) GroupsNaming(id ec2.GroupID) iter.Seq[*ec2.Group] {
	return rows[ec2.Group](v.txn(), tableGroup, indexSource, key(id))
}

// PeeringsIn yields the peerings of a VPC, by id. They may have ended.
func (v *View) PeeringsIn(vpc ec2.VPCID) iter.Seq[*ec2.VPCPeering] {
	return rows[ec2.VPCPeering](v.txn(), tablePeering, indexVPC, key(vpc))
}
