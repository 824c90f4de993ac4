//go:build soak

package scenarios

import (
	"fmt"
	"net/url"
	"sync"
)

// A soakNetwork is a VPC that groups and instances of a test are in, with a subnet for the
// zone of each node. Its groups are known by id there; here they keep their names. It may
// be used by many goroutines. None is EC2-Classic.
type soakNetwork struct {
	vpc     string
	subnets map[string]string // by zone; not changed once it is made

	mu  sync.Mutex
	ids map[string]string // of groups, by name
}

// vpc makes api one of a network of its own, and returns that network.
func (l *soakLab) vpc(api *soakAPI) *soakNetwork {
	l.t.Helper()
	var made struct {
		VPC    string `xml:"vpc>vpcId"`
		Subnet string `xml:"subnet>subnetId"`
	}
	if _, err := api.call("CreateVpc", url.Values{"CidrBlock": {"10.0.0.0/16"}}, &made); err != nil {
		l.t.Fatal(err)
	}
	n := &soakNetwork{vpc: made.VPC, subnets: map[string]string{}, ids: map[string]string{}}
	for i, node := range l.nodes {
		zone := l.zone(node.Name)
		params := url.Values{"VpcId": {n.vpc}, "AvailabilityZone": {zone}, "CidrBlock": {fmt.Sprintf("10.0.%d.0/24", i)}}
		if n.subnets[zone] != "" {
			continue
		}
		if _, err := api.call("CreateSubnet", params, &made); err != nil {
			l.t.Fatal(err)
		}
		n.subnets[zone] = made.Subnet
	}
	api.network = n
	return n
}

// classic leaves api in EC2-Classic, as vpc puts it elsewhere.
func (l *soakLab) classic(*soakAPI) *soakNetwork { return nil }

// learn keeps the id of a group that was made.
func (n *soakNetwork) learn(name, id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ids[name] = id
}

func (n *soakNetwork) id(group string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ids[group]
}
