//go:build soak

package scenarios

import (
	"fmt"
	"net/url"
	"sync"
)

// A soakNetwork is a VPC for the groups and instances of a test, with a subnet in the zone of each node.
// It maps the names of groups to their ids. Many goroutines may use it. A nil soakNetwork means
// EC2-Classic.
type soakNetwork struct {
	vpc     string
	subnets map[string]string // by zone; not changed after vpc

	mu  sync.Mutex        // guards ids
	ids map[string]string // of groups, by name
}

// vpc makes a VPC, lets api use it and returns it.
func (l *soakLab) vpc(api *soakAPI) *soakNetwork {
	l.t.Helper()
	return l.vpcAt(api, 0)
}

// vpcAt is vpc with the second number of the VPC's addresses.
func (l *soakLab) vpcAt(api *soakAPI, second int) *soakNetwork {
	l.t.Helper()
	var made struct {
		VPC    string `xml:"vpc>vpcId"`
		Subnet string `xml:"subnet>subnetId"`
	}
	if _, err := api.call("CreateVpc", url.Values{"CidrBlock": {fmt.Sprintf("10.%d.0.0/16", second)}}, &made); err != nil {
		l.t.Fatal(err)
	}
	n := &soakNetwork{vpc: made.VPC, subnets: map[string]string{}, ids: map[string]string{}}
	for i, node := range l.nodes {
		zone := l.zone(node.Name)
		params := url.Values{"VpcId": {n.vpc}, "AvailabilityZone": {zone}, "CidrBlock": {fmt.Sprintf("10.%d.%d.0/24", second, i)}}
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

// classic has the signature of vpc, but leaves api in EC2-Classic and returns nil.
func (l *soakLab) classic(*soakAPI) *soakNetwork { return nil }

// learn stores the id of a new group.
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
