package instance

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"palisade/internal/netns"
	"palisade/internal/netns/netnstest"
	"palisade/internal/process"
)

// mapOf returns the only line of the uid_map or gid_map (which) of a process: the first id inside,
// the first id of the node, and the number of ids.
func mapOf(t *testing.T, pid int, which string) [3]int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, which))
	if err != nil {
		t.Fatal(err)
	}
	var m [3]int
	if n, err := fmt.Sscan(string(data), &m[0], &m[1], &m[2]); n != 3 || err != nil || strings.Count(string(data), "\n") != 1 {
		t.Fatalf("%s of process %d is %q, want one line with three numbers", which, pid, data)
	}
	return m
}

// TestProcessesHaveOnlyIDsOfTheirInstance: no process inside has a user or group id of the node or of
// another instance, even after it has changed its ids. Otherwise the kernel would count it as another
// user in its limits per user.
func TestProcessesHaveOnlyIDsOfTheirInstance(t *testing.T) {
	seen := map[int]string{}
	for _, name := range []string{"ids1", "ids2"} {
		s := newSpec(t, name, DefaultImage)
		s.UserData = []byte("#!/bin/sh\nexec sleep 600\n")
		boot(t, s)
		for _, user := range []string{"0", "100", "65534"} {
			inside(t, s, "sh", "-c", "setpriv --reuid "+user+" --regid "+user+" --clear-groups sleep 600 >/dev/null 2>&1 &")
		}
		if out, code := inside(t, s, "timeout", "50", "sh", "-c", "until [ $(pgrep -c -x sleep) = 4 ]; do :; done"); code != 0 {
			t.Fatal(out)
		}
		ids, err := idsOf(s.Namespace)
		if err != nil {
			t.Fatal(err)
		}
		if by := seen[int(ids)]; by != "" {
			t.Errorf("instances %s and %s have the same ids", name, by)
		}
		seen[int(ids)] = name
		all, err := netns.Processes(s.Namespace)
		if err != nil || len(all) < 7 { // init, sshd, four sleep processes, and the guard, which has the ids of the node
			t.Fatalf("the network namespace has the processes %v (error %v), want at least 7", all, err)
		}
		want := [3]int{0, int(ids), idsPerInstance}
		for _, p := range all {
			if isGuard(p) {
				continue
			}
			if u, g := mapOf(t, p.PID, "uid_map"), mapOf(t, p.PID, "gid_map"); u != want || g != want {
				t.Errorf("process %d has the uid_map %v and the gid_map %v, want %v for both", p.PID, u, g, want)
			}
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(status)) {
				f := strings.Fields(line)
				if f[0] != "Uid:" && f[0] != "Gid:" && f[0] != "Groups:" {
					continue
				}
				for _, field := range f[1:] {
					if id, _ := strconv.Atoi(field); id < int(ids) || id >= int(ids)+idsPerInstance {
						t.Errorf("process %d has an id that is not in the range of its instance: %s", p.PID, line)
					}
				}
			}
		}
	}
}

// An instance keeps its ids until Remove, also while it has no init or no process at all. A daemon
// that has just started finds them too.
func TestIDsStayUntilInstanceIsRemoved(t *testing.T) {
	s := newSpec(t, "idsstay", DefaultImage)
	before, err := idsOf(s.Namespace) // no process is in it
	if err != nil {
		t.Fatal(err)
	}
	chooseFrom(t, before)
	if ids, err := freeIDs(); err != nil || ids == before {
		t.Errorf("before Boot freeIDs returned range %d (error %v), but the instance has it", ids, err)
	}
	inst := boot(t, s)
	if m := mapOf(t, inst.Pid(), "uid_map"); m[1] != int(before) {
		t.Errorf("the ids of init begin at %d, want %d as in its network namespace", m[1], before)
	}
	if err := inst.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	again := boot(t, s)
	if m := mapOf(t, again.Pid(), "uid_map"); m[1] != int(before) {
		t.Errorf("after another Boot the ids of init begin at %d, want %d as before", m[1], before)
	}
	// After the name of the namespace is removed, as by `ip netns delete`, the process still has the
	// ids.
	if err := netns.Delete(s.Namespace); err != nil {
		t.Fatal(err)
	}
	if ids, err := freeIDs(); err != nil || ids == before {
		t.Errorf("after the name was removed freeIDs returned range %d (error %v), but a process has it", ids, err)
	}
	if err := Remove(s); err != nil {
		t.Fatal(err)
	}
	// An ended process still has its ids until the machine's init has reaped it.
	for end := time.Now().Add(patience); ; {
		ids, err := freeIDs()
		if err == nil && ids == before {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("after Remove freeIDs returned range %d (error %v), want %d, which is free again", ids, err, before)
		}
	}
}

// chooseFrom makes freeIDs begin its search at the range ids instead of a random one, until the test
// ends.
func chooseFrom(t *testing.T, ids idRange) {
	t.Helper()
	old := firstChoice
	firstChoice = func() int { return (int(ids) - firstID) / idsPerInstance }
	t.Cleanup(func() { firstChoice = old })
}

