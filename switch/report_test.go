package vswitch

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

// A recorder is a test within a test: it records what would be printed, and whether it failed.
type recorder struct {
	testing.TB
	failed   bool
	text     strings.Builder
	cleanups []func()
}

func (r *recorder) Helper()          {}
func (r *recorder) Failed() bool     { return r.failed }
func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }

func (r *recorder) Logf(format string, args ...any) { fmt.Fprintf(&r.text, format+"\n", args...) }

func (r *recorder) Errorf(format string, args ...any) {
	r.failed = true
	r.Logf(format, args...)
}

// finish runs the cleanups, and returns what the test has printed.
func (r *recorder) finish() string {
	for _, f := range slices.Backward(r.cleanups) {
		f()
	}
	return r.text.String()
}

// wantReport checks that the report of a failed test has all texts of want, and at most 100 lines.
func wantReport(t *testing.T, text string, want ...string) {
	t.Helper()
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = strings.Join(strings.Fields(line), " ") // columns of tables
	}
	text = strings.Join(lines, "\n")
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("the report lacks %q", w)
		}
	}
	if n := len(lines); n > 100 {
		t.Errorf("the report has %d lines, want at most 100", n)
	}
	if t.Failed() {
		t.Logf("the report:\n%s", text)
	}
}

// TestFailureReportLeadsToTheWrongRule plants a rule for port 23 where a test wants port 22: in memory, and
// between two devices. The report of each has the port, the verdict, the rule and the packet.
func TestFailureReportLeadsToTheWrongRule(t *testing.T) {
	t.Run("memory", func(t *testing.T) {
		r := &recorder{TB: t}
		b := newTestbed(r)
		planted := permit(ec2.TCP, 23, 23, "web")
		b.rules("app", permit(ec2.UDP, 53, 53, "web"), planted)
		b.expect("web", b.of("web", template(packet.ProtocolUDP, addr("10.10.0.4"), addr("10.10.0.5"), 5000, 53)), "app", verdict.Forward)
		b.expect("web", b.of("web", template(packet.ProtocolTCP, addr("10.10.0.4"), addr("10.10.0.5"), 40000, 22)), "app", verdict.Forward)
		wantReport(t, r.finish(), "no-rule at app: no rule of any group admits it", string(planted.ID)+" app tcp 23-23 web", "tcp 10.10.0.4:40000 > 10.10.0.5:22", "udp 10.10.0.4:5000 > 10.10.0.5:53", "rules at app, lone")
	})
	t.Run("devices", func(t *testing.T) {
		r := &recorder{TB: t}
		planted := permit(ec2.TCP, 23, 23, "0.0.0.0/0")
		w := newWire(r, kernelHeader, planted)
		f := template(packet.ProtocolTCP, attackerIP, victimIP, 40000, 22)
		f.SrcMAC, f.DstMAC = attackerMAC, GatewayMAC
		if err := w.send(packettest.Build(f)); err != nil {
			t.Fatal(err)
		}
		if got := w.settled("no-rule at victim", 1); got["forward at victim"] != 1 {
			r.Errorf("verdicts %v, want forward at victim", got)
		}
		wantReport(t, r.finish(), "victim no-rule 1 no rule of any group admits it", string(planted.ID)+" victim tcp 23-23 0.0.0.0/0", "tcp 10.10.0.4:40000 > 10.10.0.5:22", "rules at victim")
	})
}
