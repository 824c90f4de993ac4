// Package labtest gives tests a lab of the real binary: built for the test, up on a free
// port, and gone when the test ends. Only tests import it.
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
	"testing"
	"time"

	"palisade/internal/lab"
	"palisade/internal/netns/netnstest"
)

// FreePort returns a TCP port of 127.0.0.1 that nobody listened on a moment ago.
func FreePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Build makes the binary and the names of the ec2-* tools beside it, as `make` does.
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

// A Lab is up for the length of one test and its subtests. Its methods may be used by
// many goroutines.
type Lab struct {
	Palisade string // the binary
	Name     string
	Endpoint string
	accounts []lab.Account
}

// Up makes a lab of one node, if options of `palisade lab up` do not say otherwise.
func Up(t testing.TB, name string, options ...string) *Lab {
	t.Helper()
	netnstest.NeedRoot(t)
	l := &Lab{Palisade: Build(t), Name: fmt.Sprintf("%s%d", name, os.Getpid())}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(l.logs())
		}
		if out, err := exec.Command(l.Palisade, "lab", "down", "--name", l.Name).CombinedOutput(); err != nil {
			t.Errorf("lab down: %v\n%s", err, out)
		}
	})
	l.Do(t, append([]string{"lab", "up", "--port", fmt.Sprint(FreePort(t)), "--nodes", "1"}, options...)...)
	made, err := lab.Open(l.Name)
	if err != nil {
		t.Fatal(err)
	}
	l.Endpoint, l.accounts = made.Endpoint(), made.Accounts
	return l
}

// logs are the ends of what the nodes' daemons logged.
func (l *Lab) logs() string {
	out, _ := exec.Command("sh", "-c", "tail -n 40 /var/lib/palisade/labs/"+l.Name+"/*.log").CombinedOutput()
	return string(out)
}

// Do runs a command of the binary on the lab, "lab", "up" or another, and returns what it
// prints.
func (l *Lab) Do(t testing.TB, args ...string) string {
	t.Helper()
	out, err := l.Try(args...)
	if err != nil {
		t.Fatalf("palisade %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// Try is Do for what may fail.
func (l *Lab) Try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, l.Palisade, slices.Insert(slices.Clone(args), 2, "--name", l.Name)...).CombinedOutput()
	return string(out), err
}

// On runs a command where who says: in an instance, on a node, the laptop, the stranger.
func (l *Lab) On(who string, argv ...string) (string, error) {
	return l.Try(append([]string{"lab", "exec", who, "--"}, argv...)...)
}

// Status is what `palisade lab status` tells.
func (l *Lab) Status(t testing.TB) lab.Status {
	t.Helper()
	var st lab.Status
	if err := json.Unmarshal([]byte(l.Do(t, "lab", "status", "--json")), &st); err != nil {
		t.Fatal(err)
	}
	return st
}

// Namespace is the network namespace of an instance or a host of the lab.
func (l *Lab) Namespace(who string) string { return l.Name + "-" + who }

// Account returns the keys of the account called name.
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

// Environ is an environment in which aws, the SDKs and the ec2-* tools call the lab as
// the account a, and in which nothing of the machine's own settings is left. home takes
// what they write. first stands before everything else on PATH.
func (l *Lab) Environ(a lab.Account, home string, first ...string) []string {
	path := append(first, filepath.Dir(l.Palisade), "/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin")
	return []string{
		"PATH=" + strings.Join(path, ":"), "HOME=" + home, "LANG=C.UTF-8",
		"AWS_ENDPOINT_URL=" + l.Endpoint, "EC2_URL=" + l.Endpoint,
		"AWS_ACCESS_KEY_ID=" + a.AccessKey, "AWS_SECRET_ACCESS_KEY=" + a.SecretKey,
		"AWS_DEFAULT_REGION=" + lab.Region, "AWS_REGION=" + lab.Region, "AWS_PAGER=", "AWS_EC2_METADATA_DISABLED=true",
	}
}

// Eventually fails the test if is does not become true within a minute and a half: on a
// machine with much other work an instance takes more than 20 s to run.
func Eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(90 * time.Second); !is(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within 90 s: %s", what)
		}
	}
}
