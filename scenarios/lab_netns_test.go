package scenarios

import (
	"bytes"
	"context"
	"encoding/json"
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

// patience is what a loaded machine may need for what takes far less.
const patience = time.Minute

// A testLab is a lab of the built binary, with its real daemon.
type testLab struct {
	t        *testing.T
	palisade string
	name     string
}

// newLab names a lab, and takes it down when t ends.
func newLab(t *testing.T, palisade, suffix string) *testLab {
	t.Helper()
	l := &testLab{t: t, palisade: palisade, name: fmt.Sprintf("real%d%s", os.Getpid(), suffix)}
	t.Cleanup(func() {
		if out, err := exec.Command(palisade, "lab", "down", "--name", l.name).CombinedOutput(); err != nil {
			t.Errorf("lab down: %v\n%s", err, out)
		}
	})
	return l
}

// do runs a command of the binary on the lab: "lab", "up", …
func (l *testLab) do(args ...string) string {
	l.t.Helper()
	out, err := l.try(args...)
	if err != nil {
		l.t.Fatalf("palisade %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (l *testLab) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(l.t.Context(), 2*patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, l.palisade, slices.Insert(slices.Clone(args), 2, "--name", l.name)...).CombinedOutput()
	return string(out), err
}

// up makes the lab, of one node if options do not say otherwise.
func (l *testLab) up(options ...string) {
	l.t.Helper()
	l.do(append([]string{"lab", "up", "--port", fmt.Sprint(labtest.FreePort(l.t)), "--nodes", "1"}, options...)...)
}

// on runs a command in the namespace of who.
func (l *testLab) on(who string, argv ...string) (string, error) {
	return l.try(append([]string{"lab", "exec", who, "--"}, argv...)...)
}

// ec2 runs a line of shell as albert.
func (l *testLab) ec2(line string) string {
	l.t.Helper()
	const script = `eval "$("$0" lab env --name "$1" --account albert)" && eval "$2"`
	out, err := exec.CommandContext(l.t.Context(), "sh", "-c", script, l.palisade, l.name, line).CombinedOutput()
	if err != nil {
		l.t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

func (l *testLab) status() lab.Status {
	l.t.Helper()
	var st lab.Status
	if err := json.Unmarshal([]byte(l.do("lab", "status", "--json")), &st); err != nil {
		l.t.Fatal(err)
	}
	return st
}

// launch starts an instance and returns it when it runs.
func (l *testLab) launch() lab.InstanceStatus {
	l.t.Helper()
	id := strings.Fields(l.ec2("ec2-run-instances ami-eca54085 | grep ^INSTANCE"))[1]
	var found lab.InstanceStatus
	l.eventually("instance "+id+" runs", func() bool {
		for _, in := range l.status().Instances {
			if in.ID == id {
				found = in
			}
		}
		return found.State == "running"
	})
	return found
}

func (l *testLab) daemon() int {
	l.t.Helper()
	pid := l.status().Nodes[0].PID
	if pid == 0 {
		l.t.Fatal("the daemon does not run")
	}
	return pid
}

func (l *testLab) signal(pid int, s syscall.Signal) {
	l.t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		l.t.Fatalf("signal %d: %v", pid, err)
	}
}

func (l *testLab) eventually(what string, is func() bool) {
	l.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !is(); <-tick.C {
		if time.Now().After(deadline) {
			l.t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// traces lists what the machine shows of the labs with these names: namespaces, devices
// outside of them, cgroups, files, mounts, sockets and processes. The devices are all
// that the machine has.
func traces(t *testing.T, labs ...*testLab) []string {
	t.Helper()
	ours := func(text string) bool {
		return slices.ContainsFunc(labs, func(l *testLab) bool { return strings.Contains(text, l.name) })
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

	b.up()
	neighbour := b.launch()
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
		if out, err := b.on(neighbour.ID, "uname", "-n"); err != nil {
			t.Errorf("%s, the other lab's instance: %v\n%s", when, err, out)
		}
		if out, err := b.on("laptop", "ping", "-c", "1", "-W", "10", "198.18.0.1"); err != nil {
			t.Errorf("%s, the other lab's network: %v\n%s", when, err, out)
		}
	}
	for _, tt := range []struct {
		name   string
		damage func()
	}{
		{"as it was", func() {}},
		{"the daemon killed", func() { a.signal(a.daemon(), syscall.SIGKILL) }},
		{"the daemon killed and started", func() { a.do("lab", "kill", "node1"); a.do("lab", "start", "node1") }},
		{"the daemon stopped", func() { a.signal(a.daemon(), syscall.SIGSTOP) }},
		{"the node crashed", func() { a.do("lab", "crash", "node1") }},
		{"one of three cut off, another crashed", func() {
			a.do("lab", "down")
			a.up("--nodes", "3")
			a.ec2("ec2-run-instances ami-eca54085 -n 3")
			a.eventually("an instance runs on each node", func() bool {
				running := map[string]bool{}
				for _, in := range a.status().Instances {
					running[in.Node] = in.State == "running"
				}
				return running["node1"] && running["node2"] && running["node3"]
			})
			a.do("lab", "partition", "node3")
			a.do("lab", "crash", "node2")
		}},
		{"the door killed", func() { a.signal(a.status().Door.PID, syscall.SIGKILL) }},
		{"the supervisor killed", func() { a.signal(a.status().Supervisor.PID, syscall.SIGKILL) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a.up()
			in := a.launch()
			if in.PrivateAddress != neighbour.PrivateAddress || in.PublicAddress != neighbour.PublicAddress {
				t.Errorf("addresses %s %s; the other lab's first are %s %s", in.PrivateAddress, in.PublicAddress, neighbour.PrivateAddress, neighbour.PublicAddress)
			}
			if len(minus(traces(t, a, b), withB)) < 10 {
				t.Fatal("a lab that is up does not show: the test would pass for nothing")
			}
			tt.damage()
			a.do("lab", "down")
			unchanged(t, "after down")
		})
	}
	t.Run("lab up killed", func(t *testing.T) {
		begin := time.Now()
		a.up()
		whole := time.Since(begin)
		a.do("lab", "down")
		for i := range 6 {
			ctx, cancel := context.WithTimeout(t.Context(), whole*time.Duration(i+1)/6)
			up := exec.CommandContext(ctx, palisade, "lab", "up", "--name", a.name, "--port", fmt.Sprint(labtest.FreePort(t)), "--nodes", fmt.Sprint(1+2*(i%2)))
			err := up.Run()
			cancel()
			t.Logf("killed after %d/6 of %v: %v, %d traces", i+1, whole, err, len(minus(traces(t, a, b), withB)))
			if i%2 == 0 {
				a.up() // clears what the killed one left
				a.launch()
			}
			a.do("lab", "down")
			unchanged(t, fmt.Sprintf("after lab up was killed after %d/6 of its time", i+1))
		}
	})
	b.do("lab", "down")
	if after := traces(t, a, b); !slices.Equal(after, before) {
		t.Errorf("left behind by both:\n%s\ngone:\n%s", strings.Join(minus(after, before), "\n"), strings.Join(minus(before, after), "\n"))
	}
}

// minus returns what is in a and not in b.
func minus(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}
