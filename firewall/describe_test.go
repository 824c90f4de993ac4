package firewall_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"palisade/ec2"
	"palisade/firewall"
)

// numbered gives rules the serials 1, 2 and so on, so that the output does not depend on
// other tests.
func numbered(rules ...ec2.Rule) []ec2.Rule {
	for i := range rules {
		rules[i].Serial, rules[i].ID = uint64(i+1), ec2.RuleID(fmt.Sprint("sgr-", i+1))
	}
	return rules
}

func ExampleSet_String() {
	rules := numbered(rule("tcp 22-23 203.0.113.0/24"), rule("icmp 8:-1 0.0.0.0/0"), rule("udp 53-53 sg-dns"), out("-1 * 0.0.0.0/0"))
	set := firewall.NewCompiler().Acquire(view{"sg-web": vpcGroup("sg-web", rules...)}, []ec2.GroupID{"sg-web"}, 5)
	fmt.Print(set)
	// Output:
	// groups [sg-web]
	// ingress generation 5, shrunk at 5: 3 rules
	// SERIAL  RULE   GROUP   PROTOCOL  PORTS  SOURCE
	// 1       sgr-1  sg-web  tcp       22-23  203.0.113.0/24
	// 2       sgr-2  sg-web  icmp      8:-1   0.0.0.0/0
	// 3       sgr-3  sg-web  udp       53-53  sg-dns
	// egress generation 5, shrunk at 5: 1 rules
	// SERIAL  RULE   GROUP   PROTOCOL  PORTS  SOURCE
	// 4       sgr-4  sg-web  -1        all    0.0.0.0/0
}

func ExampleExplanation_String() {
	rules := numbered(rule("tcp 22-23 203.0.113.0/24"), rule("udp 53-53 0.0.0.0/0"))
	c := firewall.NewCompiler()
	table := c.Acquire(view{"sg-web": vpcGroup("sg-web", rules...)}, []ec2.GroupID{"sg-web"}, 5).Ingress
	for _, addr := range []string{"203.0.113.25", "198.51.100.7"} {
		fmt.Print(table.Explain(6, 22, firewall.Source{Addr: netip.MustParseAddr(addr)}))
	}
	// Output:
	// allowed by rule 1
	// sgr-1 of sg-web: tcp 22-23 from 203.0.113.0/24
	// denied by 2 rules
	// sgr-1 of sg-web is for another source
	// sgr-2 of sg-web is for another protocol
}

// TestStringHasABoundedNumberOfLines compiles more rules than String lists.
func TestStringHasABoundedNumberOfLines(t *testing.T) {
	g := vpcGroup("web")
	for range 100 {
		g.Rules = append(g.Rules, rule("tcp 22-22 203.0.113.0/24"), out("tcp 22-22 203.0.113.0/24"))
	}
	c := firewall.NewCompiler()
	set := c.Acquire(view{"web": g}, []ec2.GroupID{"web"}, 1)
	refused := set.Ingress.Explain(17, 22, firewall.Source{Addr: netip.MustParseAddr("203.0.113.1")})
	var none *firewall.Table
	for _, tt := range []struct {
		text  string
		lines int
	}{{set.Ingress.String(), 18}, {set.String(), 39}, {refused.String(), 17}, {none.String(), 1}} {
		if lines := strings.Count(tt.text, "\n"); lines > tt.lines {
			t.Errorf("String returned %d lines, want at most %d:\n%s", lines, tt.lines, tt.text)
		}
	}
}
