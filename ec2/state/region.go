package state

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/go-memdb"

	"palisade/ec2"
	"palisade/ec2/region"
)

// regionRequests are the requests about which regions there are, and who uses them.
var regionRequests = []Request{&SetRegions{}, &OpenRegion{}}

// SetRegions changes which regions and zones there are, and which nodes carry the zones. It has
// exactly one of the fields. A region or a zone that would go must have no resources that a user
// made. What OpenRegion made in it stays, and is there again when the region or zone is.
type SetRegions struct {
	Every  *bool          `json:",omitempty"` // whether every region of AWS is served
	Set    *region.Region `json:",omitempty"` // is added, or replaces the region of that name
	Remove ec2.Region     `json:",omitempty"` // as in Plan.Without
}

func (r *SetRegions) apply(t *tx) (Result, error) {
	plan := t.meta.Regions
	switch {
	case r.Every != nil && r.Set == nil && r.Remove == "":
		plan.Every = *r.Every
	case r.Set != nil && r.Every == nil && r.Remove == "":
		if err := t.checkRegion(r.Set); err != nil {
			return Result{}, err
		}
		plan = plan.With(*r.Set)
		if len(plan.Regions) > region.MaxRegions {
			return Result{}, ec2.Errorf("InvalidParameterValue", "%d regions are set already, which is the most", region.MaxRegions)
		}
	case r.Remove != "" && r.Every == nil && r.Set == nil:
		next := plan.Without(r.Remove)
		if len(next.Regions) == len(plan.Regions) {
			set := region.Plan{Regions: plan.Regions}
			return Result{}, ec2.Errorf("InvalidParameterValue", "region %s was not set, so it cannot be removed; set are: %s", ec2.Clip(string(r.Remove)), region.List(set.Names()))
		}
		plan = next
	default:
		return Result{}, ec2.Errorf("InvalidParameterCombination", "SetRegions changes one region, or whether every region is served")
	}
	return Result{}, t.setPlan(plan)
}

// checkRegion returns an error for a region that no Plan can have, or whose nodes are no members.
func (t *tx) checkRegion(r *region.Region) error {
	if err := r.Check(); err != nil {
		return err
	}
	nodes := slices.Clone(r.Nodes)
	for _, z := range r.Zones {
		nodes = append(nodes, z.Nodes...)
	}
	for _, id := range nodes {
		if n := first[ec2.Node](t.Txn, tableNode, indexID, key(id)); n == nil || !n.Member() {
			return noSuchNode(id)
		}
	}
	return nil
}

// setPlan puts a Plan into force, unless a region or zone that has resources would go. A default VPC
// gets a default subnet in each new zone.
func (t *tx) setPlan(plan region.Plan) error {
	before := map[ec2.Region][]string{}
	for n := range rows[ec2.Network](t.Txn, tableNetwork, indexID, "") {
		if n.VPC == "" && t.serves(n.Region) {
			before[n.Region] = t.zones(n.Region)
		}
	}
	t.meta.Regions = plan
	for n := range rows[ec2.Network](t.Txn, tableNetwork, indexID, "") {
		if n.VPC != "" || before[n.Region] == nil {
			continue
		}
		var after []string
		if t.serves(n.Region) {
			after = t.zones(n.Region)
		}
		used := t.used(n.Region, t.serves(n.Region), func(zone string) bool { return slices.Contains(after, zone) })
		if len(used) > 0 {
			return ec2.Errorf("DependencyViolation", "Region %s has resources in zones that would go. %s", n.Region, dependentObjects(used))
		}
	}
	for _, vpc := range slices.Collect(rows[ec2.VPC](t.Txn, tableVPC, indexID, "")) {
		if !vpc.Default || !t.serves(vpc.Region) {
			continue
		}
		for _, zone := range t.zones(vpc.Region) {
			if !slices.Contains(before[vpc.Region], zone) && t.defaultIn(vpc, zone) == nil {
				_, _ = t.addDefaultSubnet(vpc, zone) // it fails if the VPC has no room, as for a new node
			}
		}
	}
	return nil
}

