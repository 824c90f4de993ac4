package state

import (
	"iter"
	"time"

	"github.com/hashicorp/go-memdb"

	"palisade/ec2"
)

// A View is the State after one command. It is immutable: any number of goroutines may read it, and
// no lock guards it. Callers must not change the rows that a View returns, because all Views share
// them.
type View struct {
	v       *version
	changes *Changes // nil: all rows are new
}

// View returns the newest View. In its Changes every row is new.
func (s *State) View() *View { return &View{v: s.current.Load()} }

// ViewSince returns the newest View. Its Changes are those since prev; a nil prev stands for the
// empty State.
func (s *State) ViewSince(prev *View) *View {
	v := &View{v: s.current.Load()}
	if prev != nil {
		v.changes = changesBetween(prev.v, v.v)
	}
	return v
}

// Index returns the log index of the last command in the View.
func (v *View) Index() uint64 { return v.v.meta.Index }

// Time returns the newest time stamp of all commands so far.
func (v *View) Time() time.Time { return v.v.meta.Time }

// Settings returns the limits and waiting times in force.
func (v *View) Settings() ec2.Settings { return v.v.meta.Settings.WithDefaults() }

// Changes returns what changed since the View that was given to ViewSince. A row that several
// commands changed is in the Changes once.
func (v *View) Changes() Changes {
	if v.changes == nil {
		return *allRowsAsNew(v.v)
	}
	return *v.changes
}

func (v *View) txn() *memdb.Txn { return v.v.db.Txn(false) }

// Try returns the error that a request would have now. It applies the request to a private copy
// and discards the copy.
func (v *View) Try(r Request) error { return v.TryCommand(Command{Request: r}) }

// TryCommand is Try for a command: also its time, caller and signature are checked.
func (v *View) TryCommand(cmd Command) error {
	t := newTx(v.v.db.Snapshot(), v.Index()+1)
	defer t.Abort()
	t.advance(cmd.Time)
	_, err := t.carryOut(cmd)
	return err
}

func get[T any](v *View, table, k string) (*T, bool) {
	row := first[T](v.txn(), table, indexID, k)
	return row, row != nil
}

func (v *View) Account(id ec2.AccountID) (*ec2.Account, bool) {
	return get[ec2.Account](v, tableAccount, key(id))
}
func (v *View) Accounts() iter.Seq[*ec2.Account] {
	return rows[ec2.Account](v.txn(), tableAccount, indexID, "")
}

// AccessKey returns an access key by its id.
func (v *View) AccessKey(id string) (*ec2.AccessKey, bool) {
	return get[ec2.AccessKey](v, tableAccessKey, key(id))
}

func (v *View) Network(vni ec2.VNI) (*ec2.Network, bool) {
	return get[ec2.Network](v, tableNetwork, vniKey(vni))
}
func (v *View) Networks() iter.Seq[*ec2.Network] {
	return rows[ec2.Network](v.txn(), tableNetwork, indexID, "")
}

// ClassicNetwork returns the EC2-Classic network of a region.
func (v *View) ClassicNetwork(region ec2.Region) (*ec2.Network, bool) {
	n := classicNetwork(v.txn(), region)
	return n, n != nil
}

// Node returns a node by its name. It may be fenced.
func (v *View) Node(id ec2.NodeID) (*ec2.Node, bool) { return get[ec2.Node](v, tableNode, key(id)) }

// Nodes yields the nodes by name, fenced ones included.
func (v *View) Nodes() iter.Seq[*ec2.Node] { return rows[ec2.Node](v.txn(), tableNode, indexID, "") }

// JoinTokens yields the join tokens that no sweep has deleted yet, by id.
func (v *View) JoinTokens() iter.Seq[*ec2.JoinToken] {
	return rows[ec2.JoinToken](v.txn(), tableJoinToken, indexID, "")
}

// GossipKey returns the key that the members encrypt their gossip with. The caller must not change
// its bytes.
func (v *View) GossipKey() []byte { return v.v.meta.GossipKey }

