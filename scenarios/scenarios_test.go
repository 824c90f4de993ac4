package scenarios

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"palisade/internal/lab/labtest"
	"palisade/internal/netns/netnstest"
)

// TestEveryScenarioPasses plays every scenario. Scenarios with equal lab options share a lab.
func TestEveryScenarioPasses(t *testing.T) {
	netnstest.NeedRoot(t)
	list, err := List()
	if err != nil {
		t.Fatal(err)
	}
	byOptions := make(map[string][]Scenario)
	for _, s := range list {
		key := strings.Join(s.LabOptions, " ")
		byOptions[key] = append(byOptions[key], s)
	}
	palisade := labtest.Build(t)
	for n, options := range slices.Sorted(maps.Keys(byOptions)) {
		group := byOptions[options]
		name := fmt.Sprintf("story%dx%d", os.Getpid(), n)
		t.Run("lab "+options, func(t *testing.T) {
			l := labtest.New(t, palisade, name)
			l.Up(t, append([]string{"--nodes", "3"}, strings.Fields(options)...)...)
			for _, s := range group {
				t.Run(s.Name, func(t *testing.T) { playIn(t, l, s) })
			}
		})
	}
}

// playIn plays a story in a lab. If the story fails, t fails and prints the story's last lines and the lab's
// state.
func playIn(t testing.TB, l *labtest.Lab, s Scenario) {
	t.Helper()
	l.ReportFailure(t)
	var out bytes.Buffer
	err := Play(t.Context(), s, Config{Palisade: l.Palisade, Lab: l.Name, Out: &out, OnCommand: l.NoteCommand})
	if err != nil {
		const most = 20
		lines := strings.SplitAfter(strings.TrimSpace(out.String()), "\n")
		l.NoteFailure(err.Error())
		t.Errorf("%v\n%s", err, strings.Join(lines[max(0, len(lines)-most):], ""))
		return
	}
	if s.Name == "mary" {
		compareMary(t, out.String())
	}
}

// wrongPort is a story in which Albert opens port 23 and expects port 22 to be open.
const wrongPort = `# Albert opens the wrong port.

account albert
fresh

# Step 1. He launches an instance and opens port 23 to his laptop.
run ec2-run-instances ami-eca54085
capture albert '^INSTANCE\t(i-[0-9a-f]+)'
until 60s '\trunning\t' run ec2-describe-instances $albert
capture address '\tmonitoring-disabled\t([0-9.]+)\t'
run ec2-authorize default -P tcp -p 23 -s 203.0.113.25/32

# Step 2. He scans it: port 22 is open.
on laptop nmap -n -P0 -p1-100 $address
stdout '^22/tcp +open +ssh'
`

func TestFailingStoryPrintsPacketPortVerdictAndRule(t *testing.T) {
	l := labtest.Up(t, "wrongport", "--nodes", "3")
	out, failed := labtest.Record(t, func(t testing.TB) { playIn(t, l, parse("wrongport", []byte(wrongPort))) })
	if !failed {
		t.Fatalf("the story passes with the wrong port open:\n%s", out)
	}
	labtest.CheckReport(t, out,
		`wrongport.txtar:15: no match for .*22/tcp`, // the step that failed
		`tcp/22 from laptop to 198\.18\.`,           // the packet
		`=> dropped at i-[0-9a-f]+ on node\d: no-rule`,
		`node\d +i-[0-9a-f]+ +no-rule +\d+`,                              // drops
		`i-[0-9a-f]+ +ingress`,                                           // flows
		`"default" of 598916040194, members \[eni-.*node1, node2, node3`, // rules
		`\n +tcp 23 from 203\.0\.113\.25/32`,
		`i-[0-9a-f]+ eni-[0-9a-f]+ up at node`, // presence
		`log of node1:`, `log of node2:`, `log of node3:`)
}

// fakeBinary is a script that replaces the binary palisade. It acts like a lab without namespaces: its `lab
// exec` runs the command on this machine.
const fakeBinary = `#!/bin/sh
case "$1 $2" in
"lab status") echo '{"instances": [
	{"id": "i-1", "node": "node1", "state": "running", "private_address": "10.0.0.1"},
	{"id": "i-2", "node": "node2", "state": "running", "private_address": "10.0.0.2"}]}' ;;
"lab env") echo 'export ACCOUNT=albert' ;;
"lab exec") shift 6; exec "$@" ;;
"flows "*) echo "flows of $*" ;;
esac
`

// play plays a script with fakeBinary and returns the story that was printed, and the error of Play.
func play(t *testing.T, script string, c Config) (string, error) {
	t.Helper()
	c.Palisade = filepath.Join(t.TempDir(), "palisade")
	if err := os.WriteFile(c.Palisade, []byte(fakeBinary), 0o755); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	c.Out = &out
	err := Play(t.Context(), parse("story", []byte(script)), c)
	return out.String(), err
}

