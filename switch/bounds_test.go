package vswitch

import (
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

// An assault sends hostile frames to the victim's node: from an instance of that node, or from
// another node that was taken over and checks nothing.
type assault struct {
	name string
	from packettest.Host
	send func(frame []byte) (at string, v verdict.Verdict)
}

// assaults calls the function each twice, with a new testbed each time: with an assault from an
// interface of the testbed, and with one from an interface of another node in the same group.
func assaults(t *testing.T, make func(t *testing.T) *testbed, each func(t *testing.T, b *testbed, a assault)) {
	t.Run("one node", func(t *testing.T) {
		b := make(t)
		name := b.names[0]
		each(t, b, assault{name, packettest.Host{MAC: macOf(name), Addr: b.owners[name].Address}, func(frame []byte) (string, verdict.Verdict) { return b.send(name, frame) }})
	})
	t.Run("across nodes", func(t *testing.T) {
		b := make(t)
		b.tunnel(1406)
		origin := packet.Origin{Node: 2, VNI: 1, Epoch: 7}
		each(t, b, assault{"tunnel", packettest.Host{MAC: macOf("far"), Addr: addr("10.10.0.7")}, func(frame []byte) (string, verdict.Verdict) { return b.come(origin, frame) }})
	})
}

// frame builds a frame from the assault's interface through the gateway. If edit is not nil it
// changes the frame.
func (a assault) frame(protocol uint8, dst string, srcPort, dstPort uint16, edit func(f *packettest.Frame)) []byte {
	f := template(protocol, a.from.Addr, addr(dst), srcPort, dstPort)
	f.SrcMAC, f.DstMAC = a.from.MAC, GatewayMAC
	if edit != nil {
		edit(&f)
	}
	return packettest.Build(f)
}

// TestFloodsLeaveNoState: 65,536 frames that are refused, or that a rule for all addresses admits,
// create no connection and no fragment entry and allocate no memory, and other traffic passes.
func TestFloodsLeaveNoState(t *testing.T) {
	const many = 1 << 16
	assaults(t, func(t *testing.T) *testbed {
		b := newTestbed(t)
		b.rules("app", permit(ec2.TCP, 80, 80, "0.0.0.0/0"), permit(ec2.UDP, 443, 443, "0.0.0.0/0"), permit(ec2.TCP, 8000, 8000, "app"))
		b.devices["web"].count = 0
		return b
	}, func(t *testing.T, b *testbed, a assault) {
		r := rand.New(rand.NewPCG(1, 2))
		poke := func(frame []byte, change func(n int)) func(n int) []byte {
			return func(n int) []byte { change(n); return frame }
		}
		syn := a.frame(6, "10.10.0.5", 1, 80, nil)
		mac, source, port, open, datagram := clone(syn), clone(syn), a.frame(17, "10.10.0.5", 1, 1, nil), clone(syn), a.frame(17, "10.10.0.5", 1, 443, nil)
		arp := packettest.ARP(1, a.from.MAC, a.from.Addr, addr("10.10.9.9"))
		fragment := a.frame(17, "10.10.0.5", 0, 0, func(f *packettest.Frame) { f.FragOffset, f.Payload = 1480, make([]byte, 40) })
		echo := a.frame(1, "10.10.0.5", 1, 1, nil)
		for name, flood := range map[string]struct {
			next  func(n int) []byte
			given bool // the victim receives the frames
		}{
			"source MACs":                      {poke(mac, func(int) { binary.BigEndian.PutUint32(mac[8:], r.Uint32()) }), false},
			"source addresses":                 {poke(source, func(int) { binary.BigEndian.PutUint32(source[26:], 0x0a0b0000|r.Uint32N(1<<16)) }), false},
			"ARP for absent addresses":         {poke(arp, func(n int) { binary.BigEndian.PutUint16(arp[40:], uint16(0x0900|n&0xff)) }), false},
			"UDP to every port but one":        {poke(port, func(n int) { binary.BigEndian.PutUint16(port[36:], uint16(444+n%(many-1))) }), false},
			"later fragments":                  {poke(fragment, func(n int) { binary.BigEndian.PutUint16(fragment[18:], uint16(n)) }), false},
			"pings":                            {poke(echo, func(n int) { binary.BigEndian.PutUint16(echo[38:], uint16(n)) }), false},
			"SYNs to a port for the world":     {poke(open, func(n int) { binary.BigEndian.PutUint16(open[34:], uint16(n)) }), true},
			"UDP to a port for the world":      {poke(datagram, func(n int) { binary.BigEndian.PutUint16(datagram[34:], uint16(n)|1<<15) }), true},
			"the middle of many a connection":  {poke(clone(a.frame(6, "10.10.0.5", 1, 80, func(f *packettest.Frame) { f.TCPFlags = packet.ACK })), func(int) {}), true},
			"an unknown protocol to everybody": {poke(a.frame(200, "255.255.255.255", 0, 0, nil), func(int) {}), false},
		} {
			before := b.tracker.Usage()
			given := map[string]int{}
			for name, d := range b.devices {
				given[name] = d.count
			}
			var at, after runtime.MemStats
			runtime.ReadMemStats(&at)
			for n := range many {
				_, v := a.send(flood.next(n))
				if v.Drops() == flood.given {
					t.Fatalf("flood of %s: frame %d is %v; want it delivered: %v", name, n, v, flood.given)
				}
			}
			runtime.ReadMemStats(&after)
			if n := after.Mallocs - at.Mallocs; n > many/100 {
				t.Errorf("flood of %s: %d allocations for %d frames, want at most %d", name, n, many, many/100)
			}
			// The sender's interface may store the connections that it opens, within its own limit.
			if now := b.tracker.Usage(); now.Untracked != before.Untracked || now.Tracked > before.Tracked+many || a.name == "tunnel" && now.Tracked != before.Tracked {
				t.Errorf("flood of %s: the tracker's usage is %+v, was %+v before; want no connection of the victim", name, now, before)
			}
			for device, d := range b.devices {
				if d.count != given[device] && !(flood.given && device == "app" && d.count == given[device]+many) {
					t.Errorf("flood of %s: %s received %d frames; want 0, or all %d at the app if its rules admit them (%v)", name, device, d.count-given[device], many, flood.given)
				}
			}
			b.expect("lone", b.of("lone", template(6, addr("10.10.0.6"), addr("10.10.0.5"), 1, 8000)), "app", verdict.Forward)
		}
		// Each answered ARP request writes one frame to the sender's own device.
		if a.name == "web" {
			asks := packettest.ARP(1, a.from.MAC, a.from.Addr, addr("10.10.0.5"))
			for range 1000 {
				b.expect("web", asks, "web", verdict.Answered)
			}
			if n := b.devices["web"].count; n != 1000 {
				t.Errorf("%d ARP answers to 1000 requests, want 1000", n)
			}
		}
	})
}

func clone(b []byte) []byte { return append([]byte(nil), b...) }

// TestConnectionFloodKeepsEstablishedConnections: an instance opens more connections than there is
// room for. The connections of other instances go on, other instances open new ones, and the table
// does not exceed its capacity.
func TestConnectionFloodKeepsEstablishedConnections(t *testing.T) {
	for _, protocol := range []ec2.Protocol{ec2.TCP, ec2.UDP} {
		assaults(t, func(t *testing.T) *testbed {
			b := newTestbed(t)
			b.rules("app", permit(protocol, 8000, 8007, "web"), permit(ec2.TCP, 22, 22, "app"), permit(ec2.UDP, 53, 53, "app"))
			return b
		}, func(t *testing.T, b *testbed, a assault) {
			stays, asks := b.talk(6, "lone", "app", 1000, 22), b.talk(17, "lone", "app", 1000, 53)
			stays.open()
			asks.open()
			stays.goesOn("before the flood")
			frame := a.frame(uint8(protocol), "10.10.0.5", 0, 8000, nil)
			passed := 0
			for n := range 8 << 15 {
				binary.BigEndian.PutUint16(frame[34:], uint16(n)|1<<15)
				binary.BigEndian.PutUint16(frame[36:], uint16(8000+n>>15))
				if _, v := a.send(frame); v == verdict.Forward {
					passed++
				} else if v != verdict.TableFull {
					t.Fatalf("packet %d of the flood: %v, want %v or %v", n, v, verdict.Forward, verdict.TableFull)
				}
			}
			if u := b.tracker.Usage(); u.Tracked > u.Capacity || passed < 100_000 {
				t.Errorf("%d packets of the flood passed, want at least 100000; usage %+v, want no more tracked than the capacity", passed, u)
			}
			stays.goesOn("TCP beside the flood")
			asks.goesOn("UDP beside the flood")
			for port := range uint16(100) {
				b.talk(6, "lone", "app", 2000+port, 22).open()
				b.talk(17, "lone", "app", 2000+port, 53).open()
			}
		})
	}
}

// TestFragmentFloodLeavesRoomForOtherInterfaces: 65,536 datagrams have a first fragment only. The
// attacker's and the victim's interfaces then refuse other fragments. Whole packets, and fragments
// of all other interfaces, pass.
func TestFragmentFloodLeavesRoomForOtherInterfaces(t *testing.T) {
	assaults(t, func(t *testing.T) *testbed {
		b := newVPCBed(t)
		b.open()
		return b
	}, func(t *testing.T, b *testbed, a assault) {
		refused := 0
		for id := range 1 << 16 {
			if _, v := a.send(a.frame(17, "10.10.0.5", 1, 53, func(f *packettest.Frame) { f.FragID, f.MoreFollow, f.Payload = uint16(id), true, make([]byte, 64) })); v == verdict.FragmentsFull {
				refused++
			} else if v != verdict.Forward {
				t.Fatal(v)
			}
		}
		if want := 1<<16 - 1024; refused != want {
			t.Errorf("%d fragments are refused, want %d", refused, want)
		}
		whole := template(17, addr("10.10.0.6"), addr("10.10.0.5"), 1, 53)
		b.expect("lone", b.of("lone", whole), "app", verdict.Forward)
		echo := template(1, addr("10.10.0.6"), addr("10.10.0.5"), 1, 1)
		b.expect("lone", b.of("lone", echo), "app", verdict.Forward)
		for id := range uint16(500) {
			first, last := template(17, addr("10.0.1.10"), addr("10.0.2.10"), 1, 53), template(17, addr("10.0.1.10"), addr("10.0.2.10"), 0, 0)
			first.FragID, first.MoreFollow, first.Payload = id, true, make([]byte, 64)
			last.FragID, last.FragOffset, last.Payload = id, 72, make([]byte, 40)
			b.expect("1web", to("1web", GatewayMAC, first), "4db", verdict.Forward)
			b.expect("1web", to("1web", GatewayMAC, last), "4db", verdict.Forward)
		}
	})
}

// TestPayloadAdmitsNoOtherConnection: no payload opens a port. The tracker has no helper that reads
// the address of a second connection from the payload, as Linux has for FTP, SIP and IRC.
func TestPayloadAdmitsNoOtherConnection(t *testing.T) {
	assaults(t, func(t *testing.T) *testbed {
		b := newTestbed(t)
		b.rules("app", permit(ec2.TCP, 21, 21, "web"), permit(ec2.UDP, 5060, 5060, "web"), permit(ec2.TCP, 6667, 6667, "web"))
		return b
	}, func(t *testing.T, b *testbed, a assault) {
		for _, tt := range []struct {
			protocol uint8
			port     uint16
			says     string
		}{
			{6, 21, "PORT 10,10,0,5,31,64\r\n"}, {6, 21, "227 Entering Passive Mode (10,10,0,5,31,64)\r\n"}, {6, 21, "EPRT |1|10.10.0.5|8000|\r\n"}, {6, 6667, "PRIVMSG x :\x01DCC SEND f 168427525 8000 1\x01\r\n"},
			{17, 5060, "INVITE sip:a@10.10.0.5 SIP/2.0\r\nContact: <sip:a@10.10.0.5:8000>\r\nm=audio 8000 RTP/AVP 0\r\n"},
		} {
			asks := func(flags uint8, says string) []byte {
				return a.frame(tt.protocol, "10.10.0.5", 1000, tt.port, func(f *packettest.Frame) { f.TCPFlags, f.Payload = flags, []byte(says) })
			}
			for _, frame := range [][]byte{asks(packet.SYN, ""), asks(packet.ACK, ""), asks(packet.ACK|packet.PSH, tt.says)} {
				if at, v := a.send(frame); v != verdict.Forward {
					t.Fatalf("connection with payload %q: %v at %s, want %v", tt.says, v, at, verdict.Forward)
				}
			}
			for _, protocol := range []uint8{6, 17} {
				if at, v := a.send(a.frame(protocol, "10.10.0.5", 20, 8000, nil)); at != "app" || v != verdict.NoRule {
					t.Errorf("after payload %q, a packet of protocol %d to port 8000 is %v at %s, want %v at app", tt.says, protocol, v, at, verdict.NoRule)
				}
			}
		}
	})
}

// TestOnlyTheAskedHostMayAnswer: an answer from another host, port or protocol is refused, and so
// is a SYN from the right port.
func TestOnlyTheAskedHostMayAnswer(t *testing.T) {
	assaults(t, newVictimThatAsks, func(t *testing.T, b *testbed, a assault) {
		for _, protocol := range []uint8{6, 17} {
			b.expect("app", b.of("app", template(protocol, addr("10.10.0.5"), a.from.Addr, 5000, 53)), b.sentTo(a), verdict.Forward)
		}
		back := func(protocol uint8, srcPort, dstPort uint16, flags uint8) []byte {
			return a.frame(protocol, "10.10.0.5", srcPort, dstPort, func(f *packettest.Frame) { f.TCPFlags = flags })
		}
		const synAck = packet.SYN | packet.ACK
		for name, frame := range map[string][]byte{
			"TCP from another port":          back(6, 54, 5000, synAck),
			"TCP to another port":            back(6, 53, 5001, synAck),
			"UDP from another port":          back(17, 54, 5000, 0),
			"UDP to another port":            back(17, 53, 5001, 0),
			"both ports exchanged":           back(6, 5000, 53, synAck),
			"a SYN, as in a split handshake": back(6, 53, 5000, packet.SYN),
			"another protocol":               back(132, 0, 0, 0),
			"a ping":                         back(1, 53, 53, 0),
			"an unasked echo reply":          a.frame(1, "10.10.0.5", 5, 5, func(f *packettest.Frame) { f.ICMPType = 0 }),
		} {
			if at, v := a.send(frame); at != "app" || v != verdict.NoRule {
				t.Errorf("%s: %v at %s, want %v at app", name, v, at, verdict.NoRule)
			}
		}
		b.expect("lone", b.of("lone", template(17, addr("10.10.0.6"), addr("10.10.0.5"), 53, 5000)), "app", verdict.NoRule) // another host
		for _, frame := range [][]byte{back(6, 53, 5000, synAck), back(17, 53, 5000, 0)} {
			if at, v := a.send(frame); at != "app" || v != verdict.Forward {
				t.Errorf("the answer of the asked host: %v at %s, want %v at app", v, at, verdict.Forward)
			}
		}
	})
}

// newVictimThatAsks returns a testbed where the rules admit the victim's requests, and no request
// to the victim.
func newVictimThatAsks(t *testing.T) *testbed {
	b := newTestbed(t)
	b.rules("web", anyIn())
	return b
}

// sentTo returns the name of the port where a packet to an assault's interface is counted.
func (b *testbed) sentTo(a assault) string {
	if a.name == "tunnel" {
		return "app" // the other node judges it
	}
	return a.name
}

// TestForgedResetsEndNoConnection: a forged reset within the windows of a connection passes and ends
// nothing; one outside of them is dropped unless a rule admits it. Only a reset with exactly the next
// sequence number ends the connection.
func TestForgedResetsEndNoConnection(t *testing.T) {
	assaults(t, func(t *testing.T) *testbed {
		b := newTestbed(t)
		b.rules("app", permit(ec2.TCP, 8000, 8000, "web"))
		return b
	}, func(t *testing.T, b *testbed, a assault) {
		// An empty segment of the client has the sequence number after its SYN, plus away.
		sends := func(flags uint8, away uint32, want verdict.Verdict) {
			t.Helper()
			if at, v := a.send(a.frame(6, "10.10.0.5", 1000, 8000, func(f *packettest.Frame) {
				f.TCPFlags, f.TCPSeq, f.TCPAck = flags, 101+away, 501
				if flags == packet.SYN {
					f.TCPSeq, f.TCPAck = 100, 0
				}
			})); v != want {
				t.Errorf("a packet with TCP flags %02x, %d away from the next sequence number: %v at %s, want %v", flags, away, v, at, want)
			}
		}
		answers := func(flags uint8, away uint32) {
			t.Helper()
			f := template(6, addr("10.10.0.5"), a.from.Addr, 8000, 1000)
			f.TCPFlags, f.TCPSeq, f.TCPAck = flags, 501+away, 101
			if flags == packet.SYN|packet.ACK {
				f.TCPSeq = 500
			}
			b.expect("app", b.of("app", f), b.sentTo(a), verdict.Forward)
		}
		b.frame.now = monotonic()
		sends(packet.SYN, 0, verdict.Forward)
		answers(packet.SYN|packet.ACK, 0)
		sends(packet.ACK, 0, verdict.Forward)
		b.rules("app") // only the connection admits packets now
		for i := range uint32(50) {
			sends(packet.RST, 1+i*20, verdict.Forward)
			sends(packet.RST, 2000+i<<20, verdict.NoRule)
			answers(packet.RST|packet.ACK, 1+i*20)
		}
		sends(packet.ACK, 0, verdict.Forward)
		b.frame.now += time.Hour
		answers(packet.ACK, 0)
		sends(packet.ACK|packet.PSH, 0, verdict.Forward)
		sends(packet.RST, 0, verdict.Forward)
		// A closed connection is kept for 10 s.
		b.frame.now += 11 * time.Second
		sends(packet.ACK, 0, verdict.NoRule)
	})
}
