package conntrack_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"palisade/conntrack"
	"palisade/internal/packet"
)

func ExampleZone_Describe() {
	tracker, err := conntrack.Open(conntrack.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer tracker.Close()
	zone := tracker.AddZone(7, conntrack.Timeouts{})
	ssh, query := pkt(packet.ProtocolTCP, 40000, 22, packet.SYN), pkt(packet.ProtocolUDP, 5353, 53, 0)
	admit(zone, ssh, 0, conntrack.Admission{Rule: 3, Revision: rules})
	observe(zone, back(ssh, packet.SYN|packet.ACK), 0, rules)
	admit(zone, back(query, 0), 0, conntrack.Admission{Rule: 12, Revision: rules, Untracked: true})
	fmt.Print(zone.Describe(time.Second))
	// Output:
	// zone of lease 7: 1 tracked, 1 of them reserved
	// LEASE  FLOW                                   OPENED BY  STATE              RULE  PACKETS  REPLIES  EXPIRES IN
	// 7      tcp 203.0.113.25:40000 > 10.10.0.4:22  peer       syn-received       3     1        1        29s
	// 7      udp 10.10.0.4:53 > 203.0.113.25:5353   interface  single, untracked  12    1        0        29s
}

func ExampleConnection_String() {
	fmt.Println(conntrack.Connection{
		Epoch: 7, Flow: pkt(packet.ProtocolTCP, 40000, 22, 0).Flow, Outside: true, Tracked: true,
		State: "established", Rule: 3, Packets: [2]uint32{2, 1}, Expires: time.Minute,
	})
	// Output:
	// tcp 203.0.113.25:40000 > 10.10.0.4:22, lease 7, opened by the peer, established, rule 3, packets 2, replies 1, expires in 1m0s
}

func ExampleAnswer_String() {
	fmt.Println(conntrack.Answer{Status: conntrack.Stale, Outside: true, Reply: true, Untracked: true})
	fmt.Println(conntrack.Revision{Generation: 9, Shrunk: 5, Strict: true}, conntrack.In, conntrack.Out)
	// Output:
	// stale, opened by the peer, a reply, untracked
	// generation 9, shrunk at 5, strict in out
}

// TestDescribeHasABoundedNumberOfLines fills a table with more connections than are listed.
func TestDescribeHasABoundedNumberOfLines(t *testing.T) {
	tr := open(t, conntrack.Config{})
	z := tr.AddZone(1, conntrack.Timeouts{})
	for port := range uint16(100) {
		admit(z, pkt(packet.ProtocolUDP, port, 53, 0), 0, conntrack.Admission{Revision: rules})
	}
	for _, text := range []string{z.Describe(0), tr.Describe(0)} {
		if lines := strings.Count(text, "\n"); lines != 23 || !strings.Contains(text, "and 80 more") {
			t.Errorf("%d lines, want 23 with the text \"and 80 more\":\n%s", lines, text)
		}
	}
	if text := tr.Describe(time.Hour); text != "100 tracked of 262144, 0 untracked\n" {
		t.Errorf("Describe after all connections have expired: %q, want only the line with the numbers", text)
	}
}
