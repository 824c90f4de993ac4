package world

import (
	"fmt"
	"net/netip"

	"palisade/ec2"
	"palisade/firewall"
	vswitch "palisade/switch"
)

// groups is the policy as input of the firewall's compiler: the server's group with the rules,
// and the groups that the rules name.
type groups struct {
	policy policy
	all    map[ec2.GroupID]*ec2.Group
}

func (g groups) Group(id ec2.GroupID) (*ec2.Group, bool) { group, ok := g.all[id]; return group, ok }

// groupID returns the id of the i-th group of a policy.
func groupID(i int) ec2.GroupID {
	if i == clientGroup {
		return "sg-client"
	}
	return ec2.GroupID(fmt.Sprintf("sg-other%d", i))
}

// newGroups makes the groups of a policy. If stateless is true, the client's group also has
// rules that admit every reply of the server.
func newGroups(p policy, stateless bool) groups {
	g := groups{policy: p, all: map[ec2.GroupID]*ec2.Group{}}
	for i := range p.groups {
		id := groupID(i)
		g.all[id] = &ec2.Group{ID: id, Name: string(id)}
	}
	server := &ec2.Group{ID: "sg-server", Name: "server"}
	for i, r := range p.rules {
		one := ec2.Rule{ID: ec2.RuleID(fmt.Sprintf("sgr-%08x", i+1)), Serial: uint64(i + 1), Protocol: ec2.TCP, From: r.from, To: r.to}
		if r.protocol == "udp" {
			one.Protocol = ec2.UDP
		}
		if r.address.IsValid() {
			one.Source.Prefix = netip.PrefixFrom(r.address, 32)
		} else {
			one.Source.Group = ec2.GroupRef{ID: groupID(r.group)}
		}
		server.Rules = append(server.Rules, one)
	}
	g.all[server.ID] = server
	if stateless {
		client := g.all[groupID(clientGroup)]
		for i, protocol := range []ec2.Protocol{ec2.TCP, ec2.UDP} {
			client.Rules = append(client.Rules, ec2.Rule{ID: ec2.RuleID(fmt.Sprintf("sgr-answers%d", i)), Serial: uint64(len(p.rules) + i + 1),
				Protocol: protocol, To: 65535, Source: ec2.Source{Group: ec2.GroupRef{ID: server.ID}}})
		}
	}
	return g
}

// addMembers adds the members of the groups, except the client, as instances without a node.
func (g groups) addMembers(edit *vswitch.Edit, compiler *firewall.Compiler) {
	epoch := uint64(1000) // above those of the endpoints
	for i, members := range g.policy.groups {
		numbers := []firewall.GroupNumber{compiler.Number(groupID(i))}
		for _, address := range members {
			if address == clientAddress {
				continue
			}
			epoch++
			mac := ec2.MAC{2, 1, byte(epoch >> 24), byte(epoch >> 16), byte(epoch >> 8), byte(epoch)}
			edit.AddEndpoint(vni, &vswitch.Endpoint{Epoch: epoch, Address: address, MAC: mac, Groups: numbers})
		}
	}
}
