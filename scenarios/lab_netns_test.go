package scenarios

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"palisade/internal/lab"
	"palisade/internal/lab/labtest"
	"palisade/internal/netns/netnstest"
)

// newLab returns a lab that is not up, with suffix and the pid of this process in its name.
func newLab(t *testing.T, palisade, suffix string) *labtest.Lab {
	t.Helper()
	return labtest.New(t, palisade, fmt.Sprintf("real%d%s", os.Getpid(), suffix))
}

// daemonOf returns the pid of the first node's daemon.
func daemonOf(t *testing.T, l *labtest.Lab) int {
	t.Helper()
	pid := l.Status(t).Nodes[0].PID
	if pid == 0 {
		t.Fatal("the daemon of node1 does not run")
	}
	return pid
}

func sendSignal(t *testing.T, pid int, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		t.Fatalf("signal process %d: %v", pid, err)
	}
}

// traces lists resources of the machine: the namespaces, cgroups, files, mounts, sockets and processes whose
// names contain the name of one of labs, and all devices in the machine's own namespace.
func traces(t *testing.T, labs ...*labtest.Lab) []string {
	t.Helper()
	ours := func(text string) bool {
		return slices.ContainsFunc(labs, func(l *labtest.Lab) bool { return strings.Contains(text, l.Name) })
	}
	var all []string
	for _, pattern := range []string{
		"/run/netns/*", "/run/palisade/*", "/var/lib/palisade/labs/*", "/dev/shm/*", "/tmp/*",
		"/sys/fs/cgroup/*", "/sys/fs/cgroup/*/*", "/sys/fs/cgroup/*/palisade*/*",
	} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			if ours(filepath.Base(path)) || ours(path) {
				all = append(all, path)
			}
		}
	}
	for _, list := range []struct {
		file, having string // only lines that contain having
		column       int    // of the name
	}{
		{"/proc/self/mountinfo", " ", 4},
		{"/proc/net/unix", " 00010000 ", 7}, // listening
	} {
		data, err := os.ReadFile(list.file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			fields := strings.Fields(line)
			if len(fields) > list.column && ours(line) && strings.Contains(line, list.having) {
				all = append(all, list.file+": "+fields[list.column])
			}
		}
	}
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		all = append(all, "link "+link.Name)
	}
	for pid, text := range processes(t) {
		if ours(text) {
			all = append(all, fmt.Sprintf("process %d: %s", pid, text))
		}
	}
	slices.Sort(all)
	return all
}

// processes returns the command line and the cgroups of each process, by pid. It leaves out zombies, which
// have no command line.
func processes(t *testing.T) map[int]string {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	all := map[int]string{}
	for _, dir := range dirs {
		var pid int
		fmt.Sscan(filepath.Base(dir), &pid)
		if pid == os.Getpid() {
			continue
		}
		cmdline, _ := os.ReadFile(dir + "/cmdline")
		if len(cmdline) == 0 {
			continue
		}
		cgroup, _ := os.ReadFile(dir + "/cgroup")
		all[pid] = string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})) + " " + string(cgroup)
	}
	return all
}

// TestLabDownRemovesEverything runs two labs, of which one has a name that begins with the name of the other.
// Whichever process was killed before, `lab down` removes everything of its own lab and nothing of the
// other.
func TestLabDownRemovesEverything(t *testing.T) {
	netnstest.NeedRoot(t)
	palisade := labtest.Build(t)
	a, b := newLab(t, palisade, "a"), newLab(t, palisade, "ab")
	before := traces(t, a, b)

	b.Up(t)
	n := &neighbour{a: a, b: b, instance: b.Launch(t)}
	n.traces = traces(t, a, b)
	for _, tt := range damages {
		t.Run(tt.name, func(t *testing.T) {
			a.Up(t)
			in := a.Launch(t)
			if in.PrivateAddress != n.instance.PrivateAddress || in.PublicAddress != n.instance.PublicAddress {
				t.Errorf("the first instance has the addresses %s %s, want those of the first instance in the other lab, %s %s", in.PrivateAddress, in.PublicAddress, n.instance.PrivateAddress, n.instance.PublicAddress)
			}
			if len(minus(traces(t, a, b), n.traces)) < 10 {
				t.Fatal("void: the function traces finds less than 10 resources of a running lab")
			}
			tt.damage(t, a)
			a.Do(t, "lab", "down")
			n.check(t, "after down")
		})
	}
	t.Run("lab up killed", func(t *testing.T) {
		begin := time.Now()
		a.Up(t)
		whole := time.Since(begin)
		a.Do(t, "lab", "down")
		for i := range 6 {
			ctx, cancel := context.WithTimeout(t.Context(), whole*time.Duration(i+1)/6)
			up := exec.CommandContext(ctx, palisade, "lab", "up", "--name", a.Name, "--port", fmt.Sprint(labtest.FreePort(t)), "--nodes", fmt.Sprint(1+2*(i%2)))
			err := up.Run()
			cancel()
			t.Logf("lab up, killed after %d/6 of %v: error %v; it left %d resources", i+1, whole, err, len(minus(traces(t, a, b), n.traces)))
			if i%2 == 0 {
				a.Up(t) // removes what the killed `lab up` left
				a.Launch(t)
			}
			a.Do(t, "lab", "down")
			n.check(t, fmt.Sprintf("after lab up was killed after %d/6 of its time", i+1))
		}
	})
	b.Do(t, "lab", "down")
	if after := traces(t, a, b); !slices.Equal(after, before) {
		t.Errorf("after both labs went down, these resources are left:\n%s\nthese were there before and are missing:\n%s", strings.Join(minus(after, before), "\n"), strings.Join(minus(before, after), "\n"))
	}
}

