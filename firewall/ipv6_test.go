package firewall_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"palisade/ec2"
	"palisade/firewall"
)

// randomIPv6Rule returns a rule for IPv6 alone: its source is an IPv6 block, or its protocol is ICMPv6.
func randomIPv6Rule(r *rand.Rand) ec2.Rule {
	rule := randomRule(r)
	if r.IntN(4) == 0 {
		rule.Protocol, rule.From, rule.To = ec2.ICMPv6, -1, -1
		return rule
	}
	rule.Source = ec2.Source{Prefix: netip.MustParsePrefix(prefixes6[r.IntN(len(prefixes6))])}
	return rule
}

// IPv6 rules are added to random groups of IPv4 rules, at random places, and removed again. What the
// Compiler makes of the groups must judge IPv4 packets the same throughout, must leave the same
// connections untracked, and must watch the same ports.
func checkIPv6RulesChangeNoIPv4Verdict(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 46))
	plain, mixed := view{}, view{}
	ids := []ec2.GroupID{"g0", "g1", "g2"}
	for _, id := range ids {
		g := vpcGroup(string(id))
		for range r.IntN(30) {
			if rule := randomRule(r); !rule.Source.IsIPv6() && rule.Protocol != ec2.ICMPv6 {
				g.Rules = append(g.Rules, rule)
			}
		}
		more := vpcGroup(string(id), slices.Clone(g.Rules)...)
		for range 1 + r.IntN(30) {
			more.Rules = slices.Insert(more.Rules, r.IntN(len(more.Rules)+1), randomIPv6Rule(r))
		}
		plain[id], mixed[id] = g, more
	}
	c, other := firewall.NewCompiler(), firewall.NewCompiler()
	want, got := c.Acquire(plain, ids, 1), other.Acquire(mixed, ids, 1)
	compareIPv4(t, fmt.Sprintf("seed %d, with IPv6 rules", seed), r, want, got, c, other, plain)
	other.Update(plain, ids, 2)
	compareIPv4(t, fmt.Sprintf("seed %d, without them again", seed), r, want, other.Current(got), c, other, plain)
	other.Update(mixed, ids, 3)
	compareIPv4(t, fmt.Sprintf("seed %d, with them again", seed), r, want, other.Current(got), c, other, plain)
}

func compareIPv4(t *testing.T, what string, r *rand.Rand, want, got *firewall.Set, c, other *firewall.Compiler, of view) {
	t.Helper()
	groups := []*ec2.Group{of["g0"], of["g1"], of["g2"]}
	for range 200 {
		p := randomPacket(r, groups)
		if !p.addr.Is4() {
			p.addr = randomAddr(r)
		}
		for direction, tables := range map[string][2]*firewall.Table{"ingress": {want.Ingress, got.Ingress}, "egress": {want.Egress, got.Egress}} {
			a := tables[0].Match(p.protocol, p.key, firewall.Source{Groups: numbers(c, p.from), Addr: p.addr})
			e := tables[1].Match(p.protocol, p.key, firewall.Source{Groups: numbers(other, p.from), Addr: p.addr})
			if a.Allowed != e.Allowed || a.World != e.World {
				t.Fatalf("%s: %s packet %+v: %v, want %v\n%v", what, direction, p, e, a, got)
			}
			if open := tables[1].Open(p.protocol, p.addr); open != tables[0].Open(p.protocol, p.addr) {
				t.Fatalf("%s: %s of protocol %d is open: %v, want %v", what, direction, p.protocol, open, !open)
			}
		}
	}
	for _, protocol := range []uint8{6, 17} {
		for _, any := range []bool{false, true} {
			if a, b := want.Ingress.OpenRanges(protocol, any, nil), got.Ingress.OpenRanges(protocol, any, nil); !slices.Equal(a, b) {
				t.Fatalf("%s: open ports of protocol %d: %v, want %v", what, protocol, b, a)
			}
		}
	}
}

func TestIPv6RulesChangeNoIPv4Verdict(t *testing.T) {
	for seed := range uint64(300) {
		checkIPv6RulesChangeNoIPv4Verdict(t, seed)
	}
}

func FuzzIPv6RulesChangeNoIPv4Verdict(f *testing.F) {
	for seed := range uint64(3) {
		f.Add(seed)
	}
	f.Fuzz(checkIPv6RulesChangeNoIPv4Verdict)
}

// The explanation of a refused IPv4 packet says of an IPv6 rule that it is for IPv6.
func TestExplanationNamesIPv6Rules(t *testing.T) {
	for text, want := range map[string]string{
		"-1 * ::/0":            "is for IPv6",
		"tcp 80-80 ::/0":       "is for IPv6",
		"58 -1:-1 0.0.0.0/0":   "is for IPv6",
		"58 128:0 g":           "is for IPv6",
		"tcp 80-80 10.0.0.0/8": "is for another source",
	} {
		rule := rule(text)
		set := firewall.NewCompiler().Acquire(view{"g": vpcGroup("g", rule)}, []ec2.GroupID{"g"}, 1)
		e := set.Ingress.Explain(6, 80, firewall.Source{Addr: netip.MustParseAddr("203.0.113.25")})
		if got, want := e.String(), fmt.Sprintf("denied by 1 rules\n%s of g %s\n", rule.ID, want); got != want {
			t.Errorf("rule %s: the explanation is %q, want %q", text, got, want)
		}
	}
}

// An IPv4 packet may carry any protocol number: 58 is no ICMPv6 there.
func TestICMPv6RuleAdmitsNoIPv4Packet(t *testing.T) {
	for _, source := range []string{"0.0.0.0/0", "10.0.0.0/8", "g", "::/0"} {
		c := firewall.NewCompiler()
		set := c.Acquire(view{"g": vpcGroup("g", rule("58 -1:-1 "+source), out("58 128:-1 "+source))}, []ec2.GroupID{"g"}, 1)
		src := firewall.Source{Groups: numbers(c, []ec2.GroupID{"g"}), Addr: netip.MustParseAddr("10.0.0.4")}
		for _, protocol := range []uint8{1, 58} {
			for _, key := range []uint16{0, 8 << 8, 128 << 8} {
				if set.Ingress.Match(protocol, key, src).Allowed || set.Egress.Match(protocol, key, src).Allowed {
					t.Errorf("source %s: an IPv4 packet of protocol %d and key %#x is admitted, want it refused", source, protocol, key)
				}
			}
		}
	}
}
