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

	"palisade/ec2/region"
	"palisade/internal/lab"
	"palisade/internal/lab/labtest"
	"palisade/internal/netns"
	"palisade/internal/netns/netnstest"
)

// The tests TestSoak… are measurements. Each checks a bound, and logs its results in one line for
// docs/PERFORMANCE.md. They need a machine without other load; `make soak` runs them.
//
// A soakLab is a lab for a measurement. The test process itself calls the API (soak_api_test.go), and sends and
// receives packets in the namespaces of the instances (probe_test.go), so that one clock times everything.
type soakLab struct {
	*labtest.Lab
	t     *testing.T
	nodes []lab.NodeStatus // their status after `lab up`
}

// soakNodes returns the number of nodes for a lab: the value of PALISADE_SOAK_NODES, or 3.
func soakNodes(t *testing.T) int {
	t.Helper()
	text := os.Getenv("PALISADE_SOAK_NODES")
	if text == "" {
		return 3
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > region.MaxZones {
		t.Fatalf("PALISADE_SOAK_NODES=%s: must be a number from 1 to %d, because each node has a zone of its own", text, region.MaxZones)
	}
	return n
}

// newSoakLab brings a lab up and takes it down when t ends. Each test has a fixed name for its lab, so that a
// run of the test removes the lab that a killed run left.
func newSoakLab(t *testing.T, name string, options ...string) *soakLab {
	t.Helper()
	netnstest.NeedRoot(t)
	l := &soakLab{Lab: labtest.New(t, labtest.Build(t), name), t: t}
	l.Up(t, append([]string{"--nodes", fmt.Sprint(soakNodes(t))}, options...)...)
	l.nodes = l.Status(t).Nodes
	if set := []string{"cluster", "set", "--region", lab.Region}; len(l.nodes) > 6 { // than AWS has zones
		for _, n := range l.nodes {
			set = append(set, "--zone", strings.TrimPrefix(l.zone(n.Name), lab.Region)+"="+n.Name)
		}
		l.Do(t, set...)
	}
	return l
}

// leader waits until there is a leader and five nodes, or all if there are fewer, are voters. It returns the
// leader's name.
func (l *soakLab) leader() string {
	l.t.Helper()
	name := ""
	labtest.Eventually(l.t, "there is a leader, and all voters have joined", func() bool {
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

// others returns the names of all nodes except names.
func (l *soakLab) others(names ...string) []string {
	var others []string
	for _, n := range l.nodes {
		if !slices.Contains(names, n.Name) {
			others = append(others, n.Name)
		}
	}
	return others
}

// launchIn starts one instance of each group on each of nodes. When all run, it returns them, by group and
// node.
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
					l.t.Fatalf("instance %s is on %s, but its zone is that of %s", in.ID, in.Node, at[1])
				}
				placed[at[0]][at[1]] = in
				running++
			}
		}
		return running == len(ids)
	})
	return placed
}

// zone returns the availability zone of a node. Each node has its own.
func (l *soakLab) zone(node string) string {
	i := slices.IndexFunc(l.nodes, func(n lab.NodeStatus) bool { return n.Name == node })
	return lab.Region + string(rune('a'+i))
}

// webImage is an image that listens on port 80.
const webImage = "ami-fba54092"

// A soakInstance is an instance in the answer of RunInstances.
type soakInstance struct {
	ID      string `xml:"instanceId"`
	Private string `xml:"privateIpAddress"`
}

func (l *soakLab) run(api *soakAPI, group, zone string, count int) []soakInstance {
	l.t.Helper()
	list, err := tryRun(api, group, zone, count)
	if err != nil {
		l.t.Fatalf("run %d instances in group %s, zone %s: %v", count, group, zone, err)
	}
	return list
}

// tryRun starts count instances in a zone. In EC2-Classic the zone may be ""; then the cluster chooses the
// nodes.
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

// must runs a command in the namespace of a node, an instance or a host. If the command fails, so does the
// test.
func (l *soakLab) must(who string, argv ...string) {
	l.t.Helper()
	if out, err := l.On(who, argv...); err != nil {
		l.t.Fatalf("on %s, %s: %v\n%s", who, strings.Join(argv, " "), err, out)
	}
}

// inside runs fn in the network namespace of an instance. Sockets that fn makes stay in that namespace.
func (l *soakLab) inside(in lab.InstanceStatus, fn func() error) {
	l.t.Helper()
	if err := netns.Do(in.Namespace, fn); err != nil {
		l.t.Fatalf("in %s: %v", in.Namespace, err)
	}
}

// percentile returns the p-th percentile of list, or 0 if list is empty. It sorts list.
func percentile(list []time.Duration, p float64) time.Duration {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	i := int(p/100*float64(len(list))+0.999999) - 1
	return list[min(max(i, 0), len(list)-1)]
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d)/float64(time.Millisecond)) }
