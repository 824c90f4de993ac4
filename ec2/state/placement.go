package state

import (
	"github.com/hashicorp/go-memdb"

	"palisade/ec2"
)

// CreatePlacementGroup makes a placement group. Result: Placement.
type CreatePlacementGroup struct {
	Account    ec2.AccountID
	Region     ec2.Region
	Name       string
	Strategy   string            // "": cluster
	Partitions int               `json:",omitempty"` // 0: 2 of a partition group
	Level      string            `json:",omitempty"` // "": rack, of a spread group
	Tags       map[string]string `json:",omitempty"`
}

func (r *CreatePlacementGroup) apply(t *tx) (Result, error) {
	if _, err := t.platform(r.Account, r.Region); err != nil {
		return Result{}, err
	}
	if r.Name == "" {
		return Result{}, ec2.Missing("groupName")
	}
	if !ec2.Printable(r.Name, 255) {
		return Result{}, ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter groupName is invalid. At most 255 ASCII characters.", ec2.Clip(r.Name))
	}
	g := &ec2.PlacementGroup{Account: r.Account, Region: r.Region, Name: r.Name, Strategy: r.Strategy, Partitions: r.Partitions, Level: r.Level}
	if err := completePlacement(g); err != nil {
		return Result{}, err
	}
	if findPlacement(t.Txn, r.Account, r.Region, r.Name) != nil {
		return Result{}, ec2.Errorf("InvalidPlacementGroup.Duplicate", "The Placement Group '%s' already exists.", r.Name)
	}
	count := 0
	for range rows[ec2.PlacementGroup](t.Txn, tablePlacement, indexOwner, key(r.Account)+key(r.Region)) {
		count++
	}
	if limit := t.limits().PlacementGroupsPerRegion; count >= limit {
		return Result{}, ec2.Errorf("PlacementGroupLimitExceeded", "The maximum number of placement groups in a region, %d, has been reached.", limit)
	}
	g.ID = ec2.PlacementGroupID(t.meta.longID("pg", t.serial()))
	t.put(tablePlacement, g)
	if err := t.tag(string(g.ID), r.Account, r.Region, r.Tags); err != nil {
		return Result{}, err
	}
	return Result{Placement: g}, nil
}

// completePlacement sets the defaults of a group, and refuses what its strategy cannot have.
func completePlacement(g *ec2.PlacementGroup) error {
	switch g.Strategy {
	case "":
		g.Strategy = "cluster"
	case "cluster", "spread", "partition":
	default:
		return ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter strategy is invalid. It is cluster, spread or partition.", ec2.Clip(g.Strategy))
	}
	switch {
	case g.Partitions != 0 && g.Strategy != "partition":
		return ec2.Errorf("InvalidParameterCombination", "The parameter PartitionCount is only for a group with the strategy partition")
	case g.Partitions < 0 || g.Partitions > 7:
		return ec2.Errorf("InvalidParameterValue", "Value (%d) for parameter partitionCount is invalid. It is from 1 to 7.", g.Partitions)
	case g.Strategy == "partition" && g.Partitions == 0:
		g.Partitions = 2
	}
	switch {
	case g.Level != "" && g.Strategy != "spread":
		return ec2.Errorf("InvalidParameterCombination", "The parameter SpreadLevel is only for a group with the strategy spread")
	case g.Level != "" && g.Level != "rack" && g.Level != "host":
		return ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter spreadLevel is invalid. It is rack or host.", ec2.Clip(g.Level))
	case g.Strategy == "spread" && g.Level == "":
		g.Level = "rack"
	}
	return nil
}

// DeletePlacementGroup deletes a group that no instance has. Result: Placement.
type DeletePlacementGroup struct {
	Account ec2.AccountID
	Region  ec2.Region
	Name    string
}

func (r *DeletePlacementGroup) apply(t *tx) (Result, error) {
	if r.Name == "" {
		return Result{}, ec2.Missing("groupName")
	}
	g := findPlacement(t.Txn, r.Account, r.Region, r.Name)
	if g == nil {
		return Result{}, ec2.NoSuch("pg", r.Name)
	}
	for i := range rows[ec2.Instance](t.Txn, tableInstance, indexOwner, key(r.Account)+key(r.Region)) {
		if i.Options.PlacementGroup == g.Name && i.State != ec2.Terminated {
			return Result{}, ec2.Errorf("InvalidPlacementGroup.InUse", "The placement group '%s' is in use and may not be deleted. It has instance %s.", g.Name, i.ID)
		}
	}
	t.untag(string(g.ID))
	t.del(tablePlacement, g)
	return Result{Placement: g}, nil
}

// FindPlacementGroup returns the placement group of an account with a name, or nil.
func (v *View) FindPlacementGroup(account ec2.AccountID, region ec2.Region, name string) *ec2.PlacementGroup {
	return findPlacement(v.txn(), account, region, name)
}

func findPlacement(txn *memdb.Txn, account ec2.AccountID, region ec2.Region, name string) *ec2.PlacementGroup {
	return first[ec2.PlacementGroup](txn, tablePlacement, indexName, key(account)+key(region)+key(name))
}

// checkOptions returns EC2's error for options that instances cannot have.
func (t *tx) checkOptions(account ec2.AccountID, region ec2.Region, o *ec2.InstanceOptions) error {
	for _, x := range []struct{ parameter, value, either, or string }{
		{"creditSpecification.cpuCredits", o.Credits, "standard", "unlimited"},
		{"placement.affinity", o.Affinity, "default", "host"},
		{"cpuOptions.amdSevSnp", o.SEVSNP, "enabled", "disabled"},
		{"capacityReservationPreference", o.Reservation, "open", "none"},
		{"hostnameType", o.HostnameType, "ip-name", "resource-name"},
	} {
		if x.value != "" && x.value != x.either && x.value != x.or {
			return ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter %s is invalid. It is %s or %s.", ec2.Clip(x.value), x.parameter, x.either, x.or)
		}
	}
	switch {
	case o.Tenancy == "host":
		return ec2.Errorf("InsufficientHostCapacity", "There is no dedicated host in region %s", region)
	case o.Tenancy != "" && o.Tenancy != "dedicated":
		return ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter placement.tenancy is invalid. It is default, dedicated or host.", ec2.Clip(o.Tenancy))
	case o.Cores < 0 || o.ThreadsOfCore < 0 || o.ThreadsOfCore > 2:
		return ec2.Errorf("InvalidParameterValue", "CPU options of %d cores with %d threads are invalid.", o.Cores, o.ThreadsOfCore)
	}
	return t.checkPlacement(account, region, o)
}

func (t *tx) checkPlacement(account ec2.AccountID, region ec2.Region, o *ec2.InstanceOptions) error {
	if o.PlacementGroup == "" {
		if o.Partition != 0 {
			return ec2.Errorf("InvalidParameterCombination", "A partition number needs a placement group with the strategy partition")
		}
		return nil
	}
	g := findPlacement(t.Txn, account, region, o.PlacementGroup)
	if g == nil {
		return ec2.NoSuch("pg", o.PlacementGroup)
	}
	if o.Partition < 0 || o.Partition > g.Partitions {
		return ec2.Errorf("InvalidParameterValue", "Value (%d) for parameter partitionNumber is invalid: the placement group '%s' has %d partitions.", o.Partition, g.Name, g.Partitions)
	}
	return nil
}
