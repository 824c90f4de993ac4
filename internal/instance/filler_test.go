package instance

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"palisade/internal/netns"
)

// A filler is a process inside an instance that takes what its test tells it to, and holds
// it until it is told to close it, or ends with its test. It runs as root, as whoever has
// the instance does.
type filler struct {
	t   *testing.T
	in  io.WriteCloser
	out *bufio.Reader
}

// startFiller starts one by Exec.
func startFiller(t *testing.T, s Spec) *filler {
	t.Helper()
	inR, inW, err1 := os.Pipe()
	outR, outW, err2 := os.Pipe()
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		Exec(t.Context(), s.Namespace, []string{initPath, "fill"}, Stdio{In: inR, Out: outW, Err: outW})
		inR.Close()
		outW.Close()
	}()
	t.Cleanup(func() {
		inW.Close()
		<-ended
		outR.Close()
	})
	return &filler{t: t, in: inW, out: bufio.NewReader(outR)}
}

// startFillerBySSH starts one by a login, so that it is a child of the instance's init.
func startFillerBySSH(t *testing.T, s Spec, key string) *filler {
	t.Helper()
	args := sshArgs(key, initPath+" fill")
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, netns.Do(s.Namespace+"-peer", cmd.Start)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	return &filler{t: t, in: in, out: bufio.NewReader(out)}
}

// do lets the filler do a thing n times. It returns how many times that went well, and the
// name of the error that ended it, or "-".
func (f *filler) do(what string, n int) (made int, errno string) {
	f.t.Helper()
	fmt.Fprintln(f.in, what, n)
	line, err := f.out.ReadString('\n')
	if _, err := fmt.Sscan(line, &made, &errno); err != nil {
		f.t.Fatalf("%s: the filler says %q: %v", what, line, err)
	}
	if err != nil {
		f.t.Fatalf("%s: %v", what, err)
	}
	return made, errno
}

// wants is do with the outcome that is expected.
func (f *filler) wants(what string, n, made int, errno string) {
	f.t.Helper()
	if gotMade, gotErrno := f.do(what, n); gotMade != made || gotErrno != errno {
		f.t.Errorf("%s, %d times: %d and %s, want %d and %s", what, n, gotMade, gotErrno, made, errno)
	}
}

// fill is the process inside.
func fill() int {
	h := &hoard{}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var what string
		var n int
		fmt.Sscan(lines.Text(), &what, &n)
		thing := hoards[what]
		if thing == nil {
			fmt.Println(0, "unknown")
			continue
		}
		made, err := 0, error(nil)
		for made < n {
			if err = thing(h); err != nil {
				break
			}
			made++
		}
		name := "-"
		if err != nil {
			name = err.Error()
			if errno, ok := errors.AsType[unix.Errno](err); ok {
				name = unix.ErrnoName(errno)
			}
		}
		fmt.Println(made, name)
	}
	return 0
}

// A hoard is what a filler holds.
type hoard struct {
	fds  []int
	held [][]byte
}

// keep holds a descriptor.
func (h *hoard) keep(fd int, err error) error {
	if err == nil {
		h.fds = append(h.fds, fd)
	}
	return err
}

// last is the descriptor that was opened last.
func (h *hoard) last() int {
	if len(h.fds) == 0 {
		return -1
	}
	return h.fds[len(h.fds)-1]
}