func (v *View) Group(id ec2.GroupID) (*ec2.Group, bool) {
	return get[ec2.Group](v, tableGroup, key(id))
}
func (v *View) Groups() iter.Seq[*ec2.Group] {
	return rows[ec2.Group](v.txn(), tableGroup, indexID, "")
}

// GroupsOf yields the groups of an account in a region, by VPC and name.
func (v *View) GroupsOf(account ec2.AccountID, region ec2.Region) iter.Seq[*ec2.Group] {
	return rows[ec2.Group](v.txn(), tableGroup, indexName, key(account)+key(region))
}

// GroupNamed returns a group of an account by its name. An empty vpc means EC2-Classic.
func (v *View) GroupNamed(account ec2.AccountID, region ec2.Region, vpc ec2.VPCID, name string) (*ec2.Group, bool) {
	g := first[ec2.Group](v.txn(), tableGroup, indexName, groupName(account, region, vpc, name))
	return g, g != nil
}

func (v *View) Instance(id ec2.InstanceID) (*ec2.Instance, bool) {
	return get[ec2.Instance](v, tableInstance, key(id))
}
func (v *View) Instances() iter.Seq[*ec2.Instance] {
	return rows[ec2.Instance](v.txn(), tableInstance, indexID, "")
}

// InstancesOf yields the instances of an account in a region, by id.
func (v *View) InstancesOf(account ec2.AccountID, region ec2.Region) iter.Seq[*ec2.Instance] {
	return rows[ec2.Instance](v.txn(), tableInstance, indexOwner, key(account)+key(region))
}

func (v *View) Interface(id ec2.InterfaceID) (*ec2.Interface, bool) {
	return get[ec2.Interface](v, tableInterface, key(id))
}
func (v *View) Interfaces() iter.Seq[*ec2.Interface] {
	return rows[ec2.Interface](v.txn(), tableInterface, indexID, "")
}

// InterfacesOf yields the interfaces of an account in a region, by id.
func (v *View) InterfacesOf(account ec2.AccountID, region ec2.Region) iter.Seq[*ec2.Interface] {
	return rows[ec2.Interface](v.txn(), tableInterface, indexOwner, key(account)+key(region))
}

// InterfacesAt yields the interfaces attached to an instance, by id.
func (v *View) InterfacesAt(id ec2.InstanceID) iter.Seq[*ec2.Interface] {
	return rows[ec2.Interface](v.txn(), tableInterface, indexHolder, key(id))
}

func (v *View) VPC(id ec2.VPCID) (*ec2.VPC, bool) { return get[ec2.VPC](v, tableVPC, key(id)) }

// VPCsOf yields the VPCs of an account in a region, by id.
func (v *View) VPCsOf(account ec2.AccountID, region ec2.Region) iter.Seq[*ec2.VPC] {
	return rows[ec2.VPC](v.txn(), tableVPC, indexOwner, key(account)+key(region))
}

func (v *View) Subnet(id ec2.SubnetID) (*ec2.Subnet, bool) {
	return get[ec2.Subnet](v, tableSubnet, key(id))
}

// SubnetsOf yields the subnets of an account in a region, by id.
func (v *View) SubnetsOf(account ec2.AccountID, region ec2.Region) iter.Seq[*ec2.Subnet] {
	return rows[ec2.Subnet](v.txn(), tableSubnet, indexOwner, key(account)+key(region))
}

// SubnetsIn yields the subnets of a VPC, by id.
func (v *View) SubnetsIn(vpc ec2.VPCID) iter.Seq[*ec2.Subnet] {
	return rows[ec2.Subnet](v.txn(), tableSubnet, indexVPC, key(vpc))
}

func (v *View) InternetGateway(id ec2.GatewayID) (*ec2.InternetGateway, bool) {
	return get[ec2.InternetGateway](v, tableGateway, key(id))
}

