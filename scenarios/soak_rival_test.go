//go:build soak

package scenarios

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"palisade/ec2"
	"palisade/internal/bench/storm"
	"palisade/internal/lab/labtest"
	"palisade/internal/netns"
	"palisade/internal/process"
)

// rivalPrefix is the start of the names of the rival's namespaces and cgroups.
const rivalPrefix = "stormrival-"

// rivalNodes are the roles on each node of the rival. Each role has the same address and MAC as in the lab.
var rivalNodes = [2][]string{{"mallory", "client", "near", "target1"}, {"far", "target2"}}

// rivalMTU is the MTU of a lab's instances. With the headers of VXLAN, their packets still fit the underlay.
const rivalMTU = 1406

// newStormRival builds the rival that the lab is compared with: a Linux bridge on each of two nodes, connected
// by the kernel's VXLAN, with nftables and the kernel's connection tracking:
//
//	mallory, client, near, target1 -- bridge, nft -- VXLAN -- bridge, nft -- far, target2
//
// Each role has a namespace behind a veth pair. Its programs run in cgroups with the limits of the lab's
// instances.
func newStormRival(t *testing.T, lab *stormWorld, held storm.Held) *stormWorld {
	t.Helper()
	w := &stormWorld{
		name: "bridge", hosts: lab.hosts, namespace: map[string]string{}, limits: lab.limits,
		via:     func(h storm.Host) ec2.MAC { return h.MAC },
		program: func(string) string { self, _ := os.Executable(); return self },
	}
	w.limits.slow = held.Slow
	clear := func() error { return clearRival() }
	if err := clear(); err != nil { // remains of a killed run
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := clear(); err != nil {
			t.Error(err)
		}
	})
	nodes := [2]string{rivalPrefix + "node1", rivalPrefix + "node2"}
	for _, ns := range nodes {
		rivalNamespace(t, ns)
	}
	ip(t, nodes[0], "link add underlay type veth peer name underlay netns "+nodes[1])
	for i, node := range nodes {
		ip(t, node, fmt.Sprintf(`address add 192.0.2.%d/24 dev underlay
link set underlay up
link add bridge type bridge mcast_snooping 0
link set bridge mtu %d up
link add vxlan mtu %d type vxlan id 7 local 192.0.2.%d remote 192.0.2.%d dstport 4789 dev underlay
link set vxlan master bridge up`, i+1, rivalMTU, rivalMTU, i+1, 2-i))
		for _, role := range rivalNodes[i] {
			ns, h := rivalPrefix+role, lab.hosts[role]
			rivalNamespace(t, ns)
			w.namespace[role] = ns
			ip(t, node, fmt.Sprintf("link add %s mtu %d type veth peer name eth0 address %s mtu %d netns %s\nlink set %s master bridge up",
				role, rivalMTU, h.MAC, rivalMTU, ns, role))
			ip(t, ns, fmt.Sprintf("address add %s/8 dev eth0\nlink set eth0 up", h.Address))
		}
		err := netns.Do(node, func() error {
			return os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("1"), 0)
		})
		if err != nil {
			t.Fatalf("pass bridged packets to nftables (is br_netfilter loaded?): %v", err)
		}
		if out, err := nftIn(node, rivalRules(lab), "-f", "-"); err != nil {
			t.Fatalf("rules of %s: %v\n%s", node, err, out)
		}
	}
	groups := rivalCgroups(t, lab)
	w.command = func(ctx context.Context, role string, argv ...string) *exec.Cmd {
		script := "set -e; role=$1; shift\n"
		for _, dir := range groups {
			script += fmt.Sprintf("echo $$ > '%s/'$role/cgroup.procs\n", dir)
		}
		return exec.CommandContext(ctx, "sh", append([]string{"-c", script + `exec "$@"`, "sh", role}, argv...)...)
	}
	w.start = func(role string, cmd *exec.Cmd) error { return netns.Do(w.namespace[role], cmd.Start) }
	w.serveOpenPort(t)
	return w
}

// rivalRules returns rules that admit the same packets as the groups of the lab.
func rivalRules(w *stormWorld) string {
	address := func(role string) string { return w.hosts[role].Address.String() }
	return fmt.Sprintf(`table inet storm {
	set friends { type ipv4_addr; elements = { 10.11.0.1 } }
	chain forward {
		type filter hook forward priority 0; policy drop
		ct state established,related accept
		ip saddr %[1]s ip daddr { %[2]s, %[3]s } tcp dport %[4]d ct state new accept
		ip daddr { %[5]s, %[6]s } meta l4proto { tcp, udp } th dport %[7]d ct state new accept
		ip daddr { %[5]s, %[6]s } ip saddr @friends tcp dport %[8]d ct state new accept
	}
}`, address("client"), address("near"), address("far"), iperfPort, address("target1"), address("target2"), openPort, groupPort)
}

