package cli

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"palisade/internal/node/control"
)

func TestVPCCommandsShowAndSetTheTrackingMode(t *testing.T) {
	c := nodeCommand{t, startNode(t)}
	c.must("account", "create", "--name", "carol", "--id", "123456789012") // with a default VPC
	var all []control.VPCStatus
	if err := json.Unmarshal([]byte(c.must("vpc", "list", "--json")), &all); err != nil || len(all) != 2 {
		t.Fatalf("vpc list --json prints %+v, error %v; want EC2-Classic and a VPC", all, err)
	}
	vpc := all[1].VPC
	want := func(classic, other string) {
		t.Helper()
		list := c.must("vpc", "list")
		for _, line := range []string{`(?m)^classic +us-east-1 +- +10\.0\.0\.0/8 +` + classic + ` +0$`, `(?m)^` + vpc + ` +us-east-1 +carol +172\.31\.0\.0/16 +` + other + ` +0$`} {
			if !regexp.MustCompile(line).MatchString(list) {
				t.Errorf("vpc list prints\n%s\nwant a line that matches %s", list, line)
			}
		}
	}
	want("aws", "aws")
	if out := c.must("vpc", "set", vpc, "--tracking", "strict"); !strings.HasPrefix(out, vpc+" has tracking mode strict, at index ") {
		t.Errorf("vpc set prints %q", out)
	}
	want("aws", "strict")
	c.must("vpc", "set", "classic", "--tracking", "strict")
	var change control.TrackingChange
	if err := json.Unmarshal([]byte(c.must("vpc", "set", vpc, "--tracking", "aws", "--json")), &change); err != nil || change.VPC != vpc || change.Tracking != "aws" || change.Index == 0 || len(change.Unreached) != 0 {
		t.Errorf("vpc set --json prints %+v, error %v; want the change to aws, with its index, on all nodes", change, err)
	}
	want("strict", "aws")

	c.fails("InvalidVpcID.NotFound", "vpc", "set", "vpc-0123456789abcdef0", "--tracking", "strict")
	c.fails("palisade vpc list shows all", "vpc", "set", "carol", "--tracking", "strict")
	c.fails("must be aws or strict", "vpc", "set", vpc, "--tracking", "loose")
	for _, args := range [][]string{{"vpc", "set", vpc}, {"vpc", "set", vpc, "--tracking", "loose"}, {"vpc", "set", "--tracking", "aws"}, {"vpc", "list", "all"}} {
		c.exits(2, args...)
	}
	want("strict", "aws")
	audit := c.must("audit", "--action", "settracking")
	for _, line := range []string{`operator +control socket of node1 +SetTracking +done +Tracking=strict VPC=` + vpc, `done +Tracking=strict VPC=classic`, `done +Tracking=aws VPC=` + vpc} {
		if !regexp.MustCompile(line).MatchString(audit) {
			t.Errorf("no line of the audit trail matches %s:\n%s", line, audit)
		}
	}
}
