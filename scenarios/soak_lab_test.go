//go:build soak

package scenarios

import (
	"fmt"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"palisade/internal/lab"
	"palisade/internal/lab/labtest"
	"palisade/internal/netns"
	"palisade/internal/netns/netnstest"
)

// The tests TestSoak… are measurements: each asserts a bound and logs, in one line, a row of
// docs/PERFORMANCE.md. They want a machine without other work; `make soak` runs them.
//
// A soakLab is a lab whose test calls the API itself (soak_api_test.go), without a process
// for each call, and sends and sees packets itself (probe_test.go), from the namespaces of
// the instances, so that one clock times all of it.
type soakLab struct {
	*labtest.Lab
	t     *testing.T
	nodes []lab.NodeStatus // as they were when the lab came up
}

// soakNodes is how many nodes the labs have: PALISADE_SOAK_NODES, 3 by default.
func soakNodes(t *testing.T) int {
	t.Helper()
	text := os.Getenv("PALISADE_SOAK_NODES")
	if text == "" {
		return 3
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("PALISADE_SOAK_NODES=%s is no number of nodes", text)
	}
	return n
}

// newSoakLab brings a lab up and takes it down when t ends. The name is the test's own and
// always the same, so that the next run clears what a killed one left.
func newSoakLab(t *testing.T, name string, options ...string) *soakLab {
	t.Helper()
	netnstest.NeedRoot(t)
	l := &soakLab{Lab: labtest.New(t, labtest.Build(t), name), t: t}
	l.Up(t, append([]string{"--nodes", fmt.Sprint(soakNodes(t))}, options...)...)
	l.nodes = l.Status(t).Nodes
	return l
}

// leader waits until a node leads and all of the first five vote, and returns who leads.
func (l *soakLab) leader() string {
	l.t.Helper()
	name := ""
	labtest.Eventually(l.t, "a node leads, and all vote that are to", func() bool {
		voters := 0
		for _, n := range l.Status(l.t).Nodes {
			if n.Role == "leader" {
				name = n.Name
			}
			if n.Role == "leader" || n.Role == "follower" {
				voters++
			}
		}
		return name != "" && voters == min(len(l.nodes), 5)
	})
	return name
}

// others are the nodes that are not named.
func (l *soakLab) others(names ...string) []string {
	var others []string
	for _, n := range l.nodes {
		if !slices.Contains(names, n.Name) {
			others = append(others, n.Name)
		}
	}
	return others
}

// launchIn starts one instance in each group on each of nodes, and returns them by group
// and node when they run.
func (l *soakLab) launchIn(api *soakAPI, nodes []string, groups ...string) map[string]map[string]lab.InstanceStatus {
	l.t.Helper()
	placed := map[string]map[string]lab.InstanceStatus{}
	ids := map[string][2]string{} // group, node
	for _, group := range groups {
		placed[group] = map[string]lab.InstanceStatus{}
		for _, node := range nodes {
			for _, in := range l.run(api, group, l.zone(node), 1) {
				ids[in.ID] = [2]string{group, node}
			}
		}
	}
	labtest.Eventually(l.t, "the instances run", func() bool {
		running := 0
		for _, in := range l.Status(l.t).Instances {
			if at, ok := ids[in.ID]; ok && in.State == "running" {
				if in.Node != at[1] {
					l.t.Fatalf("instance %s is on %s; its zone is %s's", in.ID, in.Node, at[1])
				}
				placed[at[0]][at[1]] = in
				running++
			}
		}
		return running == len(ids)
	})
	return placed
}

// zone is the availability zone of a node: each has its own.
func (l *soakLab) zone(node string) string {
	i := slices.IndexFunc(l.nodes, func(n lab.NodeStatus) bool { return n.Name == node })
	return lab.Region + string(rune('a'+i%26))
}

// webImage listens on 80.
const webImage = "ami-fba54092"

// A soakInstance is an instance as RunInstances answers.
type soakInstance struct {
	ID      string `xml:"instanceId"`
	Private string `xml:"privateIpAddress"`
}

func (l *soakLab) run(api *soakAPI, group, zone string, count int) []soakInstance {
	l.t.Helper()
	list, err := tryRun(api, group, zone, count)
	if err != nil {
		l.t.Fatalf("run %d in %s, zone %s: %v", count, group, zone, err)
	}
	return list
}

// tryRun starts instances; no zone leaves the place to the cluster, in EC2-Classic.
func tryRun(api *soakAPI, group, zone string, count int) ([]soakInstance, error) {
	params := url.Values{"ImageId": {webImage}, "MinCount": {fmt.Sprint(count)}, "MaxCount": {fmt.Sprint(count)}}
	if n := api.network; n != nil {
		params.Set("SubnetId", n.subnets[zone])
		params.Set("SecurityGroupId.1", n.id(group))
	} else {
		params.Set("SecurityGroup.1", group)
		if zone != "" {
			params.Set("Placement.AvailabilityZone", zone)
		}
	}
	var answer struct {
		Instances []soakInstance `xml:"instancesSet>item"`
	}
	_, err := api.call("RunInstances", params, &answer)
	return answer.Instances, err
}

// must runs a command in the namespace of a node, an instance or a host of the lab.
func (l *soakLab) must(who string, argv ...string) {
	l.t.Helper()
	if out, err := l.On(who, argv...); err != nil {
		l.t.Fatalf("on %s, %s: %v\n%s", who, strings.Join(argv, " "), err, out)
	}
}

// inside runs fn in the network of an instance; a socket made there stays there.
func (l *soakLab) inside(in lab.InstanceStatus, fn func() error) {
	l.t.Helper()
	if err := netns.Do(in.Namespace, fn); err != nil {
		l.t.Fatalf("in %s: %v", in.Namespace, err)
	}
}

// percentile returns the p-th percentile of list, which it sorts.
func percentile(list []time.Duration, p float64) time.Duration {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	i := int(p/100*float64(len(list))+0.999999) - 1
	return list[min(max(i, 0), len(list)-1)]
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d)/float64(time.Millisecond)) }
