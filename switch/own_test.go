package vswitch

import (
	"testing"

	"palisade/internal/verdict"
)

// TestPacketToSelfNeedsARule: an ingress rule must admit a packet that an interface sends to its
// own private or public address, through the gateway or directly to its own MAC address.
func TestPacketToSelfNeedsARule(t *testing.T) {
	for _, protocol := range []uint8{6, 17, 1} {
		b := newTestbed(t)
		for _, dst := range []string{"10.10.0.4", "198.18.0.4"} {
			b.expect("web", b.of("web", template(protocol, addr("10.10.0.4"), addr(dst), 7, 80)), "web", verdict.NoRule)
		}
		b.expect("web", to("web", macOf("web"), template(protocol, addr("10.10.0.4"), addr("10.10.0.4"), 7, 80)), "web", verdict.NoRule)
		if n := b.devices["web"].count; n != 0 {
			t.Errorf("protocol %d: the interface received %d frames that no rule admits, want 0", protocol, n)
		}
		b.rules("web", anyIn())
		b.expect("web", b.of("web", template(protocol, addr("10.10.0.4"), addr("10.10.0.4"), 8, 80)), "web", verdict.Forward)
		b.expect("web", b.of("web", template(protocol, addr("10.10.0.4"), addr("198.18.0.4"), 8, 80)), "web", verdict.Forward)
	}
}
