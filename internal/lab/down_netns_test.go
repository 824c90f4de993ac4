package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"palisade/internal/netns"
	"palisade/internal/netns/netnstest"
	"palisade/internal/process"
)

// labName matches the names of the labs of these tests, but not the name of package labtest, which may be
// an argument of a compiler that runs at the same time.
var labName = regexp.MustCompile(`labtest[a-z]`)

// labResources lists what the labs of these tests have on the machine: namespaces, files and processes;
// and all devices in the machine's own namespace.
func labResources(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	add := func(what string, items []string) {
		slices.Sort(items)
		fmt.Fprintf(&b, "%s: %s\n", what, strings.Join(items, " "))
	}
	namespaces, err := netns.List("")
	if err != nil {
		t.Fatal(err)
	}
	add("namespaces", slices.DeleteFunc(namespaces, func(n string) bool { return !strings.HasPrefix(n, "labtest") }))
	links, _ := net.Interfaces()
	var names []string
	for _, l := range links {
		names = append(names, l.Name)
	}
	add("links", names)
	var files []string
	for _, pattern := range []string{labsDir + "/labtest*", runDir + "/labtest*", shmDir + "/palisade-labtest*",
		"/sys/fs/cgroup/palisade-labtest*", "/sys/fs/cgroup/*/palisade-labtest*"} {
		found, _ := filepath.Glob(pattern)
		files = append(files, found...)
	}
	add("files", files)
	var processes []string
	ids, _ := process.List(func(pid int) bool {
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		return labName.Match(cmdline)
	})
	for _, id := range ids {
		processes = append(processes, fmt.Sprint(id.PID))
	}
	add("processes", processes)
	return b.String()
}

func TestDownRemovesEverything(t *testing.T) {
	netnstest.NeedRoot(t)
	before := labResources(t)
	for _, tt := range []struct {
		name   string
		damage func(t *testing.T, l *Lab)
	}{
		{"as it was made", func(*testing.T, *Lab) {}},
		{"with its pid files lost", func(t *testing.T, l *Lab) {
			for _, name := range l.pidFiles() {
				os.Remove(l.pidFile(name))
			}
		}},
		{"with its directory lost", func(t *testing.T, l *Lab) { os.RemoveAll(l.dir()) }},
		{"with commands and instances running", func(t *testing.T, l *Lab) {
			ns := l.namespace("i-00000001")
			if err := netns.New(ns); err != nil {
				t.Fatal(err)
			}
			for _, where := range []string{ns, l.namespace(laptopHost)} {
				cmd := exec.Command("sleep", "600")
				cmd.Args[0] = "labtestmark"
				if err := netns.Do(where, cmd.Start); err != nil {
					t.Fatal(err)
				}
				go cmd.Wait()
				for _, root := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified"} {
					if _, err := os.Stat(root); err != nil {
						continue
					}
					group := filepath.Join(root, l.cgroup(), where)
					if err := os.MkdirAll(group, 0o755); err != nil {
						t.Fatal(err)
					}
					os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(fmt.Sprint(cmd.Process.Pid)), 0)
				}
			}
		}},
		{"with a node cut off", func(t *testing.T, l *Lab) {
			if err := l.Partition(t.Context(), Cut{Nodes: []string{"node2"}}); err != nil {
				t.Fatal(err)
			}
		}},
		{"with its daemons killed", func(t *testing.T, l *Lab) { // the supervisor may be restarting them
			l.signal(t, "node1", unix.SIGKILL)
			l.signal(t, "node2", unix.SIGKILL)
			l.signal(t, doorName, unix.SIGKILL)
		}},
		{"with its supervisor killed", func(t *testing.T, l *Lab) { l.signal(t, supervisorName, unix.SIGKILL) }},
		{"with its supervisor stopped", func(t *testing.T, l *Lab) { l.signal(t, supervisorName, unix.SIGSTOP) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := up(t, Options{Name: "labtestdown", Nodes: 3})
			if labResources(t) == before {
				t.Fatal("void: labResources finds nothing of a running lab")
			}
			tt.damage(t, l)
			if err := Down(t.Context(), l.Name); err != nil {
				t.Fatal(err)
			}
			if after := labResources(t); after != before {
				t.Errorf("Down did not remove everything; resources before Up:\n%s\nafter Down:\n%s", before, after)
			}
		})
	}
}

