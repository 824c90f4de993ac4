package overlay

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/firewall"
	"palisade/internal/packet"
	"palisade/internal/verdict"
	vswitch "palisade/switch"
)

// A station is the device of an instance: the test queues what the instance sends, and reads what
// it receives.
type station struct {
	fd       int // an eventfd, readable while queue is not empty
	offloads packet.Offloads
	queue    [][]byte // virtio header and frame
	given    [][]byte // the frames that the switch wrote to it, with virtio header
}

func newStation(t testing.TB, offloads packet.Offloads) *station {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	return &station{fd: fd, offloads: offloads}
}

func (s *station) FD() int                   { return s.fd }
func (s *station) Offloads() packet.Offloads { return s.offloads }
func (s *station) Close() error              { return unix.Close(s.fd) }
func (s *station) Write(b []byte) error {
	s.given = append(s.given, bytes.Clone(b))
	return nil
}

func (s *station) Read(b []byte) (int, error) {
	if len(s.queue) == 0 {
		var count [8]byte
		_, _ = unix.Read(s.fd, count[:])
		return 0, unix.EAGAIN
	}
	n := copy(b, s.queue[0])
	s.queue = s.queue[1:]
	return n, nil
}

func (s *station) send(frames ...[]byte) {
	s.queue = append(s.queue, frames...)
	_, _ = unix.Write(s.fd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// acrossHosts are the interfaces of the network. The interface of node 3 is on no site.
var acrossHosts = []struct {
	name, private, public string
	epoch                 uint64
	node                  uint32
	unchecked             bool
}{
	{"web", "10.10.0.4", "198.18.0.4", 1, 1, false},
	{"lone", "10.10.0.6", "", 2, 1, false},
	{"nat", "10.10.0.7", "198.18.0.7", 4, 1, true},
	{"app", "10.10.0.5", "198.18.0.5", 3, 2, false},
	{"box", "10.10.0.8", "198.18.0.8", 5, 2, true},
	{"third", "10.10.0.9", "198.18.0.9", 6, 3, false},
}

// uplinkMAC is the MAC address that every node has on the network behind the uplinks.
var uplinkMAC = ec2.MAC{2, 0x75, 0, 0, 0, 1}

// acrossRules returns the rules of each group. The app admits by group, by address and from all
// addresses; the others admit almost everything.
func acrossRules() groups {
	all := func(serial uint64, name string) *ec2.Group {
		return &ec2.Group{ID: ec2.GroupID(name), Name: name, Rules: []ec2.Rule{permit(serial, ec2.AnyProtocol, -1, -1, "0.0.0.0/0")}}
	}
	return groups{
		"web": all(11, "web"), "lone": all(12, "lone"), "nat": all(13, "nat"), "box": all(14, "box"), "third": all(15, "third"),
		"app": {ID: "app", Name: "app", Rules: []ec2.Rule{
			permit(1, ec2.TCP, 8000, 8009, "web"), permit(2, ec2.UDP, 53, 55, "web"), permit(3, ec2.ICMP, -1, -1, "web"),
			permit(4, ec2.TCP, 80, 80, "0.0.0.0/0"), permit(5, ec2.UDP, 56, 57, "0.0.0.0/0"), permit(6, ec2.UDP, 60, 60, "10.10.0.7/32"),
			permit(7, 47, -1, -1, "lone"),
		}},
	}
}

// A site is a node's switch, driven by Step, and the stations of its instances. Site 0 is the
// single node that has all instances.
type site struct {
	t        testing.TB
	sw       *vswitch.Switch
	tracker  *conntrack.Tracker
	ports    map[string]*vswitch.Port
	stations map[string]*station
	device   *Device // the tunnels' device; nil without tunnels

	compiler   *firewall.Compiler
	rules      groups
	attached   map[string]vswitch.Attachment
	generation uint64
}

// A siteConfig has the settings of the sites of a test.
type siteConfig struct {
	offloads    packet.Offloads // of every station
	mtu         int             // the network's MTU
	tunnelMTU   int             // the tunnels' MTU; 0 means the network's
	portMTU     int             // of the instances' devices; 0 means the network's
	connections int             // capacity of each tracker; 0 means 4096
	log         *slog.Logger
}

func newSite(t testing.TB, c siteConfig, number uint32, device *Device) *site {
	t.Helper()
	if c.connections == 0 {
		c.connections = 4096
	}
	if c.tunnelMTU == 0 {
		c.tunnelMTU = c.mtu
	}
	tracker, err := conntrack.Open(conntrack.Config{Capacity: c.connections, Untracked: c.connections, Reserve: c.connections / 16})
	if err != nil {
		t.Fatal(err)
	}
	sw, err := vswitch.New(vswitch.Config{Tracker: tracker, Pollers: 1, Halt: true, Logger: c.log})
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, sw: sw, tracker: tracker, device: device, ports: map[string]*vswitch.Port{}, stations: map[string]*station{},
		compiler: firewall.NewCompiler(), rules: acrossRules(), attached: map[string]vswitch.Attachment{}, generation: 1}
	e := sw.Edit(1)
	e.Network(vswitch.Network{VNI: vni, Prefix: netip.MustParsePrefix("10.0.0.0/8"), Gateway: addr("10.0.0.1"), MTU: c.mtu})
	e.PublicPools([]netip.Prefix{netip.MustParsePrefix("198.18.0.0/16")})
	if device != nil {
		if s.ports["tunnel"], err = sw.AddTunnel("tunnel", device); err != nil {
			t.Fatal(err)
		}
		e.Tunnel(&vswitch.Tunnel{Port: s.ports["tunnel"], MTU: c.tunnelMTU})
	}
	port := func(name string, kind vswitch.PortKind) *vswitch.Port {
		s.stations[name] = newStation(t, c.offloads)
		if s.ports[name], err = sw.AddPort(name, kind, s.stations[name]); err != nil {
			t.Fatal(err)
		}
		return s.ports[name]
	}
	e.Uplink(&vswitch.Uplink{Port: port("uplink", vswitch.UplinkPort), MAC: uplinkMAC, NextHop: macOf("router"), MTU: c.mtu})
	for _, h := range acrossHosts {
		set := s.compiler.Acquire(s.rules, []ec2.GroupID{ec2.GroupID(h.name)}, 1)
		o := &vswitch.Endpoint{Epoch: h.epoch, Address: addr(h.private), MAC: macOf(h.name), Groups: set.Numbers, Unchecked: h.unchecked}
		if h.public != "" {
			o.Public = addr(h.public)
		}
		if number != 0 && h.node != number {
			o.Node = h.node
			e.AddEndpoint(vni, o)
			continue
		}
		o.Port = port(h.name, vswitch.InstancePort)
		e.AddEndpoint(vni, o)
		s.attached[h.name] = vswitch.Attachment{Endpoint: o, Zone: tracker.AddZone(h.epoch, conntrack.Timeouts{}), Rules: set, MTU: c.portMTU}
		e.Attach(o.Port, vni, s.attached[h.name])
	}
	sw.Publish(e)
	return s
}

// change replaces the rules of the app's group and publishes them.
func (s *site) change(rules []ec2.Rule) {
	s.generation++
	s.rules["app"] = &ec2.Group{ID: "app", Name: "app", Rules: rules}
	s.compiler.Update(s.rules, []ec2.GroupID{"app"}, s.generation)
	e := s.sw.Edit(s.generation)
	for name, a := range s.attached {
		a.Rules = s.compiler.Current(a.Rules)
		s.attached[name] = a
		e.Attach(s.ports[name], vni, a)
	}
	s.sw.Publish(e)
}

func (s *site) close() {
	for _, one := range s.stations {
		if err := one.Close(); err != nil {
			s.t.Error(err)
		}
	}
	if s.device != nil {
		if err := s.device.Close(); err != nil {
			s.t.Error(err)
		}
	}
	s.sw.Close()
	if err := s.tracker.Close(); err != nil {
		s.t.Error(err)
	}
}

// settle forwards all frames that are queued.
func (s *site) settle() {
	for s.sw.Step() {
	}
}

// verdicts returns the number of packets with each verdict, over all ports.
func (s *site) verdicts() (sum [verdict.Count]uint64) {
	for _, p := range s.sw.Ports() {
		for v, n := range p.Counters().Verdicts {
			sum[v] += n
		}
	}
	return sum
}

func total(verdicts [verdict.Count]uint64) (n uint64) {
	for _, c := range verdicts {
		n += c
	}
	return n
}

// A wire is the underlay between the two nodes: a socket that reads the datagrams of each node and
// sends them on to the other. Each node is told that the other has the wire's address.
type wire struct {
	t      testing.TB
	socket *Device // only its socket is used
	sites  [2]*site
	own    sockaddr
	to     [2]unix.Sockaddr // addresses of the nodes' own sockets
	buffer [1 << 16]byte
	// cut returns how many of n datagrams of one size, with a shorter last one, make one train.
	cut func(n int) int
}

// newWire makes two nodes, numbers 1 and 2, and an association between them.
func newWire(t testing.TB, form Form, c siteConfig) *wire {
	t.Helper()
	w := &wire{t: t, cut: func(n int) int { return n }}
	local := netip.MustParseAddrPort("127.0.0.1:0")
	open := func(gro int) (*Device, *atomic.Pointer[table]) {
		p := new(atomic.Pointer[table])
		d, err := openDevice(form, local, p)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.SetsockoptInt(d.socket, unix.SOL_UDP, unix.UDP_GRO, gro); err != nil {
			t.Fatal(err)
		}
		return d, p
	}
	w.socket, _ = open(0)
	w.own = newSockaddr(w.socket.addr)
	keys := [2][]byte{bytes.Repeat([]byte{1}, keyLen), bytes.Repeat([]byte{2}, keyLen)}
	for i := range w.sites {
		d, p := open(1)
		s, err := newAssociation(keys[i], keys[1-i])
		if err != nil {
			t.Fatal(err)
		}
		far := uint32(2 - i)
		s.node, s.address, s.to, s.index, s.remoteIndex = far, w.socket.addr, newSockaddr(w.socket.addr), 5, 5
		p.Store(&table{send: map[uint32]*association{far: s}, receive: map[uint32]*association{5: s}, vtep: map[netip.Addr]*association{w.socket.addr.Addr(): s}})
		w.to[i] = &unix.SockaddrInet4{Port: int(d.addr.Port()), Addr: d.addr.Addr().As4()}
		w.sites[i] = newSite(t, c, uint32(i+1), d)
	}
	return w
}

func (w *wire) close() {
	for _, s := range w.sites {
		s.close()
	}
	if err := w.socket.Close(); err != nil {
		w.t.Error(err)
	}
}

// fateWithin is the longest time that datagrams on loopback may take to get their verdicts. It is
// shorter than the time limit of a fuzz input.
const fateWithin = 5 * time.Second

// carry passes the datagrams of a node to the other node, in trains as UDP_GRO makes them, and
// makes the other node forward their frames.
func (w *wire) carry(from int) {
	w.t.Helper()
	// A datagram of the test itself marks the end of what the node has sent.
	end := []byte("end")
	if err := w.sites[from].device.sendTo(end, &w.own); err != nil {
		w.t.Fatal(err)
	}
	var datagrams [][]byte
	for {
		datagram := w.read()
		if bytes.Equal(datagram, end) {
			break
		}
		datagrams = append(datagrams, datagram)
	}
	w.deliver(1-from, datagrams)
}

// read waits for the next datagram at the wire's socket and returns it.
func (w *wire) read() []byte {
	w.t.Helper()
	for wait := []unix.PollFd{{Fd: int32(w.socket.socket), Events: unix.POLLIN}}; ; {
		n, err := unix.Read(w.socket.socket, w.buffer[:])
		if err == nil {
			return bytes.Clone(w.buffer[:n])
		}
		if ready, err := unix.Poll(wait, int(fateWithin/time.Millisecond)); ready == 0 || err != nil && err != unix.EINTR {
			w.t.Fatalf("no datagram arrived at the wire: %v", err)
		}
	}
}

// deliver sends datagrams to a node in trains, and waits until each has its verdict.
func (w *wire) deliver(to int, datagrams [][]byte) {
	w.t.Helper()
	site := w.sites[to]
	want := total(site.verdicts()) + uint64(len(datagrams))
	for len(datagrams) > 0 {
		n, bytesOf := 1, len(datagrams[0])
		for n < len(datagrams) && n < maxTrainPieces && len(datagrams[n-1]) == len(datagrams[0]) &&
			len(datagrams[n]) <= len(datagrams[0]) && len(datagrams[n]) > 0 && bytesOf+len(datagrams[n]) <= maxTrain {
			bytesOf += len(datagrams[n])
			n++
		}
		n = max(1, min(n, w.cut(n)))
		train := bytes.Join(datagrams[:n], nil)
		if err := w.forward(train, len(datagrams[0]), to); err != nil {
			w.t.Fatalf("send %d datagrams of %d bytes: %v", n, len(datagrams[0]), err)
		}
		datagrams = datagrams[n:]
		if len(datagrams)%512 == 0 { // so that the socket's buffer never gets full
			site.settle()
		}
	}
	for end := time.Now().Add(fateWithin); total(site.verdicts()) < want; site.settle() {
		if time.Now().After(end) {
			w.t.Fatalf("%d datagrams have no verdict after %v; verdicts %v", want-total(site.verdicts()), fateWithin, site.verdicts())
		}
	}
	if got := total(site.verdicts()); got != want {
		w.t.Fatalf("there are %d more verdicts than datagrams; verdicts %v", got-want, site.verdicts())
	}
}

// forward sends a train to a node: datagrams of size bytes, of which the last may be shorter.
func (w *wire) forward(train []byte, size, to int) error {
	var control []byte
	if len(train) > size {
		control = make([]byte, unix.CmsgSpace(2))
		header := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
		header.Level, header.Type = unix.SOL_UDP, unix.UDP_SEGMENT
		header.SetLen(unix.CmsgLen(2))
		binary.NativeEndian.PutUint16(control[unix.CmsgLen(0):], uint16(size))
	}
	_, err := unix.SendmsgN(w.socket.socket, train, control, w.to[to], 0)
	return err
}

// siteOf returns the index of the site that has an instance.
func siteOf(host string) int {
	for _, h := range acrossHosts {
		if h.name == host {
			return int(h.node) - 1
		}
	}
	panic("no instance is called " + host)
}

// send makes an instance, or the hosts behind the uplink of a node, send frames at once, and makes
// both nodes forward them.
func (w *wire) send(from int, host string, frames [][]byte) {
	w.t.Helper()
	w.sites[from].stations[host].send(frames...)
	w.sites[from].settle()
	w.carry(from)
}

// given returns the packets that an instance received since the last call, cut as on a wire. It leaves out
// what the gateway says of packets that are too large: for a tunnel it says so before the receiver's rules
// are asked.
func (s *site) given(host string) (all [][]byte, err error) {
	frames := s.stations[host].given
	s.stations[host].given = nil
	decoder, scratch := packet.NewDecoder(), make([]byte, 70_000)
	for _, b := range frames {
		header, frame := b[:packet.OffloadLen], b[packet.OffloadLen:]
		var p packet.Packet
		if v, ok := decoder.Decode(frame, &p); !ok {
			return nil, fmt.Errorf("%s received a frame that Decode refuses as %v: %x", host, v, frame)
		}
		if p.Flow.Src == addr("10.0.0.1") && p.ICMPType == packet.ICMPUnreachable && p.ICMPCode == 4 {
			continue
		}
		if v, ok := packet.Sanitize(header, &p); !ok {
			return nil, fmt.Errorf("%s received a virtio header that Sanitize refuses as %v", host, v)
		}
		if err := packet.Segment(header, frame, &p, scratch, func(out []byte) error {
			if out = bytes.Clone(out); p.DontFragment {
				clear(out[18:20]) // with DF the identification has no meaning (RFC 6864 §4.1)
				clear(out[24:26]) // the IP checksum covers the identification
			}
			all = append(all, out)
			return nil
		}); err != nil {
			return nil, err
		}
	}
	return all, nil
}
