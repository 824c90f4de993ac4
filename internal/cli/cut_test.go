package cli

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"palisade/internal/node/control"
)

func TestCutCommandListsAndIsAudited(t *testing.T) {
	c := nodeCommand{t, startNode(t)}
	if out := c.must("cut", "--from", "laptop", "--to", "10.0.0.0/8"); out != "no connection\n" {
		t.Errorf("cut prints %q without a connection", out)
	}
	if out := c.must("cut", "--from", "laptop", "--to", "10.0.0.0/8", "--yes"); !strings.HasPrefix(out, "0 connections are cut, at index ") {
		t.Errorf("cut --yes prints %q without a connection", out)
	}
	var s control.CutStatus
	if err := json.Unmarshal([]byte(c.must("cut", "--from", "203.0.113.25", "--to", "10.10.0.0/16", "--yes", "--json")), &s); err != nil || s.Index == 0 || s.Total != 0 || s.Connections == nil || s.Unreached == nil {
		t.Errorf("cut --json prints %+v, error %v; want an index, no connection and no unreached node", s, err)
	}
	c.fails("InvalidSecurityGroupRuleId.NotFound", "cut", "--rule", "sgr-0123456789abcdef0", "--yes")
	c.fails("InvalidSecurityGroupRuleId.Malformed", "cut", "--rule", "sg-01234567")
	c.fails("has no interface with an address", "cut", "--from", "default", "--to", "laptop", "--yes")
	c.fails("neither the id of an instance", "cut", "--from", "nobody", "--to", "laptop")
	for _, args := range [][]string{{}, {"--from", "laptop"}, {"--to", "laptop"}, {"--rule", "sgr-01", "--from", "laptop", "--to", "laptop"}, {"--rule", "sgr-01", "--from", "laptop"}, {"sgr-01"}} {
		c.exits(2, append([]string{"cut"}, args...)...)
	}
	audit := c.must("audit", "--action", "CutConnections")
	if want := regexp.MustCompile(`operator +control socket of node1 +CutConnections +done +From=203\.0\.113\.25 To=10\.0\.0\.0/8`); !want.MatchString(audit) || strings.Count(audit, "\n") != 3 {
		t.Errorf("the audit trail is\n%s\nwant a heading and 2 cuts, one of them %s", audit, want)
	}
}
