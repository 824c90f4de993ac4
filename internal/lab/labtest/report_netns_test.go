package labtest

import "testing"

func TestFailingLabTestPrintsPacketPortVerdictAndRule(t *testing.T) {
	out, failed := Record(t, func(t testing.TB) {
		l := Up(t, "report")
		server := l.Launch(t)
		l.EC2(t, "ec2-authorize default -P tcp -p 23 -s 203.0.113.25/32") // the wrong port: the test expects port 22 to be open
		if out, err := l.On("laptop", "ncat", "-z", "-w", "2", server.PublicAddress, "22"); err != nil {
			t.Fatalf("port 22 is closed: %v\n%s", err, out)
		}
	})
	if !failed {
		t.Fatalf("the test passes with the wrong port open:\n%s", out)
	}
	CheckReport(t, out,
		`port 22 is closed`,
		`tcp/22 from laptop to 198\.18\.`, // the packet
		`=> dropped at i-[0-9a-f]+ on node\d: no-rule`,
		`node1 +i-[0-9a-f]+ +no-rule +\d+`,                        // drops
		`INSTANCE +WAY`,                                           // flows
		`"default" of 598916040194, members \[eni-.* \(node1\)\n`, // rules
		`\n +tcp 23 from 203\.0\.113\.25/32`,
		`i-[0-9a-f]+ eni-[0-9a-f]+ up at node1`, // presence
		`log of node1:`)
}
