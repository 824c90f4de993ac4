// Package labtest runs labs of the real binary for tests. A lab uses a free port and goes down when its
// test ends. If the test failed, the package first prints the lab's state (report.go). Only tests import it.
package labtest

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"palisade/internal/lab"
	"palisade/internal/netns/netnstest"
)

// FreePort returns a TCP port of 127.0.0.1 that was free a moment ago.
func FreePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Build builds the binary, links the names of the ec2-* tools to it, as `make` does, and returns its path.
func Build(t testing.TB) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "palisade")
	if out, err := exec.Command("go", "build", "-o", bin, "palisade/cmd/palisade").CombinedOutput(); err != nil {
		t.Fatalf("build palisade: %v\n%s", err, out)
	}
	names, err := exec.Command(bin, "ec2-tools").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields(string(names)) {
		if err := os.Symlink(bin, filepath.Join(filepath.Dir(bin), name)); err != nil {
			t.Fatal(err)
		}
	}
	return bin
}

// Patience bounds each wait of a test. On an idle machine the waits are far shorter; on a busy one, an
// instance takes more than 20 s until it runs.
const Patience = 90 * time.Second

// A Lab is a lab of the built binary, with its real daemons. It goes down when the test that made it ends. If
// that test fails, the Lab prints its state first. After Up, its methods may be called from any goroutine.
type Lab struct {
	Palisade string // path of the binary
	Name     string
	Endpoint string // of the EC2 API; set by Up
	accounts []lab.Account

	packet   atomic.Pointer[packet] // the first packet of the last command; nil: none
	reported atomic.Bool
}

// New returns a Lab that is not up and goes down when t ends. Its method Up may be called several times.
func New(t testing.TB, palisade, name string) *Lab {
	t.Helper()
	l := &Lab{Palisade: palisade, Name: name}
	t.Cleanup(func() {
		if out, err := exec.Command(l.Palisade, "lab", "down", "--name", l.Name).CombinedOutput(); err != nil {
			t.Errorf("lab down: %v\n%s", err, out)
		}
	})
	l.ReportFailure(t)
	return l
}

// Up builds the binary and brings up a lab, whose name is name with the pid of the test appended. The lab has
// one node, unless options, which are those of `palisade lab up`, say otherwise.
func Up(t testing.TB, name string, options ...string) *Lab {
	t.Helper()
	netnstest.NeedRoot(t)
	l := New(t, Build(t), fmt.Sprintf("%s%d", name, os.Getpid()))
	l.Up(t, options...)
	return l
}

// Up brings the lab up on a free port, with one node unless options say otherwise.
func (l *Lab) Up(t testing.TB, options ...string) {
	t.Helper()
	l.Do(t, append([]string{"lab", "up", "--port", fmt.Sprint(FreePort(t)), "--nodes", "1"}, options...)...)
	made, err := lab.Open(l.Name)
	if err != nil {
		t.Fatal(err)
	}
	l.Endpoint, l.accounts = made.Endpoint(), made.Accounts
}

// Do runs a command of the binary on the lab and returns its output. It inserts --name and the lab's name
// behind the first two arguments, such as "lab status". If the command fails, so does the test.
func (l *Lab) Do(t testing.TB, args ...string) string {
	t.Helper()
	out, err := l.Try(args...)
	if err != nil {
		t.Fatalf("palisade %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// Try is like Do, but returns the error if the command fails.
func (l *Lab) Try(args ...string) (string, error) {
	return l.run(slices.Insert(slices.Clone(args), 2, "--name", l.Name)...)
}

// run runs the binary, for at most 2 minutes, and returns its output.
func (l *Lab) run(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, l.Palisade, args...).CombinedOutput()
	return string(out), err
}

// On runs a command in the namespace of who (an instance, a node, laptop or stranger) and returns its output.
func (l *Lab) On(who string, argv ...string) (string, error) {
	l.NoteCommand(who, argv...)
	return l.Try(append([]string{"lab", "exec", who, "--"}, argv...)...)
}

// EC2 runs a line of shell as the account albert and returns its output.
func (l *Lab) EC2(t testing.TB, line string) string {
	t.Helper()
	const script = `eval "$("$0" lab env --name "$1" --account albert)" && eval "$2"`
	out, err := exec.CommandContext(t.Context(), "sh", "-c", script, l.Palisade, l.Name, line).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

// Launch starts an instance of the account albert and returns it when it runs.
func (l *Lab) Launch(t testing.TB) lab.InstanceStatus {
	t.Helper()
	id := strings.Fields(l.EC2(t, "ec2-run-instances ami-eca54085 | grep ^INSTANCE"))[1]
	var found lab.InstanceStatus
	Eventually(t, "instance "+id+" runs", func() bool {
		for _, in := range l.Status(t).Instances {
			if in.ID == id {
				found = in
			}
		}
		return found.State == "running"
	})
	return found
}

// Status returns the state that `palisade lab status` prints.
func (l *Lab) Status(t testing.TB) lab.Status {
	t.Helper()
	var st lab.Status
	if err := json.Unmarshal([]byte(l.Do(t, "lab", "status", "--json")), &st); err != nil {
		t.Fatal(err)
	}
	return st
}

// Namespace returns the network namespace of an instance or a host of the lab.
func (l *Lab) Namespace(who string) string { return l.Name + "-" + who }

// Account returns the account with this name, with its keys.
func (l *Lab) Account(t testing.TB, name string) lab.Account {
	t.Helper()
	for _, a := range l.accounts {
		if a.Name == name {
			return a
		}
	}
	t.Fatalf("the lab has no account %s", name)
	return lab.Account{}
}

// Environ returns an environment in which aws, the SDKs and the ec2-* tools call the lab as account a,
// without any settings of the machine. The tools write to home. PATH begins with the directories first.
func (l *Lab) Environ(a lab.Account, home string, first ...string) []string {
	path := append(first, filepath.Dir(l.Palisade), "/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin")
	return []string{
		"PATH=" + strings.Join(path, ":"), "HOME=" + home, "LANG=C.UTF-8",
		"AWS_ENDPOINT_URL=" + l.Endpoint, "EC2_URL=" + l.Endpoint,
		"AWS_ACCESS_KEY_ID=" + a.AccessKey, "AWS_SECRET_ACCESS_KEY=" + a.SecretKey,
		"AWS_DEFAULT_REGION=" + lab.Region, "AWS_REGION=" + lab.Region, "AWS_PAGER=", "AWS_EC2_METADATA_DISABLED=true",
	}
}

// Eventually waits until the function is returns true. After Patience it fails the test and prints what.
func Eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(Patience); !is(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("after %v this is still not so: %s", Patience, what)
		}
	}
}
