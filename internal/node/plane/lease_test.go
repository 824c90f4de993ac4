package plane_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"palisade/cluster/gossip"
	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/node/plane"
	"palisade/internal/node/plane/planetest"
	vswitch "palisade/switch"
)

func dns(from netip.Prefix) state.RuleSpec {
	return state.RuleSpec{Protocol: ec2.UDP, From: 53, To: 53, Prefix: from}
}

var inside = netip.MustParsePrefix("10.0.0.0/16")

// Every port of the changed group gets the new rules, and ports of other groups keep theirs.
func TestRuleChangeReachesEveryPortOfItsGroup(t *testing.T) {
	w := newWorld(t)
	members, open := w.Group("members"), w.Group("open", dns(inside))
	client := w.register("client", w.Public, open)
	var servers []*end
	for _, name := range []string{"s1", "s2", "s3", "s4"} {
		servers = append(servers, w.register(name, w.Public, members))
	}
	var gone *end
	for n := range 8 {
		gone = w.register(fmt.Sprint("gone", n), w.Public, members)
		w.unregister(gone.Interface) // its port remains until Detach
	}
	check := func(when string, port uint16, want bool) {
		t.Helper()
		for _, s := range servers {
			if got := w.passes(client, udp(client.Private, s.Private, port), s.device); got != want {
				t.Errorf("%s: a packet to %s passes: %v, want %v", when, s.Private, got, want)
			}
		}
	}
	check("without a rule", 53, false)
	authorize := &state.AuthorizeRules{Account: planetest.Dev, Region: planetest.Region, Group: state.GroupSelector{ID: members}, Rules: []state.RuleSpec{dns(inside)}}
	w.Do(authorize)
	check("with a rule", 53, true)
	if w.passes(gone, udp(gone.Private, servers[0].Private, 53), servers[0].device) {
		t.Error("a change of its group's rules gave an ended lease its port back")
	}
	check("on another port", 54, false)
	if !w.passes(servers[0], udp(servers[0].Private, client.Private, 53), client.device) {
		t.Error("the rules of another group have changed")
	}
	// A group that a View removes is compiled too.
	empty := w.Group("empty")
	w.Do(&state.DeleteSecurityGroup{Account: planetest.Dev, Region: planetest.Region, Group: state.GroupSelector{ID: empty}})

	// Other groups of one interface, in force at once.
	w.modify(servers[0].Interface, state.ModifyNetworkInterface{Groups: []ec2.GroupID{open}})
	w.modify(servers[1].Interface, state.ModifyNetworkInterface{Groups: []ec2.GroupID{w.Group("closed")}})
	if !w.passes(client, udpFrom(40001, client.Private, servers[0].Private, 53), servers[0].device) {
		t.Error("an interface that joined an open group gets no packets")
	}
	if w.passes(client, udpFrom(40001, client.Private, servers[1].Private, 53), servers[1].device) {
		t.Error("an interface that left its group still gets packets of new connections")
	}
}

// In a strict network a connection ends with its rule, also when another interface loses the group
// that the rule names.
func TestStrictNetworkChecksConnectionsAgainstEveryChange(t *testing.T) {
	w := newWorld(t)
	w.strict()
	clients := w.Group("clients")
	servers := w.Group("servers", state.RuleSpec{Protocol: ec2.UDP, From: 53, To: 53, Group: ec2.GroupRef{Account: planetest.Dev, ID: clients}})
	a, b, server := w.register("a", w.Public, clients), w.register("b", w.Public, clients), w.register("server", w.Public, servers)
	for _, c := range []*end{a, b} {
		if !w.passes(c, udp(c.Private, server.Private, 53), server.device) {
			t.Fatal("a client of the group is not admitted")
		}
	}
	w.modify(a.Interface, state.ModifyNetworkInterface{Groups: []ec2.GroupID{w.Group("none")}})
	if w.passes(a, udp(a.Private, server.Private, 53), server.device) {
		t.Error("a client that left the group goes on in a strict network")
	}
	if !w.passes(b, udp(b.Private, server.Private, 53), server.device) {
		t.Error("a client that is still in the group was cut off")
	}
	w.unregister(b.Interface)
	if got := w.Plane.LostAt(w.VPC.VNI); got != w.View.Index() {
		t.Errorf("after a lease ended, an address last left a group at %d, want %d", got, w.View.Index())
	}
}

