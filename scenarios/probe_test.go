//go:build soak

package scenarios

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"palisade/internal/lab"
	"palisade/internal/netns"
)

// A gun sends single packets from the network of an instance, each the first of a new
// connection: with a source port that no connection of the last minute had, as long as a
// thousand a second are sent. It is a raw socket, so a probe costs one system call and
// nothing is tried again. A SYN carries its number as its sequence number; the answer to
// it is reset by the kernel there, which knows of no such connection, and so the
// connection is closed at both ends at once. A datagram carries its number as payload.
type gun struct {
	from netip.Addr
	tcp  *net.IPConn
	udp  *net.IPConn
}

// The source ports of probes, in turn.
const (
	firstProbePort = 1024
	probePorts     = 1<<16 - firstProbePort
)

func newGun(namespace string, from netip.Addr) (*gun, error) {
	g := &gun{from: from}
	err := netns.Do(namespace, func() (err error) {
		local := &net.IPAddr{IP: from.AsSlice()}
		if g.tcp, err = net.ListenIP("ip4:tcp", local); err != nil {
			return err
		}
		if g.udp, err = net.ListenIP("ip4:udp", local); err != nil {
			g.tcp.Close()
			return err
		}
		// Nobody reads what comes back.
		return errors.Join(g.tcp.SetReadBuffer(1), g.udp.SetReadBuffer(1))
	})
	if err != nil {
		return nil, fmt.Errorf("probe from %s: %w", namespace, err)
	}
	return g, nil
}

func (g *gun) close() error { return errors.Join(g.tcp.Close(), g.udp.Close()) }

// gunAt is a gun in an instance that runs.
func gunAt(t *testing.T, in lab.InstanceStatus) *gun {
	t.Helper()
	g, err := newGun(in.Namespace, netip.MustParseAddr(in.PrivateAddress))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.close() })
	return g
}

func probePort(number uint32) uint16 { return uint16(firstProbePort + number%probePorts) }

// syn sends a SYN with this number, from the port that is its turn.
func (g *gun) syn(to netip.AddrPort, number uint32) error {
	return g.segment(probePort(number), to, number, flagSYN)
}

// segment sends a TCP segment without data.
func (g *gun) segment(port uint16, to netip.AddrPort, number uint32, flags byte) error {
	var s [20]byte
	binary.BigEndian.PutUint16(s[0:], port)
	binary.BigEndian.PutUint16(s[2:], to.Port())
	binary.BigEndian.PutUint32(s[4:], number)
	s[12], s[13] = 5<<4, flags
	binary.BigEndian.PutUint16(s[14:], probeWindow)
	binary.BigEndian.PutUint16(s[16:], checksum(g.from, to.Addr(), unix.IPPROTO_TCP, s[:]))
	_, err := g.tcp.WriteToIP(s[:], &net.IPAddr{IP: to.Addr().AsSlice()})
	return err
}

// datagram sends a UDP datagram with this number.
func (g *gun) datagram(to netip.AddrPort, number uint32) error {
	var d [12]byte
	binary.BigEndian.PutUint16(d[0:], probePort(number))
	binary.BigEndian.PutUint16(d[2:], to.Port())
	binary.BigEndian.PutUint16(d[4:], uint16(len(d)))
	binary.BigEndian.PutUint32(d[8:], number)
	binary.BigEndian.PutUint16(d[6:], checksum(g.from, to.Addr(), unix.IPPROTO_UDP, d[:]))
	_, err := g.udp.WriteToIP(d[:], &net.IPAddr{IP: to.Addr().AsSlice()})
	return err
}

const (
	flagSYN = 0x02
	flagACK = 0x10

	// probeWindow tells segments of probes from those of connections.
	probeWindow = 31337
)

