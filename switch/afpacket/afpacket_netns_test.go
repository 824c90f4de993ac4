package afpacket

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"palisade/ec2"
	"palisade/internal/netns"
	"palisade/internal/netns/netnstest"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
	"palisade/switch/tap"
)

const host = "palisade-test-afpacket"

var vm0 = Config{Name: "vm0", Namespace: host, Prefix: host + "-"}

var (
	guestMAC = ec2.MAC{2, 0, 0, 0, 0, 7}
	guest    = netip.MustParseAddr("10.200.9.7")
	hostIP   = netip.MustParseAddr("10.200.9.1")
)

// A bench is a host with one TAP, vm0, that the test uses as a virtual machine does:
//
//	the test, the machine --- vm0 in palisade-test-afpacket --- the host's stack
//	                                  `--- Device, the switch
type bench struct {
	*testing.T
	machine *tap.Device
}

func newBench(t *testing.T) *bench {
	t.Helper()
	netnstest.NeedRoot(t)
	if err := removeAll(); err != nil {
		t.Fatal(err)
	}
	if err := netns.New(host); err != nil {
		t.Fatal(err)
	}
	b := &bench{T: t}
	var err error
	if b.machine, err = tap.Open(tap.Config{Name: "vm0", Namespace: host}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(b.machine.Close(), removeAll()); err != nil {
			t.Error(err)
		}
	})
	return b
}

// removeAll removes the namespaces of a test.
func removeAll() error {
	names, err := netns.List(host)
	for _, name := range names {
		err = errors.Join(err, netns.Delete(name))
	}
	return err
}

// run runs a command on the host.
func (b *bench) run(argv ...string) string {
	b.Helper()
	return b.in(host, argv...)
}

func (b *bench) in(namespace string, argv ...string) string {
	b.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := netns.Do(namespace, cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		b.Fatalf("%q: %v\n%s", argv, err, out.String())
	}
	return out.String()
}

func (b *bench) open() *Device {
	b.Helper()
	if err := Take(vm0, "eni-1"); err != nil {
		b.Fatal(err)
	}
	d, err := Open(vm0, "eni-1")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = d.Close() })
	return d
}

// heldIn returns the namespace of a device that eni-1 has taken. The host does not have the device.
func (b *bench) heldIn(c Config) string {
	b.Helper()
	namespace, err := HeldIn(c, "eni-1")
	if err != nil || !strings.HasPrefix(namespace, c.Prefix+"eni-1-") {
		b.Fatalf("device %s is held in namespace %q: %v; want one of its own", c.Name, namespace, err)
	}
	if out := b.run("ip", "-o", "link"); regexp.MustCompile(`: ` + c.Name + `[:@]`).MatchString(out) {
		b.Errorf("the host has device %s, which is held:\n%s", c.Name, out)
	}
	return namespace
}

type reader interface {
	FD() int
	Read([]byte) (int, error)
}

// How long a test waits for a frame.
const (
	due    = time.Minute            // for a frame that must arrive, however busy the machine is
	silent = 700 * time.Millisecond // for a frame that must not arrive
)

// within returns how long a test waits for a frame: due if it wants one, silent if not.
func within(want bool) time.Duration {
	if want {
		return due
	}
	return silent
}

// frame waits for a frame that begins with want, and skips all others. It returns nil if none
// arrives in time.
func (b *bench) frame(from reader, want []byte, within time.Duration) (header, frame []byte) {
	b.Helper()
	buffer := make([]byte, 70000)
	for deadline := time.Now().Add(within); time.Now().Before(deadline); {
		n, err := from.Read(buffer)
		if err == unix.EAGAIN {
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(from.FD()), Events: unix.POLLIN}}, 50)
			continue
		}
		if err != nil {
			b.Fatal(err)
		}
		if bytes.HasPrefix(buffer[packet.OffloadLen:n], want) {
			return buffer[:packet.OffloadLen], buffer[packet.OffloadLen:n]
		}
	}
	return nil, nil
}