func TestAttachAnnouncesPublicAddressesAndNamesThePort(t *testing.T) {
	w := newWorld(t)
	wide := w.Group("wide", dns(planetest.Everywhere))
	eni := w.Do(&state.CreateNetworkInterface{Account: planetest.Dev, Region: planetest.Region, Spec: state.InterfaceSpec{Subnet: w.Public.ID, Groups: []ec2.GroupID{wide}}}).Interface
	public := w.Elastic(eni, eni.Private)
	eni = w.Do(&state.RegisterInterface{Account: planetest.Dev, Region: planetest.Region, Node: planetest.Node, External: ec2.ExternalDevice{Device: "vm0"}, Interface: eni.ID}).Interface
	w.announced()
	e := w.attach(eni)
	if got := w.announced(); !slices.Equal(got, []netip.Addr{public}) {
		t.Errorf("attaching announced %v, want %v", got, public)
	}
	more := w.Do(&state.AssignPrivateAddresses{Account: planetest.Dev, Region: planetest.Region, Interface: e.ID, Count: 1}).Addresses[0]
	w.announced()
	second := w.Elastic(eni, more)
	if got := w.announced(); !slices.Equal(got, []netip.Addr{second}) {
		t.Errorf("a second public address announced %v, want %v alone", got, second)
	}
	w.Do(&state.CreateSecurityGroup{Account: planetest.Dev, Region: planetest.Region, VPC: w.VPC.ID, Name: "x", Description: "x"})
	if got := w.announced(); len(got) != 0 {
		t.Errorf("another change announced %v, want nothing", got)
	}
	if strings.Contains(w.Log.String(), "not announced") {
		t.Errorf("an announcement failed:\n%s", w.Log)
	}
	laptop := netip.MustParseAddr(planetest.Laptop)
	for _, to := range []netip.Addr{public, second} {
		if !w.fromOutside(udp(laptop, to, 53), e.device) {
			t.Errorf("a packet to %s did not arrive", to)
		}
	}
	if e := w.Switch.Snapshot().Public(second); e.Node != 0 {
		t.Errorf("an interface of this node leads to node %d", e.Node)
	}
	named := func(name string) bool {
		return slices.ContainsFunc(w.Switch.Ports(), func(p *vswitch.Port) bool { return p.Name() == name })
	}
	if !named(string(eni.ID)) {
		t.Errorf("there is no port %s", eni.ID)
	}
	in := w.Do(&state.RunInstances{Account: planetest.Dev, Region: planetest.Region, Image: "ami-eca54085", MinCount: 1, MaxCount: 1, Subnet: w.Public.ID}).Instances[0].After
	first, _ := w.View.Interface(in.Interface)
	w.attach(first)
	if !named(string(in.ID)) {
		t.Errorf("there is no port %s for the first interface of an instance", in.ID)
	}
	w.Do(&state.CreateSecurityGroup{Account: planetest.Albert, Region: planetest.Region, Name: "web", Description: "web"})
	old := w.Do(&state.RunInstances{Account: planetest.Albert, Region: planetest.Region, Image: "ami-eca54085", MinCount: 1, MaxCount: 1}).Instances[0].After
	first, _ = w.View.Interface(old.Interface)
	if w.attach(first); !named(string(old.ID)) {
		t.Errorf("there is no port %s for an instance of EC2-Classic", old.ID)
	}
	plain := w.Device()
	plain.Plain = true
	extra := w.Do(&state.CreateNetworkInterface{Account: planetest.Dev, Region: planetest.Region, Spec: state.InterfaceSpec{Subnet: w.Public.ID}}).Interface
	w.Do(&state.AttachNetworkInterface{Account: planetest.Dev, Region: planetest.Region, Interface: extra.ID, Instance: in.ID, DeviceIndex: 1})
	extra, _ = w.View.Interface(extra.ID)
	w.Log.Reset()
	if err := w.Plane.Attach(extra.Epoch, plain); err != nil || !named(string(extra.ID)) || !strings.Contains(w.Log.String(), "port has no offloads") {
		t.Errorf("the second interface: error %v, port %s exists: %v; log:\n%s", err, extra.ID, named(string(extra.ID)), w.Log)
	}
}

