package region

import (
	"slices"
	"testing"

	"palisade/ec2"
)

func TestZonesHaveIDs(t *testing.T) {
	for _, c := range []struct{ zone, want string }{
		{"us-east-1a", "use1-az1"},
		{"us-east-1f", "use1-az6"},
		{"eu-west-1b", "euw1-az2"},
		{"eu-west-3c", "euw3-az3"},
		{"eu-central-1c", "euc1-az3"},
		{"eu-north-1a", "eun1-az1"},
		{"ap-southeast-2b", "apse2-az2"},
		{"ap-northeast-1a", "apne1-az4"},
		{"ap-northeast-1c", "apne1-az1"},
		{"ap-northeast-1d", "apne1-az2"},
		{"us-west-1b", "usw1-az3"},
		{"us-west-1c", "usw1-az1"},
		{"me-south-1a", "mes1-az1"},
		{"me-central-1a", "mec1-az1"},
		{"mx-central-1b", "mxc1-az2"},
		{"il-central-1a", "ilc1-az1"},
		{"af-south-1c", "afs1-az3"},
		{"sa-east-1a", "sae1-az1"},
		{"us-gov-west-1a", "usgw1-az1"},
		{"cn-northwest-1a", "cnnw1-az1"},
		{"ca-central-1d", "cac1-az4"},
		{"rack-7", "rack-7"},
		{"", ""},
	} {
		if got := ZoneID(c.zone); got != c.want {
			t.Errorf("zone %s has the id %s, want %s", c.zone, got, c.want)
		}
	}
}

func TestEveryRegionOfAWSHasZonesWithDistinctIDs(t *testing.T) {
	ids := map[string]string{}
	for _, r := range All() {
		if len(r.Zones) < 2 || !slices.IsSorted(r.Zones) {
			t.Errorf("region %s has the zones %v, want two or more, sorted", r.Name, r.Zones)
		}
		for _, zone := range r.Zones {
			if id := ZoneID(zone); ids[id] != "" || id == zone {
				t.Errorf("zone %s has the id %s, which %q has already", zone, id, ids[id])
			} else {
				ids[id] = zone
			}
		}
	}
	if len(All()) != 34 {
		t.Errorf("there are %d regions, want the 34 of the endpoints list", len(All()))
	}
	if r, ok := Named("us-west-1"); !ok || len(r.Zones) != 2 || r.OptIn {
		t.Errorf("us-west-1 is %+v, want two zones without opt-in", r)
	}
	if r, ok := Named("me-south-1"); !ok || !r.OptIn {
		t.Errorf("me-south-1 is %+v, want a region with opt-in", r)
	}
	if r, ok := Named("moon-1"); ok {
		t.Errorf("there is a region %+v", r)
	}
}

// nodes makes nodes from their names and labels, in this order.
func nodes(nameAndZone ...string) []*ec2.Node {
	var all []*ec2.Node
	for i := 0; i < len(nameAndZone); i += 2 {
		all = append(all, &ec2.Node{ID: ec2.NodeID(nameAndZone[i]), Zone: nameAndZone[i+1]})
	}
	return all
}

func fenced(all []*ec2.Node, name ec2.NodeID) []*ec2.Node {
	for _, n := range all {
		if n.ID == name {
			n.State = ec2.Fenced
		}
	}
	return all
}

