package clients

import "testing"

// ipv6Rules checks that rules for IPv6 admit no IPv4 packet, beside which rules for IPv4 they stand,
// and that their removal cuts none.
func (s *testbed) ipv6Rules(t *testing.T) {
	everything := permission(all, -1, -1, "0.0.0.0/0")
	everything6 := permission(all, -1, -1, "::/0")
	ping6 := permission("icmpv6", -1, -1, "::/0", s.groups["client"])
	web, web6 := permission("tcp", 7060, 7060, "0.0.0.0/0"), permission("tcp", 7060, 7060, "::/0", "2001:db8::/32")
	answers := probes(to(s.client.host, s.server, "tcp/7060"))
	others := probes(to(s.client.host, s.server, "udp/7060"), to(s.client.host, s.server, "icmp"), to(s.client.host, s.server, "tcp/7061"))
	s.checkChanges(t,
		change{action: "AuthorizeSecurityGroupIngress of IPv6 ranges and icmpv6",
			do:     func(t *testing.T) { s.admit(t, s.groups["server"], everything6, ping6, web6) },
			silent: append(answers, others...)},
		change{action: "AuthorizeSecurityGroupIngress of an IPv4 range beside them",
			do:     func(t *testing.T) { s.admit(t, s.groups["server"], web) },
			open:   answers,
			silent: others},
		change{action: "RevokeSecurityGroupIngress of the IPv6 ranges",
			do:     func(t *testing.T) { s.revoke(t, s.groups["server"], everything6, ping6, web6) },
			same:   answers,
			silent: others},
		change{action: "RevokeSecurityGroupEgress of the IPv4 range",
			do:   func(t *testing.T) { s.revokeEgress(t, s.groups["client"], everything) },
			shut: answers},
		change{action: "AuthorizeSecurityGroupEgress of ::/0",
			do:     func(t *testing.T) { s.admitEgress(t, s.groups["client"], everything6) },
			silent: append(answers, others...)},
		change{action: "RevokeSecurityGroupEgress of ::/0, and the IPv4 range again",
			do: func(t *testing.T) {
				s.revokeEgress(t, s.groups["client"], everything6)
				s.admitEgress(t, s.groups["client"], everything)
			},
			open: answers},
		change{action: "RevokeSecurityGroupIngress of the IPv4 range",
			do:   func(t *testing.T) { s.revoke(t, s.groups["server"], web) },
			shut: answers},
	)
}
