package control

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"palisade/ec2"
	"palisade/ec2/region"
	"palisade/ec2/state"
)

// RegionStatus is one region in GET /v1/cluster/regions.
type RegionStatus struct {
	Region   ec2.Region   `json:"region"`
	Source   string       `json:"zones_from"` // what says which zones there are: "operator", "aws" or "labels" of the nodes
	Zones    []ZoneStatus `json:"zones"`
	Accounts int          `json:"accounts"` // that have used the region
}

// ZoneStatus is an availability zone, with the nodes that its instances can run on.
type ZoneStatus struct {
	Zone  string       `json:"zone"`
	ID    string       `json:"id"`
	Nodes []ec2.NodeID `json:"nodes"`
}

// regions lists the regions of the newest state that this node has.
func (s *Server) regions() []RegionStatus {
	all := []RegionStatus{}
	view := s.Cluster.View()
	plan := view.RegionPlan()
	for _, name := range view.Regions() {
		status := RegionStatus{Region: name, Source: "labels", Zones: []ZoneStatus{}}
		if _, ok := plan.Region(name); ok {
			status.Source = "aws"
		}
		if slices.ContainsFunc(plan.Regions, func(r region.Region) bool { return r.Name == name }) {
			status.Source = "operator"
		}
		for _, z := range view.Zones(name) {
			status.Zones = append(status.Zones, ZoneStatus{z.Name, region.ZoneID(z.Name), append([]ec2.NodeID{}, z.Nodes...)})
		}
		for a := range view.Accounts() {
			if view.RegionOpened(a.ID, name) {
				status.Accounts++
			}
		}
		all = append(all, status)
	}
	return all
}

// RegionsRequest is the body of POST /v1/cluster/regions. It has exactly one of Every, Region and
// Remove.
type RegionsRequest struct {
	Every *bool `json:"every,omitempty"` // whether every region of AWS is served

	Region ec2.Region    `json:"region,omitempty"` // is added, or replaced
	Zones  []ZoneRequest `json:"zones,omitempty"`  // of Region; none: those that AWS has
	Nodes  []ec2.NodeID  `json:"nodes,omitempty"`  // carry the zones that name no nodes; none: all nodes

	Remove ec2.Region `json:"remove,omitempty"`
}

// ZoneRequest is a zone of a RegionsRequest.
type ZoneRequest struct {
	Zone  string       `json:"zone"` // its letter or its name
	Nodes []ec2.NodeID `json:"nodes,omitempty"`
}

// RegionsChange is the answer to a RegionsRequest.
type RegionsChange struct {
	Index   uint64         `json:"index"` // of the change, in the log
	Regions []RegionStatus `json:"regions"`
}

func (s *Server) setRegions(ctx context.Context, r RegionsRequest) (any, error) {
	request := &state.SetRegions{Every: r.Every, Remove: r.Remove}
	parameters := map[string]string{}
	if r.Every != nil {
		parameters["Every"] = fmt.Sprint(*r.Every)
	}
	if r.Remove != "" {
		parameters["Remove"] = string(r.Remove)
	}
	if r.Region != "" {
		set, err := r.set()
		if err != nil {
			return nil, err
		}
		request.Set = set
		parameters["Region"], parameters["Nodes"] = string(r.Region), joined(set.Nodes)
		for _, z := range set.Zones {
			parameters["Zone "+z.Name] = joined(z.Nodes)
		}
	}
	_, index, err := s.Cluster.Apply(ctx, state.Command{Request: request, Audit: s.byOperator("SetRegions", parameters)})
	if err != nil {
		return nil, err
	}
	return RegionsChange{index, s.regions()}, nil
}

// set returns the region of a request, with its zones by name.
func (r *RegionsRequest) set() (*region.Region, error) {
	set := &region.Region{Name: r.Region, Nodes: r.Nodes}
	for _, z := range r.Zones {
		name := z.Zone
		if len(name) == 1 {
			name = string(r.Region) + name
		}
		set.Zones = append(set.Zones, region.Zone{Name: name, Nodes: z.Nodes})
	}
	slices.SortFunc(set.Zones, func(a, b region.Zone) int { return cmp.Compare(a.Name, b.Name) })
	known, ok := region.Named(r.Region)
	if len(set.Zones) == 0 && !ok {
		return nil, fmt.Errorf("%q is no region of AWS, so its zones must be named, such as --zones a,b,c", ec2.Clip(string(r.Region)))
	}
	if len(set.Zones) == 0 {
		for _, zone := range known.Zones {
			set.Zones = append(set.Zones, region.Zone{Name: zone})
		}
	}
	return set, set.Check()
}

// joined returns the names of nodes for an audit record; "any" for none.
func joined(nodes []ec2.NodeID) string {
	var names []string
	for _, n := range nodes {
		names = append(names, string(n))
	}
	return cmp.Or(strings.Join(names, ","), "any")
}
