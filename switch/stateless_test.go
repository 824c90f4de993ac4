package vswitch

import (
	"testing"

	"palisade/ec2"
	"palisade/internal/verdict"
)

// TestStatelessAdmitsByRulesAlone: in a stateless Switch an answer needs a rule of its own, and no
// connection is stored.
func TestStatelessAdmitsByRulesAlone(t *testing.T) {
	b := newTestbed(t)
	b.sw.stateless = true
	b.rules("app", permit(ec2.UDP, 53, 53, "10.10.0.4/32"))
	question := b.of("web", template(17, addr("10.10.0.4"), addr("10.10.0.5"), 1000, 53))
	answer := b.of("app", template(17, addr("10.10.0.5"), addr("10.10.0.4"), 53, 1000))
	b.expect("web", question, "app", verdict.Forward)
	b.expect("app", answer, "web", verdict.NoRule)
	b.rules("web", permit(ec2.UDP, 1000, 1000, "10.10.0.5/32"))
	b.expect("app", answer, "web", verdict.Forward)
	if n := b.tracker.Usage().Tracked; n != 0 {
		t.Errorf("%d connections are tracked, want 0", n)
	}
}
