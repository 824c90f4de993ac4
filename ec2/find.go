package ec2

import (
	"regexp"
	"strings"

	"github.com/hashicorp/go-memdb"
)

// What a request names is looked for among its caller's own, with EC2's error for what is
// not there: by a tx to change it, by a View to show it.

func (t *tx) vpc(account AccountID, region Region, id VPCID) (*VPC, error) {
	return findVPC(t.Txn, account, region, id)
}

// FindVPC finds a VPC of an account, with the error that a request about it has.
func (v *View) FindVPC(account AccountID, region Region, id VPCID) (*VPC, error) {
	return findVPC(v.txn(), account, region, id)
}

func findVPC(txn *memdb.Txn, account AccountID, region Region, id VPCID) (*VPC, error) {
	if id == "" {
		return nil, Errorf("MissingParameter", "The request must contain the parameter vpcId")
	}
	vpc := first[VPC](txn, tableVPC, indexID, key(id))
	if vpc == nil || vpc.Account != account || vpc.Region != region {
		return nil, NoSuch("vpc", id)
	}
	return vpc, nil
}

func (t *tx) subnetOf(account AccountID, region Region, id SubnetID) (*Subnet, error) {
	return findSubnet(t.Txn, account, region, id)
}

// FindSubnet finds a subnet of an account, with the error that a request about it has.
func (v *View) FindSubnet(account AccountID, region Region, id SubnetID) (*Subnet, error) {
	return findSubnet(v.txn(), account, region, id)
}

func findSubnet(txn *memdb.Txn, account AccountID, region Region, id SubnetID) (*Subnet, error) {
	if id == "" {
		return nil, Errorf("MissingParameter", "The request must contain the parameter subnetId")
	}
	s := first[Subnet](txn, tableSubnet, indexID, key(id))
	if s == nil || s.Account != account || s.Region != region {
		return nil, NoSuch("subnet", id)
	}
	return s, nil
}

func (t *tx) routeTable(account AccountID, region Region, id RouteTableID) (*RouteTable, error) {
	return findRouteTable(t.Txn, account, region, id)
}

// FindRouteTable finds a route table of an account, with the error that a request about it
// has.
func (v *View) FindRouteTable(account AccountID, region Region, id RouteTableID) (*RouteTable, error) {
	return findRouteTable(v.txn(), account, region, id)
}

func findRouteTable(txn *memdb.Txn, account AccountID, region Region, id RouteTableID) (*RouteTable, error) {
	if id == "" {
		return nil, Errorf("MissingParameter", "The request must contain the parameter routeTableId")
	}
	rt := first[RouteTable](txn, tableRoutes, indexID, key(id))
	if rt == nil || rt.Account != account || rt.Region != region {
		return nil, NoSuch("rtb", id)
	}
	return rt, nil
}

func (t *tx) interfaceOf(account AccountID, region Region, id InterfaceID) (*Interface, error) {
	return findInterface(t.Txn, account, region, id)
}

// FindInterface finds an interface of a VPC of an account, with the error that a request
// about it has.
func (v *View) FindInterface(account AccountID, region Region, id InterfaceID) (*Interface, error) {
	return findInterface(v.txn(), account, region, id)
}

func findInterface(txn *memdb.Txn, account AccountID, region Region, id InterfaceID) (*Interface, error) {
	if id == "" {
		return nil, Errorf("MissingParameter", "The request must contain the parameter networkInterfaceId")
	}
	if err := CheckInterfaceID(id); err != nil {
		return nil, err
	}
	eni := first[Interface](txn, tableInterface, indexID, key(id))
	if eni == nil || eni.VPC == "" || eni.Account != account || eni.Region != region {
		return nil, NoSuch("eni", id)
	}
	return eni, nil
}

var interfaceID = regexp.MustCompile(`^eni-[0-9a-f]{1,17}$`)

// CheckInterfaceID returns the error for text that is not shaped like an interface's id.
func CheckInterfaceID(id InterfaceID) error {
	if !interfaceID.MatchString(string(id)) {
		return Errorf("InvalidNetworkInterfaceId.Malformed", `Invalid id: "%s" (expecting "eni-...")`, clip(string(id)))
	}
	return nil
}

func (t *tx) instance(account AccountID, region Region, id InstanceID) (*Instance, error) {
	return findInstance(t.Txn, account, region, id)
}

// FindInstance finds an instance of an account, with the error that a request about it has.
func (v *View) FindInstance(account AccountID, region Region, id InstanceID) (*Instance, error) {
	return findInstance(v.txn(), account, region, id)
}

func findInstance(txn *memdb.Txn, account AccountID, region Region, id InstanceID) (*Instance, error) {
	if id == "" {
		return nil, Errorf("MissingParameter", "The request must contain the parameter instanceId")
	}
	found, err := findInstances(txn, account, region, []InstanceID{id})
	if err != nil {
		return nil, err
	}
	return found[0], nil
}

func (t *tx) instances(account AccountID, region Region, ids []InstanceID) ([]*Instance, error) {
	if len(ids) == 0 {
		return nil, Errorf("MissingParameter", "The request must contain the parameter instancesSet")
	}
	return findInstances(t.Txn, account, region, ids)
}

// FindInstances finds instances of an account, each once and in the order in which they
// are named, with the error that a request about them has.
func (v *View) FindInstances(account AccountID, region Region, ids []InstanceID) ([]*Instance, error) {
	return findInstances(v.txn(), account, region, ids)
}

func findInstances(txn *memdb.Txn, account AccountID, region Region, ids []InstanceID) ([]*Instance, error) {
	var found []*Instance
	var missing []string
	seen := make(map[InstanceID]bool)
	for _, id := range ids {
		if !instanceID.MatchString(string(id)) {
			return nil, Errorf("InvalidInstanceID.Malformed", `Invalid id: "%s" (expecting "i-...")`, clip(string(id)))
		}
		if seen[id] {
			continue
		}
		seen[id] = true
		i := first[Instance](txn, tableInstance, indexID, key(id))
		if i == nil || i.Account != account || i.Region != region {
			missing = append(missing, string(id))
			continue
		}
		found = append(found, i)
	}
	switch len(missing) {
	case 0:
		return found, nil
	case 1:
		return nil, Errorf("InvalidInstanceID.NotFound", "The instance ID '%s' does not exist", missing[0])
	}
	return nil, Errorf("InvalidInstanceID.NotFound", "The instance IDs '%s' do not exist", clip(strings.Join(missing, ", ")))
}

var instanceID = regexp.MustCompile(`^i-[0-9a-f]{1,17}$`)