// used returns the ids of what users have in a region that is not kept, or in zones of it that do not
// stay.
func (t *tx) used(name ec2.Region, kept bool, stay func(zone string) bool) (ids []string) {
	for _, table := range snapshotTables {
		it, err := t.Get(table.name, indexID+"_prefix", "")
		if err != nil {
			panic(fmt.Sprintf("state: rows of %s: %v", table.name, err))
		}
		for row := it.Next(); row != nil; row = it.Next() {
			in, id, zone := t.madeByUser(row)
			if in == name && id != "" && (!kept || zone != "" && !stay(zone)) {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// madeByUser returns the region, the id and the zone of a resource that a user made. The id is "" for
// what comes and goes with a region, such as the default VPC, the zone for what is in none.
func (t *tx) madeByUser(row any) (in ec2.Region, id, zone string) {
	switch x := row.(type) {
	case *ec2.Instance:
		if x.State != ec2.Terminated {
			return x.Region, string(x.ID), zoneOf(t.Txn, x)
		}
	case *ec2.Interface:
		if s := first[ec2.Subnet](t.Txn, tableSubnet, indexID, key(x.Subnet)); s != nil && x.Instance == "" {
			return x.Region, string(x.ID), s.Zone
		}
	case *ec2.Subnet:
		if !x.Default {
			return x.Region, string(x.ID), x.Zone
		}
	case *ec2.Volume:
		return x.Region, string(x.ID), x.Zone
	case *ec2.VPC:
		if !x.Default {
			return x.Region, string(x.ID), ""
		}
	case *ec2.Group:
		if x.Name != defaultGroup {
			return x.Region, string(x.ID), ""
		}
	case *ec2.RouteTable:
		if x.Main == "" {
			return x.Region, string(x.ID), ""
		}
	case *ec2.InternetGateway:
		if vpc := first[ec2.VPC](t.Txn, tableVPC, indexID, key(x.VPC)); vpc == nil || !vpc.Default {
			return x.Region, string(x.ID), ""
		}
	case *ec2.NATGateway:
		return x.Region, string(x.ID), ""
	case *ec2.ElasticAddress:
		return x.Region, string(x.ID), ""
	case *ec2.KeyPair:
		return x.Region, x.Name, ""
	case *ec2.LaunchTemplate:
		return x.Region, string(x.ID), ""
	case *ec2.PlacementGroup:
		return x.Region, x.Name, ""
	case *ec2.DHCPOptions:
		return x.Region, string(x.ID), ""
	case *ec2.PrefixList:
		return x.Region, string(x.ID), ""
	}
	return "", "", ""
}

// OpenRegion gives an account its default group or its default VPC in a region, the first time that
// the account uses the region. The first account also makes the region's EC2-Classic network. A
// second OpenRegion changes nothing.
type OpenRegion struct {
	Account ec2.AccountID
	Region  ec2.Region
}

func (r *OpenRegion) apply(t *tx) (Result, error) {
	a := first[ec2.Account](t.Txn, tableAccount, indexID, key(r.Account))
	if a == nil {
		return Result{}, ec2.Errorf("AuthFailure", "account %s does not exist", r.Account)
	}
	if !t.serves(r.Region) {
		return Result{}, notServed(t.Txn, t.meta, r.Region)
	}
	if opened(t.Txn, a, r.Region) {
		return Result{}, nil
	}
	if classicNetwork(t.Txn, r.Region) == nil {
		if err := t.addOpenedNetwork(r.Region); err != nil {
			return Result{}, err
		}
	}
	now := *a
	now.Regions = append(slices.Clone(a.Regions), r.Region)
	slices.Sort(now.Regions)
	t.put(tableAccount, &now)
	return Result{}, t.addDefaults(&now, r.Region)
}

// addOpenedNetwork makes the EC2-Classic network of a region like that of the first region.
func (t *tx) addOpenedNetwork(name ec2.Region) error {
	home := homeNetwork(t.Txn)
	if home == nil {
		return ec2.Errorf("UnsupportedOperation", "The cluster has no network yet")
	}
	vni, err := t.newVNI()
	if err != nil {
		return err
	}
	n := *home
	n.VNI, n.Region, n.ModeSet, n.Opened = vni, name, 0, true
	n.PublicPools = nil // publicPools has those of home, which all regions share
	t.put(tableNetwork, &n)
	return nil
}

// homeNetwork returns the EC2-Classic network of the region that the cluster began with, or nil.
func homeNetwork(t *memdb.Txn) *ec2.Network {
	for n := range rows[ec2.Network](t, tableNetwork, indexID, "") {
		if n.VPC == "" && !n.Opened {
			return n
		}
	}
	return nil
}

// opened reports whether an account has what OpenRegion makes in a region.
func opened(t *memdb.Txn, a *ec2.Account, name ec2.Region) bool {
	n := classicNetwork(t, name)
	return n != nil && (!n.Opened || slices.Contains(a.Regions, name))
}

// serves reports whether requests can be signed for a region.
func (t *tx) serves(name ec2.Region) bool { return served(t.Txn, t.meta, name) }

func served(t *memdb.Txn, m *meta, name ec2.Region) bool {
	if _, ok := m.Regions.Region(name); ok {
		return true
	}
	n := classicNetwork(t, name)
	return n != nil && !n.Opened
}

func servedRegions(t *memdb.Txn, m *meta) []ec2.Region {
	names := m.Regions.Names()
	for n := range rows[ec2.Network](t, tableNetwork, indexID, "") {
		if n.VPC == "" && !n.Opened {
			names = append(names, n.Region)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func notServed(t *memdb.Txn, m *meta, name ec2.Region) *ec2.Error {
	return ec2.Errorf("AuthFailure", "Credential should be scoped to a valid region, not '%s'. Valid regions: %s.", ec2.Clip(string(name)), region.List(servedRegions(t, m)))
}

// regionZones returns the zones of a region with the members that carry each.
func (t *tx) regionZones(name ec2.Region) []region.Zone {
	return t.meta.Regions.Zones(name, rows[ec2.Node](t.Txn, tableNode, indexID, ""))
}

// planned reports whether the zones of a region are set, and not those of the labels of its nodes.
func (t *tx) planned(name ec2.Region) bool {
	_, ok := t.meta.Regions.Region(name)
	return ok
}

// zones returns the names of the availability zones of a region, sorted. Zones of labels are those
// that a member has.
func (t *tx) zones(name ec2.Region) []string {
	var names []string
	for _, z := range t.regionZones(name) {
		if len(z.Nodes) > 0 || t.planned(name) {
			names = append(names, z.Name)
		}
	}
	return names
}

// carries reports whether instances in a zone of a region can run on a node.
func (t *tx) carries(n *ec2.Node, name ec2.Region, zone string) bool {
	if !t.planned(name) {
		return n.Zone == zone
	}
	return slices.ContainsFunc(t.regionZones(name), func(z region.Zone) bool { return z.Name == zone && slices.Contains(z.Nodes, n.ID) })
}

// invalidZone returns EC2's error for a zone that a region does not have. EC2's message does not name
// the zones of the region, but clients that use a zone of another region have to find them.
func (t *tx) invalidZone(name ec2.Region, zone string) *ec2.Error {
	return ec2.Errorf("InvalidParameterValue", "Invalid availability zone: [%s]. Region %s has: %s.", ec2.Clip(zone), name, strings.Join(t.zones(name), ", "))
}

// ServesRegion returns EC2's error for a region that requests cannot be signed for.
func (v *View) ServesRegion(name ec2.Region) error {
	if !served(v.txn(), v.v.meta, name) {
		return notServed(v.txn(), v.v.meta, name)
	}
	return nil
}

// Regions returns the names of the regions, sorted.
func (v *View) Regions() []ec2.Region { return servedRegions(v.txn(), v.v.meta) }

// RegionPlan returns what operators decided about the regions.
func (v *View) RegionPlan() region.Plan { return v.v.meta.Regions }

// RegionOpened reports whether an account has its default group or default VPC in a region, or had
// it and deleted it.
func (v *View) RegionOpened(account ec2.AccountID, name ec2.Region) bool {
	a, ok := v.Account(account)
	return ok && opened(v.txn(), a, name)
}

// Zones returns the zones of a region, by name, with the members that carry each. A zone whose nodes
// are all fenced has none.
func (v *View) Zones(name ec2.Region) []region.Zone { return v.v.meta.Regions.Zones(name, v.Nodes()) }

// ZoneNodes returns the members that instances in a zone of a region can run on.
func (v *View) ZoneNodes(name ec2.Region, zone string) []ec2.NodeID {
	for _, z := range v.Zones(name) {
		if z.Name == zone {
			return z.Nodes
		}
	}
	return nil
}
