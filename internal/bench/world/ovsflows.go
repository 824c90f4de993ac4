package world

import "fmt"

// ovsFlows returns the policy as OVN and Neutron write security groups: connection tracking
// first, then established connections, then a flow for each rule with an address and each
// block of its ports. Rules with a group become a conjunction (ovs-fields(7)) of the group's
// members and the rules' ports, so that the number of flows is a sum and not a product.
func ovsFlows(p policy) []string {
	flows := []string{
		"table=0,priority=100,arp,actions=NORMAL",
		"table=0,priority=50,ip,actions=ct(table=1)",
		"table=1,priority=200,ip,ct_state=+trk+inv,actions=drop",
		"table=1,priority=100,ip,ct_state=+est+trk,actions=NORMAL",
		"table=1,priority=100,ip,ct_state=+rel+trk,actions=NORMAL",
		"table=1,priority=0,actions=drop",
	}
	add := func(format string, values ...any) { flows = append(flows, fmt.Sprintf(format, values...)) }
	const commit = "actions=ct(commit),NORMAL"
	seen := map[string]bool{} // two blocks of one conjunction may be the same
	for _, r := range p.rules {
		for _, block := range blocks(r.from, r.to) {
			match := fmt.Sprintf("%s,ct_state=+new+trk,nw_dst=%s,tp_dst=%s", r.protocol, serverAddress, block)
			if r.address.IsValid() {
				add("table=1,priority=50,%s,nw_src=%s,%s", match, r.address, commit)
			} else if key := fmt.Sprint(r.group, match); !seen[key] {
				seen[key] = true
				add("table=1,priority=60,%s,actions=conjunction(%d,2/2)", match, conjunction(r.group))
			}
		}
	}
	for i, members := range p.groups {
		id := conjunction(i)
		for _, member := range members {
			add("table=1,priority=60,ip,ct_state=+new+trk,nw_src=%s,actions=conjunction(%d,1/2)", member, id)
		}
		add("table=1,priority=60,conj_id=%d,ip,ct_state=+new+trk,%s", id, commit)
	}
	return flows
}

func conjunction(group int) int { return group + 1 }

// blocks returns the ports from one to another as values with masks, because OpenFlow has no
// port ranges.
func blocks(from, to int) []string {
	var all []string
	for from <= to {
		size := 1
		for from%(2*size) == 0 && from+2*size-1 <= to {
			size *= 2
		}
		all = append(all, fmt.Sprintf("%#x/%#x", from, 0x10000-size))
		from += size
	}
	return all
}
