package overlay

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"palisade/ec2"
	"palisade/internal/netns"
	"palisade/internal/netns/netnstest"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
	vswitch "palisade/switch"
)

// A kernelVTEP is a Device and, on the other side of a veth pair, Linux with a vxlan device.
//
//	pal-PID-tunnel-web                       pal-PID-tunnel-app
//	  Device 192.0.2.1:4789 == under == 192.0.2.2 vxlan, VNI 7, 10.10.0.5
type kernelVTEP struct {
	t            *testing.T
	ours, kernel string // names of the namespaces
}

func newKernelVTEP(t *testing.T) *kernelVTEP {
	t.Helper()
	netnstest.NeedRoot(t)
	k := &kernelVTEP{t: t, ours: namespace("web"), kernel: namespace("app")}
	for _, ns := range []string{k.ours, k.kernel} {
		if err := netns.New(ns); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := netns.Delete(ns); err != nil {
				t.Error(err)
			}
		})
	}
	k.in(k.ours, func() error {
		var other int
		err := netns.Do(k.kernel, func() (err error) {
			other, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			return err
		})
		if err != nil {
			return err
		}
		defer unix.Close(other)
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "under"
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "under", PeerNamespace: netlink.NsFd(other)})
	})
	k.in(k.ours, func() error { return setUp("under", "192.0.2.1/24", ec2.MAC{2, 0, 0, 0, 9, 1}) })
	k.in(k.kernel, func() error { return setUp("under", "192.0.2.2/24", ec2.MAC{2, 0, 0, 0, 9, 2}) })
	k.in(k.kernel, addVXLAN)
	return k
}

// in runs a function in a namespace.
func (k *kernelVTEP) in(ns string, do func() error) {
	k.t.Helper()
	if err := netns.Do(ns, do); err != nil {
		k.t.Fatal(err)
	}
}

func setUp(name, address string, mac ec2.MAC) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(address)
	return errors.Join(err, netlink.LinkSetHardwareAddr(link, mac[:]), netlink.AddrAdd(link, a), netlink.LinkSetUp(link))
}

// addVXLAN adds the vxlan device with the app's address, and a neighbour entry for the web, in the
// present namespace.
func addVXLAN() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "vxlan"
	err := netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: vni, Group: net.IPv4(192, 0, 2, 1), Port: VXLANPort})
	if err != nil {
		return err
	}
	if err := setUp("vxlan", "10.10.0.5/8", macOf("app")); err != nil {
		return err
	}
	link, err := netlink.LinkByName("vxlan")
	gateway := vswitch.GatewayMAC
	return errors.Join(err, netlink.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, IP: net.IPv4(10, 10, 0, 4), HardwareAddr: gateway[:], State: netlink.NUD_PERMANENT}))
}

// Linux reads the datagrams of the Device, and the Device reads those of Linux.
func TestLinuxAndTheDeviceExchangeVXLAN(t *testing.T) {
	k := newKernelVTEP(t)
	var d *Device
	var app *net.UDPConn
	associations := new(atomic.Pointer[table])
	k.in(k.ours, func() (err error) {
		d, err = openDevice(VXLAN, netip.MustParseAddrPort("192.0.2.1:4789"), associations)
		return err
	})
	defer d.Close()
	k.in(k.kernel, func() (err error) {
		app, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(10, 10, 0, 5), Port: 53})
		return err
	})
	defer app.Close()
	remote := netip.MustParseAddrPort("192.0.2.2:4789")
	s := &association{node: 2, address: remote, to: newSockaddr(remote)}
	associations.Store(&table{send: map[uint32]*association{2: s}, vtep: map[netip.Addr]*association{remote.Addr(): s}})

	f := of("web", packet.ProtocolUDP, "10.10.0.4", "10.10.0.5", 7, 53)
	f.Payload, f.DstMAC = []byte("question"), macOf("app")
	p, b := one(packettest.Build(f))
	if v, err := d.Send(0, 2, packet.Origin{VNI: vni}, p, b); v != verdict.Forward || err != nil {
		t.Fatalf("Send returned verdict %v, error %v", v, err)
	}
	if err := app.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 100)
	n, from, err := app.ReadFromUDPAddrPort(got)
	if err != nil || string(got[:n]) != "question" || from != netip.MustParseAddrPort("10.10.0.4:7") {
		t.Fatalf("the kernel received %q from %v, error %v; want \"question\" from 10.10.0.4:7", got[:n], from, err)
	}
	if _, err := app.WriteToUDPAddrPort([]byte("answer"), from); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 70_000)
	eventually(t, "answer", func() bool {
		n, origin, v, err := d.Receive(buffer)
		return err == nil && v == verdict.Forward && origin.Node == 2 && origin.VNI == vni && bytes.HasSuffix(buffer[:n], []byte("answer"))
	})
}
