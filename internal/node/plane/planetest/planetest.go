// Package planetest gives tests a Plane without a cluster: requests are applied to a State, the
// Plane gets its Views, and devices are in memory. Only tests import it.
package planetest

import (
	"bytes"
	"encoding/hex"
	"log/slog"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/bootfile/bootfiletest"
	"palisade/internal/node/plane"
	vswitch "palisade/switch"
	"palisade/switch/tap/taptest"
)

// The names and ids in a Fixture's state.
const (
	Albert = ec2.AccountID("598916040194") // an EC2-Classic account
	Dev    = ec2.AccountID("123456789012") // a VPC account, which owns the VPC
	Region = ec2.Region("us-east-1")
	Node   = ec2.NodeID("node1") // whose Plane it is
	Laptop = "203.0.113.25"      // a host beyond the uplink
)

// Everywhere is the prefix of all IPv4 addresses.
var Everywhere = netip.MustParsePrefix("0.0.0.0/0")

// TCP is a rule that admits one TCP port from a prefix.
func TCP(port int, from netip.Prefix) state.RuleSpec {
	return state.RuleSpec{Protocol: ec2.TCP, From: port, To: port, Prefix: from}
}

// A Network is a VPC, 10.0.0.0/16, with two subnets: Public, 10.0.1.0/24, whose route table has a route to an
// internet gateway, and Private, 10.0.2.0/24, whose route table has none.
type Network struct {
	VPC             *ec2.VPC
	Public, Private *ec2.Subnet
	Table           *ec2.RouteTable // of Public
	Gateway         *ec2.InternetGateway
}

// NewNetwork makes a Network in the account Dev. do applies a request.
func NewNetwork(do func(state.Request) state.Result) (v Network) {
	v.VPC = do(&state.CreateVPC{Account: Dev, Region: Region, CIDR: netip.MustParsePrefix("10.0.0.0/16")}).VPC
	v.Public = do(&state.CreateSubnet{Account: Dev, Region: Region, VPC: v.VPC.ID, CIDR: netip.MustParsePrefix("10.0.1.0/24")}).Subnet
	v.Private = do(&state.CreateSubnet{Account: Dev, Region: Region, VPC: v.VPC.ID, CIDR: netip.MustParsePrefix("10.0.2.0/24")}).Subnet
	v.Gateway = do(&state.CreateInternetGateway{Account: Dev, Region: Region}).Gateway
	do(&state.AttachInternetGateway{Account: Dev, Region: Region, Gateway: v.Gateway.ID, VPC: v.VPC.ID})
	v.Table = do(&state.CreateRouteTable{Account: Dev, Region: Region, VPC: v.VPC.ID}).RouteTable
	do(&state.CreateRoute{Account: Dev, Region: Region, RouteTable: v.Table.ID, Destination: Everywhere, Gateway: v.Gateway.ID})
	do(&state.AssociateRouteTable{Account: Dev, Region: Region, RouteTable: v.Table.ID, Subnet: v.Public.ID})
	return v
}

// Bootstrap returns the first commands of a cluster: they make Node, the EC2-Classic network and both
// accounts.
func Bootstrap() []state.Command {
	var commands []state.Command
	for _, r := range []state.Request{
		&state.Bootstrap{Seed: hex.EncodeToString(make([]byte, 16)), GossipKey: make([]byte, 32)},
		&state.PutNode{Node: ec2.Node{ID: Node, Zone: "us-east-1a"}},
		&state.PutNetwork{Network: ec2.Network{
			VNI: 1, Region: Region, Prefix: netip.MustParsePrefix("10.0.0.0/8"), Gateway: netip.MustParseAddr("10.0.0.1"),
			Pools: []netip.Prefix{netip.MustParsePrefix("10.10.0.0/16")}, PublicPools: []netip.Prefix{netip.MustParsePrefix("198.18.0.0/16")},
		}},
		&state.CreateAccount{ID: Albert, Name: "albert", Platform: ec2.Classic, AccessKey: "AKIDALBERT", Secret: "secret"},
		&state.CreateAccount{ID: Dev, Name: "dev", Platform: ec2.VPCOnly, AccessKey: "AKIDDEV", Secret: "secret"},
	} {
		commands = append(commands, state.Command{Request: r})
	}
	return commands
}

// A Fixture is a Plane with an uplink, and the State that it enforces, which has a VPC.
type Fixture struct {
	*testing.T
	State         *state.State
	View          *state.View // the last that was applied
	Plane         *plane.Plane
	Switch        *vswitch.Switch
	Tracker       *conntrack.Tracker
	EnforcedIndex *plane.EnforcedIndex
	Uplink        *taptest.Device
	Log           *bytes.Buffer // what the Plane and the Switch have logged
	Now           time.Time     // the stamp of the next command
	InMemory      bool          // the next Plane has no files of connections and owners

	Network
	arena string // path of the file of connections
}

// New makes a Fixture, which is closed when the test ends.
func New(t *testing.T) *Fixture {
	t.Helper()
	index, err := plane.OpenEnforcedIndex(filepath.Join(t.TempDir(), "enforced"))
	if err != nil {
		t.Fatal(err)
	}
	f := NewWith(t, index)
	f.CatchUp() // a node applies its empty state before the cluster begins
	for _, command := range Bootstrap() {
		f.Decide(command.Request)
	}
	f.Network = NewNetwork(f.Do)
	return f
}

// NewWith makes a Fixture without a state.
func NewWith(t *testing.T, index *plane.EnforcedIndex) *Fixture {
	t.Helper()
	f := &Fixture{T: t, State: state.NewState(), Log: new(bytes.Buffer), EnforcedIndex: index, Now: time.Unix(1e9, 0), arena: filepath.Join(bootfiletest.Dir(t), "arena")}
	f.Start()
	t.Cleanup(func() { f.Stop() })
	return f
}