// hoards are the things that a filler can do.
var hoards = map[string]func(h *hoard) error{
	"packet": func(h *hoard) error {
		if err := h.keep(unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, htons(unix.ETH_P_ALL))); err != nil {
			return err
		}
		return attachFilter(h.last(), 4000)
	},
	"packet-of-inet": func(h *hoard) error {
		return h.keep(unix.Socket(unix.AF_INET, unix.SOCK_PACKET, htons(unix.ETH_P_ALL)))
	},
	"raw":     func(h *hoard) error { return h.keep(unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)) },
	"raw6":    func(h *hoard) error { return h.keep(unix.Socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6)) },
	"netlink": func(h *hoard) error { return h.keep(unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)) },
	"close": func(h *hoard) error {
		if len(h.fds) == 0 {
			return unix.EBADF
		}
		fd := h.last()
		h.fds = h.fds[:len(h.fds)-1]
		return unix.Close(fd)
	},
	// fly sends a packet socket to a socket that nobody reads, and closes it.
	"fly": func(h *hoard) error {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			return err
		}
		err = unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(fd), nil, 0)
		unix.Close(fd)
		unix.Close(pair[0])
		return h.keep(pair[1], err)
	},
	"ring-of-1GiB":    func(h *hoard) error { return setRing(h.last(), unix.PACKET_RX_RING, 4<<20, 256) },
	"ring-of-2MiB":    func(h *hoard) error { return setRing(h.last(), unix.PACKET_RX_RING, 256<<10, 8) },
	"tx-ring-of-2MiB": func(h *hoard) error { return setRing(h.last(), unix.PACKET_TX_RING, 256<<10, 8) },
	"ring-of-5-pages": func(h *hoard) error { return setRing(h.last(), unix.PACKET_RX_RING, 5*4096, 250) }, // of 8 pages each: 8 MB
	"ring-away":       func(h *hoard) error { return setRing(h.last(), unix.PACKET_RX_RING, 0, 0) },
	"ring-of-nonsense": func(h *hoard) error {
		return unix.SetsockoptString(h.last(), unix.SOL_PACKET, unix.PACKET_RX_RING, "x")
	},
	"promiscuous": func(h *hoard) error { return addMembership(h.last(), unix.PACKET_MR_PROMISC) },
	"multicast":   func(h *hoard) error { return addMembership(h.last(), unix.PACKET_MR_MULTICAST) },
	"large-fanout": func(h *hoard) error {
		group := binary.NativeEndian.AppendUint16(nil, uint16(h.last()))
		group = binary.NativeEndian.AppendUint16(group, unix.PACKET_FANOUT_HASH)
		group = binary.NativeEndian.AppendUint32(group, 65536) // struct fanout_args, max_num_members
		return unix.SetsockoptString(h.last(), unix.SOL_PACKET, unix.PACKET_FANOUT, string(group))
	},
	"buffer-of-64MiB": func(h *hoard) error {
		for _, option := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF} {
			if err := unix.SetsockoptInt(h.last(), unix.SOL_SOCKET, option, 64<<20); err != nil {
				return err
			}
			if size, err := unix.GetsockoptInt(h.last(), unix.SOL_SOCKET, option); err != nil || size > 2*maxSocketBuffer {
				return fmt.Errorf("%d-bytes", size)
			}
		}
		return nil
	},
	"bind": func(h *hoard) error {
		eth, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		return unix.Bind(h.last(), &unix.SockaddrLinklayer{Protocol: uint16(htons(unix.ETH_P_ALL)), Ifindex: eth.Index})
	},
}

func htons(v uint16) int { return int(v<<8 | v>>8) }

// attachFilter attaches a program of n instructions that takes every frame.
func attachFilter(fd, n int) error {
	program := make([]unix.SockFilter, n)
	for i := range program {
		program[i] = unix.SockFilter{Code: unix.BPF_LD | unix.BPF_IMM, K: 0xffff}
	}
	program[n-1] = unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(n), Filter: &program[0]})
}

// setRing asks for blocks blocks of size bytes, each with frames of 2,048 bytes.
func setRing(fd, option int, size, blocks uint32) error {
	const frame = 2048
	var request []byte
	for _, v := range []uint32{size, blocks, min(frame, size), size / frame * blocks} {
		request = binary.NativeEndian.AppendUint32(request, v)
	}
	return unix.SetsockoptString(fd, unix.SOL_PACKET, option, string(request))
}

func addMembership(fd int, kind uint16) error {
	eth, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	m := unix.PacketMreq{Ifindex: int32(eth.Index), Type: kind, Alen: 6, Address: [8]uint8{1, 0, 0x5e, 1, 2, 3}}
	return unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &m)
}

// available returns the node's MemAvailable in bytes.
func available(t *testing.T) int64 {
	t.Helper()
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		var kib int64
		if n, _ := fmt.Sscanf(lines.Text(), "MemAvailable: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	t.Fatalf("no MemAvailable in %s", data)
	return 0
}

// eventually waits for a state.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in %v: %s", patience, what)
		}
	}
}

// bootByAnother boots the instance by another process, which is killed when it has.
func bootByAnother(t *testing.T, s Spec) {
	t.Helper()
	spec, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command("/proc/self/exe", "daemon")
	daemon.Stdin = bytes.NewReader(spec)
	daemon.Stderr = os.Stderr
	out, err := daemon.StdoutPipe()
	if err == nil {
		err = daemon.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	said, _ := bufio.NewReader(out).ReadString('\n')
	daemon.Process.Kill()
	daemon.Wait()
	if said != "booted\n" {
		t.Fatalf("the other daemon says %q", said)
	}
}

// runDaemon boots the instance that it reads from standard input and waits to be killed.
func runDaemon() int {
	var s Spec
	err := json.NewDecoder(os.Stdin).Decode(&s)
	if err == nil {
		_, err = Boot(context.Background(), s)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("booted")
	select {}
}