func TestConcurrentChoicesOfIDsDiffer(t *testing.T) {
	netnstest.NeedRoot(t)
	chooseFrom(t, firstID)
	const n = 12
	names := make([]string, n)
	var wg sync.WaitGroup
	for i := range names {
		names[i] = fmt.Sprintf("palisade-test-choice%d", i)
		netns.Delete(names[i])
		t.Cleanup(func() { netns.Delete(names[i]) })
		wg.Go(func() {
			if err := makeNamespace(names[i]); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	chosen := map[idRange]string{}
	for _, name := range names {
		ids, err := idsOf(name)
		if err != nil {
			t.Error(err)
		}
		if other := chosen[ids]; other != "" {
			t.Errorf("namespaces %s and %s both have the id range that begins at %d", name, other, ids)
		}
		chosen[ids] = name
	}
}

func TestRangesInUseAreNotChosen(t *testing.T) {
	path := t.TempDir() + "/uid_map"
	for _, tt := range []struct {
		mapped string
		taken  []idRange
	}{
		{"         0          0 4294967295\n", nil}, // the node's own
		{"0 100000 65536\n", nil},
		{"0 1879048192 65536\n", []idRange{firstID}},
		{"0 1000 1\n1 1879113728 65536\n", []idRange{firstID + idsPerInstance}},
		{"0 1879048191 65537\n", []idRange{firstID}},
		{"0 1879100000 65536\n", []idRange{firstID, firstID + idsPerInstance}},
	} {
		if err := os.WriteFile(path, []byte(tt.mapped), 0o600); err != nil {
			t.Fatal(err)
		}
		taken := map[idRange]bool{}
		takeMapped(path, taken)
		for _, ids := range tt.taken {
			if !taken[ids] {
				t.Errorf("with the uid_map %q takeMapped did not mark range %d", tt.mapped, ids)
			}
		}
		if len(taken) != len(tt.taken) {
			t.Errorf("with the uid_map %q takeMapped marked %v, want %v", tt.mapped, taken, tt.taken)
		}
	}
}

func TestErrorNamesLimitOfUserNamespaces(t *testing.T) {
	netnstest.NeedRoot(t)
	// The test sets the limit in a new user namespace, because the machine's limit applies to all
	// programs.
	if os.Getenv("PALISADE_TEST_NO_USERNS") == "" {
		mapping := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: firstID + 2*idsPerInstance}}
		child := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
		child.Env = append(os.Environ(), "PALISADE_TEST_NO_USERNS=own")
		child.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, UidMappings: mapping, GidMappings: mapping, GidMappingsEnableSetgroups: true,
		}
		if out, err := child.CombinedOutput(); err != nil {
			t.Fatalf("the test in a user namespace of its own: %v\n%s", err, out)
		}
		return
	}
	if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	if err := makeOwned("palisade-test-refused", firstID); err == nil || !strings.Contains(err.Error(), "user.max_user_namespaces") {
		t.Errorf("makeOwned returned %v, want an error with user.max_user_namespaces", err)
	}
}

// earlierInit starts an init as an earlier release did: process 1 of a pid namespace with the node's
// ids, in a network namespace that belongs to the node.
func earlierInit(t *testing.T, s Spec) process.ID {
	t.Helper()
	if err := netns.Delete(s.Namespace); err != nil {
		t.Fatal(err)
	}
	if err := netns.New(s.Namespace); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc", "sleep", "600")
	if err := netns.Do(s.Namespace, cmd.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for {
		if id, err := find(s.Namespace); err == nil {
			if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", id.PID)); string(comm) == "sleep\n" {
				return id
			}
		}
	}
}

// After an upgrade of Palisade there may be instances in the node's user namespace. They keep
// running; the new daemon can adopt, enter and kill them. They can boot again only after Prepare has
// replaced their namespace.
func TestInstanceOfEarlierReleaseIsAdopted(t *testing.T) {
	s := newSpec(t, "earlier", DefaultImage)
	s.NICs = nil
	id := earlierInit(t, s)
	if err := id.WriteFile(s.pidFile()); err != nil {
		t.Fatal(err)
	}
	inst, err := Adopt(s)
	if err != nil {
		t.Fatal(err)
	}
	defer inst.Close()
	out, code := inside(t, s, "sh", "-c", "id -u; grep -c . /proc/self/uid_map; grep CapEff /proc/self/status; echo $PPID; exit 4")
	var keep uint64
	for _, c := range capabilities {
		keep |= 1 << c
	}
	if want := fmt.Sprintf("0\n1\nCapEff:\t%016x\n0\n", keep); code != 4 || out != want {
		t.Errorf("Exec printed %q and returned status %d, want %q and 4", out, code, want)
	}
	if err := inst.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := Boot(t.Context(), s); !errors.Is(err, ErrSharedIDs) {
		t.Errorf("Boot before Prepare returned %v, want ErrSharedIDs", err)
	}
	if err := Prepare(s); err != nil {
		t.Fatal(err)
	}
	if _, err := idsOf(s.Namespace); err != nil {
		t.Errorf("idsOf after Prepare returned %v, want no error", err)
	}
	boot(t, s)
}

func TestNetworkToolsWorkInside(t *testing.T) {
	s := newSpec(t, "tools", DefaultImage)
	boot(t, s)
	for _, tt := range []struct{ argv, want string }{
		{"ping -n -c 1 -W 50 10.200.7.1", "1 received"},
		{"nmap -n -Pn -sS -p 22 10.200.7.1", "22/tcp closed"},
		{"tcpdump -n -i eth0 -c 1 --immediate-mode 'icmp[icmptype] = icmp-echo' & sleep=$!; while kill -0 $sleep 2>/dev/null; do ping -n -c 1 -W 1 10.200.7.1 >/dev/null; done", "ICMP echo request"},
		{"echo words > /dev/stderr; echo words > /dev/stdout", "words\nwords"},
	} {
		out, code := inside(t, s, "timeout", "50", "sh", "-c", tt.argv)
		if !strings.Contains(out, tt.want) || code != 0 {
			t.Errorf("command %s ended with status %d, want 0 and %q; output:\n%s", tt.argv, code, tt.want, out)
		}
	}
}
