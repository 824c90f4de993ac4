package clients

import (
	"os/exec"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"palisade/internal/lab/labtest"
	"palisade/internal/netns"
)

// inNamespace runs a command in a host's network namespace with all rights of the machine's root,
// because root inside an instance does not have the capability NET_ADMIN.
func inNamespace(t *testing.T, h host, argv ...string) {
	t.Helper()
	var out []byte
	err := netns.Do(h.namespace, func() (err error) {
		out, err = exec.Command(argv[0], argv[1:]...).CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("command %q in the namespace of %s: %v\n%s", argv, h.name, err, out)
	}
}

// firewallInsideInstance checks that a firewall inside an instance can only drop more packets,
// because the rules of groups are enforced outside of the instance.
func (s *testbed) firewallInsideInstance(t *testing.T) {
	s.admit(t, s.groups["server"], permission("tcp", 7090, 7090, "10.0.0.0/16"))
	closed, open := to(s.client.host, s.server, "tcp/7091"), to(s.client.host, s.server, "tcp/7090")
	nft := func(rules string) func(*testing.T) {
		return func(t *testing.T) { inNamespace(t, s.server.host, "nft", rules) }
	}
	s.checkChanges(t,
		change{action: "nft flush ruleset", do: nft("flush ruleset"), same: []probe{open}, silent: []probe{closed}},
		change{action: "nft accept everything",
			do:   nft("add table ip f; add chain ip f in { type filter hook input priority -300; policy accept; }; add rule ip f in accept; add chain ip f out { type filter hook output priority -300; policy accept; }"),
			same: []probe{open}, silent: []probe{closed}},
		change{action: "nft drop", do: nft("add rule ip f out drop"), shut: []probe{open}, silent: []probe{closed}},
		change{action: "nft flush ruleset", do: nft("flush ruleset"), open: []probe{open}, silent: []probe{closed}},
	)
	s.revoke(t, s.groups["server"], permission("tcp", 7090, 7090, "10.0.0.0/16"))
}

// lifeCycle checks that a stopped instance does not answer, that it answers at the same address
// after it is started again, and that a terminated instance does not answer.
func (s *testbed) lifeCycle(t *testing.T) {
	rule := permission("tcp", 22, 22, "10.0.0.0/16")
	group := s.group(t, s.vpc, "short")
	s.admit(t, group, rule)
	in := s.launch(t, "short", s.serverSubnet, group)
	state := func(want string) {
		t.Helper()
		s.waitState(t, in, want)
	}
	ssh := to(s.client.host, in, "open/22")
	s.wantAnswers(t, "running", ssh)
	_, err := s.c.StopInstances(t.Context(), &ec2.StopInstancesInput{InstanceIds: []string{in.id}})
	check(t, err)
	state("stopped")
	s.wantSilence(t, "stopped", ssh)
	_, err = s.c.StartInstances(t.Context(), &ec2.StartInstancesInput{InstanceIds: []string{in.id}})
	check(t, err)
	state("running")
	s.wantAnswers(t, "started again, at the same address", ssh)
	_, err = s.c.RebootInstances(t.Context(), &ec2.RebootInstancesInput{InstanceIds: []string{in.id}})
	check(t, err)
	labtest.Eventually(t, "the rebooted instance answers", func() bool {
		who, err := reach(ssh.from, ssh.to, ssh.kind, silenceFor)
		return who != "" && err == nil
	})
	_, err = s.c.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{in.id}})
	check(t, err)
	s.wantSilence(t, "terminated", ssh)
	state("terminated")
	_, err = s.c.DeleteSecurityGroup(t.Context(), &ec2.DeleteSecurityGroupInput{GroupId: aws.String(group)})
	check(t, err)
}
