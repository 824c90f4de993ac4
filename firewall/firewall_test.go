package firewall_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"palisade/ec2"
	"palisade/firewall"
)

// A view is a set of groups by id, for a Compiler.
type view map[ec2.GroupID]*ec2.Group

func (v view) Group(id ec2.GroupID) (*ec2.Group, bool) { g, ok := v[id]; return g, ok }

var serial uint64

func group(id string, rules ...ec2.Rule) *ec2.Group {
	return &ec2.Group{ID: ec2.GroupID(id), Name: id, Rules: rules}
}

// rule parses "tcp 22-25 203.0.113.0/24", "icmp 8:-1 sg-web" or "-1 * 0.0.0.0/0".
func rule(text string) ec2.Rule {
	serial++
	r := ec2.Rule{Serial: serial, ID: ec2.RuleID(fmt.Sprintf("sgr-%d", serial)), From: -1, To: -1}
	f := strings.Fields(text)
	switch f[0] {
	case "tcp":
		r.Protocol = ec2.TCP
	case "udp":
		r.Protocol = ec2.UDP
	case "icmp":
		r.Protocol = ec2.ICMP
	default:
		fmt.Sscan(f[0], &r.Protocol)
	}
	if strings.Contains(f[1], ":") {
		fmt.Sscanf(f[1], "%d:%d", &r.From, &r.To)
	} else {
		fmt.Sscanf(f[1], "%d-%d", &r.From, &r.To)
	}
	if p, err := netip.ParsePrefix(f[2]); err == nil {
		r.Source.Prefix = p
	} else {
		r.Source.Group = ec2.GroupRef{ID: ec2.GroupID(f[2])}
	}
	return r
}

// linear is the reference for Match: it compares a packet with every rule, as the guide
// describes. It reports whether a rule admits the packet, and whether one for the whole
// world does.
func linear(groups []*ec2.Group, direction ec2.Direction, protocol uint8, key uint16, from []ec2.GroupID, addr netip.Addr) (allowed, world bool) {
	for _, g := range groups {
		for _, r := range g.Rules {
			if r.Direction != direction || r.Protocol != -1 && r.Protocol != ec2.Protocol(protocol) {
				continue
			}
			if r.Protocol == ec2.ICMPv6 && addr.Is4() {
				continue
			}
			switch r.Protocol {
			case ec2.TCP, ec2.UDP:
				if int(key) < r.From || int(key) > r.To {
					continue
				}
			case ec2.ICMP, ec2.ICMPv6:
				if r.From != -1 && r.From != int(key>>8) || r.To != -1 && r.To != int(key&255) {
					continue
				}
			}
			if r.Source.IsGroup() && slices.Contains(from, r.Source.Group.ID) {
				allowed = true
			}
			if r.Source.Prefix.IsValid() && r.Source.Prefix.Contains(addr) {
				allowed = true
				world = world || r.Source.Prefix.Bits() == 0
			}
		}
	}
	return allowed, world
}

func numbers(c *firewall.Compiler, ids []ec2.GroupID) []firewall.GroupNumber {
	var out []firewall.GroupNumber
	for _, id := range ids {
		out = append(out, c.Number(id))
	}
	return out
}