// A lease that ends loses its port's connection to the switch at once, and its endpoint.
func TestEndedLeaseNeitherSendsNorReceives(t *testing.T) {
	w := newWorld(t)
	open := w.Group("open", dns(inside))
	a, b := w.register("a", w.Public, open), w.register("b", w.Public, open)
	if !w.passes(a, udp(a.Private, b.Private, 53), b.device) || !w.passes(b, udp(b.Private, a.Private, 53), a.device) {
		t.Fatal("packets do not pass")
	}
	w.unregister(a.Interface)
	if w.passes(a, udp(a.Private, b.Private, 53), b.device) {
		t.Error("an interface whose lease has ended sends")
	}
	if w.passes(b, udp(b.Private, a.Private, 53), a.device) {
		t.Error("an interface whose lease has ended receives")
	}
	leases := w.Plane.Leases()
	remote := w.register("c", w.Public, open)
	if err := w.Plane.Detach(a.Epoch); err != nil || w.Plane.Leases() != leases {
		t.Errorf("after Detach there are %d leases, error %v; want %d", w.Plane.Leases(), err, leases)
	}
	if err := w.Plane.Detach(a.Epoch); err != nil {
		t.Errorf("a second Detach: %v", err)
	}
	if !w.passes(remote, udp(remote.Private, b.Private, 53), b.device) || len(w.connections(remote)) != 1 {
		t.Fatal("the third interface has no connection")
	}
	port := w.network(w.VPC.VNI).Find(remote.Private).Port
	if err := w.Plane.Detach(remote.Epoch); err != nil || w.passes(b, udp(b.Private, remote.Private, 53), remote.device) {
		t.Errorf("after Detach of an active lease packets still arrive, error %v", err)
	}
	if got := len(w.connections(remote)); got != 0 {
		t.Errorf("a port that was removed left %d connections", got)
	}
	if w.Switch.Snapshot().Attachment(port) != nil {
		t.Error("a port that was removed is still attached")
	}
	if err := w.Plane.Detach(remote.Epoch); err != nil {
		t.Errorf("Detach of an active lease without a port: %v", err)
	}
	if w.modify(remote.Interface, state.ModifyNetworkInterface{Unchecked: new(true)}); w.network(w.VPC.VNI).Find(remote.Private).Port != nil {
		t.Error("an interface without a port leads to the port that was removed")
	}
	w.AddNode("node2")
	far := w.Register("node2", "vm0", w.Public, open)
	leases = w.Plane.Leases()
	w.unregister(far)
	if got := w.Plane.Leases(); got != leases-1 {
		t.Errorf("after the lease of another node ended there are %d leases, want %d", got, leases-1)
	}
	if err := w.Plane.Detach(far.Epoch); err != nil {
		t.Errorf("Detach of a lease without a port: %v", err)
	}
}