// damages are what is done to a lab before `lab down`, which must remove it nevertheless.
var damages = []struct {
	name   string
	damage func(*testing.T, *labtest.Lab)
}{
	{"no damage", func(*testing.T, *labtest.Lab) {}},
	{"daemon killed", func(t *testing.T, a *labtest.Lab) { sendSignal(t, daemonOf(t, a), syscall.SIGKILL) }},
	{"daemon killed and started", func(t *testing.T, a *labtest.Lab) {
		a.Do(t, "lab", "kill", "node1")
		a.Do(t, "lab", "start", "node1")
	}},
	{"daemon stopped", func(t *testing.T, a *labtest.Lab) { sendSignal(t, daemonOf(t, a), syscall.SIGSTOP) }},
	{"node crashed", func(t *testing.T, a *labtest.Lab) { a.Do(t, "lab", "crash", "node1") }},
	{"one of three nodes cut off, another crashed", func(t *testing.T, a *labtest.Lab) {
		a.Do(t, "lab", "down")
		a.Up(t, "--nodes", "3")
		a.EC2(t, "ec2-run-instances ami-eca54085 -n 3")
		labtest.Eventually(t, "an instance runs on each node", func() bool {
			running := map[string]bool{}
			for _, in := range a.Status(t).Instances {
				running[in.Node] = in.State == "running"
			}
			return running["node1"] && running["node2"] && running["node3"]
		})
		a.Do(t, "lab", "partition", "node3")
		a.Do(t, "lab", "crash", "node2")
	}},
	{"door killed", func(t *testing.T, a *labtest.Lab) { sendSignal(t, a.Status(t).Door.PID, syscall.SIGKILL) }},
	{"supervisor killed", func(t *testing.T, a *labtest.Lab) { sendSignal(t, a.Status(t).Supervisor.PID, syscall.SIGKILL) }},
}

// A neighbour is a lab b that runs while lab a comes and goes.
type neighbour struct {
	a, b     *labtest.Lab
	instance lab.InstanceStatus // of b
	traces   []string           // of both labs, while only b runs
}

// check fails t if anything of lab a is left, or anything of lab b is gone.
func (n *neighbour) check(t *testing.T, when string) {
	t.Helper()
	now := traces(t, n.a, n.b)
	if extra := minus(now, n.traces); len(extra) > 0 {
		t.Errorf("%s, these resources are left:\n%s", when, strings.Join(extra, "\n"))
	}
	if missing := minus(n.traces, now); len(missing) > 0 {
		t.Errorf("%s, the other lab has lost these resources:\n%s", when, strings.Join(missing, "\n"))
	}
	if out, err := n.b.On(n.instance.ID, "uname", "-n"); err != nil {
		t.Errorf("%s, a command in the other lab's instance fails: %v\n%s", when, err, out)
	}
	if out, err := n.b.On("laptop", "ping", "-c", "1", "-W", "10", "198.18.0.1"); err != nil {
		t.Errorf("%s, a ping in the other lab fails: %v\n%s", when, err, out)
	}
}

// minus returns the elements of a that are not in b.
func minus(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}