func rivalNamespace(t *testing.T, name string) {
	t.Helper()
	err := netns.New(name)
	if err == nil {
		err = netns.Do(name, func() error {
			_ = os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0) // missing in a kernel without IPv6
			return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0)
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	ip(t, name, "link set lo up")
}

// ip runs commands of ip(8) in a namespace. commands has one on each line.
func ip(t *testing.T, namespace, commands string) {
	t.Helper()
	cmd := exec.Command("ip", "-n", namespace, "-batch", "-")
	cmd.Stdin = strings.NewReader(commands + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ip in %s: %v\n%s\n%s", namespace, err, commands, out)
	}
}

// clearRival kills the processes of the rival and removes its namespaces and cgroups.
func clearRival() error {
	namespaces, err := netns.List(rivalPrefix)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*labtest.Patience) // packet sockets take long to close
	defer cancel()
	inside, err := netns.Processes(namespaces...)
	if err != nil {
		return err
	}
	for _, id := range inside {
		if err := process.Kill(ctx, id); err != nil {
			return err
		}
	}
	for _, ns := range namespaces {
		if err := netns.Delete(ns); err != nil {
			return err
		}
	}
	for {
		var left error
		for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
			dirs, _ := filepath.Glob(filepath.Join(mount, rivalPrefix+"*", "*"))
			parents, _ := filepath.Glob(filepath.Join(mount, rivalPrefix+"*"))
			for _, dir := range append(dirs, parents...) {
				if st, err := os.Stat(dir); err != nil || !st.IsDir() {
					continue
				}
				if err := unix.Rmdir(dir); err != nil {
					left = fmt.Errorf("remove cgroup %s: %w", dir, err)
				}
			}
		}
		if left == nil || ctx.Err() != nil {
			return left
		}
		<-time.After(10 * time.Millisecond) // the kernel releases a cgroup a moment after its last process
	}
}

// A cgroupDir is the cgroup of a process in one hierarchy.
type cgroupDir struct {
	mount, path string
	v2          bool
}

// cgroupsOf returns the cgroup of a process in each hierarchy, except where that is the root.
func cgroupsOf(t *testing.T, pid int) (all []cgroupDir) {
	t.Helper()
	own, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(own)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) < 3 || f[2] == "/" {
			continue
		}
		for mount := range strings.Lines(string(mounts)) {
			m := strings.Fields(mount)
			v2 := m[2] == "cgroup2" && f[1] == ""
			if v2 || m[2] == "cgroup" && f[1] != "" && strings.Contains(","+m[3]+",", ","+f[1]+",") {
				all = append(all, cgroupDir{mount: m[1], path: filepath.Join(m[1], f[2]), v2: v2})
				break
			}
		}
	}
	return all
}

// limitFiles are the files with the limits and weights of a cgroup.
var limitFiles = []string{"pids.max", "memory.max", "memory.high", "memory.limit_in_bytes",
	"cpu.weight", "cpu.max", "cpu.idle", "cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us"}

// rivalCgroups makes cgroups for the rival in every hierarchy that limits instances: one for each role, with the
// limits that mallory's cgroup has in the lab, and a parent of these, with the limits of mallory's parent.
// It returns the parents.
func rivalCgroups(t *testing.T, lab *stormWorld) (parents []string) {
	t.Helper()
	for _, c := range cgroupsOf(t, lab.limits.init) {
		if !strings.Contains(c.path, lab.lab.Name) {
			continue // not a cgroup of the lab: the test itself is in it
		}
		parent := filepath.Join(c.mount, rivalPrefix+"hosts")
		if slices.Contains(parents, parent) {
			continue
		}
		roles := slices.Sorted(maps.Keys(lab.hosts))
		for _, dir := range append([]string{""}, roles...) {
			if err := os.MkdirAll(filepath.Join(parent, dir), 0o755); err != nil {
				t.Fatal(err)
			}
			from := c.path
			if dir == "" {
				from = filepath.Dir(c.path)
			}
			copyLimits(t, from, filepath.Join(parent, dir))
			if dir == "" && c.v2 {
				for _, controller := range []string{"+pids", "+memory", "+cpu"} {
					_ = os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte(controller), 0) // fails if the hierarchy lacks the controller
				}
			}
		}
		parents = append(parents, parent)
	}
	return parents
}

func copyLimits(t *testing.T, from, to string) {
	t.Helper()
	for _, file := range limitFiles {
		value, err := os.ReadFile(filepath.Join(from, file))
		if err != nil {
			continue // this hierarchy has no such file
		}
		if err := os.WriteFile(filepath.Join(to, file), value, 0); err != nil {
			t.Fatalf("limit the rival: %v", err)
		}
	}
}

// initOf returns the init process of an instance.
func initOf(t *testing.T, namespace string) int {
	t.Helper()
	inside, err := netns.Processes(namespace)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range inside {
		if inner, depth := process.NamespacedPID(id.PID); inner == 1 && depth == 2 {
			return id.PID
		}
	}
	t.Fatalf("no instance runs in %s", namespace)
	return 0
}
