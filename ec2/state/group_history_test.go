package state

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"palisade/ec2"
)

// A groupHistory makes a random history of groups and rules in two VPCs and EC2-Classic, of valid and
// invalid requests.
type groupHistory struct {
	*replay
	rng *rand.Rand
	vpc ec2.VPCID
}

func (s *groupHistory) account() ec2.AccountID {
	return []ec2.AccountID{dev, dev, albert}[s.rng.IntN(3)]
}

func (s *groupHistory) group(account ec2.AccountID) ec2.GroupID {
	return pick(s.rng, slices.Collect(s.state.View().GroupsOf(account, east)), func(g *ec2.Group) ec2.GroupID { return g.ID })
}

func (s *groupHistory) specs(account ec2.AccountID, g ec2.GroupID) []RuleSpec {
	specs := make([]RuleSpec, s.rng.IntN(2)+1)
	for i := range specs {
		specs[i] = s.spec(account, g)
	}
	return specs
}

func (s *groupHistory) spec(account ec2.AccountID, g ec2.GroupID) RuleSpec {
	row, _ := s.state.View().Group(g)
	switch from := s.rng.IntN(4); s.rng.IntN(4) {
	case 0:
		return RuleSpec{Protocol: ec2.TCP, From: from, To: 3, Group: ec2.GroupRef{ID: s.group(account)}}
	case 1:
		if row != nil && len(row.Rules) > 0 { // a rule that the group has
			r := row.Rules[s.rng.IntN(len(row.Rules))]
			return RuleSpec{Protocol: r.Protocol, From: r.From, To: r.To, Prefix: r.Source.Prefix, Group: ec2.GroupRef{ID: r.Source.Group.ID}}
		}
		fallthrough
	case 2:
		return tcp(from, from+s.rng.IntN(3), "10.0.0.0/8")
	}
	return RuleSpec{
		Protocol: []ec2.Protocol{ec2.TCP, ec2.UDP, ec2.ICMP, ec2.ICMPv6, ec2.AnyProtocol, 50}[s.rng.IntN(6)],
		From:     s.rng.IntN(4) - 1,
		To:       s.rng.IntN(5) - 1,
		Prefix:   cidr([]string{"10.0.0.0/8", "10.1.2.3/8", "0.0.0.0/0", "::/0"}[s.rng.IntN(4)]),
	}
}

func (s *groupHistory) next() Request {
	account := s.account()
	g := s.group(account)
	direction := ec2.Direction(s.rng.IntN(2))
	specs := s.specs(account, g)
	var ids []ec2.RuleID
	if row, ok := s.state.View().Group(g); ok {
		for _, r := range row.Rules {
			if s.rng.IntN(3) == 0 {
				ids = append(ids, r.ID)
			}
		}
	}
	var tags map[string]string
	if s.rng.IntN(3) == 0 {
		tags = map[string]string{"Name": "x"}
	}
	sel := GroupSelector{ID: g}
	switch s.rng.IntN(12) {
	case 0, 1:
		name := []string{"web", "Web", "db", "default", "it's", ""}[s.rng.IntN(6)]
		return &CreateSecurityGroup{account, east, name, "x", []ec2.VPCID{"", s.vpc}[s.rng.IntN(2)], tags}
	case 2:
		return &DeleteSecurityGroup{account, east, sel}
	case 3:
		return &RevokeRules{account, east, sel, direction, specs, nil}
	case 4:
		return &RevokeRules{account, east, sel, direction, nil, ids}
	case 5:
		m := &ModifyRules{Account: account, Region: east, Group: g}
		for i, id := range ids {
			m.Rules = append(m.Rules, RuleChange{id, specs[i%len(specs)]})
		}
		return m
	case 6:
		u := &UpdateRuleDescriptions{Account: account, Region: east, Group: sel, Direction: direction}
		for _, id := range ids {
			u.ByID = append(u.ByID, RuleDescription{id, "described"})
		}
		return u
	case 7:
		if len(ids) > 0 {
			return &CreateTags{account, east, []string{string(ids[0]), string(g)}, map[string]string{"stage": "test"}}
		}
	}
	return &AuthorizeRules{account, east, sel, direction, specs, tags, true}
}

