package state

import (
	"slices"

	"github.com/hashicorp/go-memdb"

	"palisade/ec2"
)

// PutNetwork adds a network, or replaces the settings of the network with the same VNI. A zero
// Gateway means the first address of Prefix. Leases outside the new pools stay. The first
// EC2-Classic network of a region opens the region: each account gets its default group or its
// default VPC there. The network of a VPC is made by CreateVPC alone.
type PutNetwork struct {
	Network ec2.Network
}

func (r *PutNetwork) apply(t *tx) (Result, error) {
	n := r.Network
	if n.VPC != "" {
		return Result{}, ec2.Errorf("InvalidParameterValue", "the network of %s is made with the VPC", ec2.Clip(string(n.VPC)))
	}
	if len(n.Blocks) > 0 {
		return Result{}, ec2.Errorf("InvalidParameterValue", "network %d: only the network of a VPC has further blocks", n.VNI)
	}
	if n.VNI == 0 || n.VNI >= 1<<24 || n.Region == "" {
		return Result{}, ec2.Errorf("InvalidParameterValue", "a network needs a region and a VNI of 24 bits, not %q and %d", n.Region, n.VNI)
	}
	if !n.Prefix.IsValid() || n.Prefix != n.Prefix.Masked() || !n.Prefix.Addr().Is4() {
		return Result{}, ec2.Errorf("InvalidParameterValue", "network %d: %s is not a canonical IPv4 prefix", n.VNI, n.Prefix)
	}
	if !n.Gateway.IsValid() {
		n.Gateway = n.Prefix.Addr().Next()
	}
	if !n.Prefix.Contains(n.Gateway) {
		return Result{}, ec2.Errorf("InvalidParameterValue", "network %d: gateway %s is outside %s", n.VNI, n.Gateway, n.Prefix)
	}
	for _, p := range slices.Concat(n.Pools, n.PublicPools) {
		if !p.IsValid() || p != p.Masked() || !p.Addr().Is4() {
			return Result{}, ec2.Errorf("InvalidParameterValue", "network %d: pool %s is not a canonical IPv4 prefix", n.VNI, p)
		}
	}
	for _, p := range n.Pools {
		if p.Bits() < n.Prefix.Bits() || !n.Prefix.Contains(p.Addr()) {
			return Result{}, ec2.Errorf("InvalidParameterValue", "network %d: pool %s is outside %s", n.VNI, p, n.Prefix)
		}
	}
	if o := first[ec2.Network](t.Txn, tableNetwork, indexRegion, key(n.Region)+key("")); o != nil && o.VNI != n.VNI {
		return Result{}, ec2.Errorf("EntityAlreadyExists", "region %s has network %d already", n.Region, o.VNI)
	}
	if o := first[ec2.Network](t.Txn, tableNetwork, indexID, vniKey(n.VNI)); o != nil && (o.Region != n.Region || o.VPC != "") {
		return Result{}, ec2.Errorf("EntityAlreadyExists", "network %d belongs to region %s", n.VNI, o.Region)
	}

	was := first[ec2.Network](t.Txn, tableNetwork, indexID, vniKey(n.VNI))
	t.put(tableNetwork, &n)
	if was != nil {
		return Result{}, nil
	}
	for _, a := range slices.Collect(rows[ec2.Account](t.Txn, tableAccount, indexID, "")) {
		if err := t.addDefaults(a, n.Region); err != nil {
			return Result{}, err
		}
	}
	return Result{}, nil
}

// classicNetwork returns the EC2-Classic network of a region, or nil.
func classicNetwork(t *memdb.Txn, region ec2.Region) *ec2.Network {
	return first[ec2.Network](t, tableNetwork, indexRegion, key(region)+key(""))
}

// SetTracking changes what happens to the tracked connections of a network when a rule is revoked.
type SetTracking struct {
	VPC    ec2.VPCID  `json:",omitempty"` // "": the EC2-Classic network of Region
	Region ec2.Region `json:",omitempty"`
	Mode   ec2.TrackingMode
}

func (r *SetTracking) apply(t *tx) (Result, error) {
	if r.Mode != ec2.TrackAWS && r.Mode != ec2.TrackStrict {
		return Result{}, ec2.Errorf("InvalidParameterValue", "%s is not known: the tracking mode must be %s or %s", r.Mode, ec2.TrackAWS, ec2.TrackStrict)
	}
	var was *ec2.Network
	if r.VPC == "" {
		if was = classicNetwork(t.Txn, r.Region); was == nil {
			return Result{}, ec2.Errorf("UnsupportedOperation", "There is no network in region %s", ec2.Clip(string(r.Region)))
		}
	} else {
		vpc := first[ec2.VPC](t.Txn, tableVPC, indexID, key(r.VPC))
		if vpc == nil {
			return Result{}, ec2.NoSuch("vpc", r.VPC)
		}
		was = first[ec2.Network](t.Txn, tableNetwork, indexID, vniKey(vpc.VNI))
	}
	if was.Mode == r.Mode {
		return Result{}, nil
	}
	n := *was
	n.Mode, n.ModeSet = r.Mode, t.meta.Index
	t.put(tableNetwork, &n)
	return Result{}, nil
}
