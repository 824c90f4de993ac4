package clients

import (
	"os/exec"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"palisade/internal/lab/labtest"
	"palisade/internal/netns"
)

// inNamespace runs a command as root of the machine in the network namespace of a host:
// more than root of the instance may, who has no NET_ADMIN.
func inNamespace(t *testing.T, h host, argv ...string) {
	t.Helper()
	var out []byte
	err := netns.Do(h.namespace, func() (err error) {
		out, err = exec.Command(argv[0], argv[1:]...).CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("%q in %s: %v\n%s", argv, h.name, err, out)
	}
}

// insideTheInstance: the rules are enforced outside of the instance, so a firewall of its
// own adds to them and can take nothing away, even where someone gave it the means.
func (s *stage) insideTheInstance(t *testing.T) {
	s.admit(t, s.groups["server"], permission("tcp", 7090, 7090, "10.0.0.0/16"))
	closed, open := to(s.client.host, s.server, "tcp/7091"), to(s.client.host, s.server, "tcp/7090")
	nft := func(rules string) func(*testing.T) {
		return func(t *testing.T) { inNamespace(t, s.server.host, "nft", rules) }
	}
	s.play(t,
		change{action: "nft flush ruleset", do: nft("flush ruleset"), same: []ray{open}, silent: []ray{closed}},
		change{action: "nft accept everything",
			do:   nft("add table ip f; add chain ip f in { type filter hook input priority -300; policy accept; }; add rule ip f in accept; add chain ip f out { type filter hook output priority -300; policy accept; }"),
			same: []ray{open}, silent: []ray{closed}},
		change{action: "nft drop", do: nft("add rule ip f out drop"), shut: []ray{open}, silent: []ray{closed}},
		change{action: "nft flush ruleset", do: nft("flush ruleset"), open: []ray{open}, silent: []ray{closed}},
	)
	s.revoke(t, s.groups["server"], permission("tcp", 7090, 7090, "10.0.0.0/16"))
}

// lives: a stopped instance is silent and keeps its address, a started one answers at it
// again, and a terminated one never.
func (s *stage) lives(t *testing.T) {
	rule := permission("tcp", 22, 22, "10.0.0.0/16")
	group := s.group(t, s.vpc, "short")
	s.admit(t, group, rule)
	in := s.launch(t, "short", s.near, group)
	state := func(want string) {
		t.Helper()
		s.becomes(t, in, want)
	}
	ssh := to(s.client.host, in, "open/22")
	s.passes(t, "running", ssh)
	_, err := s.c.StopInstances(t.Context(), &ec2.StopInstancesInput{InstanceIds: []string{in.id}})
	check(t, err)
	state("stopped")
	s.stops(t, "stopped", ssh)
	_, err = s.c.StartInstances(t.Context(), &ec2.StartInstancesInput{InstanceIds: []string{in.id}})
	check(t, err)
	state("running")
	s.passes(t, "started again, at the same address", ssh)
	_, err = s.c.RebootInstances(t.Context(), &ec2.RebootInstancesInput{InstanceIds: []string{in.id}})
	check(t, err)
	labtest.Eventually(t, "the rebooted instance answers", func() bool {
		who, err := reach(ssh.from, ssh.to, ssh.kind, silenceFor)
		return who != "" && err == nil
	})
	_, err = s.c.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{in.id}})
	check(t, err)
	s.stops(t, "terminated", ssh)
	state("terminated")
	_, err = s.c.DeleteSecurityGroup(t.Context(), &ec2.DeleteSecurityGroupInput{GroupId: aws.String(group)})
	check(t, err)
}