func TestMatchFollowsTheRules(t *testing.T) {
	v := view{"web": group("web", rule("tcp 80-80 0.0.0.0/0"), rule("tcp 22-22 203.0.113.25/32"), rule("icmp 8:-1 10.0.0.0/8")),
		"app": group("app", rule("tcp 8000-8080 web"), rule("udp 0-65535 app"), rule("icmp 3:4 web"), rule("tcp 1-100 10.10.1.32/27"))}
	c := firewall.NewCompiler()
	tests := []struct {
		set      string
		protocol uint8
		key      uint16
		from     string
		addr     string
		want     bool
	}{
		{"web", 6, 80, "", "198.51.100.7", true},
		{"web", 6, 81, "", "198.51.100.7", false},
		{"web", 17, 80, "", "198.51.100.7", false},
		{"web", 6, 22, "", "203.0.113.25", true},
		{"web", 6, 22, "", "203.0.113.26", false},
		{"web", 1, 8 << 8, "", "10.1.2.3", true},
		{"web", 1, 0 << 8, "", "10.1.2.3", false},
		{"app", 6, 8000, "web", "10.0.0.4", true},
		{"app", 6, 8000, "", "10.0.0.4", false},
		{"app", 6, 8081, "web", "10.0.0.4", false},
		{"app", 17, 53, "app", "10.0.0.4", true},
		{"app", 17, 53, "web", "10.0.0.4", false},
		{"app", 1, 3<<8 | 4, "web", "10.0.0.4", true},
		{"app", 1, 3<<8 | 3, "web", "10.0.0.4", false},
		{"app", 6, 22, "", "10.10.1.44", true},
		{"app", 6, 22, "", "10.10.1.90", false},
		{"app web", 6, 80, "", "198.51.100.7", true},
		{"app web", 6, 8000, "web", "198.51.100.7", true},
		{"web", 47, 0, "web", "10.0.0.4", false},
		{"gone", 6, 80, "", "198.51.100.7", false},
	}
	for _, tt := range tests {
		var ids, from []ec2.GroupID
		for _, id := range strings.Fields(tt.set) {
			ids = append(ids, ec2.GroupID(id))
		}
		for _, id := range strings.Fields(tt.from) {
			from = append(from, ec2.GroupID(id))
		}
		set := c.Acquire(v, ids, 1)
		src := firewall.Source{Groups: numbers(c, from), Addr: netip.MustParseAddr(tt.addr)}
		if got := set.Ingress.Match(tt.protocol, tt.key, src); got.Allowed != tt.want {
			t.Errorf("packet into %s: protocol %d key %d from %s [%s]: decision %q, want allowed %t\n%v", tt.set, tt.protocol, tt.key, tt.addr, tt.from, got, tt.want, set)
		}
	}
}

// protocols are those of random rules and packets, with the smallest and the largest
// number.
var protocols = []ec2.Protocol{6, 6, 6, 6, 17, 17, 1, 1, -1, 0, 47, 50, 58, 255}

func randomRule(r *rand.Rand) ec2.Rule {
	serial++
	out := ec2.Rule{Serial: serial, ID: ec2.RuleID(fmt.Sprint("sgr-", serial)), From: -1, To: -1}
	out.Direction = ec2.Direction(r.IntN(2))
	out.Protocol = protocols[r.IntN(len(protocols))]
	switch out.Protocol {
	case 6, 17:
		out.From = r.IntN(65536)
		out.To = out.From + r.IntN(min(2000, 65536-out.From))
		if r.IntN(10) == 0 {
			out.From, out.To = 0, 65535
		}
	case 1, 58:
		if r.IntN(3) > 0 {
			out.From = r.IntN(16)
			if r.IntN(2) > 0 {
				out.To = r.IntN(4)
			}
		}
	}
	switch r.IntN(6) {
	case 0, 1:
		out.Source.Group = ec2.GroupRef{ID: ec2.GroupID(fmt.Sprint("g", r.IntN(8)))}
	case 2:
		out.Source.Prefix = netip.MustParsePrefix(prefixes6[r.IntN(len(prefixes6))])
	default:
		bits := []int{0, 8, 12, 16, 20, 24, 27, 32}[r.IntN(8)]
		out.Source.Prefix = netip.PrefixFrom(randomAddr(r), bits).Masked()
	}
	return out
}

// prefixes6 are those of random rules, among them blocks that contain IPv4 addresses in other forms.
var prefixes6 = []string{"::/0", "::/1", "2001:db8::/32", "2001:db8:0:1::/64", "2001:db8::1/128", "::ffff:0:0/96", "::ffff:10.0.0.0/104", "::/96", "64:ff9b::/96"}

func randomAddr(r *rand.Rand) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(r.IntN(2)), byte(r.IntN(3)), byte(r.IntN(64))})
}

