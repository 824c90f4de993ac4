package region

import (
	"cmp"
	"iter"
	"regexp"
	"slices"
	"strings"

	"palisade/ec2"
)

// A Plan is the decision of an operator about the regions of a cluster. In a zero Plan the zones of
// a region are those that its nodes are labelled with (ec2.Node.Zone). A Plan is never changed
// in place, because Views share it.
type Plan struct {
	Every   bool     `json:",omitempty"` // every region of AWS is served, with AWS's zones
	Regions []Region `json:",omitempty"` // by name; they precede Every and the labels
}

// A Region is a region whose zones an operator has set.
type Region struct {
	Name  ec2.Region
	Zones []Zone       // by name
	Nodes []ec2.NodeID `json:",omitempty"` // carry the zones that name no nodes; empty: all members do
}

// A Zone is an availability zone, with the nodes that its instances run on.
type Zone struct {
	Name  string       // "eu-west-1a"
	Nodes []ec2.NodeID `json:",omitempty"`
}

// The most regions and zones that a Plan can have. A default VPC has room for 16 subnets.
const (
	MaxRegions = 64
	MaxZones   = 16
)

var nameForm = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}[0-9]$`)

// Check returns an error for a region that cannot be in a Plan.
func (r *Region) Check() error {
	switch {
	case !nameForm.MatchString(string(r.Name)):
		return ec2.Errorf("InvalidParameterValue", "%q cannot be the name of a region: it has up to 32 lower-case letters, digits and hyphens, and ends with a digit, such as eu-west-1", ec2.Clip(string(r.Name)))
	case len(r.Zones) == 0 || len(r.Zones) > MaxZones:
		return ec2.Errorf("InvalidParameterValue", "region %s cannot have %d zones: it has 1 to %d", r.Name, len(r.Zones), MaxZones)
	}
	for n, z := range r.Zones {
		letter, ok := strings.CutPrefix(z.Name, string(r.Name))
		if !ok || len(letter) != 1 || letter < "a" || letter > "z" {
			return ec2.Errorf("InvalidParameterValue", "%q cannot be a zone of region %s: a zone is the region and a letter, such as %sa", ec2.Clip(z.Name), r.Name, r.Name)
		}
		if n > 0 && r.Zones[n-1].Name >= z.Name {
			return ec2.Errorf("InvalidParameterValue", "zone %s of region %s is given twice", z.Name, r.Name)
		}
	}
	return nil
}

// Region returns the region of the Plan with a name: one that an operator has set, or one of AWS.
func (p *Plan) Region(name ec2.Region) (Region, bool) {
	for _, r := range p.Regions {
		if r.Name == name {
			return r, true
		}
	}
	k, ok := Named(name)
	if !p.Every || !ok {
		return Region{}, false
	}
	r := Region{Name: name}
	for _, zone := range k.Zones {
		r.Zones = append(r.Zones, Zone{Name: zone})
	}
	return r, true
}

// Names returns the names of the regions of the Plan, sorted.
func (p *Plan) Names() []ec2.Region {
	var names []ec2.Region
	for _, r := range p.Regions {
		names = append(names, r.Name)
	}
	if p.Every {
		for _, k := range known {
			names = append(names, k.name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// With returns the Plan with a region added or replaced.
func (p Plan) With(r Region) Plan {
	p = p.Without(r.Name)
	p.Regions = append(p.Regions, r)
	slices.SortFunc(p.Regions, func(a, b Region) int { return cmp.Compare(a.Name, b.Name) })
	return p
}

// Without returns the Plan without what an operator has set for a region.
func (p Plan) Without(name ec2.Region) Plan {
	p.Regions = slices.DeleteFunc(slices.Clone(p.Regions), func(r Region) bool { return r.Name == name })
	if len(p.Regions) == 0 {
		p.Regions = nil // as it is after a snapshot
	}
	return p
}

// Zones returns the zones of a region, by name, each with the members that carry it. A zone whose
// nodes are all lost has none.
func (p *Plan) Zones(name ec2.Region, nodes iter.Seq[*ec2.Node]) []Zone {
	if r, ok := p.Region(name); ok {
		return r.carried(nodes)
	}
	return labelled(name, nodes)
}

// labelled returns the zones that nodes are labelled with. If the label of no node begins with the
// region, all nodes serve the region.
func labelled(name ec2.Region, nodes iter.Seq[*ec2.Node]) []Zone {
	own := false
	for n := range nodes {
		own = own || n.Serves(name)
	}
	members := map[string][]ec2.NodeID{}
	for n := range nodes {
		switch {
		case own && !n.Serves(name):
		case n.Member():
			members[n.Zone] = append(members[n.Zone], n.ID)
		case members[n.Zone] == nil:
			members[n.Zone] = []ec2.NodeID{}
		}
	}
	var zones []Zone
	for zone, carry := range members {
		zones = append(zones, Zone{zone, carry})
	}
	slices.SortFunc(zones, func(a, b Zone) int { return cmp.Compare(a.Name, b.Name) })
	return zones
}

// carried returns the zones of r with the members that carry each.
//
// A zone that names no nodes is carried by the nodes with its label. Zones without such a node share
// all nodes of r, ordered by label and name: if there are as many nodes as zones or more, node number
// j carries zone number j modulo the number of zones; else zone number k is carried by node number k
// modulo the number of nodes. So every zone can have instances while one node is left.
func (r *Region) carried(nodes iter.Seq[*ec2.Node]) []Zone {
	var members, pool []*ec2.Node
	for n := range nodes {
		if !n.Member() {
			continue
		}
		members = append(members, n)
		if len(r.Nodes) == 0 || slices.Contains(r.Nodes, n.ID) {
			pool = append(pool, n)
		}
	}
	slices.SortFunc(pool, func(a, b *ec2.Node) int { return cmp.Or(cmp.Compare(a.Zone, b.Zone), cmp.Compare(a.ID, b.ID)) })
	zones := make([]Zone, len(r.Zones))
	for k, z := range r.Zones {
		zones[k].Name = z.Name
		from, carries := pool, func(_ int, n *ec2.Node) bool { return n.Zone == z.Name }
		switch {
		case len(z.Nodes) > 0:
			from, carries = members, func(_ int, n *ec2.Node) bool { return slices.Contains(z.Nodes, n.ID) }
		case slices.ContainsFunc(pool, func(n *ec2.Node) bool { return n.Zone == z.Name }):
		case len(pool) >= len(r.Zones):
			carries = func(j int, _ *ec2.Node) bool { return j%len(r.Zones) == k }
		default:
			carries = func(j int, _ *ec2.Node) bool { return j == k%len(pool) }
		}
		for j, n := range from {
			if carries(j, n) {
				zones[k].Nodes = append(zones[k].Nodes, n.ID)
			}
		}
	}
	return zones
}
