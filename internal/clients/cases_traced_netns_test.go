package clients

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
)

// traced compares `palisade trace` with packets, by private addresses of the VPC. The exit status says whether the packet
// arrives.
func (s *testbed) traced(t *testing.T) {
	trace := func(from, to string, arrives bool, says string) {
		t.Helper()
		out, err := s.lab.Try("trace", "--from="+from, "--to="+to, "tcp/7130")
		status := 0
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			status = exit.ExitCode()
		}
		if want := map[bool]int{true: 0, false: 1}[arrives]; status != want || !strings.Contains(out, says) {
			t.Errorf("trace from %s to %s: exit status %d, want %d; want an output that contains %q:\n%s", from, to, status, want, says, out)
		}
	}
	client, server, other := s.client.private.String(), s.server.private.String(), s.other.private.String()
	rule := permission("tcp", 7130, 7130, "10.0.0.0/16")
	near, far := to(s.client.host, s.server, "tcp/7130"), to(s.other.host, s.server, "tcp/7130")
	s.wantSilence(t, "without a rule", near, far)
	trace(client, server, false, "=> dropped at "+s.server.id+" on ")
	trace(other, server, false, "no-rule")
	s.admit(t, s.groups["server"], rule)
	s.wantAnswers(t, "with a rule", near, far)
	trace(client, server, true, "=> delivered to "+s.server.id+" on ")
	trace(other, s.server.nic, true, "=> delivered to "+s.server.id+" on ")
	trace(s.other.id, server, true, "=> delivered to "+s.server.id+" on ")
	trace("laptop", server, false, server+" has no public address, and 203.0.113.25 is outside of the cluster")
	trace(server, "laptop", false, s.server.id+": its subnet has no route to a gateway: "+s.serverSubnet+" uses "+s.routes)
	trace(client, "10.0.1.250", false, "no interface in "+s.vpc+" has 10.0.1.250")
	s.revoke(t, s.groups["server"], rule)
	if out := s.lab.Do(t, "drops", "--all=false"); !strings.Contains(out, server+" in "+s.vpc) {
		t.Errorf("drops does not say that %s dropped packets at %s in %s:\n%s", s.server.id, server, s.vpc, out)
	}
}
