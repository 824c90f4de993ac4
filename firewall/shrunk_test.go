package firewall_test

import (
	"net/netip"
	"testing"

	"palisade/ec2"
	"palisade/firewall"
)

// A change of a rule's ports, protocol or source keeps the rule's id, and counts as the
// removal of a rule in the same direction. A change of its description does not.
func TestChangedRuleCountsAsRemoved(t *testing.T) {
	for _, direction := range []ec2.Direction{ec2.Ingress, ec2.Egress} {
		was, other := rule("tcp 80-90 0.0.0.0/0"), rule("udp 53-53 10.0.0.0/8")
		was.Direction, other.Direction = direction, direction
		for name, tt := range map[string]struct {
			change func(r *ec2.Rule)
			shrunk bool
		}{
			"its ports":       {func(r *ec2.Rule) { r.Serial, r.To = 1<<40, 85 }, true},
			"its protocol":    {func(r *ec2.Rule) { r.Serial, r.Protocol = 1<<40, ec2.UDP }, true},
			"its source":      {func(r *ec2.Rule) { r.Serial, r.Source.Prefix = 1<<40, netip.MustParsePrefix("10.0.0.0/8") }, true},
			"its description": {func(r *ec2.Rule) { r.Description = "another" }, false},
		} {
			v := view{"g": vpcGroup("g", was, other)}
			c := firewall.NewCompiler()
			set := c.Acquire(v, []ec2.GroupID{"g"}, 5)
			if set.Ingress.Shrunk != 5 || set.Egress.Shrunk != 5 {
				t.Errorf("the first ingress and egress tables have Shrunk %d and %d, want 5", set.Ingress.Shrunk, set.Egress.Shrunk)
			}
			now := was
			tt.change(&now)
			if now.ID != was.ID {
				t.Fatal("the changed rule has another id, want the same")
			}
			v["g"] = vpcGroup("g", now, other)
			c.Update(v, []ec2.GroupID{"g"}, 6)
			changed, opposite := c.Current(set).Ingress, c.Current(set).Egress
			if direction == ec2.Egress {
				changed, opposite = opposite, changed
			}
			want := uint64(5)
			if tt.shrunk {
				want = 6
			}
			if changed.Shrunk != want || opposite.Shrunk != 5 {
				t.Errorf("%s of an %s rule changed: Shrunk is %d, of the other direction %d; want %d and 5", name, direction, changed.Shrunk, opposite.Shrunk, want)
			}
		}
	}
}