func udp(payload int) []byte {
	return packettest.Build(packettest.Frame{
		Flow:   packet.Flow{Src: guest, Dst: hostIP, SrcPort: 1, DstPort: 2, Protocol: packet.ProtocolUDP},
		SrcMAC: guestMAC, DstMAC: ec2.MAC{2, 0, 0x5e, 0, 0, 1}, Payload: make([]byte, payload),
	})
}

func plain(frame []byte) []byte { return append(make([]byte, packet.OffloadLen), frame...) }

func TestFramesCrossBothWays(t *testing.T) {
	b := newBench(t)
	d := b.open()
	sent := udp(100)
	if err := b.machine.Write(plain(sent)); err != nil {
		t.Fatal(err)
	}
	if header, got := b.frame(d, sent, due); !bytes.Equal(got, sent) || header[0] != 0 {
		t.Errorf("the switch reads % x with virtio header % x, want % x with an empty header", got, header, sent)
	}
	if err := d.Write(plain(sent)); err != nil {
		t.Fatal(err)
	}
	if _, got := b.frame(b.machine, sent, due); !bytes.Equal(got, sent) {
		t.Errorf("the machine reads % x, want % x", got, sent)
	}
	if _, own := b.frame(d, sent, silent); own != nil {
		t.Error("the switch reads a frame that it has written itself")
	}
	if n, err := d.QueueDrops(); n != 0 || err != nil {
		t.Errorf("QueueDrops = %d, %v; want 0 and no error", n, err)
	}
}

// TestOffloadHeadersPassThrough: a frame of several packets keeps its virtio header in both
// directions.
func TestOffloadHeadersPassThrough(t *testing.T) {
	b := newBench(t)
	d := b.open()
	f := packettest.Frame{
		Flow:   packet.Flow{Src: guest, Dst: hostIP, SrcPort: 1, DstPort: 2, Protocol: packet.ProtocolTCP},
		SrcMAC: guestMAC, DstMAC: ec2.MAC{2, 0, 0x5e, 0, 0, 1}, TCPFlags: packet.ACK, Payload: make([]byte, 20000),
	}
	large := packettest.Build(f)
	offload := make([]byte, packet.OffloadLen)
	offload[0], offload[1] = 1, 1 // partial checksum, TCP over IPv4
	binary.NativeEndian.PutUint16(offload[2:], 54)
	binary.NativeEndian.PutUint16(offload[4:], 1400)
	binary.NativeEndian.PutUint16(offload[6:], 34)
	binary.NativeEndian.PutUint16(offload[8:], 16)
	for _, way := range []struct {
		name string
		from interface{ Write([]byte) error }
		to   reader
	}{{"to the switch", b.machine, d}, {"to the machine", d, b.machine}} {
		if err := way.from.Write(append(bytes.Clone(offload), large...)); err != nil {
			t.Fatalf("%s: %v", way.name, err)
		}
		header, got := b.frame(way.to, large[:34], due)
		if len(got) != len(large) || header == nil || header[0]&1 == 0 || header[1]&^0x80 != 1 || binary.NativeEndian.Uint16(header[4:]) != 1400 || binary.NativeEndian.Uint16(header[6:]) != 34 {
			t.Errorf("%s: read %d bytes with virtio header % x, want %d bytes with % x", way.name, len(got), header, len(large), offload)
		}
	}
}

// TestTaggedFrameKeepsItsTag: the kernel removes the tag, and Read marks the frame, so that the
// switch drops it.
func TestTaggedFrameKeepsItsTag(t *testing.T) {
	b := newBench(t)
	d := b.open()
	f := udp(100)
	tagged := append(bytes.Clone(f[:12]), 0x81, 0, 0, 5)
	tagged = append(tagged, f[12:]...)
	if err := b.machine.Write(plain(tagged)); err != nil {
		t.Fatal(err)
	}
	if _, got := b.frame(d, f[:12], due); len(got) < 14 || binary.BigEndian.Uint16(got[12:]) != unix.ETH_P_8021Q {
		t.Errorf("the switch reads % x, want a frame with EtherType 0x8100", got)
	}
}

