//go:build soak

package clients

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"palisade/internal/lab/labtest"
)

// needTerraform skips the test on a machine without Terraform; where CI is set it fails the test.
func needTerraform(t *testing.T) {
	t.Helper()
	switch {
	case hasTerraform():
	case os.Getenv("CI") != "":
		t.Fatalf("this machine does not have terraform and %s; with CI set this test may not be skipped", pluginDir)
	default:
		t.Skipf("this machine does not have terraform and %s", pluginDir)
	}
}

// TestTerraformLaunches applies a configuration with a launch template and options of instances,
// checks that the next plan is empty, changes everything that can change in place, and destroys
// it. Probes after each step check the group that the template names.
func TestTerraformLaunches(t *testing.T) {
	needTerraform(t)
	l := labtest.Up(t, "tflaunch", "--nodes", "1")
	tf := newTerraform(t, l, newAccount(t, l, "terraform"), "terraform-launch", "-var=endpoint="+l.Endpoint)
	tf.init()
	tf.apply()
	if arm := tf.run(0, "output", "-raw", "arm"); !strings.Contains(arm, "t4g.micro") || strings.Contains(arm, "t3.") || strings.Contains(arm, "m6g.") {
		t.Errorf("the burstable types for arm64 are %q, want those of the family t4g", arm)
	}
	in := tf.instances(l, "web", "client")
	web, client := in[0], in[1]
	s := &testbed{lab: l, hosts: newHosts(t)}
	probe := func(port int) probe { return to(client.host, web, fmt.Sprintf("tcp/%d", port)) }
	s.wantAnswers(t, "applied", probe(80))
	s.wantSilence(t, "applied", probe(81))
	tf.plan(planEmpty)

	changed := []string{"-var=port=81", "-var=monitoring=false", "-var=credits=unlimited", "-var=hops=3"}
	tf.apply(changed...)
	s.wantAnswers(t, "changed", probe(81))
	s.wantSilence(t, "changed", probe(80))
	tf.plan(planEmpty, changed...)
	tf.destroy(changed...)
}
