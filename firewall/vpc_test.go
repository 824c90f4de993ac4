package firewall_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/firewall"
)

func vpcGroup(id string, rules ...ec2.Rule) *ec2.Group {
	g := group(id, rules...)
	g.VPC = "vpc-1"
	return g
}

func out(text string) ec2.Rule {
	r := rule(text)
	r.Direction = ec2.Egress
	return r
}

// Amazon VPC User Guide, "Security group rules": a rule is for one direction. A group of a
// VPC admits only those outgoing packets that its egress rules admit.
func TestVPCEgressFollowsTheRules(t *testing.T) {
	v := view{
		"web":    vpcGroup("web", rule("tcp 80-80 0.0.0.0/0"), out("tcp 443-443 0.0.0.0/0"), out("50 * db")),
		"dns":    vpcGroup("dns", out("udp 53-53 10.0.0.2/32")),
		"silent": vpcGroup("silent", rule("-1 * 0.0.0.0/0")),
		"old":    group("old"),
	}
	c := firewall.NewCompiler()
	for _, tt := range []struct {
		set      []ec2.GroupID
		protocol uint8
		key      uint16
		to       []ec2.GroupID
		addr     string
		want     bool
	}{
		{[]ec2.GroupID{"web"}, 6, 443, nil, "198.51.100.7", true},
		{[]ec2.GroupID{"web"}, 6, 80, nil, "198.51.100.7", false}, // an ingress rule does not admit egress
		{[]ec2.GroupID{"web"}, 17, 443, nil, "198.51.100.7", false},
		{[]ec2.GroupID{"web"}, 50, 0, []ec2.GroupID{"db"}, "10.0.0.9", true},
		{[]ec2.GroupID{"web"}, 51, 0, []ec2.GroupID{"db"}, "10.0.0.9", false},
		{[]ec2.GroupID{"web"}, 50, 0, []ec2.GroupID{"web"}, "10.0.0.9", false},
		{[]ec2.GroupID{"web", "dns"}, 17, 53, nil, "10.0.0.2", true},
		{[]ec2.GroupID{"web", "dns"}, 6, 443, nil, "10.0.0.2", true},
		{[]ec2.GroupID{"dns"}, 17, 53, nil, "10.0.0.3", false},
		{[]ec2.GroupID{"silent"}, 6, 443, nil, "198.51.100.7", false},
		{[]ec2.GroupID{"gone"}, 6, 443, nil, "198.51.100.7", false},
		{[]ec2.GroupID{"old"}, 99, 0, nil, "198.51.100.7", true}, // EC2-Classic admits all egress
	} {
		set := c.Acquire(v, tt.set, 1)
		dst := firewall.Source{Groups: numbers(c, tt.to), Addr: netip.MustParseAddr(tt.addr)}
		if got := set.Egress.Match(tt.protocol, tt.key, dst); got.Allowed != tt.want {
			t.Errorf("packet out of %v: protocol %d key %d to %s %v: decision %q, want allowed %t\n%v", tt.set, tt.protocol, tt.key, tt.addr, tt.to, got, tt.want, set)
		}
	}
}

// The API accepts exactly the rules that the Compiler enforces. Both get the same random
// rules, of which some are valid and others invalid.
func TestEveryAuthorizedRuleIsEnforced(t *testing.T) {
	const account, region = ec2.AccountID("123456789012"), ec2.Region("us-east-1")
	st := state.NewState()
	do := func(req state.Request) (state.Result, error) {
		return st.Apply(st.Index()+1, state.Command{Request: req})
	}
	for _, req := range []state.Request{
		&state.Bootstrap{Seed: "x", Settings: ec2.Settings{RulesPerVPCGroup: 10_000}},
		&state.PutNode{Node: ec2.Node{ID: "node1", Zone: "us-east-1a"}},
		&state.PutNetwork{Network: ec2.Network{VNI: 1, Region: region, Prefix: netip.MustParsePrefix("10.0.0.0/8")}},
		&state.CreateAccount{ID: account, Name: "dev", Platform: ec2.VPCOnly, AccessKey: "AKID", Secret: "s"},
		&state.CreateSecurityGroup{Account: account, Region: region, Name: "web", Description: "web"},
	} {
		if _, err := do(req); err != nil {
			t.Fatal(err)
		}
	}
	r := rand.New(rand.NewPCG(3, 1))
	accepted, refused := 0, 0
	for range 1500 {
		spec := state.RuleSpec{
			Protocol: ec2.Protocol(r.IntN(270) - 5),
			From:     r.IntN(300) - 10,
			To:       r.IntN(300) - 10,
			Prefix:   netip.PrefixFrom(randomAddr(r), r.IntN(33)),
		}
		switch r.IntN(8) {
		case 0:
			spec.Protocol, spec.From, spec.To = ec2.TCP, r.IntN(80_000)-100, r.IntN(80_000)-100
		case 1:
			spec.Protocol = []ec2.Protocol{ec2.ICMP, ec2.ICMPv6, ec2.UDP, ec2.AnyProtocol}[r.IntN(4)]
		case 2:
			spec.Prefix, spec.Group = netip.Prefix{}, ec2.GroupRef{Name: []string{"web", "default", "none"}[r.IntN(3)]}
		case 3:
			spec.Prefix = netip.MustParsePrefix([]string{"::/0", "2001:db8::1/64", "::ffff:10.0.0.0/104"}[r.IntN(3)])
		}
		_, err := do(&state.AuthorizeRules{
			Account: account, Region: region, Group: state.GroupSelector{Name: "web"}, Direction: ec2.Direction(r.IntN(2)), Rules: []state.RuleSpec{spec}, IPv6: true,
		})
		if err == nil {
			accepted++
		} else {
			refused++
		}
	}
	if accepted < 300 || refused < 300 {
		t.Fatalf("%d rules accepted, %d refused; want at least 300 of each", accepted, refused)
	}

	view := st.View()
	web, err := view.FindGroup(account, region, state.GroupSelector{Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	c := firewall.NewCompiler()
	set := c.Acquire(view, []ec2.GroupID{web.ID}, 1)
	if errs := c.Errors(); len(errs) > 0 {
		t.Fatalf("%d rules are stored but not enforced, the first because of: %v", len(errs), errs[0])
	}
	if all := len(set.Ingress.Rules()) + len(set.Egress.Rules()); all != len(web.Rules) || all != accepted+1 {
		t.Errorf("%d rules are enforced, %d stored, %d accepted; want every stored rule enforced, and the default egress rule besides the accepted ones", all, len(web.Rules), accepted)
	}
	// Remove the default egress rule, which admits everything and would hide the other
	// rules.
	plain := *web
	plain.Rules = slices.DeleteFunc(slices.Clone(web.Rules), func(r ec2.Rule) bool { return r.Source.Prefix.IsValid() && r.Source.Prefix.Bits() < 16 })
	set = c.Acquire(groupsOf{&plain}, []ec2.GroupID{web.ID, "none"}, 1)
	groups := []*ec2.Group{&plain}
	for n := range 1000 {
		p := randomPacket(r, groups)
		if p.from = nil; r.IntN(4) == 0 {
			p.from = []ec2.GroupID{web.ID}
		}
		compare(t, fmt.Sprint("in ", n), p, groups, ec2.Ingress, set.Ingress, c)
		compare(t, fmt.Sprint("out ", n), p, groups, ec2.Egress, set.Egress, c)
	}
}

// groupsOf is one group, for a Compiler.
type groupsOf struct{ group *ec2.Group }

func (g groupsOf) Group(id ec2.GroupID) (*ec2.Group, bool) { return g.group, id == g.group.ID }