func TestPresenceListsActiveLeasesOfThisNode(t *testing.T) {
	w := newWorld(t)
	w.AddNode("node2")
	group := w.Group("wide", dns(planetest.Everywhere))
	var want []gossip.Presence
	for _, name := range []string{"a", "b", "c", "d"} {
		e := w.register(name, w.Public, group)
		want = append(want, gossip.Presence{Interface: e.ID, Epoch: e.Epoch, Private: e.Private, MAC: e.MAC, Up: true})
	}
	w.Register("node2", "vm0", w.Public, group)
	slices.SortFunc(want, func(a, b gossip.Presence) int { return strings.Compare(string(a.Interface), string(b.Interface)) })
	check := func(when string) {
		t.Helper()
		if got := w.Plane.Presence(); !slices.Equal(got, want) {
			t.Errorf("%s the node reports\n%+v, want\n%+v", when, got, want)
		}
	}
	check("at first")
	failed, _ := w.View.Interface(want[1].Interface)
	w.Plane.Fail(failed)
	want[1].Up = false
	check("after a failure")
	if err := w.Plane.Detach(failed.Epoch); err != nil {
		t.Fatal(err)
	}
	check("without its port")
	w.attach(failed)
	want[1].Up = true
	check("with a port again")
	w.Plane.Fail(failed)
	w.unregister(failed)
	want = slices.Delete(want, 1, 2)
	check("after the failed lease has ended")
	w.Plane.Fail(failed) // an ended lease cannot fail
	w.Plane.Fail(&ec2.Interface{Epoch: 1 << 40})
	check("after a failure of an ended lease")
}

// Which leases are down is known before the state is, and only other nodes' leases can be down.
func TestOnlyLeasesOfOtherNodesGoDown(t *testing.T) {
	w := newWorld(t)
	w.AddNode("node2")
	group := w.Group("wide", dns(planetest.Everywhere))
	own := w.register("own", w.Public, group)
	var far []*ec2.Interface
	for _, name := range []string{"x", "y", "z"} {
		far = append(far, w.Register("node2", name, w.Public, group))
	}
	find := func(a netip.Addr) bool { return w.network(w.VPC.VNI).Find(a) != nil }
	lost := w.Plane.LostAt(w.VPC.VNI)
	w.Plane.SetDown(map[uint64]bool{own.Epoch: true})
	if !find(own.Private) {
		t.Error("another node's report took this node's own interface down")
	}
	if got := w.Plane.LostAt(w.VPC.VNI); got != lost {
		t.Errorf("an address left a group at %d, want %d as before", got, lost)
	}
	w.Plane.SetDown(map[uint64]bool{own.Epoch: true, far[0].Epoch: true, far[2].Epoch: true})
	for i, want := range []bool{false, true, false} {
		if find(far[i].Private) != want {
			t.Errorf("interface %d is in the switch: %v, want %v", i, !want, want)
		}
	}
	if got := w.Plane.LostAt(w.VPC.VNI); got != w.View.Index() {
		t.Errorf("after interfaces went down an address last left a group at %d, want %d", got, w.View.Index())
	}
	// Reports that say the same change nothing.
	before := w.Plane.LostAt(w.VPC.VNI)
	w.Group("later")
	w.Plane.SetDown(map[uint64]bool{far[0].Epoch: true, far[2].Epoch: true})
	if got := w.Plane.LostAt(w.VPC.VNI); got != before {
		t.Errorf("after the same report an address last left a group at %d, want %d as before", got, before)
	}
	// A lease that ended stays out, whatever is reported about it later.
	w.unregister(far[0])
	w.Plane.SetDown(nil)
	for i, want := range []bool{false, true, true} {
		if find(far[i].Private) != want {
			t.Errorf("after all are up, interface %d is in the switch: %v, want %v", i, !want, want)
		}
	}
	ended := w.register("ended", w.Public, group)
	w.unregister(ended.Interface)
	w.Plane.SetDown(map[uint64]bool{ended.Epoch: true})
	w.Plane.SetDown(nil)
	if find(ended.Private) {
		t.Error("the endpoint of an ended lease came back")
	}
}

