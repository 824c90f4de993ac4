package vswitch

import (
	"maps"
	"strings"
	"testing"

	"palisade/ec2"
	"palisade/internal/packet/packettest"
)

// TestThreatsNeverReachTheVictimsKernel sends the corpus with a real raw socket between two real devices.
// The victim's kernel must count no packet.
func TestThreatsNeverReachTheVictimsKernel(t *testing.T) {
	w := newWire(t, kernelHeader, permit(ec2.TCP, 22, 22, "0.0.0.0/0"))
	field := packettest.Field{
		Attacker: packettest.Host{MAC: attackerMAC, Addr: attackerIP}, Victim: packettest.Host{MAC: victimMAC, Addr: victimIP},
		Gateway: packettest.Host{MAC: GatewayMAC, Addr: addr("10.0.0.1")}, Member: packettest.Host{MAC: macOf("lone"), Addr: addr("10.10.0.6")}, Unused: addr("10.10.9.9"), Open: 22,
	}
	e := w.sw.Edit(2)
	e.AddEndpoint(1, &Endpoint{Epoch: 9, Address: field.Member.Addr, MAC: field.Member.MAC, Node: 2})
	w.sw.Publish(e)
	seen, sent := verdictCounts{}, 0
	for _, threat := range packettest.Threats(field) {
		if err := w.send(threat.Frame); err != nil {
			t.Errorf("%s, %s: the attacker's kernel refused the frame: %v", threat.ID, threat.Name, err)
			continue
		}
		sent++
		want := threat.SameNode
		if !strings.Contains(want, " at ") {
			want += " at attacker"
		}
		seen[want]++
		if got := w.settled(want, seen[want]); !maps.Equal(got, seen) {
			t.Fatalf("%s, %s: verdicts %v, want %v", threat.ID, threat.Name, got, seen)
		}
	}
	if n := w.received(); n != 0 {
		t.Errorf("the victim's eth0 received %d of %d hostile frames, want 0", n, sent)
	}
	t.Logf("%d frames", sent)
}