// InternetGatewaysOf yields the internet gateways of an account in a region, by id.
func (v *View) InternetGatewaysOf(account ec2.AccountID, region ec2.Region) iter.Seq[*ec2.InternetGateway] {
	return rows[ec2.InternetGateway](v.txn(), tableGateway, indexOwner, key(account)+key(region))
}

// LaunchTemplatesOf yields the launch templates of an account in a region, by id.
func (v *View) LaunchTemplatesOf(account ec2.AccountID, region ec2.Region) iter.Seq[*ec2.LaunchTemplate] {
	return rows[ec2.LaunchTemplate](v.txn(), tableTemplate, indexOwner, key(account)+key(region))
}

// LaunchTemplateVersions yields the versions of a launch template, by number.
func (v *View) LaunchTemplateVersions(id ec2.LaunchTemplateID) iter.Seq[*ec2.LaunchTemplateVersion] {
	return rows[ec2.LaunchTemplateVersion](v.txn(), tableTemplateVersion, indexID, key(id))
}

// PlacementGroupsOf yields the placement groups of an account in a region, by id.
func (v *View) PlacementGroupsOf(account ec2.AccountID, region ec2.Region) iter.Seq[*ec2.PlacementGroup] {
	return rows[ec2.PlacementGroup](v.txn(), tablePlacement, indexOwner, key(account)+key(region))
}

func (v *View) RouteTable(id ec2.RouteTableID) (*ec2.RouteTable, bool) {
	return get[ec2.RouteTable](v, tableRoutes, key(id))
}

// RouteTablesOf yields the route tables of an account in a region, by id.
func (v *View) RouteTablesOf(account ec2.AccountID, region ec2.Region) iter.Seq[*ec2.RouteTable] {
	return rows[ec2.RouteTable](v.txn(), tableRoutes, indexOwner, key(account)+key(region))
}

func (v *View) ElasticAddress(id ec2.AllocationID) (*ec2.ElasticAddress, bool) {
	return get[ec2.ElasticAddress](v, tableElastic, key(id))
}

// ElasticAddressesOf yields the elastic addresses of an account in a region, by id.
func (v *View) ElasticAddressesOf(account ec2.AccountID, region ec2.Region) iter.Seq[*ec2.ElasticAddress] {
	return rows[ec2.ElasticAddress](v.txn(), tableElastic, indexOwner, key(account)+key(region))
}

// TagsBy yields the tags of a resource as an account sees them in a region, by key. Only those of a
// peering differ.
func (v *View) TagsBy(account ec2.AccountID, region ec2.Region, resource string) iter.Seq[*ec2.Tag] {
	return rows[ec2.Tag](v.txn(), tableTag, indexID, tagsOf(resource, account, region))
}

// Tags yields the tags of a resource, by key.
func (v *View) Tags(resource string) iter.Seq[*ec2.Tag] {
	return rows[ec2.Tag](v.txn(), tableTag, indexID, key(resource))
}

// AnyTags reports whether any resource whose id begins with prefix has a tag.
func (v *View) AnyTags(prefix string) bool {
	return first[ec2.Tag](v.txn(), tableTag, indexID+"_prefix", prefix) != nil
}

// TagsOf yields the tags of all resources of an account in a region, by resource and key.
func (v *View) TagsOf(account ec2.AccountID, region ec2.Region) iter.Seq[*ec2.Tag] {
	return rows[ec2.Tag](v.txn(), tableTag, indexOwner, key(account)+key(region))
}

func (v *View) KeyPair(account ec2.AccountID, region ec2.Region, name string) (*ec2.KeyPair, bool) {
	return get[ec2.KeyPair](v, tableKeyPair, key(account)+key(region)+key(name))
}

// KeyPairs yields the key pairs of an account in a region, by name.
func (v *View) KeyPairs(account ec2.AccountID, region ec2.Region) iter.Seq[*ec2.KeyPair] {
	return rows[ec2.KeyPair](v.txn(), tableKeyPair, indexID, key(account)+key(region))
}
