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

	"palisade/internal/lab/labtest"
	"palisade/internal/netns/netnstest"
)

// newLab names a lab after this process. Nothing of it is made yet.
func newLab(t *testing.T, palisade, suffix string) *labtest.Lab {
	t.Helper()
	return labtest.New(t, palisade, fmt.Sprintf("real%d%s", os.Getpid(), suffix))
}

// daemonOf returns the process of the first node's daemon.
func daemonOf(t *testing.T, l *labtest.Lab) int {
	t.Helper()
	pid := l.Status(t).Nodes[0].PID
	if pid == 0 {
		t.Fatal("the daemon does not run")
	}
	return pid
}

func sendSignal(t *testing.T, pid int, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		t.Fatalf("signal process %d: %v", pid, err)
	}
}

// traces lists what the machine shows of the labs with these names: namespaces, devices
// outside of them, cgroups, files, mounts, sockets and processes. The devices are all
// that the machine has.
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
		file, having string // in lines that count
		column       int
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

// processes returns what tells the lab of each process: its command line and its cgroups.
// A zombie has no command line and is left out.
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

// TestLabLeavesTheMachineAsItWas: two labs side by side, the name of one the beginning of
// the other's, with instances that run. Whatever is killed on the way, `lab down` leaves
// nothing of its own lab and touches nothing of the other.
func TestLabLeavesTheMachineAsItWas(t *testing.T) {
	netnstest.NeedRoot(t)
	palisade := labtest.Build(t)
	a, b := newLab(t, palisade, "a"), newLab(t, palisade, "ab")
	before := traces(t, a, b)

	b.Up(t)
	neighbour := b.Launch(t)
	withB := traces(t, a, b)
	// b's own processes come and go; what is a's shows in either list.
	unchanged := func(t *testing.T, when string) {
		t.Helper()
		now := traces(t, a, b)
		if extra := minus(now, withB); len(extra) > 0 {
			t.Errorf("%s, left behind:\n%s", when, strings.Join(extra, "\n"))
		}
		if missing := minus(withB, now); len(missing) > 0 {
			t.Errorf("%s, gone of the other lab:\n%s", when, strings.Join(missing, "\n"))
		}
		if out, err := b.On(neighbour.ID, "uname", "-n"); err != nil {
			t.Errorf("%s, the other lab's instance: %v\n%s", when, err, out)
		}
		if out, err := b.On("laptop", "ping", "-c", "1", "-W", "10", "198.18.0.1"); err != nil {
			t.Errorf("%s, the other lab's network: %v\n%s", when, err, out)
		}
	}
	for _, tt := range []struct {
		name   string
		damage func(*testing.T)
	}{
		{"as it was", func(*testing.T) {}},
		{"the daemon killed", func(t *testing.T) { sendSignal(t, daemonOf(t, a), syscall.SIGKILL) }},
		{"the daemon killed and started", func(t *testing.T) { a.Do(t, "lab", "kill", "node1"); a.Do(t, "lab", "start", "node1") }},
		{"the daemon stopped", func(t *testing.T) { sendSignal(t, daemonOf(t, a), syscall.SIGSTOP) }},
		{"the node crashed", func(t *testing.T) { a.Do(t, "lab", "crash", "node1") }},
		{"one of three cut off, another crashed", func(t *testing.T) {
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
		{"the door killed", func(t *testing.T) { sendSignal(t, a.Status(t).Door.PID, syscall.SIGKILL) }},
		{"the supervisor killed", func(t *testing.T) { sendSignal(t, a.Status(t).Supervisor.PID, syscall.SIGKILL) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a.Up(t)
			in := a.Launch(t)
			if in.PrivateAddress != neighbour.PrivateAddress || in.PublicAddress != neighbour.PublicAddress {
				t.Errorf("addresses %s %s; the other lab's first are %s %s", in.PrivateAddress, in.PublicAddress, neighbour.PrivateAddress, neighbour.PublicAddress)
			}
			if len(minus(traces(t, a, b), withB)) < 10 {
				t.Fatal("a lab that is up does not show: the test would pass for nothing")
			}
			tt.damage(t)
			a.Do(t, "lab", "down")
			unchanged(t, "after down")
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
			t.Logf("killed after %d/6 of %v: %v, %d traces", i+1, whole, err, len(minus(traces(t, a, b), withB)))
			if i%2 == 0 {
				a.Up(t) // clears what the killed one left
				a.Launch(t)
			}
			a.Do(t, "lab", "down")
			unchanged(t, fmt.Sprintf("after lab up was killed after %d/6 of its time", i+1))
		}
	})
	b.Do(t, "lab", "down")
	if after := traces(t, a, b); !slices.Equal(after, before) {
		t.Errorf("left behind by both:\n%s\ngone:\n%s", strings.Join(minus(after, before), "\n"), strings.Join(minus(before, after), "\n"))
	}
}

// minus returns what is in a and not in b.
func minus(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}
