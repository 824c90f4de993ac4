//go:build soak

package scenarios

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"palisade/internal/lab"
	"palisade/internal/lab/labtest"
)

// TestSoakChurnAdmitsNothingWrong sends 10 million forbidden probes between two nodes while network ACLs, prefix
// lists, peerings, NAT gateways and members of groups change 50 times a second, and while the leader dies and
// starts again. No change concerns a probe. One thing alone forbids each probe:
//
//	foe       no rule admits its group
//	blocked   an entry of the network ACL of the targets' subnets denies its address
//	unlisted  the prefix list that a rule names does not have its address
//	stranger  the peering of its VPC was not accepted
//
// Allowed probes of friend and listed show that the targets hear. At the end each of these things is undone, and
// then the probes must arrive. With -short there are 100,000 probes.
func TestSoakChurnAdmitsNothingWrong(t *testing.T) {
	l, api := newLeaderSoak(t, "soakchurn", "dev")
	c := newChurn(l, api)
	total := int64(10_000_000)
	if testing.Short() {
		total = 100_000
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var wg sync.WaitGroup
	changes := c.runChanges(ctx, &wg, 100*time.Millisecond)
	for _, p := range c.pairs {
		wg.Go(func() { c.shoot(ctx, p) })
	}
	begin := time.Now()
	c.waitFor(total / 2)
	before := changes.Load()
	rate := float64(before) / time.Since(begin).Seconds()
	l.Do(t, "lab", "kill", c.leader)
	c.waitFor(total * 3 / 4)
	l.Do(t, "lab", "start", c.leader)
	c.waitFor(total)
	stop()
	wg.Wait()
	labtest.Eventually(t, "there is a leader", func() bool { return l.leader() != "" })
	for _, p := range c.pairs {
		t.Logf("%s on %s: %d probes sent, %d arrived", p.name, p.node, p.sent.Load(), p.arrived.Load())
		if p.allowed && p.arrived.Load() < p.sent.Load()/2 {
			t.Errorf("void: of %d allowed probes of %s on %s only %d arrived", p.sent.Load(), p.name, p.node, p.arrived.Load())
		}
		if n := p.arrived.Load(); !p.allowed && n > 0 {
			t.Errorf("%d probes of %s on %s arrived, want 0", n, p.name, p.node)
		}
	}
	t.Logf("%d forbidden probes in %v, %.0f changes a second before the leader died, %d in all", c.forbidden(), time.Since(begin).Round(time.Second), rate, changes.Load())
	if rate < 40 && !testing.Short() {
		t.Errorf("void: %.0f changes a second, want 50", rate)
	}
	c.undo()
	for _, p := range c.pairs {
		was := p.arrived.Load()
		labtest.Eventually(t, fmt.Sprintf("probes of %s on %s arrive once they are allowed", p.name, p.node), func() bool {
			p.one()
			return p.arrived.Load() > was
		})
	}
}

// A churn is a lab with two VPCs, 10.0.0.0/16 with the targets and 10.1.0.0/16 with the strangers.
type churn struct {
	*soakLab
	api, far *soakAPI
	leader   string
	pairs    []*churnPair
	acl      string
	list     *soakList
	peering  string // of the two VPCs, not accepted
	blocked  []netip.Addr
	unlisted []netip.Addr
	extra    string // id of a group without rules
	members  []string
}

// A churnPair is a sender of probes to the target on the other node.
type churnPair struct {
	name, node    string
	prober        *prober
	to            netip.AddrPort
	allowed       bool
	sent, arrived atomic.Int64
}

func (p *churnPair) one() {
	_ = p.prober.datagram(p.to, uint32(p.sent.Add(1))) // a probe that is not sent is lost
}

func newChurn(l *soakLab, api *soakAPI) *churn {
	t := l.t
	c := &churn{soakLab: l, api: api, leader: l.leader()}
	nodes := l.others(c.leader)[:2]
	l.vpc(api)
	names := []string{"target", "friend", "foe", "blocked", "listed", "unlisted"}
	l.groups(api, append(slices.Clone(names), "extra")...)
	c.extra = api.network.id("extra")
	placed := l.launchIn(api, nodes, names...)
	c.far = api.again(t, nil)
	l.vpcAt(c.far, 1)
	l.groups(c.far, "stranger")
	placed["stranger"] = l.launchIn(c.far, nodes, "stranger")["stranger"]
	c.permit(placed, nodes)
	for i, node := range nodes {
		target := placed["target"][nodes[1-i]]
		for _, name := range append(names[1:], "stranger") {
			in := placed[name][node]
			c.pairs = append(c.pairs, &churnPair{name: name, node: node, prober: proberAt(t, in), allowed: name == "friend" || name == "listed",
				to: netip.AddrPortFrom(netip.MustParseAddr(target.PrivateAddress), volleyPort)})
			if name == "foe" || name == "friend" {
				c.members = append(c.members, in.ID)
			}
		}
		watch(t, target, volleyPort, c.seen)
	}
	for _, p := range c.pairs {
		if p.allowed {
			labtest.Eventually(t, "allowed probes arrive", func() bool {
				p.one()
				return p.arrived.Load() > 0
			})
		}
	}
	return c
}

// must calls an action, which must succeed.
func (c *churn) must(api *soakAPI, action string, params url.Values, answer any) {
	c.t.Helper()
	if _, err := api.call(action, params, answer); err != nil {
		c.t.Fatalf("%s: %v", action, err)
	}
}

// permit makes the rules, the network ACL, the prefix list, and the peering.
func (c *churn) permit(placed map[string]map[string]lab.InstanceStatus, nodes []string) {
	address := func(name string, i int) netip.Addr { return netip.MustParseAddr(placed[name][nodes[i]].PrivateAddress) }
	for _, group := range []string{"friend", "blocked"} {
		if _, err := c.api.authorize("target", soakRule{protocol: "udp", port: volleyPort, group: group}); err != nil {
			c.t.Fatal(err)
		}
	}
	if _, err := c.api.authorize("target", soakRule{protocol: "udp", port: volleyPort, cidr: "10.1.0.0/16"}); err != nil {
		c.t.Fatal(err)
	}
	c.list = c.api.prefixList(c.t, "clients", 40)
	for i := range nodes {
		c.blocked, c.unlisted = append(c.blocked, address("blocked", i)), append(c.unlisted, address("unlisted", i))
		if _, err := c.list.modify("AddEntry", address("listed", i).String()+"/32"); err != nil {
			c.t.Fatal(err)
		}
	}
	params := url.Values{"IpPermissions.1.IpProtocol": {"udp"}, "IpPermissions.1.FromPort": {fmt.Sprint(volleyPort)}, "IpPermissions.1.ToPort": {fmt.Sprint(volleyPort)},
		"IpPermissions.1.PrefixListIds.1.PrefixListId": {c.list.id}}
	c.api.name(params, "", "target")
	c.must(c.api, "AuthorizeSecurityGroupIngress", params, nil)
	var acls struct {
		IDs []string `xml:"networkAclSet>item>networkAclId"`
	}
	c.must(c.api, "DescribeNetworkAcls", url.Values{"Filter.1.Name": {"vpc-id"}, "Filter.1.Value.1": {c.api.network.vpc}}, &acls)
	c.acl = acls.IDs[0]
	for i, a := range c.blocked {
		c.must(c.api, "CreateNetworkAclEntry", c.entry(50+i, "-1", "deny", a.String()+"/32"), nil)
	}
	c.peering = c.peer(c.api.network.vpc, c.far.network.vpc)
	c.routes(c.far, "10.0.0.0/16")
	c.routes(c.api, "10.1.0.0/16")
}

func (c *churn) entry(number int, protocol, action, cidr string) url.Values {
	return url.Values{"NetworkAclId": {c.acl}, "RuleNumber": {fmt.Sprint(number)}, "Egress": {"false"}, "Protocol": {protocol}, "RuleAction": {action},
		"CidrBlock": {cidr}, "PortRange.From": {"7000"}, "PortRange.To": {"7001"}}
}

// peer requests a peering of two VPCs and returns its id.
func (c *churn) peer(from, to string) string {
	var made struct {
		ID string `xml:"vpcPeeringConnection>vpcPeeringConnectionId"`
	}
	c.must(c.api, "CreateVpcPeeringConnection", url.Values{"VpcId": {from}, "PeerVpcId": {to}}, &made)
	return made.ID
}

// routes leads the packets for a block to the peering. A request that nobody has accepted is a black hole.
func (c *churn) routes(api *soakAPI, block string) {
	var tables struct {
		IDs []string `xml:"routeTableSet>item>routeTableId"`
	}
	c.must(api, "DescribeRouteTables", url.Values{"Filter.1.Name": {"vpc-id"}, "Filter.1.Value.1": {api.network.vpc}}, &tables)
	for _, id := range tables.IDs {
		c.must(api, "CreateRoute", url.Values{"RouteTableId": {id}, "DestinationCidrBlock": {block}, "VpcPeeringConnectionId": {c.peering}}, nil)
	}
}

// undo allows each forbidden probe.
func (c *churn) undo() {
	api := c.api.again(c.t, nil)
	if _, err := api.authorize("target", soakRule{protocol: "udp", port: volleyPort, group: "foe"}); err != nil {
		c.t.Fatal(err)
	}
	for i := range c.blocked {
		c.must(api, "DeleteNetworkAclEntry", url.Values{"NetworkAclId": {c.acl}, "RuleNumber": {fmt.Sprint(50 + i)}, "Egress": {"false"}}, nil)
	}
	for _, a := range c.unlisted {
		if _, err := c.list.modify("AddEntry", a.String()+"/32"); err != nil {
			c.t.Fatal(err)
		}
	}
	c.must(api, "AcceptVpcPeeringConnection", url.Values{"VpcPeeringConnectionId": {c.peering}}, nil)
}

// seen counts a probe that arrived.
func (c *churn) seen(a arrival) {
	for _, p := range c.pairs {
		if p.prober.from == a.from {
			p.arrived.Add(1)
		}
	}
}

// shoot sends probes of one pair until ctx ends. Allowed probes are fewer, because each is a connection.
func (c *churn) shoot(ctx context.Context, p *churnPair) {
	burst := 8
	if p.allowed {
		burst = 1
	}
	pace(ctx, 5*time.Millisecond, func() {
		for range burst {
			p.one()
		}
	})
}

func (c *churn) forbidden() (n int64) {
	for _, p := range c.pairs {
		if !p.allowed {
			n += p.sent.Load()
		}
	}
	return n
}

// waitFor waits until count forbidden probes have been sent.
func (c *churn) waitFor(count int64) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for c.forbidden() < count {
		<-tick.C
	}
}

