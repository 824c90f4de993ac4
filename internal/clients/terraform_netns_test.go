package clients

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"palisade/internal/lab"
	"palisade/internal/lab/labtest"
)

// pluginDir is the directory with the AWS provider, on machines that have Terraform.
const pluginDir = "/opt/tf-plugins"

var record = flag.Bool("record", false, "write the calls that Terraform makes to testdata")

// hasTerraform reports whether the machine has Terraform and the provider.
func hasTerraform() bool {
	_, err := exec.LookPath("terraform")
	_, missing := os.Stat(pluginDir)
	return err == nil && missing == nil
}

// A terraform runs the program Terraform in a directory that has a configuration and its state.
type terraform struct {
	t       *testing.T
	dir     string
	environ []string
	vars    []string
}

// newTerraform returns a terraform with a copy of a configuration of testdata and these values of its variables, as
// account a.
func newTerraform(t *testing.T, l *labtest.Lab, a lab.Account, configuration string, vars ...string) *terraform {
	dir := t.TempDir()
	check(t, os.CopyFS(dir, os.DirFS("testdata/"+configuration)))
	path, err := exec.LookPath("terraform")
	check(t, err)
	return &terraform{t: t, dir: dir,
		// With CHECKPOINT_DISABLE, Terraform does not look for newer versions on the Internet.
		environ: append(l.Environ(a, dir, filepath.Dir(path)), "CHECKPOINT_DISABLE=1", "TF_IN_AUTOMATION=1", "TF_CLI_CONFIG_FILE=/dev/null"),
		vars:    append(vars, "-var=public_key="+publicKey(t))}
}

// publicKey returns a new public key in the format of ssh-keygen.
func publicKey(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "terraform", "-f", file).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	data, err := os.ReadFile(file + ".pub")
	check(t, err)
	return strings.TrimSpace(string(data))
}

// run executes terraform with args and returns its output. It fails the test if the exit status
// is not exit.
func (tf *terraform) run(exit int, args ...string) string {
	tf.t.Helper()
	ctx, cancel := context.WithTimeout(tf.t.Context(), 8*time.Minute) // long enough for a busy machine
	defer cancel()
	cmd := exec.CommandContext(ctx, "terraform", args...)
	cmd.Dir, cmd.Env = tf.dir, tf.environ
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != exit {
		tf.t.Fatalf("terraform %s ended with %v, want exit status %d; the end of its output:\n…%s", strings.Join(args, " "), err, exit, out[max(0, len(out)-4000):])
	}
	return string(out)
}

func (tf *terraform) init() {
	tf.t.Helper()
	tf.run(0, "init", "-no-color", "-input=false", "-plugin-dir="+pluginDir)
}

func (tf *terraform) apply(vars ...string) string {
	tf.t.Helper()
	return tf.run(0, slices.Concat([]string{"apply", "-no-color", "-auto-approve", "-input=false"}, tf.vars, vars)...)
}

// Exit statuses of terraform plan -detailed-exitcode: the plan is empty, or has changes.
const (
	planEmpty   = 0
	planChanges = 2
)

func (tf *terraform) plan(exit int, vars ...string) string {
	tf.t.Helper()
	return tf.run(exit, append(append([]string{"plan", "-no-color", "-input=false", "-detailed-exitcode"}, tf.vars...), vars...)...)
}

func (tf *terraform) destroy(vars ...string) {
	tf.t.Helper()
	tf.run(0, slices.Concat([]string{"destroy", "-no-color", "-auto-approve", "-input=false"}, tf.vars, vars)...)
}

// instances returns the instances that the configuration's output lists, with these names.
func (tf *terraform) instances(l *labtest.Lab, names ...string) []instance {
	tf.t.Helper()
	var list []struct{ ID, Private, Public string }
	if err := json.Unmarshal([]byte(tf.run(0, "output", "-json", "instances")), &list); err != nil {
		tf.t.Fatal(err)
	}
	var made []instance
	for n, i := range list {
		in := instance{host: host{names[n], l.Namespace(i.ID)}, id: i.ID, private: netip.MustParseAddr(i.Private)}
		in.public, _ = netip.ParseAddr(i.Public)
		made = append(made, in)
	}
	return made
}

// testTerraform applies a configuration, checks that the next plan is empty, changes a rule of each
// kind, and destroys everything, with probes after each step. On machines without Terraform only
// testRecordedCalls runs.
func testTerraform(t *testing.T, l *labtest.Lab) {
	if !hasTerraform() {
		t.Logf("this machine does not have terraform and %s: only testRecordedCalls tests its calls", pluginDir)
		return
	}
	endpoint, calls := l.Endpoint, (*recorder)(nil)
	if *record {
		calls = newRecorder(t, l.Endpoint)
		endpoint = calls.url
	}
	tf := newTerraform(t, l, newAccount(t, l, "terraform"), "terraform", "-var=endpoint="+endpoint)
	tf.init()
	tf.apply()
	in := tf.instances(l, "web", "database")
	web, db := in[0], in[1]
	s := &testbed{lab: l, hosts: newHosts(t), laptop: host{"laptop", l.Namespace("laptop")}, stranger: host{"stranger", l.Namespace("stranger")}}
	probes := func(web80, db3306, admin int) []probe {
		port := func(n int) string { return fmt.Sprintf("tcp/%d", n) }
		return []probe{toAddress(s.laptop, web.public, web, port(web80)), to(web.host, db, port(db3306)), toAddress(s.laptop, db.public, db, port(admin))}
	}
	// The subnet's route table has a route to the laptop's network, but none to the stranger's
	// network.
	never := []probe{toAddress(s.stranger, web.public, web, "tcp/80"), toAddress(s.stranger, db.public, db, "tcp/7000"), toAddress(s.laptop, db.public, db, "tcp/3306"), to(db.host, web, "tcp/80"), to(web.host, db, "icmp")}
	s.wantAnswers(t, "applied", probes(80, 3306, 7000)...)
	s.wantSilence(t, "applied", append(never, probes(8080, 3307, 7001)...)...)
	tf.plan(planEmpty)

	changed := []string{"-var=web_port=8080", "-var=db_port=3307", "-var=admin_port=7001"}
	if out := tf.plan(planChanges, append(changed, "-out=change.plan")...); !strings.Contains(out, "1 to add, 2 to change, 1 to destroy") {
		t.Errorf("the plan does not say 1 to add, 2 to change, 1 to destroy:\n%s", out)
	}
	s.wantAnswers(t, "planned", probes(80, 3306, 7000)...)
	tf.run(0, "apply", "-no-color", "-input=false", "change.plan")
	s.wantAnswers(t, "changed", probes(8080, 3307, 7001)...)
	s.wantSilence(t, "changed", append(never, probes(80, 3306, 7000)...)...)
	tf.plan(planEmpty, changed...)

	tf.destroy(changed...)
	wantClosed(t, s.laptop, web.public, "open/8080")
	if calls != nil {
		calls.write(t)
	}
}
