package lab

import (
	"fmt"
	"slices"
	"testing"
)

func TestStatusListsEachInstanceOnceFromBestAnswer(t *testing.T) {
	l := &Lab{Name: "labtest", Nodes: []string{"node1", "node2", "node3"}}
	on := func(node, id, state string) InstanceStatus { return InstanceStatus{ID: id, Node: node, State: state} }
	for _, tt := range []struct {
		name    string
		answers []*nodeAnswer
		want    string
	}{
		{"no node answers", []*nodeAnswer{nil, nil, nil}, "[]"},
		{"its own node answers", []*nodeAnswer{
			{Index: 9, Instances: []InstanceStatus{on("node2", "i-1", "pending")}},
			{Index: 8, Instances: []InstanceStatus{on("node2", "i-1", "running")}},
			nil,
		}, "[i-1 node2 running]"},
		{"its node is down", []*nodeAnswer{
			{Index: 8, Instances: []InstanceStatus{on("node3", "i-1", "pending"), on("node3", "i-2", "running")}},
			{Index: 9, Instances: []InstanceStatus{on("node3", "i-1", "running")}},
			nil,
		}, "[i-1 node3 running]"},
		{"its node does not know it yet", []*nodeAnswer{
			{Index: 9, Instances: []InstanceStatus{on("node2", "i-1", "pending")}}, {Index: 8}, {Index: 9},
		}, "[i-1 node2 pending]"},
		{"a fenced node still lists it", []*nodeAnswer{
			{Index: 9, Instances: []InstanceStatus{on("node1", "i-1", "running")}}, nil,
			{Index: 5, Instances: []InstanceStatus{on("node3", "i-1", "running")}},
		}, "[i-1 node1 running]"},
	} {
		var got []string
		for _, in := range l.instances(tt.answers) {
			got = append(got, in.ID+" "+in.Node+" "+in.State)
		}
		if text := fmt.Sprint(got); text != tt.want {
			t.Errorf("%s: the status lists %s, want %s", tt.name, text, tt.want)
		}
		if !slices.IsSorted(got) {
			t.Errorf("%s: the instances are not sorted: %v", tt.name, got)
		}
	}
}
