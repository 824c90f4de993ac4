package cli

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"palisade/internal/node/control"
)

func TestClusterSetChangesRegionsLive(t *testing.T) {
	c := nodeCommand{t, startNode(t)}
	list := func(lines ...string) {
		t.Helper()
		out := c.must("cluster", "regions")
		for _, line := range lines {
			if !regexp.MustCompile(`(?m)^` + line + `$`).MatchString(out) {
				t.Errorf("cluster regions prints\n%s\nwant a line that matches %s", out, line)
			}
		}
		if got := strings.Count(out, "\n") - 1; got != len(lines) {
			t.Errorf("cluster regions prints %d zones, want %d:\n%s", got, len(lines), out)
		}
	}
	const home = `us-east-1 +us-east-1a +use1-az1 +node1 +labels +1`
	list(home)
	out := c.must("cluster", "set", "--region", "eu-west-1")
	if !strings.HasPrefix(out, "eu-west-1 is served, at index ") || !strings.Contains(out, "eu-west-1c") {
		t.Errorf("cluster set prints\n%s\nwant the zones of eu-west-1", out)
	}
	list(home, `eu-west-1 +eu-west-1a +euw1-az1 +node1 +operator +0`, `eu-west-1 +eu-west-1b +euw1-az2 +node1 +operator +0`, `eu-west-1 +eu-west-1c +euw1-az3 +node1 +operator +0`)
	c.must("cluster", "set", "--region", "eu-west-1", "--zones", "b,a", "--nodes", "node1")
	list(home, `eu-west-1 +eu-west-1a .*`, `eu-west-1 +eu-west-1b .*`)
	c.must("cluster", "set", "--region", "home-7", "--zone", "a=node1", "--zone", "home-7c=node1")
	list(home, `eu-west-1 +eu-west-1a .*`, `eu-west-1 +eu-west-1b .*`, `home-7 +home-7a +home-7a +node1 .*`, `home-7 +home-7c .*`)
	c.must("cluster", "set", "--regions", "all")
	var all []control.RegionStatus
	if err := json.Unmarshal([]byte(c.must("cluster", "regions", "--json")), &all); err != nil || len(all) != 35 {
		t.Errorf("with --regions all there are %d regions, error %v; want AWS's 34 and home-7", len(all), err)
	}
	c.must("cluster", "set", "--regions", "chosen")
	c.must("cluster", "set", "--remove-region", "home-7")
	if out := c.must("cluster", "set", "--remove-region", "eu-west-1", "--json"); !strings.Contains(out, `"us-east-1a"`) || strings.Contains(out, "eu-west-1") {
		t.Errorf("cluster set --remove-region --json prints %s, want us-east-1 only", out)
	}
	list(home)

	c.fails("InvalidNode.NotFound", "cluster", "set", "--region", "eu-west-1", "--nodes", "node9")
	c.fails("is no region of AWS", "cluster", "set", "--region", "moon-1")
	c.fails("InvalidParameterValue", "cluster", "set", "--region", "eu-west-1", "--zones", "a,us-east-1b")
	c.fails("was not set", "cluster", "set", "--remove-region", "eu-west-1")
	for _, args := range [][]string{
		{}, {"eu-west-1"}, {"--regions", "some"}, {"--region", "eu-west-1", "--regions", "all"}, {"--regions", "all", "--zones", "a"},
		{"--region", "eu-west-1", "--zone", "a"}, {"--region", "eu-west-1", "--zones", "a", "--zone", "a=node1"}, {"--remove-region", "eu-west-1", "--nodes", "node1"},
	} {
		c.exits(2, append([]string{"cluster", "set"}, args...)...)
	}
	audit := c.must("audit", "--action", "SetRegions")
	for _, line := range []string{`operator +control socket of node1 +SetRegions +done .*Region=eu-west-1`, `done +Every=true`, `done +Remove=home-7`} {
		if !regexp.MustCompile(line).MatchString(audit) {
			t.Errorf("no line of the audit trail matches %s:\n%s", line, audit)
		}
	}
}
