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

// A prober sends single packets, called probes, from the network namespace of an instance. Each is the first
// packet of a new connection: at up to 1,000 probes a second, a source port is used again only after a
// minute. The sockets are raw, so a probe costs one system call and is not retransmitted. The sequence
// number of a SYN is the number of the probe. The sender's kernel answers the SYN-ACK with a reset, which
// closes the connection at both ends. The payload of a datagram is the number of the probe.
type prober struct {
	from netip.Addr
	tcp  *net.IPConn
	udp  *net.IPConn
}

// The source ports of probes, which a prober uses in turn.
const (
	firstProbePort = 1024
	probePorts     = 1<<16 - firstProbePort
)

func newProber(namespace string, from netip.Addr) (*prober, error) {
	g := &prober{from: from}
	err := netns.Do(namespace, func() (err error) {
		local := &net.IPAddr{IP: from.AsSlice()}
		if g.tcp, err = net.ListenIP("ip4:tcp", local); err != nil {
			return err
		}
		if g.udp, err = net.ListenIP("ip4:udp", local); err != nil {
			g.tcp.Close()
			return err
		}
		// The buffers are minimal, because nobody reads answers.
		return errors.Join(g.tcp.SetReadBuffer(1), g.udp.SetReadBuffer(1))
	})
	if err != nil {
		return nil, fmt.Errorf("probe from %s: %w", namespace, err)
	}
	return g, nil
}

func (g *prober) close() error { return errors.Join(g.tcp.Close(), g.udp.Close()) }

// proberAt returns a prober in a running instance.
func proberAt(t *testing.T, in lab.InstanceStatus) *prober {
	t.Helper()
	g, err := newProber(in.Namespace, netip.MustParseAddr(in.PrivateAddress))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.close() })
	return g
}

func probePort(number uint32) uint16 { return uint16(firstProbePort + number%probePorts) }

// syn sends the probe with this number as a SYN. The number gives the source port.
func (g *prober) syn(to netip.AddrPort, number uint32) error {
	return g.segment(probePort(number), to, number, flagSYN)
}

// segment sends the probe with this number as a TCP segment from a source port, without data.
func (g *prober) segment(port uint16, to netip.AddrPort, number uint32, flags byte) error {
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

// datagram sends the probe with this number as a UDP datagram. The number gives the source port.
func (g *prober) datagram(to netip.AddrPort, number uint32) error {
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

	// probeWindow is the window in the segments of probes, by which a receiver knows them.
	probeWindow = 31337
)

// checksum returns the checksum of RFC 9293 §3.1 and RFC 768 over the pseudo header and data, in which the
// checksum field is zero.
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

// An arrival is a probe that has arrived, as the receiver sees it.
type arrival struct {
	from   netip.Addr
	port   uint16 // source port
	number uint32
}

// watch calls seen for every probe to port that arrives in the network namespace of in, TCP or UDP, until t
// ends. It makes the calls on two new goroutines.
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

// pace calls shoot every interval until ctx ends. It locks its thread and calls nanosleep, because the
// runtime's timers are up to a millisecond late. It skips intervals that it missed.
func pace(ctx context.Context, interval time.Duration, shoot func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for next := time.Now(); ctx.Err() == nil; {
		shoot()
		next = next.Add(interval)
		if wait := time.Until(next); wait > 0 {
			rest := unix.NsecToTimespec(wait.Nanoseconds())
			_ = unix.Nanosleep(&rest, nil) // a signal ends the sleep early; then one probe is early
		} else {
			next = time.Now()
		}
	}
}

// A series is a list of probes from one instance to one port of another. It has the time at which each was
// sent, and whether it arrived. The mutex guards the lists; runSYNs holds it while it sends a probe.
type series struct {
	prober *prober
	to     netip.AddrPort

	mu      sync.Mutex
	sent    []time.Time
	arrived []bool
	errors  int // probes that could not be sent; they are in neither list
}

// runSYNs sends a SYN every interval until ctx ends. It holds the mutex while it sends, because a probe must
// be in the list before the method seen records its arrival.
func (s *series) runSYNs(ctx context.Context, interval time.Duration) {
	pace(ctx, interval, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		now := time.Now()
		if err := s.prober.syn(s.to, uint32(len(s.sent))); err != nil {
			s.errors++
			return
		}
		s.sent, s.arrived = append(s.sent, now), append(s.arrived, false)
	})
}

// seen records that a probe arrived.
func (s *series) seen(a arrival) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.from == s.prober.from && int(a.number) < len(s.arrived) {
		s.arrived[a.number] = true
	}
}

// unsent returns the number of probes that could not be sent.
func (s *series) unsent() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.errors
}

// len returns the number of probes sent.
func (s *series) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sent)
}

// first looks for the first probe with this number or a higher one that arrived. It returns the time at which
// that probe was sent, or false if none arrived.
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

// last looks for the last probe with this number or a higher one that arrived. It returns the time at which
// that probe was sent, or false if none arrived.
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

// gaps returns the times between the sending of each probe and the next.
func (s *series) gaps() []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	gaps := make([]time.Duration, 0, len(s.sent))
	for i := 1; i < len(s.sent); i++ {
		gaps = append(gaps, s.sent[i].Sub(s.sent[i-1]))
	}
	return gaps
}

// refused looks at the probes with numbers from `from` to `to`-1. It returns how many of them did not arrive
// after the first one that arrived.
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
