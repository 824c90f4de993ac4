package vswitch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/firewall"
	"palisade/internal/netns"
	"palisade/internal/netns/netnstest"
	"palisade/internal/packet"
	"palisade/internal/verdict"
	"palisade/switch/switchtest"
	"palisade/switch/tap"
)

// patience is the longest wait for an event, on a busy machine.
const patience = time.Minute

// A wire is a running switch between two TAP devices:
//
//	pal-PID-TEST-attacker                             pal-PID-TEST-victim
//	  raw socket --> eth0 10.10.0.4 -- the switch -- eth0 10.10.0.5
//
// Neither namespace has an IP address or IPv6, so that no kernel sends frames of its own.
type wire struct {
	t                testing.TB
	sw               *Switch
	attacker, victim *Port
	outside, inside  string // the attacker's namespace, and the victim's
	socket           int    // the attacker's
	device           int    // index of its eth0
	header           vnetHeader
	last             []byte // the last frame that the attacker sent, from its Ethernet header on
}

var (
	attackerIP, victimIP   = addr("10.10.0.4"), addr("10.10.0.5")
	attackerMAC, victimMAC = macOf("attacker"), macOf("victim")
)

func newWire(t testing.TB, header vnetHeader, rules ...ec2.Rule) *wire {
	t.Helper()
	netnstest.NeedRoot(t)
	tracker, err := conntrack.Open(conntrack.Config{})
	if err != nil {
		t.Fatal(err)
	}
	sw, err := New(Config{Tracker: tracker})
	if err != nil {
		t.Fatal(err)
	}
	view := groups{"victim": {ID: "victim", Name: "victim", Rules: rules}, "attacker": {ID: "attacker", Name: "attacker"}}
	compiler := firewall.NewCompiler()
	w := &wire{t: t, sw: sw, header: header}
	edit := sw.Edit(1)
	edit.Network(Network{VNI: 1, Prefix: netip.MustParsePrefix("10.0.0.0/8"), Gateway: addr("10.0.0.1"), MTU: 1500})
	attach := func(epoch uint64, name string, ip netip.Addr, mac ec2.MAC) (*Port, string) {
		ns := fmt.Sprintf("pal-%d-%.20s-%s", os.Getpid(), t.Name(), name)
		port := w.plug(name, ns)
		set := compiler.Acquire(view, []ec2.GroupID{ec2.GroupID(name)}, 1)
		owner := &Endpoint{Epoch: epoch, Address: ip, MAC: mac, Groups: set.Numbers, Port: port}
		edit.AddEndpoint(1, owner)
		edit.Attach(port, 1, Attachment{Endpoint: owner, Zone: tracker.AddZone(epoch, conntrack.Timeouts{}), Rules: set})
		return port, ns
	}
	w.attacker, w.outside = attach(1, "attacker", attackerIP, attackerMAC)
	w.victim, w.inside = attach(2, "victim", victimIP, victimMAC)
	sw.Publish(edit)

	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- sw.Run(ctx) }()
	t.Cleanup(func() {
		for _, p := range sw.Ports() {
			if err := sw.RemovePort(p); err != nil {
				t.Error(err)
			}
		}
		cancel()
		if err := errors.Join(<-ended, tracker.Close()); err != nil {
			t.Error(err)
		}
	})
	switchtest.ReportFailure(t, w.describe)
	w.openSocket(w.outside, header)
	return w
}

// describe returns the state of the switch, and the last frame that the attacker sent, traced again.
func (w *wire) describe() string {
	if w.last == nil {
		return w.sw.Describe(Now())
	}
	return w.sw.Describe(Now()) + "\nthe last frame, traced again: " + w.sw.Trace(w.attacker, slices.Clone(w.last)).String() + fmt.Sprintf("% x\n", w.last[:min(len(w.last), 64)])
}

// plug creates a namespace whose eth0 is a port of the switch.
func (w *wire) plug(name, ns string) *Port {
	w.t.Helper()
	if err := netns.New(ns); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := netns.Delete(ns); err != nil {
			w.t.Error(err)
		}
	})
	device, err := tap.Open(tap.Config{Name: "eth0", Namespace: ns})
	if err != nil {
		w.t.Fatal(err)
	}
	if device.Offloads() == packet.NoOffloads {
		w.t.Fatal("the device has no virtio header, which this test needs")
	}
	err = netns.Do(ns, func() error {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(link)
	})
	if err != nil {
		w.t.Fatal(err)
	}
	port, err := w.sw.AddPort(name, InstancePort, device)
	if err != nil {
		w.t.Fatal(err)
	}
	return port
}

// A vnetHeader says who writes the virtio headers of the attacker's frames: the kernel or the test.
type vnetHeader bool

const (
	kernelHeader vnetHeader = false
	ownHeader    vnetHeader = true
)

// openSocket opens the attacker's raw socket with CAP_NET_RAW alone, as root inside an instance has
// it.
func (w *wire) openSocket(ns string, header vnetHeader) {
	w.t.Helper()
	err := netns.Do(ns, func() error {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		w.device = link.Index
		// Without SYS_ADMIN the thread cannot return to its namespace; it ends with Do.
		only := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		if err := unix.Capset(&only, &[]unix.CapUserData{{Effective: 1 << unix.CAP_NET_RAW, Permitted: 1 << unix.CAP_NET_RAW}, {}}[0]); err != nil {
			return err
		}
		if w.socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if header == ownHeader {
			return unix.SetsockoptInt(w.socket, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1)
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { unix.Close(w.socket) })
}

func (w *wire) send(b []byte) error {
	w.last = b
	if w.header == ownHeader {
		w.last = b[packet.OffloadLen:]
	}
	return unix.Sendto(w.socket, b, 0, &unix.SockaddrLinklayer{Ifindex: w.device})
}

// verdictCounts has the number of packets, by "VERDICT at PORT".
type verdictCounts map[string]uint64

func (w *wire) verdicts() verdictCounts {
	all := verdictCounts{}
	for _, p := range []*Port{w.attacker, w.victim} {
		for v, n := range p.Counters().Verdicts {
			if n > 0 {
				all[fmt.Sprintf("%v at %s", verdict.Verdict(v), p.Name())] = n
			}
		}
	}
	return all
}

// settled waits until n frames had a verdict at a port.
func (w *wire) settled(fate string, n uint64) verdictCounts {
	w.t.Helper()
	tick := time.NewTicker(100 * time.Microsecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-tick.C {
		if all := w.verdicts(); all[fate] >= n {
			return all
		}
	}
	w.t.Fatalf("verdicts %v; want %d of %s", w.verdicts(), n, fate)
	return nil
}

// received returns the victim's own count of packets that its eth0 received.
func (w *wire) received() (n uint64) {
	w.t.Helper()
	err := netns.Do(w.inside, func() error {
		link, err := netlink.LinkByName("eth0")
		if err == nil {
			n = link.Attrs().Statistics.RxPackets
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}
