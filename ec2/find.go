package ec2

import (
	"fmt"
	"strings"

	"github.com/hashicorp/go-memdb"
)

// What a request names is looked for among its caller's own, with EC2's error for what is
// not there: by a tx to change it, by a View to show it.

// A home is where a row belongs.
type home struct {
	account AccountID
	region  Region
}

// homeOf finds the home of a row of a table that users' resources are in.
func homeOf(row any) home {
	switch x := row.(type) {
	case *VPC:
		return home{x.Account, x.Region}
	case *Subnet:
		return home{x.Account, x.Region}
	case *RouteTable:
		return home{x.Account, x.Region}
	case *InternetGateway:
		return home{x.Account, x.Region}
	case *ElasticAddress:
		return home{x.Account, x.Region}
	case *Group:
		return home{x.Account, x.Region}
	case *Instance:
		return home{x.Account, x.Region}
	case *Interface:
		return home{x.Account, x.Region}
	}
	panic(fmt.Sprintf("ec2: a %T has no account and region", row))
}

// A resource of a kind is in a table; a request names one by a parameter, with an id that
// begins with the prefix.
type resource struct{ table, parameter, prefix string }

var (
	ofVPC        = resource{tableVPC, "vpcId", "vpc"}
	ofSubnet     = resource{tableSubnet, "subnetId", "subnet"}
	ofRouteTable = resource{tableRoutes, "routeTableId", "rtb"}
	ofGateway    = resource{tableGateway, "internetGatewayId", "igw"}
	ofElastic    = resource{tableElastic, "allocationId", "eipalloc"}
)

func find[T any, ID ~string](txn *memdb.Txn, of resource, at home, id ID) (*T, error) {
	if id == "" {
		return nil, Missing(of.parameter)
	}
	row := rowOf[T](txn, of.table, at, id)
	if row == nil {
		return nil, NoSuch(of.prefix, id)
	}
	return row, nil
}

// rowOf is the row with an id if it belongs there, or nil.
func rowOf[T any, ID ~string](txn *memdb.Txn, table string, at home, id ID) *T {
	row := first[T](txn, table, indexID, key(id))
	if row == nil || homeOf(row) != at {
		return nil
	}
	return row
}

func (t *tx) vpc(account AccountID, region Region, id VPCID) (*VPC, error) {
	return find[VPC](t.Txn, ofVPC, home{account, region}, id)
}

func (t *tx) subnetOf(account AccountID, region Region, id SubnetID) (*Subnet, error) {
	return find[Subnet](t.Txn, ofSubnet, home{account, region}, id)
}

func (t *tx) routeTable(account AccountID, region Region, id RouteTableID) (*RouteTable, error) {
	return find[RouteTable](t.Txn, ofRouteTable, home{account, region}, id)
}

func (t *tx) gateway(account AccountID, region Region, id GatewayID) (*InternetGateway, error) {
	return find[InternetGateway](t.Txn, ofGateway, home{account, region}, id)
}

func (t *tx) elastic(account AccountID, region Region, id AllocationID) (*ElasticAddress, error) {
	return find[ElasticAddress](t.Txn, ofElastic, home{account, region}, id)
}

// FindVPC finds a VPC of an account, with the error that a request about it has.
func (v *View) FindVPC(account AccountID, region Region, id VPCID) (*VPC, error) {
	return find[VPC](v.txn(), ofVPC, home{account, region}, id)
}

// FindSubnet finds a subnet of an account, with the error that a request about it has.
func (v *View) FindSubnet(account AccountID, region Region, id SubnetID) (*Subnet, error) {
	return find[Subnet](v.txn(), ofSubnet, home{account, region}, id)
}

// FindRouteTable finds a route table of an account, with the error that a request about it
// has.
func (v *View) FindRouteTable(account AccountID, region Region, id RouteTableID) (*RouteTable, error) {
	return find[RouteTable](v.txn(), ofRouteTable, home{account, region}, id)
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
		return nil, Missing("networkInterfaceId")
	}
	if err := CheckInterfaceID(id); err != nil {
		return nil, err
	}
	eni := rowOf[Interface](txn, tableInterface, home{account, region}, id)
	if eni == nil || eni.VPC == "" {
		return nil, NoSuch("eni", id)
	}
	return eni, nil
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
		return nil, Missing("instanceId")
	}
	found, err := findInstances(txn, account, region, []InstanceID{id})
	if err != nil {
		return nil, err
	}
	return found[0], nil
}

func (t *tx) instances(account AccountID, region Region, ids []InstanceID) ([]*Instance, error) {
	if len(ids) == 0 {
		return nil, Missing("instancesSet")
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
		if err := CheckInstanceID(id); err != nil {
			return nil, err
		}
		if seen[id] {
			continue
		}
		seen[id] = true
		i := rowOf[Instance](txn, tableInstance, home{account, region}, id)
		if i == nil {
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
	return nil, Errorf("InvalidInstanceID.NotFound", "The instance IDs '%s' do not exist", Clip(strings.Join(missing, ", ")))
}
