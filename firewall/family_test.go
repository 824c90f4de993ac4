package firewall_test

import (
	"cmp"
	"net/netip"
	"slices"
	"testing"

	"palisade/ec2"
	"palisade/firewall"
)

// An IPv4 rule admits no IPv6 address, not even an IPv4-mapped one. An IPv6 rule admits no
// IPv4 address. Both hold on ports with few sources and on ports with many.
func TestIPv4RulesDoNotAdmitIPv6(t *testing.T) {
	four := []netip.Addr{netip.MustParseAddr("10.0.0.4"), netip.MustParseAddr("0.0.0.0")}
	six := []netip.Addr{netip.MustParseAddr("::ffff:10.0.0.4"), netip.MustParseAddr("::10.0.0.4"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("::"), {}}
	for _, rules := range []struct {
		of       []string
		from, to []netip.Addr // admitted, refused
	}{
		{[]string{"tcp 80-80 0.0.0.0/0"}, four, six},
		{[]string{"tcp 80-80 10.0.0.0/8", "tcp 80-80 0.0.0.0/8"}, four, six},
		{[]string{"tcp 80-80 ::/0"}, six[:4], four},
		{[]string{"tcp 80-80 2001:db8::/32"}, six[2:3], append(slices.Clone(four), six[0], six[1], six[3], six[4])},
	} {
		for _, more := range []int{0, 20} { // from nine sources on, Match looks sources up
			g := group("g")
			for _, text := range rules.of {
				g.Rules = append(g.Rules, rule(text))
			}
			for i := range more {
				r := rule("tcp 80-80 203.0.113.0/32")
				r.Source.Prefix = netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), 32)
				g.Rules = append(g.Rules, r)
			}
			c := firewall.NewCompiler()
			set := c.Acquire(view{"g": g}, []ec2.GroupID{"g"}, 1)
			if errs := c.Errors(); len(errs) > 0 {
				t.Fatalf("errors of the Compiler: %v, want none", errs)
			}
			for _, a := range rules.from {
				if !set.Ingress.Match(6, 80, firewall.Source{Addr: a}).Allowed {
					t.Errorf("rules %v and %d others: %v is refused, want it admitted", rules.of, more, a)
				}
			}
			for _, a := range rules.to {
				if set.Ingress.Match(6, 80, firewall.Source{Addr: a}).Allowed {
					t.Errorf("rules %v and %d others: %v is admitted, want it refused", rules.of, more, a)
				}
			}
		}
	}
}

// Only if Open returns true may a connection be untracked.
func TestOpenNeedsARuleForEveryPortAndAddress(t *testing.T) {
	for text, want := range map[string]bool{
		"tcp 0-65535 0.0.0.0/0":   true,
		"-1 * 0.0.0.0/0":          true,
		"tcp 0-65534 0.0.0.0/0":   false,
		"tcp 1-65535 0.0.0.0/0":   false,
		"tcp 80-80 0.0.0.0/0":     false,
		"udp 0-65535 0.0.0.0/0":   false,
		"tcp 0-65535 10.0.0.0/8":  false,
		"tcp 0-65535 128.0.0.0/1": false,
		"tcp 0-65535 ::/0":        false,
		"tcp 0-65535 g":           false,
	} {
		r := rule(text)
		r.Direction = ec2.Egress
		set := firewall.NewCompiler().Acquire(view{"g": vpcGroup("g", r)}, []ec2.GroupID{"g"}, 1)
		if got := set.Egress.Open(6, netip.MustParseAddr("203.0.113.25")); got != want {
			t.Errorf("egress rule %s: Open of the egress table returned %v, want %v", text, got, want)
		}
		if set.Ingress.Open(6, netip.MustParseAddr("203.0.113.25")) {
			t.Errorf("egress rule %s: Open of the ingress table returned true, want false", text)
		}
	}
}

func TestNoTableIsOpen(t *testing.T) {
	var none *firewall.Table
	if none.Open(6, netip.MustParseAddr("203.0.113.25")) {
		t.Error("a missing table is open")
	}
}

// OpenRanges lists the ports that are open to the whole world or, with anySource, to each source.
// Ranges of one source that touch or overlap are one range. IPv6 sources are left out.
func TestOpenRangesListsAndMergesPortsOfRules(t *testing.T) {
	egress := rule("udp 1-1 0.0.0.0/0")
	egress.Direction = ec2.Egress
	table := func(rules ...ec2.Rule) *firewall.Table {
		return firewall.NewCompiler().Acquire(view{"g": group("g", append(rules, egress)...)}, []ec2.GroupID{"g"}, 1).Ingress
	}
	mixed := table(rule("udp 53-53 0.0.0.0/0"), rule("udp 99-99 10.0.0.0/8"), rule("udp 54-60 ::/0"), rule("tcp 80-80 0.0.0.0/0"),
		rule("udp 61-62 g"), rule("icmp 8:0 0.0.0.0/0"), rule("udp 40-41 0.0.0.0/0"))
	for name, tt := range map[string]struct {
		table     *firewall.Table
		protocol  uint8
		anySource bool
		want      []firewall.PortRange
	}{
		"no table":                {nil, 17, true, nil},
		"no rule":                 {table(), 17, true, nil},
		"to the world":            {mixed, 17, false, []firewall.PortRange{{From: 40, To: 41}, {From: 53, To: 53}}},
		"to any source":           {mixed, 17, true, []firewall.PortRange{{From: 40, To: 41}, {From: 53, To: 53}, {From: 61, To: 62}, {From: 99, To: 99}}},
		"of two groups":           {table(rule("udp 5-6 g"), rule("udp 6-7 h"), rule("udp 7-8 g")), 17, true, []firewall.PortRange{{From: 5, To: 8}, {From: 6, To: 7}}},
		"another protocol":        {mixed, 6, true, []firewall.PortRange{{From: 80, To: 80}}},
		"overlap":                 {table(rule("udp 10-30 0.0.0.0/0"), rule("udp 15-20 0.0.0.0/0"), rule("udp 30-40 0.0.0.0/0")), 17, false, []firewall.PortRange{{From: 10, To: 40}}},
		"up to the last port":     {table(rule("udp 100-65535 0.0.0.0/0"), rule("udp 65535-65535 0.0.0.0/0"), rule("udp 0-0 0.0.0.0/0")), 17, false, []firewall.PortRange{{From: 0, To: 0}, {From: 100, To: 65535}}},
		"every protocol and port": {table(rule("-1 * 0.0.0.0/0")), 6, false, []firewall.PortRange{{From: 0, To: 65535}}},
		"half of the world":       {table(rule("udp 5-5 0.0.0.0/1"), rule("udp 5-5 128.0.0.0/1")), 17, false, nil},
	} {
		var got []firewall.PortRange
		sources := map[uint32]bool{}
		for _, r := range tt.table.OpenRanges(tt.protocol, tt.anySource, nil) {
			got = append(got, r.PortRange)
			sources[r.Source] = true
		}
		slices.SortFunc(got, func(a, b firewall.PortRange) int { return cmp.Compare(a.From, b.From) })
		if !slices.Equal(got, tt.want) || !tt.anySource && len(sources) > 0 && !sources[0] || name == "of two groups" && len(sources) != 2 {
			t.Errorf("case %q: OpenRanges returned %v of sources %v, want %v", name, got, sources, tt.want)
		}
	}
}