// The test kills `lab up` at eight different times, some of them after it would have ended.
func TestDownRemovesLabWhoseUpWasKilled(t *testing.T) {
	netnstest.NeedRoot(t)
	t.Cleanup(func() { Down(context.Background(), "labtestkill") })
	if err := Down(t.Context(), "labtestkill"); err != nil {
		t.Fatal(err)
	}
	before := labResources(t)
	begin := time.Now()
	up(t, Options{Name: "labtestkill"})
	whole := time.Since(begin)
	for i := range 8 {
		after := whole * time.Duration(i+1) / 4
		ctx, cancel := context.WithTimeout(t.Context(), after)
		cmd := exec.CommandContext(ctx, "/proc/self/exe", "lab", "up", "labtestkill", fmt.Sprint(freePort(t)))
		cmd.Args[0] = "palisade"
		err := cmd.Run()
		cancel()
		made := labResources(t) != before
		t.Logf("lab up, which takes %v, was killed after %v: %v; it left resources: %v", whole, after, err, made)
		if err := Down(t.Context(), "labtestkill"); err != nil {
			t.Fatal(err)
		}
		if after := labResources(t); after != before {
			t.Fatalf("Down did not remove everything; resources before Up:\n%s\nafter Down:\n%s", before, after)
		}
	}
}

func TestUpReplacesLabOfSameName(t *testing.T) {
	first := up(t, Options{Name: "labtestagain"})
	again, err := Up(t.Context(), Options{Name: "labtestagain", Port: first.Port})
	if err != nil {
		t.Fatal(err)
	}
	if again.Accounts[0].SecretKey == first.Accounts[0].SecretKey {
		t.Error("the new lab has the secret key of the old one")
	}
	again.awaitDoor(t, "it is a new lab", "200 API of node1")
}

func TestFailedUpReportsCauseAndRemovesEverything(t *testing.T) {
	netnstest.NeedRoot(t)
	before := labResources(t)
	_, err := Up(t.Context(), Options{Name: "labtestfail", Port: freePort(t), ClassicPools: []netip.Prefix{failingPool}})
	if err == nil || !strings.Contains(err.Error(), "this node does not accept its pool") {
		t.Errorf("error of Up: %v, want one with the end of the node's log", err)
	}
	if after := labResources(t); after != before {
		t.Errorf("the failed Up did not remove everything; resources before:\n%s\nafter:\n%s", before, after)
	}
	busy, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	_, err = Up(t.Context(), Options{Name: "labtestfail", Port: busy.Addr().(*net.TCPAddr).Port})
	if err == nil || !strings.Contains(err.Error(), "--port") {
		t.Errorf("error of Up on a port in use: %v, want one that names --port", err)
	}
}

// TestDownRemovesAttachedDevices checks that Down removes the devices of its own lab from a namespace
// outside the lab, and leaves devices of another lab, and devices of no lab, in place.
func TestDownRemovesAttachedDevices(t *testing.T) {
	netnstest.NeedRoot(t)
	const guest = "labtestguest"
	_ = netns.Delete(guest)
	if err := netns.New(guest); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(guest); err != nil {
			t.Error(err)
		}
	})
	inside := func(argv ...string) string {
		t.Helper()
		out, err := exec.Command("ip", append([]string{"netns", "exec", guest}, argv...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v\n%s", argv, err, out)
		}
		return string(out)
	}
	for device, alias := range map[string]string{"eth0": "eni-1 of labtesta-", "eth1": "eni-2 of labtestab-", "eth2": "eni-3", "eth3": "my own"} {
		inside("ip", "tuntap", "add", device, "mode", "tap")
		inside("ip", "link", "set", device, "alias", alias)
	}
	if err := Down(t.Context(), "labtesta"); err != nil {
		t.Fatal(err)
	}
	left := inside("ip", "-br", "link")
	if strings.Contains(left, "eth0") || strings.Count(left, "eth") != 3 {
		t.Errorf("devices after Down, want eth1, eth2 and eth3:\n%s", left)
	}
}