// runChanges starts five workers, each of which makes a change every interval, and returns the counter of the
// changes that the API acknowledged. A change that is refused or without an answer is made again.
func (c *churn) runChanges(ctx context.Context, wg *sync.WaitGroup, interval time.Duration) *atomic.Int64 {
	var done atomic.Int64
	side := c.api.again(c.t, nil)
	c.vpcAt(side, 2)
	for _, worker := range []func(*soakAPI, int) error{c.changeACL, c.changeList, c.changePeering(side.network.vpc), c.changeGateway(side), c.changeMember} {
		api := c.api.again(c.t, nil)
		wg.Go(func() {
			tick := time.NewTicker(interval)
			defer tick.Stop()
			for n := 0; ; {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				if err := worker(api, n); err == nil {
					done.Add(1)
					n++
				} else if _, refused := err.(*refusal); refused {
					n++
				}
			}
		})
	}
	return &done
}

func (c *churn) changeACL(api *soakAPI, n int) error {
	if n%2 == 0 {
		_, err := api.call("CreateNetworkAclEntry", c.entry(60, []string{"6", "17"}[n/2%2], []string{"allow", "deny"}[n/4%2], fmt.Sprintf("10.0.%d.0/24", n%5)), nil)
		return err
	}
	_, err := api.call("DeleteNetworkAclEntry", url.Values{"NetworkAclId": {c.acl}, "RuleNumber": {"60"}, "Egress": {"false"}}, nil)
	return err
}