// TestMatchEqualsALinearReference compares Match and Explain with the reference for random
// groups of a VPC in both directions, after each of several random rule changes.
func TestMatchEqualsALinearReference(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 7))
		c := firewall.NewCompiler()
		v := view{}
		var ids []ec2.GroupID
		for i := range 3 {
			g := group(fmt.Sprint("g", i))
			g.VPC = "vpc-1"
			for range r.IntN(60) {
				g.Rules = append(g.Rules, randomRule(r))
			}
			v[g.ID] = g
			ids = append(ids, g.ID)
		}
		set := c.Acquire(v, ids, 1)
		for generation := range uint64(4) {
			set = c.Current(set)
			groups := []*ec2.Group{v["g0"], v["g1"], v["g2"]}
			for range 600 {
				p := randomPacket(r, groups)
				direction, table := ec2.Ingress, set.Ingress
				if r.IntN(2) > 0 {
					direction, table = ec2.Egress, set.Egress
				}
				compare(t, fmt.Sprintf("seed %d, %s", seed, direction), p, groups, direction, table, c)
			}
			// Remove a rule of one group, and add one.
			old := v[ids[r.IntN(3)]]
			next := *old
			next.Rules = slices.Clone(old.Rules)
			if len(next.Rules) > 0 {
				next.Rules = slices.Delete(next.Rules, 0, 1)
			}
			next.Rules = append(next.Rules, randomRule(r))
			v[next.ID] = &next
			c.Update(v, []ec2.GroupID{next.ID}, generation+2)
		}
	}
}

// A probe is a packet to be judged.
type probe struct {
	protocol uint8
	key      uint16
	from     []ec2.GroupID
	addr     netip.Addr
}

// randomPacket returns a packet whose key is often at the end of a rule's range or just
// beyond it.
func randomPacket(r *rand.Rand, groups []*ec2.Group) probe {
	p := probe{protocol: uint8(r.IntN(256)), key: uint16(r.IntN(65536)), addr: randomAddr(r)}
	if known := protocols[r.IntN(len(protocols))]; known >= 0 {
		p.protocol = uint8(known)
	}
	if p.protocol == 1 || p.protocol == 58 {
		p.key = uint16(r.IntN(16)<<8 | r.IntN(4))
	} else if all := groups[r.IntN(len(groups))].Rules; len(all) > 0 && r.IntN(2) == 0 {
		p.key = uint16(max(0, all[r.IntN(len(all))].To) + r.IntN(2))
	}
	if r.IntN(8) == 0 {
		p.addr = netip.MustParsePrefix(prefixes6[r.IntN(len(prefixes6))]).Addr()
	}
	for range r.IntN(3) {
		p.from = append(p.from, ec2.GroupID(fmt.Sprint("g", r.IntN(8))))
	}
	return p
}

func compare(t *testing.T, what string, p probe, groups []*ec2.Group, direction ec2.Direction, table *firewall.Table, c *firewall.Compiler) {
	t.Helper()
	src := firewall.Source{Groups: numbers(c, p.from), Addr: p.addr}
	allowed, world := linear(groups, direction, p.protocol, p.key, p.from, p.addr)
	got := table.Match(p.protocol, p.key, src)
	if got.Allowed != allowed || got.World != world {
		t.Fatalf("%s: packet %+v: Match returned %q, want allowed %t, by a rule for the whole world %t\n%v", what, p, got, allowed, world, table)
	}
	e := table.Explain(p.protocol, p.key, src)
	if e.Allowed != allowed || allowed != (e.By != nil) {
		t.Fatalf("%s: packet %+v: Explain returned %v, want allowed %t, and a rule exactly if allowed\n%v", what, p, e, allowed, table)
	}
	if e.By != nil {
		if ok, _ := linear([]*ec2.Group{group("x", e.By.Rule)}, direction, p.protocol, p.key, p.from, p.addr); !ok {
			t.Fatalf("%s: Explain names rule %v, which does not admit packet %+v", what, e.By, p)
		}
		return
	}
	checkRefusals(t, what, p, e.Refusals, table.Rules())
}

