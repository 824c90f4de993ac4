package instance

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestRootOfInstanceCannotReachNode runs the attacks in the function probe as the instance's root:
// once by an ssh login, and once by Exec, as `lab exec` does.
func TestRootOfInstanceCannotReachNode(t *testing.T) {
	s := newSpec(t, "isolation", DefaultImage)
	key, authorized := loginKey(t)
	s.AuthorizedKeys = []string{authorized}
	secret := filepath.Join(s.Dir, "secret")
	if err := os.WriteFile(secret, []byte("node state"), 0o644); err != nil {
		t.Fatal(err)
	}
	boot(t, s)
	node := fmt.Sprint(os.Getpid())
	before, err := os.Stat(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}

	out, code := inside(t, s, initPath, "probe", node, secret)
	if code != 0 {
		t.Errorf("the probe that Exec started reports:\n%s", out)
	}
	if out, err := fromPeer(s, sshArgs(key, initPath+" probe "+node+" "+secret)...); err != nil {
		t.Errorf("the probe that ssh started ended with %v and reports:\n%s", err, out)
	}
	st, err := os.Stat(os.DevNull)
	if err != nil || st.Mode().Perm() != before.Mode().Perm() {
		os.Chmod(os.DevNull, before.Mode().Perm())
		t.Errorf("a chmod inside changed the mode of the node's /dev/null to %v, want %v", st.Mode(), before.Mode())
	}
}

// probe is the main function of the prober inside the instance. It prints a line for each attack that
// succeeds and for each permitted operation that fails, and returns the number of lines.
func probe(args []string) int {
	runtime.LockOSThread()
	var node int
	fmt.Sscan(args[0], &node)
	secret := args[1]
	p := prober{}

	p.fails("make a device node", unix.Mknod("/tmp/mem", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 1))))
	p.fails("make the tun device", unix.Mknod("/tmp/tun", unix.S_IFCHR|0o600, int(unix.Mkdev(10, 200))))
	p.opens("/dev/net/tun", os.O_RDWR)
	p.fails("mount", unix.Mount("tmpfs", "/mnt", "tmpfs", 0, ""))
	p.fails("make /usr writable", unix.Mount("", "/usr", "", unix.MS_REMOUNT|unix.MS_BIND, ""))
	p.fails("unmount /proc/sys", unix.Unmount("/proc/sys", unix.MNT_DETACH))
	p.fails("unshare a user namespace", unix.Unshare(unix.CLONE_NEWUSER))
	p.fails("unshare a mount namespace", unix.Unshare(unix.CLONE_NEWNS))
	p.fails("clone into a user namespace", cloneUserNamespace())
	p.setns("/proc/1/ns/net", "/proc/1/ns/mnt", "/proc/self/ns/pid")

	p.fails("signal the node", unix.Kill(node, 0))
	p.fails("ptrace the node", unix.PtraceAttach(node))
	p.opens(fmt.Sprintf("/proc/%d/root/etc/passwd", node), os.O_RDONLY)
	p.opens(secret, os.O_RDONLY)
	p.opens("/proc/1/root"+secret, os.O_RDONLY)
	p.opens("/var/lib/palisade", os.O_RDONLY)
	p.opens("/run/netns", os.O_RDONLY)
	p.opens("/sys/kernel", os.O_RDONLY)

	p.opens("/proc/1/exe", os.O_WRONLY)
	p.opens(initPath, os.O_WRONLY)
	p.opens("/usr/bin/env", os.O_WRONLY)
	p.opens("/proc/sys/kernel/core_pattern", os.O_WRONLY)
	p.opens("/proc/sys/net/ipv4/ip_forward", os.O_WRONLY)
	p.opens("/proc/sysrq-trigger", os.O_WRONLY)
	p.hides("/proc/kcore")
	p.hides("/proc/kallsyms")

	p.changesNoLink()
	p.fails("make a dummy device", netlink.LinkAdd(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "d0"}}))
	_, err := unix.KeyctlInt(unix.KEYCTL_GET_KEYRING_ID, unix.KEY_SPEC_SESSION_KEYRING, 0, 0, 0)
	p.fails("reach a keyring", err)
	_, _, errno := unix.Syscall(unix.SYS_BPF, 0, 0, 0)
	p.fails("bpf", errnoOrNil(errno))
	_, _, errno = unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&[64]uint64{})), 0)
	p.fails("io_uring", errnoOrNil(errno))
	for _, socket := range []struct{ family, kind, protocol int }{
		{unix.AF_VSOCK, unix.SOCK_STREAM, 0}, {unix.AF_XDP, unix.SOCK_RAW, 0}, {unix.AF_ALG, unix.SOCK_SEQPACKET, 0},
		{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP}, {unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP},
		{unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE}, {unix.AF_INET, unix.SOCK_PACKET, 0},
	} {
		_, err = unix.Socket(socket.family, socket.kind, socket.protocol)
		p.fails(fmt.Sprintf("open a socket %+v", socket), err)
		if err != unix.EAFNOSUPPORT && err != unix.EPROTONOSUPPORT {
			p.say("open a socket %+v: %v, which is not the filter's answer", socket, err)
		}
	}
	_, _, errno = unix.Syscall(unix.SYS_IOCTL, 0, unix.TIOCSTI, uintptr(unsafe.Pointer(&[]byte("x")[0])))
	if errno != unix.EPERM { // without the filter the error would be ENOTTY, because descriptor 0 is no terminal
		p.say("type into a terminal: %v, want EPERM", errno)
	}
	p.fails("set the clock", unix.Settimeofday(&unix.Timeval{Sec: 1}))
	p.fails("load a module", unix.FinitModule(0, "", 0))

	p.seesOnlyItsOwn()
	p.cannotLeaveByChroot(secret)
	os.Chmod("/dev/null", 0o600)
	os.Chmod("/proc/self/fd/0", 0o600)
	os.Chmod("/dev/null", 0o666)

	// These must work; if not, the attacks above may have failed for another reason.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	p.works("open a packet socket", err)
	unix.Close(fd)
	l, err := net.Listen("tcp4", ":81")
	p.works("listen on a low port", err)
	if err == nil {
		l.Close()
	}
	p.works("give a file away", errors.Join(os.WriteFile("/tmp/f", nil, 0o600), os.Chown("/tmp/f", 100, 100), os.Remove("/tmp/f")))
	return p.failures
}