// Start makes the Plane, the Switch and the Tracker, with what an earlier Plane left in its files.
func (f *Fixture) Start() {
	f.Helper()
	log := slog.New(slog.NewTextHandler(f.Log, nil))
	var err error
	if f.Plane != nil {
		if f.EnforcedIndex, err = plane.OpenEnforcedIndex(f.EnforcedIndex.Path()); err != nil {
			f.Fatal(err)
		}
	}
	c := conntrack.Config{Path: f.arena, Capacity: 16384, Untracked: 4096}
	var owners *plane.Owners
	if f.InMemory {
		c.Path = ""
	} else if owners, err = plane.OpenOwners(f.OwnersFile()); err != nil {
		f.Fatal(err)
	}
	if f.Tracker, err = conntrack.Open(c); err != nil {
		f.Fatal(err)
	}
	if f.Switch, err = vswitch.New(vswitch.Config{Tracker: f.Tracker, Logger: log}); err != nil {
		f.Fatal(err)
	}
	f.Plane = plane.New(plane.Config{
		Node: Node, MTU: 1500, Switch: f.Switch, Tracker: f.Tracker, EnforcedIndex: f.EnforcedIndex, Owners: owners, Logger: log,
	})
	f.Uplink = f.Device()
	if err := f.Plane.AddUplink(f.Uplink, ec2.MAC{2, 0, 0, 0, 0, 1}); err != nil {
		f.Fatal(err)
	}
}

// ArenaFile and OwnersFile return the paths of files that the Plane leaves for the next one.
func (f *Fixture) ArenaFile() string  { return f.arena }
func (f *Fixture) OwnersFile() string { return f.arena + ".owners" }

// Stop ends the Plane, as if its daemon had been killed.
func (f *Fixture) Stop() {
	f.Helper()
	f.Plane.Close()
	if err := f.Tracker.Close(); err != nil {
		f.Error(err)
	}
}

// Restart makes another Plane after Stop. Like a daemon, it gets the State in one View, gives the
// interfaces their ports, and drops what belongs to no interface.
func (f *Fixture) Restart(attached ...*ec2.Interface) {
	f.Helper()
	f.Start()
	f.View = nil
	f.CatchUp()
	for _, eni := range attached {
		f.Attach(eni)
	}
	f.Tracker.PurgeUnknown()
}

// AddNode makes a node another member of the cluster, in Node's zone.
func (f *Fixture) AddNode(node ec2.NodeID) {
	f.Helper()
	f.Do(&state.PutNode{Node: ec2.Node{ID: node, Zone: "us-east-1a", Role: ec2.Voter, Address: "192.0.2.12:7400"}})
}

// Device makes a device in memory.
func (f *Fixture) Device() *taptest.Device {
	f.Helper()
	device, err := taptest.New()
	if err != nil {
		f.Fatal(err)
	}
	return device
}

// Decide applies a request to the State but not to the Plane.
func (f *Fixture) Decide(r state.Request) state.Result {
	f.Helper()
	result, err := f.State.Apply(f.State.Index()+1, state.Command{Time: f.Now, Request: r})
	if err != nil {
		f.Fatalf("%T: %v", r, err)
	}
	return result
}

// CatchUp gives the Plane all changes since the last View, in one View.
func (f *Fixture) CatchUp() {
	f.Helper()
	f.View = f.State.ViewSince(f.View)
	if err := f.Plane.Apply(f.View); err != nil {
		f.Fatal(err)
	}
}

// Do applies a request to the State and to the Plane.
func (f *Fixture) Do(r state.Request) state.Result {
	f.Helper()
	result := f.Decide(r)
	f.CatchUp()
	return result
}

// Group makes a group of the VPC, with ingress rules.
func (f *Fixture) Group(name string, rules ...state.RuleSpec) ec2.GroupID {
	f.Helper()
	id := f.Do(&state.CreateSecurityGroup{Account: Dev, Region: Region, VPC: f.VPC.ID, Name: name, Description: name}).Group.ID
	if len(rules) > 0 {
		f.Do(&state.AuthorizeRules{Account: Dev, Region: Region, Group: state.GroupSelector{ID: id}, Rules: rules})
	}
	return id
}

// Register makes an interface that is attached to a device of a node. At Node it gets a port.
func (f *Fixture) Register(node ec2.NodeID, device string, subnet *ec2.Subnet, groups ...ec2.GroupID) *ec2.Interface {
	f.Helper()
	eni := f.Do(&state.RegisterInterface{Account: Dev, Region: Region, Node: node, External: ec2.ExternalDevice{Device: device},
		Spec: state.InterfaceSpec{Subnet: subnet.ID, Groups: groups}}).Interface
	if node == Node {
		f.Attach(eni)
	}
	return eni
}

// Attach gives an interface a port with a device in memory.
func (f *Fixture) Attach(eni *ec2.Interface) {
	f.Helper()
	if err := f.Plane.Attach(eni.Epoch, f.Device()); err != nil {
		f.Fatal(err)
	}
}

// Elastic associates a new public address with one of an interface's private addresses.
func (f *Fixture) Elastic(eni *ec2.Interface, private netip.Addr) (public netip.Addr) {
	f.Helper()
	e := f.Do(&state.AllocateAddress{Account: Dev, Region: Region}).Elastic
	f.Do(&state.AssociateAddress{Account: Dev, Region: Region, Allocation: e.ID, Interface: eni.ID, Private: private})
	return e.Public
}