// TestHostAndOwnerCannotReachEachOther: no frame passes between the host and the machine without
// the switch, even if the device gets an address later. After Release frames pass again, so the test
// would notice if Take blocked nothing.
func TestHostAndOwnerCannotReachEachOther(t *testing.T) {
	b := newBench(t)
	question := packettest.ARP(1, guestMAC, guest, hostIP)
	answered := func(want bool) bool {
		if err := b.machine.Write(plain(question)); err != nil {
			t.Fatal(err)
		}
		_, got := b.frame(b.machine, guestMAC[:], within(want)) // the host's ARP reply to the machine
		return got != nil
	}
	asked := func(want bool) bool {
		cmd := exec.Command("ping", "-n", "-c1", "-W1", "10.200.9.9")
		if err := netns.Do(host, cmd.Start); err != nil {
			t.Fatal(err)
		}
		_, got := b.frame(b.machine, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, within(want)) // the host's ARP request for a neighbour
		_ = cmd.Wait()
		return got != nil
	}
	d := b.open()
	b.in(b.heldIn(vm0), "ip", "address", "add", hostIP.String()+"/24", "dev", "vm0")
	if answered(false) {
		t.Error("the host answered the machine, although the device is taken")
	}
	if asked(false) {
		t.Error("a frame of the host reached the machine, although the device is taken")
	}
	if _, got := b.frame(d, question[:12], due); got == nil {
		t.Error("the switch did not receive the machine's ARP request")
	}
	if err := d.Write(plain(udp(10))); err != nil {
		t.Fatal(err)
	}
	if _, got := b.frame(b.machine, udp(10)[:34], due); got == nil {
		t.Error("the machine did not receive the frame that the switch wrote")
	}
	// The device stays blocked when the daemon has closed it.
	_ = d.Close()
	if answered(false) || asked(false) {
		t.Error("after the daemon has closed the device, the host and the machine reach each other")
	}
	if err := Release(vm0, "eni-1"); err != nil {
		t.Fatal(err)
	}
	b.run("ip", "address", "add", hostIP.String()+"/24", "dev", "vm0")
	b.run("ip", "link", "set", "vm0", "up")
	if !answered(true) || !asked(true) {
		t.Error("after Release the device is still blocked for the host")
	}
}

func TestDeviceInUseIsRefused(t *testing.T) {
	b := newBench(t)
	b.run("ip", "link", "add", "br0", "type", "bridge")
	b.run("ip", "link", "add", "left", "type", "veth", "peer", "name", "right")
	b.run("ip", "tuntap", "add", "l3", "mode", "tun")
	for _, tt := range []struct {
		name          string
		before, after []string
		want          string
	}{
		{"none", nil, nil, "there is no device none"},
		{"lo", nil, nil, "device lo is neither a TAP nor a veth"},
		{"br0", nil, nil, "device br0 is neither a TAP nor a veth"},
		{"l3", nil, nil, "device l3 is neither a TAP nor a veth"},
		{"vm0", []string{"ip", "link", "set", "vm0", "master", "br0"}, []string{"ip", "link", "set", "vm0", "nomaster"}, "in use: it is a port of br0"},
		{"vm0", []string{"ip", "address", "add", "192.0.2.1/24", "dev", "vm0"}, []string{"ip", "address", "flush", "dev", "vm0"}, "in use: the host has address 192.0.2.1/24 on it"},
		{"vm0", []string{"tc", "qdisc", "add", "dev", "vm0", "clsact"}, []string{"tc", "qdisc", "del", "dev", "vm0", "clsact"}, "in use: it has traffic filters"},
		{"vm0", []string{"tc", "qdisc", "add", "dev", "vm0", "root", "pfifo"}, []string{"tc", "qdisc", "del", "dev", "vm0", "root"}, "queueing discipline pfifo, which would be lost"},
		{"vm0", nil, nil, ""},
		{"left", nil, nil, ""},
	} {
		if tt.before != nil {
			b.run(tt.before...)
		}
		c := Config{Name: tt.name, Namespace: host, Prefix: host + "-"}
		for _, try := range []func(Config, string) error{Check, Take} {
			if err := try(c, "eni-1"); (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("device %s after %q: error %v, want %q", tt.name, tt.before, err, tt.want)
			}
		}
		if err := Release(c, "eni-1"); err != nil {
			t.Error(err)
		}
		if tt.after != nil {
			b.run(tt.after...)
		}
	}
}