type prober struct{ failures int }

func (p *prober) say(format string, args ...any) {
	p.failures++
	fmt.Printf(format+"\n", args...)
}

func (p *prober) fails(what string, err error) {
	if err == nil {
		p.say("can %s", what)
	}
}

func (p *prober) works(what string, err error) {
	if err != nil {
		p.say("cannot %s: %v", what, err)
	}
}

func (p *prober) opens(path string, flag int) {
	f, err := os.OpenFile(path, flag, 0)
	if err == nil {
		f.Close()
		p.say("can open %s", path)
	}
}

// hides checks that a file is missing, or empty because /dev/null is mounted over it.
func (p *prober) hides(path string) {
	if data, err := os.ReadFile(path); err == nil && len(data) > 0 {
		p.say("can read %d bytes of %s", len(data), path)
	}
}

func (p *prober) setns(paths ...string) {
	for _, path := range paths {
		fd, err := unix.Open(path, unix.O_RDONLY, 0)
		if err != nil {
			continue
		}
		p.fails("setns "+path, unix.Setns(fd, 0))
		unix.Close(fd)
	}
}

func (p *prober) changesNoLink() {
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		p.say("cannot see eth0: %v", err)
		return
	}
	addr, _ := netlink.ParseAddr("10.200.7.66/24")
	p.fails("set eth0 down", netlink.LinkSetDown(link))
	p.fails("change eth0's MAC", netlink.LinkSetHardwareAddr(link, net.HardwareAddr{2, 0, 0, 0, 0, 66}))
	p.fails("add an address", netlink.AddrAdd(link, addr))
	p.fails("delete eth0", netlink.LinkDel(link))
	p.fails("move eth0", netlink.LinkSetNsPid(link, 1))
}

// seesOnlyItsOwn checks that process 1 is the init of the instance, that no mount of the node is
// writable, that init has no descriptor of the node, and that root has only the listed capabilities.
func (p *prober) seesOnlyItsOwn() {
	stat, err := os.ReadFile("/proc/1/comm")
	if err != nil || strings.TrimSpace(string(stat)) != filepath.Base(initPath) {
		p.say("process 1 is %q (error %v), not our init", stat, err)
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		switch f[2] {
		case "tmpfs", "proc", "devpts":
		default:
			if !strings.HasPrefix(f[3], "ro,") {
				p.say("can write to a mount of the node: %s", line)
			}
		}
	}
	links, _ := filepath.Glob("/proc/1/fd/*")
	for _, link := range links {
		target, _ := os.Readlink(link)
		switch {
		case target == "/dev/null", target == initLog, strings.HasPrefix(target, "socket:"),
			strings.HasPrefix(target, "pipe:"), strings.HasPrefix(target, "anon_inode:"):
		default:
			p.say("init has an open descriptor of %s", target)
		}
	}
	if len(links) < 3 {
		p.say("cannot list the descriptors of init, found only %v", links)
	}
	var keep uint64
	for _, c := range capabilities {
		keep |= 1 << c
	}
	status, _ := os.ReadFile("/proc/self/status")
	for _, want := range []string{
		fmt.Sprintf("CapPrm:\t%016x\n", keep), fmt.Sprintf("CapEff:\t%016x\n", keep), fmt.Sprintf("CapBnd:\t%016x\n", keep),
		"CapInh:\t0000000000000000\n", "CapAmb:\t0000000000000000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n",
	} {
		if !strings.Contains(string(status), want) {
			p.say("/proc/self/status has no line %q", want)
		}
	}
}

// cannotLeaveByChroot leaves a chroot directory, which root can always do, and checks that it then is
// in the instance's root directory and not in the node's.
func (p *prober) cannotLeaveByChroot(secret string) {
	os.Mkdir("/tmp/jail", 0o700)
	if err := unix.Chroot("/tmp/jail"); err != nil {
		p.say("cannot chroot: %v", err)
		return
	}
	for range 64 {
		unix.Chdir("..")
	}
	unix.Chroot(".")
	p.opens(secret, os.O_RDONLY)
	if _, err := os.Stat(initPath); err != nil {
		p.say("the directory above the chroot is not the instance's root: %v", err)
	}
}

func cloneUserNamespace() error {
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno == 0 && pid == 0 {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
	return errnoOrNil(errno)
}

func errnoOrNil(errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}