func TestZonesAreCarriedByNodes(t *testing.T) {
	three := func() []*ec2.Node { return nodes("node1", "us-east-1a", "node2", "us-east-1b", "node3", "us-east-1c") }
	every := Plan{Every: true}
	set := Plan{Regions: []Region{{Name: "eu-west-1", Nodes: []ec2.NodeID{"node2", "node3"},
		Zones: []Zone{{Name: "eu-west-1a"}, {Name: "eu-west-1b"}, {Name: "eu-west-1c", Nodes: []ec2.NodeID{"node1"}}}}}}
	for _, c := range []struct {
		what   string
		plan   Plan
		region ec2.Region
		nodes  []*ec2.Node
		want   string
	}{
		{"no plan", Plan{}, "us-east-1", three(), "us-east-1a node1, us-east-1b node2, us-east-1c node3"},
		{"no plan, no label of the region", Plan{}, "eu-west-1", three(), "us-east-1a node1, us-east-1b node2, us-east-1c node3"},
		{"no plan, fenced node", Plan{}, "us-east-1", fenced(three(), "node2"), "us-east-1a node1, us-east-1b, us-east-1c node3"},
		{"no plan, two regions", Plan{}, "eu-west-1", append(three(), nodes("node4", "eu-west-1b")...), "eu-west-1b node4"},
		{"every region, the labels hold", every, "us-east-1", three(), "us-east-1a node1, us-east-1b node2, us-east-1c node3, us-east-1d node1, us-east-1e node2, us-east-1f node3"},
		{"every region, as many nodes as zones", every, "eu-west-1", three(), "eu-west-1a node1, eu-west-1b node2, eu-west-1c node3"},
		{"every region, more nodes than zones", every, "us-west-1", three(), "us-west-1b node1 node3, us-west-1c node2"},
		{"every region, one node", every, "ap-northeast-1", nodes("node1", "us-east-1a"), "ap-northeast-1a node1, ap-northeast-1c node1, ap-northeast-1d node1"},
		{"every region, the node with the label is lost", every, "us-east-1", fenced(three(), "node2"), "us-east-1a node1, us-east-1b node3, us-east-1c node3, us-east-1d node3, us-east-1e node1, us-east-1f node3"},
		{"every region, no node is left", every, "us-west-1", fenced(nodes("node1", "us-east-1a"), "node1"), "us-west-1b, us-west-1c"},
		{"not a region of AWS", every, "home-1", nodes("node1", "home-1x"), "home-1x node1"},
		{"set region", set, "eu-west-1", three(), "eu-west-1a node2, eu-west-1b node3, eu-west-1c node1"},
		{"set region, node lost", set, "eu-west-1", fenced(three(), "node2"), "eu-west-1a node3, eu-west-1b node3, eu-west-1c node1"},
		{"set region, only node of a zone lost", set, "eu-west-1", fenced(three(), "node1"), "eu-west-1a node2, eu-west-1b node3, eu-west-1c"},
		{"another region is set", set, "us-east-1", three(), "us-east-1a node1, us-east-1b node2, us-east-1c node3"},
	} {
		got := ""
		for _, z := range c.plan.Zones(c.region, slices.Values(c.nodes)) {
			if got != "" {
				got += ", "
			}
			got += z.Name
			for _, n := range z.Nodes {
				got += " " + string(n)
			}
		}
		if got != c.want {
			t.Errorf("%s: the zones of %s are %s, want %s", c.what, c.region, got, c.want)
		}
	}
}

func TestRegionThatCannotBeSetIsRefused(t *testing.T) {
	for _, c := range []struct {
		name  ec2.Region
		zones []string
		ok    bool
	}{
		{"eu-west-1", []string{"eu-west-1a", "eu-west-1c"}, true},
		{"home-1", []string{"home-1z"}, true},
		{"eu-west-1", nil, false},
		{"eu-west-1", []string{"eu-west-2a"}, false},
		{"eu-west-1", []string{"eu-west-1a", "eu-west-1a"}, false},
		{"eu-west-1", []string{"eu-west-1ab"}, false},
		{"eu-west-1", []string{"eu-west-1"}, false},
		{"eu-west-1", []string{"eu-west-1A"}, false},
		{"eu-west", []string{"eu-westa"}, false},
		{"EU-1", []string{"EU-1a"}, false},
		{"", []string{"a"}, false},
	} {
		r := Region{Name: c.name}
		for _, z := range c.zones {
			r.Zones = append(r.Zones, Zone{Name: z})
		}
		if err := r.Check(); (err == nil) != c.ok {
			t.Errorf("region %q with zones %q: got %v, want it accepted: %t", c.name, c.zones, err, c.ok)
		}
	}
}