// checkRefusals checks that each rule is listed with the reasons why it does not admit a packet, which
// are found by asking whether the rule would admit another packet.
func checkRefusals(t *testing.T, what string, p probe, got []firewall.Refusal, all []firewall.Ref) {
	t.Helper()
	if len(got) != len(all) {
		t.Fatalf("%s: packet %+v: %d refusals of %d rules", what, p, len(got), len(all))
	}
	last := 0
	for _, r := range got {
		rule := r.Rule
		protocol := rule.Protocol == ec2.AnyProtocol || rule.Protocol == ec2.Protocol(p.protocol) && !(rule.Protocol == ec2.ICMPv6 && p.addr.Is4())
		source := rule.Source.IsGroup() && slices.Contains(p.from, rule.Source.Group.ID) || rule.Source.Prefix.IsValid() && rule.Source.Prefix.Contains(p.addr)
		rule.Source = ec2.Source{Prefix: netip.PrefixFrom(p.addr, p.addr.BitLen())}
		inRange, _ := linear([]*ec2.Group{group("x", rule)}, rule.Direction, p.protocol, p.key, nil, p.addr)
		if r.WrongProtocol == protocol || r.WrongSource == source || r.WrongRange != (protocol && !inRange) {
			t.Fatalf("%s: packet %+v: refusal %+v, want wrong protocol %v, range %v, source %v", what, p, r, !protocol, protocol && !inRange, !source)
		}
		n := 0
		for _, wrong := range []bool{r.WrongProtocol, r.WrongRange, r.WrongSource} {
			if wrong {
				n++
			}
		}
		if n == 0 || n < last {
			t.Fatalf("%s: packet %+v: a refusal with %d reasons after one with %d", what, p, n, last)
		}
		last = n
	}
}

func TestBadRuleDoesNotAffectOtherRules(t *testing.T) {
	world := netip.MustParsePrefix("0.0.0.0/0")
	bad := []ec2.Rule{
		{Protocol: ec2.TCP, From: 90, To: 80, Source: ec2.Source{Prefix: netip.MustParsePrefix("0.0.0.0/0")}},
		{Protocol: ec2.TCP, From: -1, To: 70000, Source: ec2.Source{Prefix: netip.MustParsePrefix("0.0.0.0/0")}},
		{Protocol: ec2.ICMP, From: -1, To: 3, Source: ec2.Source{Prefix: netip.MustParsePrefix("0.0.0.0/0")}},
		{Protocol: 300, From: -1, To: -1, Source: ec2.Source{Prefix: netip.MustParsePrefix("0.0.0.0/0")}},
		{Protocol: ec2.TCP, From: 1, To: 2, Source: ec2.Source{Prefix: netip.MustParsePrefix("10.0.0.1/8")}},
		{Protocol: ec2.TCP, From: 1, To: 2},
		{Protocol: ec2.TCP, From: 1, To: 2, Source: ec2.Source{Prefix: world, Group: ec2.GroupRef{ID: "g"}}},
		{Protocol: ec2.TCP, From: -1, To: 22, Source: ec2.Source{Prefix: world}},
		{Protocol: ec2.TCP, From: 65535, To: 65536, Source: ec2.Source{Prefix: world}},
		{Protocol: ec2.UDP, From: 90, To: 80, Source: ec2.Source{Prefix: world}},
		{Protocol: ec2.UDP, From: 65536, To: 65536, Source: ec2.Source{Prefix: world}},
		{Protocol: ec2.ICMP, From: 256, To: -1, Source: ec2.Source{Prefix: world}},
		{Protocol: ec2.ICMP, From: 3, To: 256, Source: ec2.Source{Prefix: world}},
		{Protocol: ec2.ICMP, From: -2, To: -1, Source: ec2.Source{Prefix: world}},
		{Protocol: ec2.ICMP, From: 3, To: -2, Source: ec2.Source{Prefix: world}},
		{Protocol: ec2.ICMPv6, From: 256, To: -1, Source: ec2.Source{Prefix: netip.MustParsePrefix("::/0")}},
		{Protocol: -2, From: -1, To: -1, Source: ec2.Source{Prefix: world}},
		{Protocol: 256, From: -1, To: -1, Source: ec2.Source{Prefix: world}},
	}
	for i := range bad {
		bad[i].ID = ec2.RuleID(fmt.Sprint("sgr-", i))
	}
	c := firewall.NewCompiler()
	set := c.Acquire(view{"g": group("g", append(bad, rule("tcp 22-22 203.0.113.25/32"))...)}, []ec2.GroupID{"g"}, 1)
	if len(c.Errors()) != len(bad) {
		t.Errorf("%d errors for %d bad rules, want one for each: %v", len(c.Errors()), len(bad), c.Errors())
	}
	// The outermost valid rules compile.
	c.Acquire(view{"h": group("h", rule("tcp 0-65535 203.0.113.25/32"), rule("udp 65535-65535 203.0.113.25/32"), rule("icmp 255:255 203.0.113.25/32"), rule("icmp 0:0 203.0.113.25/32"),
		rule("255 * 203.0.113.25/32"), rule("0 * 203.0.113.25/32"))}, []ec2.GroupID{"h"}, 1)
	if len(c.Errors()) != len(bad) {
		t.Errorf("valid rules do not compile: %v", c.Errors()[len(bad):])
	}
	laptop := firewall.Source{Addr: netip.MustParseAddr("203.0.113.25")}
	for port := range 70000 {
		if got := set.Ingress.Match(6, uint16(port), laptop); got.Allowed != (port == 22) && port < 65536 {
			t.Fatalf("port %d: decision %q, want allowed %t", port, got, port == 22)
		}
	}
}