// TestLostFramesAreReported: Read returns an error with a verdict for a frame that the kernel discarded,
// and the next frame as usual.
func TestLostFramesAreReported(t *testing.T) {
	b := newBench(t)
	d := b.open()
	fragmented := make([]byte, packet.OffloadLen)
	fragmented[0], fragmented[1] = 1, 3 // partial checksum, and UDP fragmentation (UFO): a TAP accepts it, a packet socket cannot return it
	binary.NativeEndian.PutUint16(fragmented[2:], 42)
	binary.NativeEndian.PutUint16(fragmented[4:], 1400)
	binary.NativeEndian.PutUint16(fragmented[6:], 34)
	binary.NativeEndian.PutUint16(fragmented[8:], 6)
	if err := b.machine.Write(append(fragmented, udp(4000)...)); err != nil {
		t.Fatal(err)
	}
	if err := b.machine.Write(plain(udp(100))); err != nil {
		t.Fatal(err)
	}
	var lost []verdict.Verdict
	buffer := make([]byte, 70000)
	for deadline := time.Now().Add(due); time.Now().Before(deadline); {
		n, err := d.Read(buffer)
		if v, ok := errors.AsType[verdict.Lost](err); ok {
			lost = append(lost, verdict.Verdict(v))
		} else if err == nil && bytes.Equal(buffer[packet.OffloadLen:n], udp(100)) {
			break
		}
	}
	if !slices.Equal(lost, []verdict.Verdict{verdict.UnknownOffload}) {
		t.Errorf("Read lost frames as %v, want one as %v", lost, verdict.UnknownOffload)
	}
}

// TestMissingDeviceHasNoFrames: the socket of a device that is down or deleted is not readable, so
// it keeps no poller busy.
func TestMissingDeviceHasNoFrames(t *testing.T) {
	b := newBench(t)
	d := b.open()
	quiet := func(what string) {
		t.Helper()
		buffer := make([]byte, 70000)
		for range 100 {
			if _, err := d.Read(buffer); err == unix.EAGAIN {
				break
			} else if err != nil {
				t.Fatalf("Read of a device that is %s: %v", what, err)
			}
		}
		if n, _ := unix.Poll([]unix.PollFd{{Fd: int32(d.FD()), Events: unix.POLLIN}}, 100); n != 0 {
			t.Errorf("the socket of a device that is %s is readable", what)
		}
	}
	namespace := b.heldIn(vm0)
	b.in(namespace, "ip", "link", "set", "vm0", "down")
	quiet("down")
	if err := d.Write(plain(udp(10))); err == nil {
		t.Error("Write to a device that is down returned no error")
	}
	b.in(namespace, "ip", "link", "set", "vm0", "up")
	if err := b.machine.Write(plain(udp(100))); err != nil {
		t.Fatal(err)
	}
	if _, got := b.frame(d, udp(100), due); got == nil {
		t.Error("after the device is up again no frame arrives")
	}
	b.in(namespace, "ip", "link", "del", "vm0")
	quiet("gone")
}

func TestNoAllocs(t *testing.T) {
	b := newBench(t)
	d := b.open()
	sent, buffer := plain(udp(100)), make([]byte, 70000)
	if n := testing.AllocsPerRun(200, func() {
		_ = d.Write(sent)
		_, _ = b.machine.Read(buffer)
		_ = b.machine.Write(sent)
		_, _ = d.Read(buffer)
	}); n != 0 {
		t.Errorf("%v allocations for a frame in each direction, want 0", n)
	}
}
