package node

import (
	"net/netip"
	"strings"
	"testing"

	"palisade/ec2/state"
	"palisade/internal/node/plane/planetest"
)

// TestReportNamesPortVerdictAndWrongRule adds a rule with a wrong source. The report must say which
// port dropped the packet and with which verdict, and must show the rule.
func TestReportNamesPortVerdictAndWrongRule(t *testing.T) {
	w := newWorld(t, "report")
	web := w.group("web")
	w.permit(web, planetest.TCP(80, netip.MustParsePrefix("192.0.2.0/24"))) // not the subnet of the client
	server, client := w.launch(w.Public, web), w.launch(w.Public, w.all)
	address := w.primary(server).Private.String()
	w.connects(w.of(client), address, 80, false, "with the wrong rule")

	report := w.node.report(t, sentPacket{string(client), address, "tcp/80"})
	for _, want := range []string{
		"verdict no-rule at port " + string(server),
		"not admitted by tcp 80 from 192.0.2.0/24",
		string(server) + ": ", " no-rule, ",
		`"web", members [` + string(w.primary(server).ID) + `]`, "tcp 80 from 192.0.2.0/24",
		string(w.primary(client).ID) + ` of "` + string(client) + `" on node1`,
	} {
		if !strings.Contains(report, want) {
			t.Errorf("the report does not contain %q", want)
		}
	}
	if n := strings.Count(report, "\n"); n >= 100 {
		t.Errorf("the report has %d lines, want less than 100", n)
	}
	if t.Failed() {
		t.Logf("the report:\n%s", report)
	}
	w.do(&state.AuthorizeRules{Account: dev, Region: region, Group: state.GroupSelector{ID: web}, Rules: []state.RuleSpec{planetest.TCP(80, w.Public.CIDR)}})
	w.connects(w.of(client), address, 80, true, "with the right rule")
	if report := w.node.report(t, sentPacket{string(client), address, "tcp/80"}); !strings.Contains(report, "verdict forward") {
		t.Errorf("after the right rule was added the report is\n%s\nwant verdict forward", report)
	}
}
