package vswitch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"palisade/ec2"
	"palisade/internal/netns"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/switch/tap"
)

// addBridge connects the victim's eth0 to a bridge, as on a container host, and returns the device
// at the other end of it:
//
//	-- the switch -- eth0 -- bridge -- out
//
// out is a plain device: the kernel computes the checksums of the packets that leave by it and cuts
// them, as their virtio headers say. It shows what a forged header does to a packet after the
// verdict.
func (w *wire) addBridge() *tap.Device {
	w.t.Helper()
	out, err := tap.Open(tap.Config{Name: "out", Namespace: w.inside, Plain: true})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { out.Close() })
	err = netns.Do(w.inside, func() error {
		return addBridge("eth0", "out")
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// until reads the packets that leave by out, up to the one from port marker.
func until(t *testing.T, out *tap.Device, marker uint16) (packets []packet.Packet, frames [][]byte) {
	t.Helper()
	decoder := packet.NewDecoder()
	b := make([]byte, 70000)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		n, err := out.Read(b)
		if err == unix.EAGAIN {
			unix.Poll([]unix.PollFd{{Fd: int32(out.FD()), Events: unix.POLLIN}}, 100)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		frame := append([]byte(nil), b[packet.OffloadLen:n]...)
		var p packet.Packet
		if v, ok := decoder.Decode(frame, &p); !ok {
			t.Errorf("the victim received a packet that is %v: % x", v, frame[:min(len(frame), 60)])
		}
		if p.Flow.SrcPort == marker {
			return packets, frames
		}
		packets, frames = append(packets, p), append(frames, frame)
	}
	t.Fatalf("the packet from port %d did not arrive", marker)
	return nil, nil
}

// A forged virtio header (virtio 1.2 §5.1.6).
type forged struct {
	flags, gso                       uint8
	headerLen, size, start, checksum uint16
}

// before returns the header with the frame behind it. If the header asks for a checksum in the
// usual place, the frame gets the checksum of the pseudo-header there, as an honest sender leaves
// it.
func (f forged) before(frame []byte) []byte {
	b := []byte{f.flags, f.gso}
	for _, field := range []uint16{f.headerLen, f.size, f.start, f.checksum} {
		b = binary.NativeEndian.AppendUint16(b, field)
	}
	b = append(b, frame...)
	var p packet.Packet
	packet.NewDecoder().Decode(frame, &p)
	at := map[uint8]uint16{packet.ProtocolTCP: 16, packet.ProtocolUDP: 6}[p.Flow.Protocol]
	if f.flags != 0 && int(f.start) == p.L4 && f.checksum == at {
		place := b[packet.OffloadLen+p.L4+int(at):]
		binary.BigEndian.PutUint16(place, ^checksum(nil, p.Len-p.L4, &p))
	}
	return b
}

// TestForgedOffloadHeaderCannotAlterPackets lets an attacker with CAP_NET_RAW write the virtio
// headers of its frames (packet(7): PACKET_VNET_HDR needs no more). A rule admits the frames. The
// header asks the receiver to write a checksum over ports, addresses and lengths, or to cut the
// frame into other packets. All packets that reach the victim must still be admitted by the rules.
//
// The attacker's own kernel refuses or corrects some headers, and newer kernels refuse more of
// them. For these headers the test accepts any verdict; FuzzSanitize passes them to the switch
// directly.
func TestForgedOffloadHeaderCannotAlterPackets(t *testing.T) {
	w := newWire(t, ownHeader, permit(ec2.TCP, 22, 22, "0.0.0.0/0"), permit(ec2.UDP, 53, 53, "0.0.0.0/0"))
	out := w.addBridge()
	for i, tt := range forgedHeaders {
		before := w.verdicts()
		refusal := w.send(tt.header.before(tt.frame))
		marker := forgedFrame(6, 22, 0)
		binary.BigEndian.PutUint16(marker[34:], 40000+uint16(i))
		if err := errors.Join(w.send(forged{}.before(marker)), w.send(forged{}.before(forgedFrame(6, 23, 0)))); err != nil {
			t.Fatal(err)
		}
		// The last frame gets its verdict after all others, and the marker arrives after
		// all packets before it.
		after := w.settled("no-rule at victim", uint64(i+1))
		packets, frames := until(t, out, 40000+uint16(i))
		before[wantForward]++
		before["no-rule at victim"]++
		fate := fmt.Sprint("its own kernel: ", refusal)
		for name, n := range after {
			if n > before[name] {
				fate = name
			}
		}
		t.Logf("%s: %s, %d packets", tt.name, fate, len(packets))
		if tt.want != wantAny && (fate != tt.want || len(packets) != tt.out) {
			t.Errorf("%s: %s and %d packets arrived; want %s and %d", tt.name, fate, len(packets), tt.want, tt.out)
		}
		for j, p := range packets {
			if wrong := notAdmitted(p, frames[j]); wrong != "" {
				t.Errorf("%s: a packet arrived with %s: %v\n% x", tt.name, wrong, p.Flow, frames[j][:min(len(frames[j]), 60)])
			}
		}
	}
}

// notAdmitted says what is wrong with a packet that arrived; "" if it is one that the rules admit.
func notAdmitted(p packet.Packet, frame []byte) string {
	want := map[uint8]uint16{packet.ProtocolTCP: 22, packet.ProtocolUDP: 53}[p.Flow.Protocol]
	switch {
	case p.Flow.Src != attackerIP || p.Flow.Dst != victimIP || p.DstMAC != victimMAC:
		return "another address"
	case p.Len-p.L3 > 1500:
		return fmt.Sprintf("%d bytes", p.Len-p.L3)
	case want == 0 || p.HasL4 && (p.Flow.DstPort != want || p.Flow.SrcPort != 30000):
		return "another port"
	case !p.Fragment && checksum(frame[p.L4:p.Len], p.Len-p.L4, &p) != 0:
		return "a wrong checksum"
	}
	return ""
}

// checksum returns the checksum of the pseudo-header for n bytes of transport segment and of the
// segment. It is zero if the segment has the right checksum.
func checksum(segment []byte, n int, p *packet.Packet) uint16 {
	src, dst := p.Flow.Src.As4(), p.Flow.Dst.As4()
	b := append(append(src[:], dst[:]...), 0, p.Flow.Protocol, byte(n>>8), byte(n))
	b = append(b, segment...)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// What a forged header asks for (virtio 1.2 §5.1.6), and what becomes of its frame; wantAny if that depends on
// the kernel.
const (
	needsChecksum = 1
	gsoTCP4       = 1
	gsoUFO        = 3
	gsoTCP6       = 4
	gsoUDP        = 5

	wantRefused = "bad-offload at attacker"
	wantForward = "forward at victim"
	wantAny     = ""
)

var (
	forgedSYN       = forgedFrame(6, 22, 0)
	forgedLong      = forgedFrame(6, 22, 4000)
	forgedDatagrams = forgedFrame(17, 53, 4000)
)

func forgedFrame(protocol uint8, port uint16, payload int) []byte {
	f := template(protocol, attackerIP, victimIP, 30000, port)
	f.SrcMAC, f.DstMAC, f.Payload = attackerMAC, GatewayMAC, make([]byte, payload)
	for i := range f.Payload {
		f.Payload[i] = byte(i * 7)
	}
	if payload > 0 {
		f.TCPFlags = packet.ACK
	}
	return packettest.Build(f)
}

var forgedHeaders = []struct {
	name   string
	header forged
	frame  []byte
	want   string
	out    int // packets that arrive
}{
	{"no header", forged{}, forgedSYN, wantForward, 1},
	{"honest checksum", forged{flags: needsChecksum, start: 34, checksum: 16}, forgedSYN, wantForward, 1},
	{"honest TCP segments", forged{flags: needsChecksum, gso: gsoTCP4, headerLen: 54, size: 1460, start: 34, checksum: 16}, forgedLong, wantForward, 3},
	{"honest UDP segments", forged{flags: needsChecksum, gso: gsoUDP, headerLen: 42, size: 1400, start: 34, checksum: 6}, forgedDatagrams, wantForward, 3},

	{"checksum over the destination port", forged{flags: needsChecksum, start: 34, checksum: 2}, forgedSYN, wantRefused, 0},
	{"checksum over the source port", forged{flags: needsChecksum, start: 34, checksum: 0}, forgedSYN, wantRefused, 0},
	{"checksum over both", forged{flags: needsChecksum, start: 34, checksum: 1}, forgedSYN, wantRefused, 0},
	{"checksum over the flags", forged{flags: needsChecksum, start: 34, checksum: 12}, forgedSYN, wantRefused, 0},
	{"honest place, summed from the port on", forged{flags: needsChecksum, start: 36, checksum: 14}, forgedSYN, wantRefused, 0},
	{"a UDP checksum in TCP", forged{flags: needsChecksum, start: 34, checksum: 6}, forgedSYN, wantRefused, 0},
	{"checksum over the port, from the IP header on", forged{flags: needsChecksum, start: 14, checksum: 22}, forgedSYN, wantAny, 0},
	{"checksum over the protocol", forged{flags: needsChecksum, start: 14, checksum: 8}, forgedSYN, wantAny, 0},
	{"checksum over the destination", forged{flags: needsChecksum, start: 14, checksum: 18}, forgedSYN, wantAny, 0},
	{"checksum over the length", forged{flags: needsChecksum, start: 14, checksum: 2}, forgedSYN, wantAny, 0},
	{"checksum over the EtherType", forged{flags: needsChecksum, start: 0, checksum: 12}, forgedSYN, wantAny, 0},
	{"checksum over the MAC", forged{flags: needsChecksum, start: 0, checksum: 0}, forgedSYN, wantAny, 0},
	{"checksum past the end", forged{flags: needsChecksum, start: 34, checksum: 200}, forgedSYN, wantAny, 0},
	{"checksum from past the end", forged{flags: needsChecksum, start: 65535, checksum: 65535}, forgedSYN, wantAny, 0},
	{"checksum over the port, in segments", forged{flags: needsChecksum, gso: gsoTCP4, headerLen: 54, size: 1460, start: 34, checksum: 2}, forgedLong, wantAny, 0},

	{"segments of 1 byte", forged{flags: needsChecksum, gso: gsoTCP4, headerLen: 54, size: 1, start: 34, checksum: 16}, forgedLong, wantRefused, 0},
	{"segments of 47 bytes", forged{flags: needsChecksum, gso: gsoTCP4, headerLen: 54, size: 47, start: 34, checksum: 16}, forgedLong, wantRefused, 0},
	{"segments larger than the MTU", forged{flags: needsChecksum, gso: gsoTCP4, headerLen: 54, size: 3000, start: 34, checksum: 16}, forgedLong, wantForward, 4},
	{"a header of 4000 bytes", forged{flags: needsChecksum, gso: gsoTCP4, headerLen: 4000, size: 1460, start: 34, checksum: 16}, forgedLong, wantForward, 3},
	{"a header of 20 bytes", forged{flags: needsChecksum, gso: gsoTCP4, headerLen: 20, size: 1460, start: 34, checksum: 16}, forgedLong, wantForward, 3},
	{"one segment, larger than the MTU", forged{}, forgedLong, wantAny, 0},
	{"segments of nothing", forged{flags: needsChecksum, gso: gsoTCP4, headerLen: 54, size: 1460, start: 34, checksum: 16}, forgedSYN, wantAny, 0},
	{"TCP as UDP segments", forged{flags: needsChecksum, gso: gsoUDP, headerLen: 42, size: 1400, start: 34, checksum: 6}, forgedLong, wantAny, 0},
	{"UDP as TCP segments", forged{flags: needsChecksum, gso: gsoTCP4, headerLen: 54, size: 1400, start: 34, checksum: 16}, forgedDatagrams, wantAny, 0},
	{"UDP as fragments", forged{flags: needsChecksum, gso: gsoUFO, headerLen: 42, size: 1400, start: 34, checksum: 6}, forgedDatagrams, wantAny, 0},
	{"IPv6 segments", forged{flags: needsChecksum, gso: gsoTCP6, headerLen: 74, size: 1400, start: 34, checksum: 16}, forgedLong, wantAny, 0},
	{"unknown segments", forged{flags: needsChecksum, gso: 0x7e, headerLen: 54, size: 1400, start: 34, checksum: 16}, forgedLong, wantAny, 0},
	{"segments without a checksum", forged{gso: gsoTCP4, headerLen: 54, size: 1460}, forgedLong, wantAny, 0},
	{"more segments than Linux sends", forged{flags: needsChecksum, gso: gsoUDP, headerLen: 42, size: 20, start: 34, checksum: 6}, forgedDatagrams, wantAny, 0},
}

// addBridge adds a bridge to the namespace of the calling thread, with these devices.
func addBridge(devices ...string) error {
	attrs, snooping := netlink.NewLinkAttrs(), false
	attrs.Name = "bridge"
	bridge := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
	errs := []error{netlink.LinkAdd(bridge), netlink.LinkSetUp(bridge)}
	for _, name := range devices {
		link, err := netlink.LinkByName(name)
		if err == nil {
			err = errors.Join(netlink.LinkSetMaster(link, bridge), netlink.LinkSetUp(link))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