// consistent returns the invariants of groups that the State violates.
func (s *groupHistory) consistent() (wrong []string) {
	v := s.state.View()
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	counts := make(map[groupCount]int)
	known := make(map[string]bool)
	for g := range v.Groups() {
		counts[groupCount{Account: g.Account, Region: g.Region, VPC: g.VPC}]++
		known[string(g.ID)] = true
		if err := checkDistinct(g.Rules); err != nil {
			say("group %s: %v", g.ID, err)
		}
		for i := range g.Rules {
			r := &g.Rules[i]
			known[string(r.ID)] = true
			if of, at, ok := v.Rule(r.ID); !ok || of.ID != g.ID || at != r {
				say("rule %s of group %s was found in group %v", r.ID, g.ID, of)
			}
			if g.VPC == "" && r.Direction == ec2.Egress {
				say("group %s of EC2-Classic has egress rule %s", g.ID, r.ID)
			}
			if !r.Source.IsGroup() {
				continue
			}
			if o, ok := v.Group(r.Source.Group.ID); !ok || o.VPC != g.VPC {
				say("rule %s of group %s names group %s, which is deleted or in another VPC", r.ID, g.ID, r.Source.Group.ID)
			}
		}
	}
	for c := range rows[groupCount](v.txn(), tableGroupCount, indexID, "") {
		key := *c
		key.Count = 0
		if counts[key] != c.Count {
			say("the count is %+v, but there are %d groups", *c, counts[key])
		}
		delete(counts, key)
	}
	if len(counts) > 0 {
		say("groups without a count: %v", counts)
	}
	for tag := range rows[ec2.Tag](v.txn(), tableTag, indexID, "") {
		if strings.HasPrefix(tag.Resource, "sg") && !known[tag.Resource] {
			say("%s is deleted but has a tag", tag.Resource)
		}
	}
	return wrong
}

// After every request the groups keep their invariants. A refused request changes nothing. A copy
// of the State, which is restored from a snapshot now and then, stays equal to it.
func TestRandomHistoriesOfGroupsStayConsistent(t *testing.T) {
	done := 0
	for seed := range uint64(6) {
		r := newVPCReplay(t)
		s := &groupHistory{r, rand.New(rand.NewPCG(seed, 5)), r.vpcOf(dev, "10.0.0.0/16")}
		r.must(&putSettings{ec2.Settings{RulesPerVPCGroup: 7, RulesPerGroup: 9, GroupsPerVPC: 4}})
		var twin *State
		for n := range 600 {
			before := s.state.View()
			req := s.next()
			_, err := s.do(req)
			if err == nil {
				done++
			} else if c := s.state.ViewSince(before).Changes(); len(c.Groups) > 0 {
				t.Fatalf("seed %d, step %d: %T was refused (%v) but changed %d groups, want 0", seed, n, req, err, len(c.Groups))
			}
			if wrong := s.consistent(); len(wrong) > 0 {
				t.Fatalf("seed %d, step %d, after %+v (%v):\n%s\n%v", seed, n, req, err, strings.Join(wrong, "\n"), s.state.View())
			}
			if n == 300 {
				if twin, err = Restore(bytes.NewReader(s.snapshot())); err != nil {
					t.Fatal(err)
				}
			} else if twin != nil {
				_, _ = twin.Apply(twin.Index()+1, s.log[len(s.log)-1])
			}
		}
		if !bytes.Equal(s.snapshot(), snapshotOf(t, twin)) {
			t.Errorf("seed %d: the restored State differs", seed)
		}
	}
	if done < 600 {
		t.Errorf("only %d requests succeeded, want 600", done)
	}
}
