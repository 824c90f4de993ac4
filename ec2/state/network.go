package state

import (
	"slices"

	"github.com/hashicorp/go-memdb"

	"palisade/ec2"
)

// PutNetwork adds a network, or replaces the settings of the network with the same VNI. A zero
// Gateway means the first address of Prefix. Leases outside the new pools stay. The first
// EC2-Classic network of a region opens the region: each account gets its default group or its
// default VPC there. In the network of a VPC only the Mode can be changed.
type PutNetwork struct {
	Network ec2.Network
}

func (r *PutNetwork) apply(t *tx) (Result, error) {
	n := r.Network
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
	if o := first[ec2.Network](t.Txn, tableNetwork, indexRegion, key(n.Region)+key(n.VPC)); o != nil && o.VNI != n.VNI {
		return Result{}, ec2.Errorf("EntityAlreadyExists", "region %s has network %d already", n.Region, o.VNI)
	}
	if o := first[ec2.Network](t.Txn, tableNetwork, indexID, vniKey(n.VNI)); o != nil && (o.Region != n.Region || o.VPC != n.VPC) {
		return Result{}, ec2.Errorf("EntityAlreadyExists", "network %d belongs to region %s", n.VNI, o.Region)
	}

	was := first[ec2.Network](t.Txn, tableNetwork, indexID, vniKey(n.VNI))
	if n.VPC != "" {
		if was == nil {
			return Result{}, ec2.NoSuch("vpc", n.VPC)
		}
		mode := n.Mode
		n = *was
		n.Mode = mode
	}
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
