package world

import (
	"fmt"
	"net/netip"

	"palisade/ec2"
)

// The policy of every contestant that filters. Rules that do not match come first, each for
// one source and ten TCP ports below FirstPort; the two that admit the client come last.
// Sources are out of 198.18.0.0/15, which RFC 6890 keeps for benchmarks.

// other is the source and the ports of the i-th rule that does not match.
func other(i int) (source netip.Addr, from, to int) {
	i %= 1 << 17
	from = 1000 + 10*(i%400)
	return netip.AddrFrom4([4]byte{198, byte(18 + i>>16), byte(i >> 8), byte(i)}), from, from + 9
}

// ec2Rules are the rules of the server's group, half for CIDRs and half for groups.
func ec2Rules(count int) []ec2.Rule {
	all := make([]ec2.Rule, 0, count)
	add := func(r ec2.Rule) {
		r.Serial = uint64(len(all) + 1)
		r.ID = ec2.RuleID(fmt.Sprintf("sgr-%08x", r.Serial))
		all = append(all, r)
	}
	for i := range count - 2 {
		source, from, to := other(i)
		r := ec2.Rule{Protocol: ec2.TCP, From: from, To: to}
		if i%2 == 0 {
			r.Source.Prefix = netip.PrefixFrom(source, 32)
		} else {
			r.Source.Group = ec2.GroupRef{ID: ec2.GroupID(fmt.Sprintf("sg-other%d", i))}
		}
		add(r)
	}
	admitted := ec2.Source{Group: ec2.GroupRef{ID: "sg-client"}}
	add(ec2.Rule{Protocol: ec2.TCP, From: FirstPort, To: LastPort, Source: admitted})
	add(ec2.Rule{Protocol: ec2.UDP, From: FirstPort, To: LastPort, Source: admitted})
	return all
}