func TestPlayShowsCommandsOutputAndSummary(t *testing.T) {
	got, err := play(t, `# The story.
# It has a source.

account albert

# Step 1. It's a step
# of two lines.
on laptop echo 'two words' $HOME
stdout 'two words'
run sh -c 'echo $ACCOUNT'
stdout ^albert$
capture who '(al.*)'

# Step 2. Another.
! on laptop ls /not-there-$who
stderr albert
until 5s '^done' shell 'test -f made && echo done || { touch made; exit 1; }'
hold echo on laptop cat
alive echo
hold talker on laptop sh -c 'while sleep 0.1; do echo still here; done'
talks talker
hold brief on laptop sh -c 'sleep 0.1; echo it is over'
ends brief
stdout 'is over'
palisade flows
stdout '^flows of flows --name lab$'
`, Config{})
	if err != nil {
		t.Fatalf("%v\n%s", err, got)
	}
	for _, want := range []string{
		"# The story.\n# It has a source.\n",
		"# Step 1. It's a step\n# of two lines.\nlaptop$ echo 'two words' /no-home\n  two words /no-home\n",
		"albert$ sh -c 'echo $ACCOUNT'\n  albert\n  ✓ as expected, in ",
		"  done\n",
		"  it is over\n",
		"root$ palisade flows\n",
		"Proven in 2 steps",
		"  ✓ Step 2. Another.\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the output lacks %q:\n%s", want, got)
		}
	}
}

func TestPlayFailsAtStepWithOtherResult(t *testing.T) {
	for _, tc := range []struct{ name, line, want string }{
		{"command fails", "on laptop false", "story.txtar:4: false: exit status 1"},
		{"command must fail", "! on laptop true", "succeeded, but must fail"},
		{"output differs", "on laptop echo no\nstdout yes", "story.txtar:5: no match"},
		{"never comes", "until 100ms yes on laptop echo no", "no match for `yes` after 100ms"},
		{"command hangs", "on laptop sleep 60", "did not end within"},
		{"no account", "run true", "account NAME"},
		{"unknown command", "onn laptop true", "unknown command"},
		{"cut connection delivers data", "hold c on laptop cat\ndead c", "still delivers data"},
		{"remote end goes on sending", "hold c on laptop sh -c 'while sleep 0.1; do echo on; done'\ntalks c\ndead c", "still delivers data"},
		{"held command ends badly", "hold c on laptop sh -c 'exit 3'\nends c", "exit status 3"},
		{"held command goes on", "hold c on laptop sleep 60\nends c", "did not end within"},
		{"skipped", "skip", "FAIL"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			limit := time.Minute
			if strings.Contains(tc.line, "sleep 60") { // must not end by itself
				limit = 2 * time.Second
			}
			got, err := play(t, "# Title.\n\n# Step 1.\n"+tc.line+"\n", Config{Limit: limit})
			if tc.name == "skipped" {
				if !errors.Is(err, ErrDiffers) {
					t.Errorf("Play of a skipped story returned the error %v, want %v", err, ErrDiffers)
				}
				return
			}
			if !errors.Is(err, ErrDiffers) || !strings.Contains(err.Error(), tc.want) || strings.Contains(got, "Proven") {
				t.Errorf("Play returned the error %v, want one with %q and no \"Proven\" in the output:\n%s", err, tc.want, got)
			}
		})
	}
}

func TestPlayPausesBetweenSteps(t *testing.T) {
	pauses := 0
	_, err := play(t, "# Title.\n\n# One.\non laptop true\n\n# Two.\non laptop true\n\n# Three.\n",
		Config{Pause: func() error { pauses++; return nil }})
	if err != nil || pauses != 2 {
		t.Errorf("%d pauses in three steps, error %v; want 2 pauses and no error", pauses, err)
	}
}

func TestPlayEndsWhenContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("enough")
	bin := filepath.Join(t.TempDir(), "palisade")
	if err := os.WriteFile(bin, []byte(fakeBinary), 0o755); err != nil {
		t.Fatal(err)
	}
	s := parse("story", []byte("# Title.\n\n# One.\non laptop sh -c 'echo begun; sleep 60'\n"))
	out := writerFunc(func(p []byte) (int, error) {
		if bytes.Contains(p, []byte("begun\n")) && !bytes.Contains(p, []byte("sleep")) {
			cancel(stop)
		}
		return len(p), nil
	})
	if err := Play(ctx, s, Config{Palisade: bin, Out: out}); !errors.Is(err, stop) {
		t.Errorf("Play returned the error %v, want the cause of the cancelled context, %v", err, stop)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestEveryScenarioHasTitleAndSteps(t *testing.T) {
	list, err := List()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		if s.Title == "" || strings.HasPrefix(s.Title, "#") || !bytes.Contains(s.narrated(), []byte("\nstep ")) {
			t.Errorf("scenario %s has no step or a bad title: %q", s.Name, s.Title)
		}
	}
}