func TestShrunkChangesOnlyWhenARuleIsRemoved(t *testing.T) {
	web, ssh := rule("tcp 80-80 0.0.0.0/0"), rule("tcp 22-22 0.0.0.0/0")
	v := view{"g": group("g", web)}
	c := firewall.NewCompiler()
	set := c.Acquire(v, []ec2.GroupID{"g"}, 5)
	v["g"] = group("g", web, ssh)
	c.Update(v, []ec2.GroupID{"g"}, 6)
	if got := c.Current(set).Ingress; got.Generation != 6 || got.Shrunk != 5 {
		t.Errorf("after an addition: generation %d, shrunk %d; want 6, 5", got.Generation, got.Shrunk)
	}
	v["g"] = group("g", ssh)
	c.Update(v, []ec2.GroupID{"g"}, 7)
	if got := c.Current(set).Ingress; got.Shrunk != 7 {
		t.Errorf("after a removal: shrunk %d, want 7", got.Shrunk)
	}
}

func TestUpdateCompilesOnlySetsWithTheGroup(t *testing.T) {
	v := view{"a": group("a", rule("tcp 1-1 0.0.0.0/0")), "b": group("b", rule("tcp 2-2 a"))}
	c := firewall.NewCompiler()
	a, b := c.Acquire(v, []ec2.GroupID{"a"}, 1), c.Acquire(v, []ec2.GroupID{"b"}, 1)
	c.Update(v, []ec2.GroupID{"a"}, 2)
	if c.Current(a).Ingress == a.Ingress || c.Current(b).Ingress != b.Ingress {
		t.Error("want a change of group a to compile the set {a} again, and not the set {b}, whose rule only names a as source")
	}
}

func TestNilTableDenies(t *testing.T) {
	var none *firewall.Table
	if d := none.Match(6, 22, firewall.Source{Addr: netip.MustParseAddr("203.0.113.25")}); d.Allowed {
		t.Errorf("a nil Table decides %q, want denied", d)
	}
}

func TestNoAllocs(t *testing.T) {
	table, srcs, keys := tableOf(1000, 1000)
	i := 0
	if n := testing.AllocsPerRun(1000, func() {
		table.Match(6, keys[i%len(keys)], srcs[i%len(srcs)])
		i++
	}); n != 0 {
		t.Errorf("%v allocations for each Match, want 0", n)
	}
}