// A new Plane of the same node applies the state that was enforced already.
func TestRestartedPlaneAppliesTheIndexItHadEnforced(t *testing.T) {
	w := newWorld(t)
	w.AddNode("node2")
	far := w.Register("node2", "vm0", w.Public, w.Group("wide"))
	index, err := plane.OpenEnforcedIndex(w.EnforcedIndex.Path())
	if err != nil || index.Index() != w.View.Index() {
		t.Fatalf("the index on disk is %d, error %v; want %d", index.Index(), err, w.View.Index())
	}
	again := planetest.NewWith(t, index)
	before := again.Plane.View()
	if before != nil || again.Plane.Enforced() != 0 {
		t.Errorf("a Plane without a state has View %v and enforces %d", before, again.Plane.Enforced())
	}
	again.Plane.SetDown(map[uint64]bool{far.Epoch: true}) // heard from gossip before the state is known
	again.State = w.State
	again.CatchUp()
	if again.Plane.View() != again.View || again.View.Index() != index.Index() {
		t.Error("View returns another View than the one applied")
	}
	if n, _ := again.Switch.Snapshot().Network(vswitch.VNI(w.VPC.VNI)); n.Find(far.Private) != nil {
		t.Error("an interface that was reported down before the state came has an endpoint")
	}
}