// changeList adds and removes an entry. Nobody knows the version after a call without an answer, so it is read.
func (c *churn) changeList(api *soakAPI, n int) error {
	change := "AddEntry"
	if n%2 == 1 {
		change = "RemoveEntry"
	}
	_, err := c.list.modify(change, fmt.Sprintf("203.0.113.%d/32", n/2%200))
	if err != nil {
		var lists struct {
			Versions []int `xml:"prefixListSet>item>version"`
		}
		if _, err := api.call("DescribeManagedPrefixLists", url.Values{"PrefixListId.1": {c.list.id}}, &lists); err == nil && len(lists.Versions) == 1 {
			c.list.version = lists.Versions[0]
		}
	}
	return err
}

// changePeering requests, accepts and deletes a peering of the targets' VPC with another one.
func (c *churn) changePeering(other string) func(*soakAPI, int) error {
	var made struct {
		ID string `xml:"vpcPeeringConnection>vpcPeeringConnectionId"`
	}
	return func(api *soakAPI, n int) error {
		switch n % 3 {
		case 0:
			_, err := api.call("CreateVpcPeeringConnection", url.Values{"VpcId": {c.api.network.vpc}, "PeerVpcId": {other}}, &made)
			return err
		case 1:
			_, err := api.call("AcceptVpcPeeringConnection", url.Values{"VpcPeeringConnectionId": {made.ID}}, nil)
			return err
		}
		_, err := api.call("DeleteVpcPeeringConnection", url.Values{"VpcPeeringConnectionId": {made.ID}}, nil)
		return err
	}
}

// changeGateway makes and deletes a private NAT gateway, every tenth time. Between, it adds and removes a route
// of the same VPC, because each gateway takes an address.
func (c *churn) changeGateway(side *soakAPI) func(*soakAPI, int) error {
	var made struct {
		ID string `xml:"natGateway>natGatewayId"`
	}
	subnet := ""
	for _, id := range side.network.subnets {
		subnet = id
	}
	return func(api *soakAPI, n int) error {
		if n%20 == 0 {
			_, err := api.call("CreateNatGateway", url.Values{"SubnetId": {subnet}, "ConnectivityType": {"private"}}, &made)
			return err
		}
		if n%20 == 10 {
			_, err := api.call("DeleteNatGateway", url.Values{"NatGatewayId": {made.ID}}, nil)
			return err
		}
		return c.changeMember(api, n)
	}
}

// changeMember lets an instance join or leave a group.
func (c *churn) changeMember(api *soakAPI, n int) error {
	i := n / 2 % len(c.members)
	own := c.api.network.id([]string{"friend", "foe"}[i%2])
	params := url.Values{"InstanceId": {c.members[i]}, "GroupId.1": {own}}
	if n%2 == 0 {
		params.Set("GroupId.2", c.extra)
	}
	_, err := api.call("ModifyInstanceAttribute", params, nil)
	return err
}
