package ec2tools

import (
	"context"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"palisade/cluster"
	"palisade/ec2"
	"palisade/ec2/query"
	"palisade/ec2/state"
)

// An enforcing backend is a cluster whose Enforcement gives the test's answers.
type enforcing struct {
	*cluster.Cluster
	enforcer *enforcer
}

type enforcer struct {
	sync.Mutex
	answers []func(ctx context.Context) ([]query.NodeEnforcement, error) // one for each call; the last one repeats
	asked   []uint64
}

func (j enforcing) Enforcement(ctx context.Context, index uint64) (query.EnforcementReport, error) {
	j.enforcer.Lock()
	j.enforcer.asked = append(j.enforcer.asked, index)
	answer := j.enforcer.answers[0]
	if len(j.enforcer.answers) > 1 {
		j.enforcer.answers = j.enforcer.answers[1:]
	}
	j.enforcer.Unlock()
	nodes, err := answer(ctx)
	return query.EnforcementReport{Index: index, Nodes: nodes}, err
}

// says returns an answer in which node1 enforces the change and node2 has this state.
func says(state query.EnforcementState, why string) func(context.Context) ([]query.NodeEnforcement, error) {
	return func(ctx context.Context) ([]query.NodeEnforcement, error) {
		if state == query.Pending {
			<-ctx.Done()
		}
		return []query.NodeEnforcement{{Node: "node1", State: query.Enforced}, {Node: "node2", State: state, Why: why}}, nil
	}
}

type noLeader struct{}

func (noLeader) Error() string       { return "no leader" }
func (noLeader) Unavailable() string { return "this node knows no leader" }

func newEnforcingServer(t *testing.T) (*service, *cluster.Cluster, *enforcer) {
	j := new(enforcer)
	var behind *cluster.Cluster
	svc := newServerBehind(t, func(c *cluster.Cluster) query.Backend {
		behind = c
		return enforcing{c, j}
	})
	return svc, behind, j
}

// runWith runs a tool while the Backend's Enforcement gives these answers.
func (s *service) runWith(t *testing.T, j *enforcer, line string, answers ...func(context.Context) ([]query.NodeEnforcement, error)) result {
	t.Helper()
	j.Lock()
	j.answers, j.asked = answers, nil
	j.Unlock()
	return s.run(t, nil, strings.Fields(line)...)
}

// Every tool that changes something takes --wait, and prints nothing about it on success.
// The ec2-describe tools do not have the option.
func TestEveryChangingToolTakesWait(t *testing.T) {
	svc, c, j := newEnforcingServer(t)
	keyFile := filepath.Join(t.TempDir(), "key.pub")
	seen := make(map[string]bool)
	change := func(line string) string {
		t.Helper()
		name, _, _ := strings.Cut(line, " ")
		seen[name] = true
		before := c.View().Index()
		got := svc.runWith(t, j, line+" --wait=enforced", says(query.Enforced, ""))
		if got.exit != 0 || got.stderr != "" || got.stdout == "" {
			t.Errorf("%s: got %+v, want exit 0, output, and no text on stderr", line, got)
		}
		if after := c.View().Index(); !slices.Equal(j.asked, []uint64{after}) || after <= before {
			t.Errorf("%s: asked for the enforcement of indexes %v, want only that of the change, %d", line, j.asked, after)
		}
		return got.stdout
	}
	change("ec2-create-group web -d x")
	change("ec2-add-group app -d x")
	change("ec2-authorize web -p 80")
	change("ec2-revoke web -p 80")
	private := change("ec2-add-keypair k")
	writePublicKey(t, keyFile, private)
	change("ec2-import-keypair l -f " + keyFile)
	change("ec2-delete-keypair k")
	_, id, _ := strings.Cut(change("ec2-run-instances ami-eca54085 -g web"), "INSTANCE\t")
	id, _, _ = strings.Cut(id, "\t")
	eni, _ := c.View().Instance(ec2.InstanceID(id))
	lease, _ := c.View().Interface(eni.Interface)
	if _, _, err := c.Apply(t.Context(), state.Command{Request: &state.ReportInstance{Instance: eni.ID, InterfaceEpoch: lease.Epoch, State: ec2.Running}}); err != nil {
		t.Fatal(err)
	}
	change("ec2-start-instances " + id)
	change("ec2-stop-instances " + id)
	change("ec2-terminate-instances " + id)
	change("ec2-delete-group app")

	for _, name := range Names() {
		if strings.HasPrefix(name, "ec2-describe-") {
			if got := svc.runWith(t, j, name+" --wait=enforced"); got.exit != 2 || !strings.Contains(got.stderr, "unknown flag") {
				t.Errorf("%s --wait: got %+v, want exit 2 and unknown flag", name, got)
			}
		} else if got := svc.runWith(t, j, name+" --wait=enforced", says(query.Enforced, "")); !seen[name] && strings.Contains(got.stderr, "unknown flag") {
			t.Errorf("%s changes something but has no --wait: %+v", name, got)
		}
	}
	if got := svc.runWith(t, j, "ec2-authorize web -p 81"); got.exit != 0 || len(j.asked) != 0 {
		t.Errorf("without --wait: got %+v and asked for indexes %v, want exit 0 and none", got, j.asked)
	}
	if got := svc.runWith(t, j, "ec2-authorize web -p 81 --wait enforced"); got.exit != 1 || len(j.asked) != 0 || !strings.HasPrefix(got.stderr, "Client.InvalidPermission.Duplicate") {
		t.Errorf("a refused change: got %+v and asked for indexes %v, want InvalidPermission.Duplicate and none", got, j.asked)
	}
}

