package afpacket

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"palisade/internal/netns"
	"palisade/internal/packet"
)

// An intruder is a process of the host that has CAP_NET_RAW and no other capability. It writes to
// each device of the host in each way that it may, and reads what it can.
const intruderVariable = "PALISADE_TEST_INTRUDER"

var (
	intruderMAC = []byte{2, 0, 0, 0, 0, 0x66}
	secret      = []byte("what the machine sends")
)

// The ways in which an intruder writes a frame; a way is the sum of the options that it sets.
const (
	withMark   = 1 << iota // SO_MARK, which needs only CAP_NET_RAW since Linux 5.17
	withBypass             // PACKET_QDISC_BYPASS: past queueing disciplines, their filters and the egress hook
	ways
)

// TestMain runs the tests, or the intruder in a process that a test has started.
func TestMain(m *testing.M) {
	if os.Getenv(intruderVariable) == "" {
		os.Exit(m.Run())
	}
	if err := runIntruder(); err != nil {
		fmt.Println("the intruder:", err)
		os.Exit(1)
	}
}

func runIntruder() error {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil || !bytes.Contains(status, fmt.Appendf(nil, "CapEff:\t%016x", 1<<unix.CAP_NET_RAW)) {
		return fmt.Errorf("it has not CAP_NET_RAW alone: %v\n%s", err, status)
	}
	all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})
	spy, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK, int(all))
	if err != nil {
		return err
	}
	for way := range ways {
		if err := intrude(way); err != nil {
			return fmt.Errorf("way %d: %w", way, err)
		}
	}
	fmt.Println("listening")
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test has sent its frames
	read, buffer := 0, make([]byte, 70000)
	for deadline := time.Now().Add(silent / 2); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		for n, err := unix.Read(spy, buffer); err == nil; n, err = unix.Read(spy, buffer) {
			if bytes.Contains(buffer[:n], secret) {
				read++
			}
		}
	}
	fmt.Println("read", read)
	return nil
}

// intrude writes a frame to each device in one of the ways.
func intrude(way int) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if way&withMark != 0 {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 0x70616c69)
	}
	if way&withBypass != 0 {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1))
	}
	frame := append(append(bytes.Clone(guestMAC[:]), intruderMAC...), 0x08, 0, byte(way))
	frame = append(frame, make([]byte, 60)...)
	for index := 1; index < 64; index++ {
		sent := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: index, Protocol: binary.NativeEndian.Uint16([]byte{8, 0})})
		switch sent {
		case nil, unix.ENXIO, unix.ENETDOWN, unix.ENOBUFS: // no such device, it is down, or a filter dropped the frame
		default:
			err = errors.Join(err, fmt.Errorf("write to device %d: %w", index, sent))
		}
	}
	return err
}

// intruder runs an intruder on the host. It returns in which ways frames reached the owner of the
// device, and how many of the frames that send sends the intruder read.
func (b *bench) intruder(owner reader, send func()) (reached map[int]int, read int) {
	b.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), intruderVariable+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}, AmbientCaps: []uintptr{unix.CAP_NET_RAW}}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := netns.Do(host, cmd.Start); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Process.Kill() })
	var said strings.Builder
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		fmt.Fprintln(&said, lines.Text())
		if lines.Text() == "listening" {
			send()
			_ = stdin.Close()
		}
		_, _ = fmt.Sscanf(lines.Text(), "read %d", &read)
	}
	if err := cmd.Wait(); err != nil || !strings.Contains(said.String(), "\nread ") {
		b.Fatalf("the intruder: %v\n%s", err, said.String())
	}
	reached = map[int]int{}
	buffer := make([]byte, 70000)
	for deadline := time.Now().Add(silent); time.Now().Before(deadline); {
		n, err := owner.Read(buffer)
		if err != nil {
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(owner.FD()), Events: unix.POLLIN}}, 50)
			continue
		}
		if f := buffer[packet.OffloadLen:n]; len(f) > 14 && bytes.Equal(f[6:12], intruderMAC) {
			reached[int(f[14])]++
		}
	}
	return reached, read
}

// TestProcessWithRawSocketsReachesNoTakenDevice: a process of the host with CAP_NET_RAW alone gets no
// frame to the owner of a taken device, and reads none of the owner's frames. Before Take it does both
// in every way, so the test would notice an intruder that cannot write or read at all.
func TestProcessWithRawSocketsReachesNoTakenDevice(t *testing.T) {
	b := newBench(t)
	secretFrame := plain(append(udp(0), secret...))
	const far = host + "-container"
	_ = netns.Delete(far)
	if err := netns.New(far); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(far); err != nil {
			t.Error(err)
		}
	})
	b.run("ip", "link", "add", "veth0", "type", "veth", "peer", "name", "eth0", "netns", far)
	var container *Device
	if err := netns.Do(far, func() (err error) {
		if out, err := exec.Command("ip", "link", "set", "eth0", "up").CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		container, err = open("eth0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = container.Close() })
	for _, owner := range []struct {
		device string
		end    interface {
			reader
			Write([]byte) error
		}
	}{{"vm0", b.machine}, {"veth0", container}} {
		send := func() {
			if err := owner.end.Write(secretFrame); err != nil {
				t.Errorf("%s: the owner sends: %v", owner.device, err)
			}
		}
		b.run("ip", "link", "set", owner.device, "up")
		if reached, read := b.intruder(owner.end, send); len(reached) != ways || read != 1 {
			t.Errorf("%s is not taken: the intruder reached the owner in the ways %v and read %d frames, want %d ways and 1 frame", owner.device, reached, read, ways)
		}
		if err := Take(Config{Name: owner.device, Namespace: host, Prefix: vm0.Prefix}, "eni-1"); err != nil {
			t.Fatal(err)
		}
		if reached, read := b.intruder(owner.end, send); len(reached) != 0 || read != 0 {
			t.Errorf("%s is taken: the intruder reached the owner in the ways %v (1 SO_MARK, 2 PACKET_QDISC_BYPASS) and read %d frames, want none", owner.device, reached, read)
		}
		if err := Release(Config{Name: owner.device, Namespace: host, Prefix: vm0.Prefix}, "eni-1"); err != nil {
			t.Fatal(err)
		}
	}
}