// checksum is that of RFC 9293 §3.1 and RFC 768, over the pseudo header and data, whose
// own checksum is zero.
func checksum(from, to netip.Addr, protocol byte, data []byte) uint16 {
	var sum uint32
	add := func(b []byte) {
		for i := 0; i < len(b); i += 2 {
			sum += uint32(b[i])<<8 | uint32(b[i+1])
		}
	}
	a, b := from.As4(), to.As4()
	add(a[:])
	add(b[:])
	sum += uint32(protocol) + uint32(len(data))
	add(data)
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// An arrival is a probe that came through.
type arrival struct {
	from   netip.Addr
	port   uint16 // of the sender
	number uint32
}

// watch calls seen, on goroutines of its own, for every segment and datagram of a probe
// that arrives for port in the network of in. It goes on until t ends.
func watch(t *testing.T, in lab.InstanceStatus, port uint16, seen func(arrival)) {
	t.Helper()
	address := netip.MustParseAddr(in.PrivateAddress)
	var tcp *net.IPConn
	var udp *net.UDPConn
	err := netns.Do(in.Namespace, func() (err error) {
		if tcp, err = net.ListenIP("ip4:tcp", &net.IPAddr{IP: address.AsSlice()}); err != nil {
			return err
		}
		if udp, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(address, port))); err != nil {
			tcp.Close()
		}
		return err
	})
	if err != nil {
		t.Fatalf("watch %s: %v", in.Namespace, err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		tcp.Close()
		udp.Close()
		wg.Wait()
	})
	if err := errors.Join(tcp.SetReadBuffer(4<<20), udp.SetReadBuffer(4<<20)); err != nil {
		t.Fatal(err)
	}
	wg.Go(func() {
		buffer := make([]byte, 2048)
		for {
			n, from, err := tcp.ReadFromIP(buffer)
			if err != nil {
				return
			}
			s := buffer[:n]
			if n < 20 || binary.BigEndian.Uint16(s[14:]) != probeWindow || binary.BigEndian.Uint16(s[2:]) != port {
				continue
			}
			addr, _ := netip.AddrFromSlice(from.IP.To4())
			seen(arrival{addr, binary.BigEndian.Uint16(s), binary.BigEndian.Uint32(s[4:])})
		}
	})
	wg.Go(func() {
		buffer := make([]byte, 2048)
		for {
			n, from, err := udp.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return
			}
			if n == 4 {
				seen(arrival{from.Addr().Unmap(), from.Port(), binary.BigEndian.Uint32(buffer)})
			}
		}
	})
}

// pace calls shoot every interval until ctx ends. It has a thread of its own: the runtime's
// timers wake a millisecond late. What the machine made it miss is not made up for.
func pace(ctx context.Context, interval time.Duration, shoot func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for next := time.Now(); ctx.Err() == nil; {
		shoot()
		next = next.Add(interval)
		if wait := time.Until(next); wait > 0 {
			rest := unix.NsecToTimespec(wait.Nanoseconds())
			_ = unix.Nanosleep(&rest, nil) // a signal makes one probe early
		} else {
			next = time.Now()
		}
	}
}

// A series is probes from one instance to one port of another, when each was sent and
// whether it arrived.
type series struct {
	gun *gun
	to  netip.AddrPort

	mu      sync.Mutex
	sent    []time.Time
	arrived []bool
	errors  int // probes that could not be sent; they are in neither list
}

// runSYNs sends SYNs until ctx ends. The mutex is held while a probe is sent: it must be
// in the list before it can arrive.
func (s *series) runSYNs(ctx context.Context, interval time.Duration) {
	pace(ctx, interval, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		now := time.Now()
		if err := s.gun.syn(s.to, uint32(len(s.sent))); err != nil {
			s.errors++
			return
		}
		s.sent, s.arrived = append(s.sent, now), append(s.arrived, false)
	})
}

// seen notes an arrival.
func (s *series) seen(a arrival) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.from == s.gun.from && int(a.number) < len(s.arrived) {
		s.arrived[a.number] = true
	}
}

// len is how many were sent.
func (s *series) unsent() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.errors
}

func (s *series) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sent)
}

// first is when the first probe from number on was sent that arrived.
func (s *series) first(number int) (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := number; i < len(s.sent); i++ {
		if s.arrived[i] {
			return s.sent[i], true
		}
	}
	return time.Time{}, false
}

// last is when the last probe from number on was sent that arrived.
func (s *series) last(number int) (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.sent) - 1; i >= number; i-- {
		if s.arrived[i] {
			return s.sent[i], true
		}
	}
	return time.Time{}, false
}

// gaps are the times between a probe and the next.
func (s *series) gaps() []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	gaps := make([]time.Duration, 0, len(s.sent))
	for i := 1; i < len(s.sent); i++ {
		gaps = append(gaps, s.sent[i].Sub(s.sent[i-1]))
	}
	return gaps
}

// refused is how many of the probes from one number to another did not arrive, behind the
// first that did.
func (s *series) refused(from, to int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ; from < to && !s.arrived[from]; from++ {
	}
	n := 0
	for ; from < to; from++ {
		if !s.arrived[from] {
			n++
		}
	}
	return n
}
