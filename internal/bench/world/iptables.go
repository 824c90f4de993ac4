package world

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// The method filter applies the policy to the bridged packets of a namespace, and returns the
// version of iptables.
func (w *World) filter(ctx context.Context, inside string) (version string, err error) {
	if _, err := tool(ctx, inside, ipsets(w.policy), "ipset", "restore"); err != nil {
		return "", err
	}
	if _, err := tool(ctx, inside, iptablesRules(w.policy), "iptables-restore"); err != nil {
		return "", err
	}
	w.tracking = append(w.tracking, inside)
	version, err = tool(ctx, inside, "", "iptables", "--version")
	return strings.TrimSpace(version), err
}

// ipsets returns the groups in the format of ipset-restore.
func ipsets(p policy) string {
	var b strings.Builder
	for i, members := range p.groups {
		fmt.Fprintf(&b, "create group%d hash:ip maxelem %d\n", i, max(65536, len(members)))
		for _, member := range members {
			fmt.Fprintf(&b, "add group%d %s\n", i, member)
		}
	}
	return b.String()
}

// iptablesRules returns the policy in the format of iptables-restore. As a careful operator
// would write it, the rule for established connections comes first.
func iptablesRules(p policy) string {
	var b strings.Builder
	b.WriteString("*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n")
	b.WriteString("-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n")
	for _, r := range p.rules {
		source := fmt.Sprintf("-m set --match-set group%d src", r.group)
		if r.address.IsValid() {
			source = fmt.Sprintf("-s %s/32", r.address)
		}
		fmt.Fprintf(&b, "-A FORWARD %s -d %s/32 -p %s --dport %d:%d -m conntrack --ctstate NEW -j ACCEPT\n", source, serverAddress, r.protocol, r.from, r.to)
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

// verifyFiltered reads the counters of the rules. The rule for established connections and a
// rule that admits new ones must both have counted packets; otherwise packets bypassed
// iptables, which is an error.
func verifyFiltered(ctx context.Context, inside string) error {
	listing, err := tool(ctx, inside, "", "iptables", "-w", "-n", "-v", "-x", "-L", "FORWARD")
	if err != nil {
		return err
	}
	var established, admitted bool
	for line := range strings.Lines(listing) {
		fields := strings.Fields(line)
		if len(fields) < 3 {
			continue
		}
		if packets, err := strconv.ParseUint(fields[0], 10, 64); err == nil && packets > 0 {
			established = established || strings.Contains(line, "ESTABLISHED")
			admitted = admitted || strings.Contains(line, "match-set group0 ")
		}
	}
	if !established || !admitted {
		return fmt.Errorf("packets bypassed iptables and its connection tracking:\n%s", listing)
	}
	return nil
}
