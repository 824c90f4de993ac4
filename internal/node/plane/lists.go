package plane

import (
	"palisade/ec2"
	"palisade/ec2/state"
	vswitch "palisade/switch"
)

// setLists gives the switch new prefix lists and changed entries. Apply calls it before it compiles rules,
// which may name a new list. No table is compiled for an entry.
func (p *Plane) setLists(edit *vswitch.Edit, changes []state.Change[ec2.PrefixList], generation uint64) {
	for _, c := range changes {
		if c.After != nil {
			p.compiler.SetList(c.After, generation)
		}
	}
	if len(changes) > 0 {
		edit.Lists(p.compiler.Lists())
	}
}

// removeLists removes deleted prefix lists. Apply calls it after it has compiled the rules that do not name
// them any more.
func (p *Plane) removeLists(edit *vswitch.Edit, changes []state.Change[ec2.PrefixList], generation uint64) {
	for _, c := range changes {
		if c.After == nil {
			p.compiler.RemoveList(c.Before.ID, generation)
			edit.Lists(p.compiler.Lists())
		}
	}
}

// listedRoutes returns a route for each entry of the prefix lists of a table. They follow the routes for single
// blocks, so among routes for the same block the entry of a list decides last, and of two lists the one with the
// smaller id first. An entry within the VPC's blocks leaves the local route in force (Amazon VPC User Guide,
// "Route priority").
func (p *Plane) listedRoutes(vpc *ec2.VPC, table *ec2.RouteTable) (routes []vswitch.Route) {
	for _, r := range table.Routes {
		if r.PrefixList == "" {
			continue
		}
		target := p.target(vpc, r)
		l, ok := p.view.PrefixList(r.PrefixList)
		if !ok {
			continue // a list of AWS, which is empty
		}
		for _, e := range l.Entries {
			if !vpc.Contains(e.CIDR) {
				routes = append(routes, vswitch.Route{Prefix: e.CIDR, Target: target})
			}
		}
	}
	return routes
}
