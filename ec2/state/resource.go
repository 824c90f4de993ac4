package state

import (
	"fmt"
	"strings"

	"github.com/hashicorp/go-memdb"

	"palisade/ec2"
)

// The functions in this file find the resources that a request names. They return EC2's error for
// an id that the caller does not own. The methods of tx are for requests, the methods of View for
// the API.

// An owner is the account and the region that a resource belongs to.
type owner struct {
	account ec2.AccountID
	region  ec2.Region
}

// ownerOf returns the owner of a row of a user's resource.
func ownerOf(row any) owner {
	switch x := row.(type) {
	case *ec2.VPC:
		return owner{x.Account, x.Region}
	case *ec2.Subnet:
		return owner{x.Account, x.Region}
	case *ec2.RouteTable:
		return owner{x.Account, x.Region}
	case *ec2.InternetGateway:
		return owner{x.Account, x.Region}
	case *ec2.NATGateway:
		return owner{x.Account, x.Region}
	case *ec2.ElasticAddress:
		return owner{x.Account, x.Region}
	case *ec2.NetworkACL:
		return owner{x.Account, x.Region}
	case *ec2.LaunchTemplate:
		return owner{x.Account, x.Region}
	case *ec2.PlacementGroup:
		return owner{x.Account, x.Region}
	case *ec2.DHCPOptions:
		return owner{x.Account, x.Region}
	case *ec2.PrefixList:
		return owner{x.Account, x.Region}
	case *ec2.Group:
		return owner{x.Account, x.Region}
	case *ec2.Instance:
		return owner{x.Account, x.Region}
	case *ec2.Interface:
		return owner{x.Account, x.Region}
	case *ec2.Volume:
		return owner{x.Account, x.Region}
	}
	panic(fmt.Sprintf("state: a %T has no owner", row))
}

// A resource describes one kind of resource: its table, the parameter by which requests name it,
// and the prefix of its ids.
type resource struct{ table, parameter, prefix string }

var (
	ofVPC        = resource{tableVPC, "vpcId", "vpc"}
	ofSubnet     = resource{tableSubnet, "subnetId", "subnet"}
	ofRouteTable = resource{tableRoutes, "routeTableId", "rtb"}
	ofGateway    = resource{tableGateway, "internetGatewayId", "igw"}
	ofNAT        = resource{tableNAT, "natGatewayId", "nat"}
	ofDHCP       = resource{tableDHCP, "dhcpOptionsId", "dopt"}
	ofPrefixList = resource{tablePrefixList, "prefixListId", "pl"}
	ofVolume     = resource{tableVolume, "volumeId", "vol"}
	ofElastic    = resource{tableElastic, "allocationId", "eipalloc"}
)

func find[T any, ID ~string](txn *memdb.Txn, of resource, by owner, id ID) (*T, error) {
	if id == "" {
		return nil, ec2.Missing(of.parameter)
	}
	row := ownedRow[T](txn, of.table, by, id)
	if row == nil {
		return nil, ec2.NoSuch(of.prefix, id)
	}
	return row, nil
}

// ownedRow returns the row with an id if the row belongs to the owner, else nil.
func ownedRow[T any, ID ~string](txn *memdb.Txn, table string, by owner, id ID) *T {
	row := first[T](txn, table, indexID, key(id))
	if row == nil || ownerOf(row) != by {
		return nil
	}
	return row
}

func (t *tx) vpc(account ec2.AccountID, region ec2.Region, id ec2.VPCID) (*ec2.VPC, error) {
	return find[ec2.VPC](t.Txn, ofVPC, owner{account, region}, id)
}

func (t *tx) subnetOf(account ec2.AccountID, region ec2.Region, id ec2.SubnetID) (*ec2.Subnet, error) {
	return find[ec2.Subnet](t.Txn, ofSubnet, owner{account, region}, id)
}

func (t *tx) routeTable(account ec2.AccountID, region ec2.Region, id ec2.RouteTableID) (*ec2.RouteTable, error) {
	return find[ec2.RouteTable](t.Txn, ofRouteTable, owner{account, region}, id)
}

func (t *tx) gateway(account ec2.AccountID, region ec2.Region, id ec2.GatewayID) (*ec2.InternetGateway, error) {
	return find[ec2.InternetGateway](t.Txn, ofGateway, owner{account, region}, id)
}