func TestWaitReturnsWhenAnIndexIsEnforced(t *testing.T) {
	w := newWorld(t)
	now := w.Plane.Enforced()
	for _, index := range []uint64{0, now - 1, now} {
		if !w.Plane.Wait(t.Context(), index) {
			t.Errorf("Wait for index %d returned false at %d", index, now)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if w.Plane.Wait(ctx, now+1) {
		t.Error("Wait for an index to come returned true")
	}
	waited := make(chan bool)
	go func() { waited <- w.Plane.Wait(t.Context(), now+1) }()
	w.Do(&state.CreateSecurityGroup{Account: planetest.Dev, Region: planetest.Region, VPC: w.VPC.ID, Name: "next", Description: "next"})
	if !<-waited {
		t.Error("Wait returned false although the index is enforced")
	}
}

// A state of another release may have a rule that this one cannot enforce.
func TestRuleThatDoesNotCompileIsListedAndLoggedOnce(t *testing.T) {
	w := newWorld(t)
	bad := w.Group("bad", state.RuleSpec{Protocol: ec2.UDP, From: 12345, To: 12345, Prefix: planetest.Everywhere}, dns(planetest.Everywhere))
	var stored bytes.Buffer
	if err := w.View.WriteSnapshot(&stored); err != nil {
		t.Fatal(err)
	}
	restored, err := state.Restore(strings.NewReader(strings.ReplaceAll(stored.String(), `"To":12345`, `"To":70`)))
	if err != nil {
		t.Fatal(err)
	}
	again := &world{planetest.NewWith(t, w.EnforcedIndex)}
	again.State, again.Network = restored, w.Network
	again.CatchUp()
	if got := again.Plane.BadRules(); len(got) != 0 {
		t.Errorf("without an interface the bad rules are %v, want none", got)
	}
	x := again.register("x", w.Public, bad)
	if !strings.Contains(again.Log.String(), "rule is not enforced") {
		t.Error("the bad rule was not logged when an interface got it")
	}
	y := again.register("y", w.Public, bad)
	if got := again.Plane.BadRules(); len(got) != 1 || !strings.Contains(got[0], string(bad)) {
		t.Errorf("bad rules %q, want the one of %s", got, bad)
	}
	if n := strings.Count(again.Log.String(), "rule is not enforced"); n != 1 {
		t.Errorf("the bad rule was logged %d times, want once:\n%s", n, again.Log)
	}
	if !again.passes(x, udp(x.Private, y.Private, 53), y.device) {
		t.Error("the good rule of the group is not in force")
	}
	// It is listed as long as an interface is in the group.
	again.modify(x.Interface, state.ModifyNetworkInterface{Groups: []ec2.GroupID{again.Group("good")}})
	if got := again.Plane.BadRules(); len(got) != 1 {
		t.Errorf("with one interface the bad rules are %q, want one", got)
	}
	if err := again.Plane.Detach(y.Epoch); err != nil || len(again.Plane.BadRules()) != 0 {
		t.Errorf("without an interface in the group the bad rules are %q, error %v; want none", again.Plane.BadRules(), err)
	}
}

// TestMTUOfADeviceStaysWithItsPort: until the next device, also when the rules change.
func TestMTUOfADeviceStaysWithItsPort(t *testing.T) {
	w := newWorld(t)
	group := w.Group("wide", dns(planetest.Everywhere))
	e := w.register("a", w.Public, group)
	mtu := func() int {
		endpoint := w.Switch.Snapshot().Owner(vswitch.VNI(e.VNI), e.Private)
		return w.Switch.Snapshot().Attachment(endpoint.Port).MTU
	}
	if got := mtu(); got != 0 {
		t.Errorf("a new port has an MTU of %d, want that of the network (0)", got)
	}
	w.Plane.SetMTU(e.Epoch, 1280)
	w.Plane.SetMTU(1<<40, 576) // no lease
	if got := mtu(); got != 1280 {
		t.Errorf("the port has an MTU of %d, want 1280", got)
	}
	w.Do(&state.AuthorizeRules{Account: planetest.Dev, Region: planetest.Region, Group: state.GroupSelector{ID: group}, Rules: []state.RuleSpec{planetest.TCP(22, planetest.Everywhere)}})
	if got := mtu(); got != 1280 {
		t.Errorf("after a change of rules the port has an MTU of %d, want 1280", got)
	}
	if err := w.Plane.Detach(e.Epoch); err != nil {
		t.Fatal(err)
	}
	if err := w.Plane.Attach(e.Epoch, w.Device()); err != nil {
		t.Fatal(err)
	}
	if got := mtu(); got != 0 {
		t.Errorf("the next device has an MTU of %d, want that of the network (0)", got)
	}
}

func TestAttachToNoLeaseClosesTheDevice(t *testing.T) {
	w := newWorld(t)
	d := w.Device()
	if err := w.Plane.Attach(1<<40, d); err == nil || !strings.Contains(err.Error(), "has ended") {
		t.Errorf("a device without a lease: %v", err)
	}
	if err := d.Write(nil); err == nil {
		t.Error("the device is still open")
	}
	w.Plane.Close()
	if n := len(w.Switch.Ports()); n != 0 {
		t.Errorf("a closed Plane has %d ports", n)
	}
	if strings.Contains(w.Log.String(), "not closed") {
		t.Errorf("the log has what was not closed:\n%s", w.Log)
	}
}

// The allowances are those of interfaces with a port: of this node, and attached.
func TestAllowancesOfInterfacesWithAPort(t *testing.T) {
	w := newWorld(t)
	w.AddNode("node2")
	group := w.Group("wide", dns(planetest.Everywhere))
	w.Register("node2", "far", w.Public, group)
	a, b := w.register("a", w.Public, group), w.register("b", w.Public, w.Group("closed"))
	if !w.passes(b, udp(b.Private, a.Private, 53), a.device) {
		t.Fatal("a packet does not pass")
	}
	used := func() map[ec2.InterfaceID]int {
		all := map[ec2.InterfaceID]int{}
		for eni, allowance := range w.Plane.Allowances() {
			all[eni.ID] = 16384/4 - allowance.Available // the default ceiling of a zone
		}
		return all
	}
	// The entry of b alone is tracked: a admits the whole world.
	if got, want := used(), (map[ec2.InterfaceID]int{a.ID: 0, b.ID: 1}); !maps.Equal(got, want) {
		t.Errorf("the interfaces use %v connections, want %v", got, want)
	}
	if err := w.Plane.Detach(a.Epoch); err != nil {
		t.Fatal(err)
	}
	if got, want := used(), (map[ec2.InterfaceID]int{b.ID: 1}); !maps.Equal(got, want) {
		t.Errorf("after Detach the interfaces use %v connections, want %v", got, want)
	}
}