func writePublicKey(t *testing.T, file, output string) {
	t.Helper()
	block, _ := pem.Decode([]byte(output[strings.Index(output, "-----BEGIN"):]))
	signer, err := ssh.ParsePrivateKey(pem.EncodeToMemory(block))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, ssh.MarshalAuthorizedKey(signer.PublicKey()), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestWaitNamesPendingNodes(t *testing.T) {
	svc, c, j := newEnforcingServer(t)
	group := func(name string) bool {
		_, ok := c.View().GroupNamed("598916040194", "us-east-1", "", name)
		return ok
	}
	start := time.Now()
	got := svc.runWith(t, j, "ec2-create-group a -d x --wait=enforced:2s", says(query.Pending, "no answer from 192.0.2.12:7400"))
	if got.exit != 1 || !strings.HasPrefix(got.stdout, "GROUP\t") || !group("a") {
		t.Errorf("with a pending node: got %+v, want exit 1 and the new group", got)
	}
	for _, want := range []string{"the change is made", "2s", "node2 (no answer from 192.0.2.12:7400)"} {
		if !strings.Contains(got.stderr, want) {
			t.Errorf("stderr is %q, want %q in it", got.stderr, want)
		}
	}
	if strings.Contains(got.stderr, "node1") || strings.Count(got.stderr, "\n") != 1 {
		t.Errorf("stderr is %q, want one line, only about node2", got.stderr)
	}
	if took := time.Since(start); took < 1200*time.Millisecond || took > 7*time.Second {
		t.Errorf("--wait=enforced:2s took %s, want 1.2s to 7s", took)
	}

	got = svc.runWith(t, j, "ec2-create-group b -d x --wait=enforced", says(query.Excluded, "it is fenced"))
	if want := "enforced, except on excluded nodes: node2 (it is fenced)\n"; got.exit != 0 || got.stderr != want {
		t.Errorf("with an excluded node: got %+v, want exit 0 and %q", got, want)
	}

	// The first call says pending, the second finds no leader, the third says enforced.
	behind := func(context.Context) ([]query.NodeEnforcement, error) {
		return []query.NodeEnforcement{{Node: "node2", State: query.Pending}}, nil
	}
	lost := func(context.Context) ([]query.NodeEnforcement, error) { return nil, noLeader{} }
	got = svc.runWith(t, j, "ec2-create-group c -d x --wait=enforced:30", behind, lost, says(query.Enforced, ""))
	if got.exit != 0 || got.stderr != "" || len(j.asked) != 3 {
		t.Errorf("enforced at the third call: got %+v after %d calls, want exit 0 after 3", got, len(j.asked))
	}
	got = svc.runWith(t, j, "ec2-create-group d -d x --wait=enforced:2s", lost)
	if got.exit != 1 || !strings.Contains(got.stderr, "the change is made") || !strings.Contains(got.stderr, "Server.Unavailable: this node knows no leader") {
		t.Errorf("without a leader: got %+v, want exit 1 and Server.Unavailable", got)
	}
}

// A tool ends at its timeout if the service answers the change but not
// DescribeEnforcement.
func TestWaitEndsAtTimeout(t *testing.T) {
	svc, _, j := newEnforcingServer(t)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) }) // runs before the server's cleanup
	start := time.Now()
	got := svc.runWith(t, j, "ec2-create-group a -d x --wait=enforced:300ms", func(context.Context) ([]query.NodeEnforcement, error) {
		<-release
		return nil, nil
	})
	if took := time.Since(start); got.exit != 1 || took > 5*time.Second || !strings.Contains(got.stderr, "no answer came in time") {
		t.Errorf("after %s: got %+v, want exit 1 within 5s because no answer came in time", took, got)
	}
}

func TestWaitFailsIfServiceCannotTell(t *testing.T) {
	got := newServer(t).run(t, nil, "ec2-create-group", "a", "-d", "x", "--wait=enforced")
	if got.exit != 1 || !strings.Contains(got.stderr, "the change is made") || !strings.Contains(got.stderr, "UnsupportedOperation") {
		t.Errorf("a service without Enforcement: got %+v, want exit 1 and UnsupportedOperation", got)
	}
	got = newService(t, map[string]string{"CreateSecurityGroup.xml": "<a/>"}).run(t, nil, "ec2-create-group", "a", "-d", "x", "--wait=enforced")
	if got.exit != 1 || !strings.Contains(got.stderr, "returned no index") {
		t.Errorf("a service that returns no index: got %+v, want exit 1 and a message that says so", got)
	}
}

func TestInvalidWaitIsRefusedBeforeTheChange(t *testing.T) {
	for _, wait := range []string{"--wait", "--wait=", "--wait=running", "--wait=enforced:", "--wait=enforced:0", "--wait=enforced:-1s", "--wait=enforced:2h", "--wait=enforced:soon"} {
		svc := newService(t, map[string]string{"CreateSecurityGroup.xml": "<a/>"})
		got := svc.run(t, nil, "ec2-create-group", "a", "-d", "x", wait)
		if got.exit != 2 || !strings.Contains(got.stderr, "enforced:10s") || len(svc.requests) != 0 {
			t.Errorf("%s: got %+v and %d requests, want exit 2, a hint and no request", wait, got, len(svc.requests))
		}
	}
	for text, want := range map[string]time.Duration{"enforced": 5 * time.Second, "enforced:7": 7 * time.Second, "enforced:1m": time.Minute, "enforced:250ms": 250 * time.Millisecond} {
		if got, err := parseWait(text); err != nil || got != want {
			t.Errorf("%s was parsed as %s, %v; want %s", text, got, err, want)
		}
	}
}
