package instance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	vishnetns "github.com/vishvananda/netns"

	"palisade/ec2"
	"palisade/internal/netns"
	"palisade/internal/netns/netnstest"
	"palisade/internal/process"
)

// patience bounds how long a test waits. On an idle machine the waits are far shorter.
const patience = time.Minute

// TestMain also runs the test binary in its other roles: as a stage or init of an instance, and as
// the prober, the filler and the quota probe inside.
func TestMain(m *testing.M) {
	if code, ok := Reexec(os.Args); ok {
		os.Exit(code)
	}
	if len(os.Args) == 4 && os.Args[1] == "quota" {
		os.Exit(probeQuota(os.Args[2], os.Args[3]))
	}
	if len(os.Args) > 1 && os.Args[1] == "probe" {
		os.Exit(probe(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == "fill" {
		os.Exit(fill())
	}
	if len(os.Args) > 1 && os.Args[1] == "daemon" {
		os.Exit(runDaemon())
	}
	os.Exit(m.Run())
}

var peer = netip.MustParsePrefix("10.200.7.1/24")

// newSpec makes this topology, one veth pair, and returns the Spec of the instance:
//
//	palisade-test-NAME-peer           palisade-test-NAME
//	  eth0 10.200.7.1/24 ------------- eth0 10.200.7.9/24 (by Boot)
func newSpec(t *testing.T, name, image string) Spec {
	t.Helper()
	netnstest.NeedRoot(t)
	s := Spec{
		Namespace: "palisade-test-" + name,
		ID:        "i-0000" + name,
		Image:     image,
		NICs: []NIC{{
			Device: "eth0", MAC: ec2.MAC{0x02, 0, 0, 0, 0, 9}, MTU: 1450,
			Addresses: []netip.Prefix{netip.MustParsePrefix("10.200.7.9/24")}, Gateway: peer.Addr(),
		}},
		Dir: filepath.Join(t.TempDir(), "instance"),

		CgroupPrefix: "palisade-test-" + name,
	}
	peerNS := s.Namespace + "-peer"
	t.Cleanup(func() {
		if err := errors.Join(Remove(s), netns.Delete(peerNS)); err != nil {
			t.Error(err)
		}
	})
	if err := Remove(s); err != nil {
		t.Fatal(err)
	}
	netns.Delete(peerNS)
	if err := errors.Join(Prepare(s), netns.New(peerNS)); err != nil {
		t.Fatal(err)
	}
	err := netns.Do(peerNS, func() error {
		ns, err := vishnetns.GetFromPath(netns.Path(s.Namespace))
		if err != nil {
			return err
		}
		defer ns.Close()
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "eth0"
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns)}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		addr, _ := netlink.ParseAddr(peer.String())
		return errors.Join(netlink.AddrAdd(veth, addr), netlink.LinkSetUp(veth))
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func boot(t *testing.T, s Spec) *Instance {
	t.Helper()
	begin := time.Now()
	inst, err := Boot(t.Context(), s)
	if err != nil {
		log, _ := os.ReadFile(s.bootLog())
		t.Fatalf("Boot: %v\nboot log:\n%s", err, log)
	}
	t.Logf("%s booted in %v", s.Image, time.Since(begin).Round(time.Millisecond))
	t.Cleanup(func() { inst.Close() })
	return inst
}

// inside runs a command in the instance and returns its output and exit status.
func inside(t *testing.T, s Spec, argv ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out bytes.Buffer
	code, err := Exec(ctx, s.Namespace, argv, Stdio{Out: &out, Err: &out})
	if err != nil {
		t.Fatalf("Exec of %q inside: %v\n%s", argv, err, out.String())
	}
	return out.String(), code
}

// fromPeer runs a command in the network namespace of the peer and returns its output.
func fromPeer(s Spec, argv ...string) (string, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := netns.Do(s.Namespace+"-peer", cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	return out.String(), err
}

func TestUserDataRunsAfterServicesListen(t *testing.T) {
	s := newSpec(t, "userdata", DefaultImage)
	s.UserData = []byte("#!/bin/sh\nid -un > /tmp/ran\n")
	boot(t, s)
	out, _ := inside(t, s, "timeout", "50", "sh", "-c", "until [ -s /tmp/ran ]; do sleep 0.01; done; cat /tmp/ran")
	if out != "root\n" {
		t.Errorf("the user data ran as user %q, want root", out)
	}
}

func TestInitReapsOrphans(t *testing.T) {
	s := newSpec(t, "orphans", DefaultImage)
	boot(t, s)
	// The subshell ends before its children. They become children of init, which must reap them.
	inside(t, s, "sh", "-c", "(sleep 0.05 & sleep 0.05 & sleep 0.05 &)")
	out, code := inside(t, s, "timeout", "50", "sh", "-c", "while grep -hs '^State:.[RSDZ].*' /proc/[0-9]*/status | grep -q Z || pgrep -x sleep >/dev/null; do :; done")
	if code != 0 {
		t.Errorf("zombies or sleep processes remain: the check ended with status %d, want 0; output %s", code, out)
	}
}

func TestDeviceHasOnlyAddressOfInstance(t *testing.T) {
	s := newSpec(t, "device", DefaultImage)
	boot(t, s)
	out, _ := inside(t, s, "ip", "-br", "address", "show", "dev", "eth0")
	if f := strings.Fields(out); len(f) != 3 || f[2] != "10.200.7.9/24" {
		t.Errorf("eth0 has the addresses %q, want only 10.200.7.9/24 and no IPv6", out)
	}
	out, _ = inside(t, s, "ip", "link", "show", "dev", "eth0")
	if !strings.Contains(out, "02:00:00:00:00:09") || !strings.Contains(out, "mtu 1450") {
		t.Errorf("eth0 is %q, want MAC 02:00:00:00:00:09 and MTU 1450", out)
	}
	if out, _ = inside(t, s, "ip", "route", "show", "default"); !strings.HasPrefix(out, "default via 10.200.7.1 dev eth0") {
		t.Errorf("the default route is %q, want via 10.200.7.1 dev eth0", out)
	}
	// The instance was stopped and started and has a new address: Configure replaces the old one.
	s.NICs[0].Addresses = []netip.Prefix{netip.MustParsePrefix("10.200.7.10/24")}
	if err := Configure(s.Namespace, s.NICs[0]); err != nil {
		t.Fatal(err)
	}
	out, _ = inside(t, s, "ip", "-br", "address", "show", "dev", "eth0")
	if f := strings.Fields(out); len(f) != 3 || f[2] != "10.200.7.10/24" {
		t.Errorf("after Configure eth0 has the addresses %q, want only 10.200.7.10/24", out)
	}
}

func TestNextDaemonAdoptsInstance(t *testing.T) {
	s := newSpec(t, "adopt", DefaultImage)
	if _, err := Adopt(s); !errors.Is(err, ErrGone) {
		t.Errorf("Adopt before Boot returned %v, want ErrGone", err)
	}
	first := boot(t, s)
	if ppid := parentOf(t, first.Pid()); ppid == os.Getpid() {
		t.Errorf("the parent of init is the daemon, want another process")
	}
	if _, err := Boot(t.Context(), s); err == nil {
		t.Error("Boot of a running instance returned no error")
	}
	again, err := Adopt(s)
	if err != nil || again.Pid() != first.Pid() {
		t.Fatalf("Adopt returned %v, %v; want the instance whose init is process %d", again, err, first.Pid())
	}
	defer again.Close()

	inside(t, s, "sh", "-c", "setsid sleep 600 >/dev/null 2>&1 &")
	if err := again.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-first.Done():
	case <-time.After(patience):
		t.Fatal("the channel Done is still open after Kill")
	}
	if left, _ := netns.Processes(s.Namespace); len(left) != 0 {
		t.Errorf("after Kill these processes are in the network namespace: %v, want none", left)
	}
	for _, h := range hierarchies() {
		if _, err := os.Stat(h.dir(s)); err == nil {
			t.Errorf("cgroup %s still exists after Kill", h.dir(s))
		}
	}
	if _, err := Adopt(s); !errors.Is(err, ErrGone) {
		t.Errorf("Adopt after Kill returned %v, want ErrGone", err)
	}
	boot(t, s) // the namespace and its device still exist
}

func parentOf(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "PPid:")
	var ppid int
	fmt.Sscan(rest, &ppid)
	return ppid
}

// A daemon that is killed during Boot can leave an init without a pid file. The next Boot and Remove
// must find and kill it.
func TestBootAndRemoveKillInitWithoutPidFile(t *testing.T) {
	s := newSpec(t, "halfmade", DefaultImage)
	first := boot(t, s)
	os.Remove(s.pidFile())
	inst := boot(t, s)
	select {
	case <-first.Done():
	default:
		t.Error("the init without a pid file still runs after the next Boot")
	}
	os.Remove(s.pidFile())
	if err := Remove(s); err != nil {
		t.Fatal(err)
	}
	if (process.ID{PID: inst.Pid(), Start: inst.handle.ID().Start}).Alive() {
		t.Error("init still runs after Remove")
	}
	if netns.Exists(s.Namespace) {
		t.Error("the network namespace still exists after Remove")
	}
	if _, err := os.Stat(s.Dir); err == nil {
		t.Error("the instance's directory still exists after Remove")
	}
	if err := Remove(s); err != nil {
		t.Errorf("a second Remove returned %v, want no error", err)
	}
}

func TestFailedBootLeavesNoProcess(t *testing.T) {
	s := newSpec(t, "fails", "not-an-image")
	if _, err := Boot(t.Context(), s); err == nil || !strings.Contains(err.Error(), "not an AMI id") {
		t.Errorf("Boot with an invalid image returned %v, want an error with \"not an AMI id\"", err)
	}
	if left, _ := netns.Processes(s.Namespace); len(left) != 0 {
		t.Errorf("after the failed Boot these processes are in the network namespace: %v, want none", left)
	}
}

func TestExecReturnsStatusOfCommand(t *testing.T) {
	s := newSpec(t, "exec", DefaultImage)
	boot(t, s)
	for _, tt := range []struct {
		argv []string
		code int
	}{
		{[]string{"true"}, 0},
		{[]string{"sh", "-c", "exit 7"}, 7},
		{[]string{"sh", "-c", "kill -9 $$"}, 137},
		{[]string{"no-such-command"}, 127},
	} {
		if _, code := inside(t, s, tt.argv...); code != tt.code {
			t.Errorf("Exec of %q returned status %d, want %d", tt.argv, code, tt.code)
		}
	}
	if _, err := Exec(t.Context(), "palisade-test-none", []string{"true"}, Stdio{}); !errors.Is(err, ErrGone) {
		t.Errorf("Exec without an instance returned %v, want ErrGone", err)
	}
}