func (t *tx) elastic(account ec2.AccountID, region ec2.Region, id ec2.AllocationID) (*ec2.ElasticAddress, error) {
	return find[ec2.ElasticAddress](t.Txn, ofElastic, owner{account, region}, id)
}

// FindVPC returns a VPC of an account, or EC2's error.
func (v *View) FindVPC(account ec2.AccountID, region ec2.Region, id ec2.VPCID) (*ec2.VPC, error) {
	return find[ec2.VPC](v.txn(), ofVPC, owner{account, region}, id)
}

// FindSubnet returns a subnet of an account, or EC2's error.
func (v *View) FindSubnet(account ec2.AccountID, region ec2.Region, id ec2.SubnetID) (*ec2.Subnet, error) {
	return find[ec2.Subnet](v.txn(), ofSubnet, owner{account, region}, id)
}

// FindRouteTable returns a route table of an account, or EC2's error.
func (v *View) FindRouteTable(account ec2.AccountID, region ec2.Region, id ec2.RouteTableID) (*ec2.RouteTable, error) {
	return find[ec2.RouteTable](v.txn(), ofRouteTable, owner{account, region}, id)
}

func (t *tx) interfaceOf(account ec2.AccountID, region ec2.Region, id ec2.InterfaceID) (*ec2.Interface, error) {
	return findInterface(t.Txn, account, region, id)
}

// FindInterface returns an interface in a VPC of an account, or EC2's error.
func (v *View) FindInterface(account ec2.AccountID, region ec2.Region, id ec2.InterfaceID) (*ec2.Interface, error) {
	return findInterface(v.txn(), account, region, id)
}

func findInterface(txn *memdb.Txn, account ec2.AccountID, region ec2.Region, id ec2.InterfaceID) (*ec2.Interface, error) {
	if id == "" {
		return nil, ec2.Missing("networkInterfaceId")
	}
	if err := ec2.CheckInterfaceID(id); err != nil {
		return nil, err
	}
	eni := ownedRow[ec2.Interface](txn, tableInterface, owner{account, region}, id)
	if eni == nil || eni.VPC == "" {
		return nil, ec2.NoSuch("eni", id)
	}
	return eni, nil
}

func (t *tx) instance(account ec2.AccountID, region ec2.Region, id ec2.InstanceID) (*ec2.Instance, error) {
	return findInstance(t.Txn, account, region, id)
}

// FindInstance returns an instance of an account, or EC2's error.
func (v *View) FindInstance(account ec2.AccountID, region ec2.Region, id ec2.InstanceID) (*ec2.Instance, error) {
	return findInstance(v.txn(), account, region, id)
}

func findInstance(txn *memdb.Txn, account ec2.AccountID, region ec2.Region, id ec2.InstanceID) (*ec2.Instance, error) {
	if id == "" {
		return nil, ec2.Missing("instanceId")
	}
	found, err := findInstances(txn, account, region, []ec2.InstanceID{id})
	if err != nil {
		return nil, err
	}
	return found[0], nil
}

func (t *tx) instances(account ec2.AccountID, region ec2.Region, ids []ec2.InstanceID) ([]*ec2.Instance, error) {
	if len(ids) == 0 {
		return nil, ec2.Missing("instancesSet")
	}
	return findInstances(t.Txn, account, region, ids)
}

// FindInstances returns instances of an account, each once, in the order of ids, or EC2's error
// if one of them does not exist.
func (v *View) FindInstances(account ec2.AccountID, region ec2.Region, ids []ec2.InstanceID) ([]*ec2.Instance, error) {
	return findInstances(v.txn(), account, region, ids)
}

func findInstances(txn *memdb.Txn, account ec2.AccountID, region ec2.Region, ids []ec2.InstanceID) ([]*ec2.Instance, error) {
	var found []*ec2.Instance
	var missing []string
	seen := make(map[ec2.InstanceID]bool)
	for _, id := range ids {
		if err := ec2.CheckInstanceID(id); err != nil {
			return nil, err
		}
		if seen[id] {
			continue
		}
		seen[id] = true
		i := ownedRow[ec2.Instance](txn, tableInstance, owner{account, region}, id)
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
		return nil, ec2.Errorf("InvalidInstanceID.NotFound", "The instance ID '%s' does not exist", missing[0])
	}
	return nil, ec2.Errorf("InvalidInstanceID.NotFound", "The instance IDs '%s' do not exist", ec2.Clip(strings.Join(missing, ", ")))
}
