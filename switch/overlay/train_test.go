package overlay

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

// offloaded returns a TCP or UDP frame that must be cut every size bytes of payload, with its
// virtio header, as a TAP returns it, and as the switch decodes it.
func offloaded(t testing.TB, protocol uint8, payload, size int) (*packet.Packet, []byte) {
	t.Helper()
	f := of("web", protocol, "10.10.0.4", "10.10.0.5", 1, 8000)
	f.TCPFlags, f.Payload = packet.ACK, make([]byte, payload)
	for i := range f.Payload {
		f.Payload[i] = byte(i * 7 >> (i & 3))
	}
	b := append(make([]byte, packet.OffloadLen), packettest.Build(f)...)
	b[0], b[1] = 1, 1
	binary.NativeEndian.PutUint16(b[4:], uint16(size))
	binary.NativeEndian.PutUint16(b[6:], 34)
	binary.NativeEndian.PutUint16(b[8:], 16)
	if protocol == packet.ProtocolUDP {
		b[1] = 5
		binary.NativeEndian.PutUint16(b[8:], 6)
	}
	p := new(packet.Packet)
	if v, ok := packet.NewDecoder().Decode(b[packet.OffloadLen:], p); !ok {
		t.Fatalf("Decode refused the frame with verdict %v", v)
	}
	if v, ok := packet.Sanitize(b, p); !ok {
		t.Fatalf("Sanitize refused the frame with verdict %v", v)
	}
	return p, b
}

// packets returns the finished packets that a frame stands for.
func packets(t testing.TB, b []byte) (all [][]byte) {
	t.Helper()
	b = bytes.Clone(b)
	var p packet.Packet
	if v, ok := packet.NewDecoder().Decode(b[packet.OffloadLen:], &p); !ok {
		t.Fatalf("Decode refused the frame with verdict %v", v)
	}
	if v, ok := packet.Sanitize(b, &p); !ok {
		t.Fatalf("Sanitize refused the frame with verdict %v", v)
	}
	if err := packet.Segment(b, b[packet.OffloadLen:], &p, make([]byte, 2048), func(out []byte) error {
		all = append(all, bytes.Clone(out))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// A large frame crosses real sockets in datagrams that fit, with the fewest system calls. Where the
// kernel does not accept several datagrams at once, they are sent one by one.
func TestLargeFrameArrivesWhole(t *testing.T) {
	for _, tt := range []struct {
		name     string
		protocol uint8
		payload  int
		size     int
		refuse   bool // the kernel must refuse several datagrams at once, as it does for a socket without checksums (udp_send_skb)
	}{
		{"TCP", packet.ProtocolTCP, 64_992, 1354, false},
		{"TCP with a rest", packet.ProtocolTCP, 20_001, 1354, false},
		{"TCP in more pieces than one call takes", packet.ProtocolTCP, 10_000, 100, false},
		{"UDP", packet.ProtocolUDP, 20_000, 1200, false},
		{"TCP, one by one", packet.ProtocolTCP, 64_992, 1354, true},
		{"UDP, one by one", packet.ProtocolUDP, 20_000, 1200, true},
	} {
		a, b := ends(t)
		buffer := make([]byte, 70_000)
		s := a.table.Load().send[2]
		if tt.refuse {
			if err := unix.SetsockoptInt(a.socket, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1); err != nil {
				t.Fatal(err)
			}
		}
		p, sent := offloaded(t, tt.protocol, tt.payload, tt.size)
		want := packets(t, sent)
		if v, err := a.Send(3, 2, from, p, sent); v != verdict.Forward || err != nil {
			t.Fatalf("%s: Send returned verdict %v, error %v", tt.name, v, err)
		}
		n, origin, v, err := b.Receive(buffer)
		if err != nil || v != verdict.Forward || origin.VNI != from.VNI || origin.Epoch != from.Epoch || origin.Node != 1 {
			t.Fatalf("%s: Receive returned sender %+v, verdict %v, error %v", tt.name, origin, v, err)
		}
		if got := packets(t, buffer[:n]); !equal(got, want) {
			t.Errorf("%s: one frame of %d packets arrived, want the %d packets that were sent", tt.name, len(got), len(want))
		}
		if _, _, _, err := b.Receive(buffer); err != unix.EAGAIN {
			t.Errorf("%s: Receive after the frame returned %v, want EAGAIN", tt.name, err)
		}
		if got := s.sent[3].counter.Load(); got != uint64(len(want)) {
			t.Errorf("%s: %d datagrams were sent for %d packets, want one for each", tt.name, got, len(want))
		}
		if s.single.Load() != tt.refuse {
			t.Errorf("%s: datagrams are sent one by one: %v, want %v", tt.name, !tt.refuse, tt.refuse)
		}
	}
}

func equal(a, b [][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

// train returns the datagrams into which a large frame is sealed.
func train(t testing.TB, s *association, queue, payload, size int) (all [][]byte) {
	t.Helper()
	p, b := offloaded(t, packet.ProtocolTCP, payload, size)
	q := new(sender)
	q.cutter.Begin(b, b[packet.OffloadLen:], p)
	for {
		start, end, ok := q.cutter.Next()
		if !ok {
			return all
		}
		n := q.sealCopy(s, queue, 0, from, b[packet.OffloadLen:][start:end], packet.Unfinished)
		all = append(all, bytes.Clone(q.out[:n]))
	}
}

// A bad datagram has its own verdict, and the packets around it arrive.
func TestBadDatagramDoesNotSpoilItsTrain(t *testing.T) {
	tests := []struct {
		name   string
		change func(all [][]byte)
		want   []verdict.Verdict
		frames [][2]int // for each frame, its first packet and the one after its last
	}{
		{"nothing", func([][]byte) {}, []verdict.Verdict{verdict.Forward}, [][2]int{{0, 6}}},
		{"forged", func(all [][]byte) { all[2][300]++ }, []verdict.Verdict{verdict.Forward, verdict.TunnelForged, verdict.Forward}, [][2]int{{0, 2}, {3, 6}}},
		{"another mark", func(all [][]byte) { all[2][1] |= 2 }, []verdict.Verdict{verdict.Forward, verdict.TunnelForged, verdict.Forward}, [][2]int{{0, 2}, {3, 6}}},
		{"the mark taken away", func(all [][]byte) { all[2][1] = 0 }, []verdict.Verdict{verdict.Forward, verdict.TunnelForged, verdict.Forward}, [][2]int{{0, 2}, {3, 6}}},
		{"an unknown mark", func(all [][]byte) { all[2][1] |= 4 }, []verdict.Verdict{verdict.Forward, verdict.TunnelUnknown, verdict.Forward}, [][2]int{{0, 2}, {3, 6}}},
		{"replayed", func(all [][]byte) { all[3] = all[2] }, []verdict.Verdict{verdict.Forward, verdict.TunnelReplayed, verdict.Forward}, [][2]int{{0, 3}, {4, 6}}},
		{"of no association", func(all [][]byte) { all[5][7]++ }, []verdict.Verdict{verdict.Forward, verdict.TunnelUnknown}, [][2]int{{0, 5}}},
		{"the first", func(all [][]byte) { all[0][40]++ }, []verdict.Verdict{verdict.TunnelForged, verdict.Forward}, [][2]int{{1, 6}}},
		{"in another order", func(all [][]byte) { all[2], all[3] = all[3], all[2] }, []verdict.Verdict{verdict.Forward, verdict.Forward, verdict.Forward, verdict.Forward}, [][2]int{{0, 2}, {3, 4}, {2, 3}, {4, 6}}},
	}
	for _, tt := range tests {
		a, b := ends(t)
		s := a.table.Load().send[2]
		_, whole := offloaded(t, packet.ProtocolTCP, 6_000, 1000)
		want := packets(t, whole)
		all := train(t, s, 3, 6_000, 1000)
		tt.change(all)
		if err := a.sendTrain(&a.queues[3].message, bytes.Join(all, nil), len(all[0]), &s.to); err != nil {
			t.Fatal(err)
		}
		buffer := make([]byte, 70_000)
		frames := tt.frames
		for i, wanted := range tt.want {
			n, _, v, err := b.Receive(buffer)
			if err != nil || v != wanted {
				t.Fatalf("%s: Receive %d returned verdict %v, error %v, want verdict %v", tt.name, i, v, err, wanted)
			}
			if v != verdict.Forward {
				if n != len(all[0]) {
					t.Errorf("%s: the dropped datagram has %d bytes, want %d", tt.name, n, len(all[0]))
				}
				continue
			}
			if got := packets(t, buffer[:n]); !equal(got, want[frames[0][0]:frames[0][1]]) {
				t.Errorf("%s: a frame of %d packets arrived, want packets %d to %d unchanged", tt.name, len(got), frames[0][0], frames[0][1]-1)
			}
			frames = frames[1:]
		}
		if _, _, v, err := b.Receive(buffer); err != unix.EAGAIN {
			t.Errorf("%s: Receive after the last frame returned verdict %v, error %v, want EAGAIN", tt.name, v, err)
		}
	}
}

// The test joins datagrams of every size around the smallest whose payload leaves room for the
// inner header. A train of datagrams of less than 10 bytes once ended the daemon.
func TestSmallDatagramsAreJoined(t *testing.T) {
	a, b := ends(t)
	buffer := make([]byte, 70_000)
	for size := 1; size <= innerLen+packet.MaxHeaders; size++ {
		for _, rest := range []int{0, 1, size - 1} {
			p, sent := offloaded(t, packet.ProtocolUDP, 5*size+rest, size)
			want := packets(t, sent)
			if v, err := a.Send(3, 2, from, p, sent); v != verdict.Forward || err != nil {
				t.Fatalf("datagrams of %d bytes: Send returned verdict %v, error %v", size, v, err)
			}
			var got [][]byte
			frames := 0
			for ; len(got) < len(want); frames++ {
				n, _, v, err := receive(b, buffer)
				if v != verdict.Forward || err != nil {
					t.Fatalf("datagrams of %d bytes: Receive returned verdict %v, error %v, after %d packets", size, v, err, len(got))
				}
				got = append(got, packets(t, buffer[:n])...)
			}
			if !equal(got, want) || frames != 1 {
				t.Errorf("datagrams of %d bytes, and one of %d: %d frames arrived, want one with the packets that were sent", size, rest, frames)
			}
		}
	}
}

// A packet of another interface that would continue a train is not joined to it.
func TestFramesOfTwoInterfacesAreNotJoined(t *testing.T) {
	a, b := ends(t)
	s := a.table.Load().send[2]
	p, whole := offloaded(t, packet.ProtocolTCP, 2_000, 1000)
	q := new(sender)
	q.cutter.Begin(whole, whole[packet.OffloadLen:], p)
	other := from
	other.Epoch++
	for _, origin := range []packet.Origin{from, other} {
		start, end, _ := q.cutter.Next()
		n := q.sealCopy(s, 3, 0, origin, whole[packet.OffloadLen:][start:end], packet.Unfinished)
		if err := a.sendTo(q.out[:n], &s.to); err != nil {
			t.Fatal(err)
		}
	}
	buffer := make([]byte, 70_000)
	for _, want := range []packet.Origin{from, other} {
		want.Node = 1
		if n, got, v, err := receive(b, buffer); err != nil || v != verdict.Forward || got != want || n > 1100 {
			t.Errorf("Receive = %d bytes from %+v, verdict %v, error %v; want one packet from %+v", n, got, v, err, want)
		}
	}
}

// Receive ends its batch while there is more to read, so that other ports have their turn. At that
// moment every datagram that was read has been returned, because the descriptor would not report
// the others.
func TestReceiveEndsItsBatch(t *testing.T) {
	a, b := ends(t)
	const frames = 2 * batchBytes / 60_000
	for range frames {
		p, whole := offloaded(t, packet.ProtocolTCP, 60_000, 1000)
		if _, err := a.Send(3, 2, from, p, whole); err != nil {
			t.Fatal(err)
		}
	}
	buffer := make([]byte, 70_000)
	batches, came := 0, 0
	for came < frames*60 {
		n, _, _, err := b.Receive(buffer)
		switch {
		case err == nil:
			came += len(packets(t, buffer[:n]))
		case err != unix.EAGAIN:
			t.Fatal(err)
		case b.receiver.at < b.receiver.n || b.receiver.pending.full:
			t.Fatal("a batch ended before all datagrams that were read were returned")
		default:
			batches++
		}
		if batches > frames {
			t.Fatalf("after %d batches %d packets have arrived, want %d", batches, came, frames*60)
		}
	}
	if batches == 0 {
		t.Error("no batch ended before all packets had arrived, want at least one end")
	}
}

func TestLargeFramesAllocateNothing(t *testing.T) {
	a, b := ends(t)
	p, whole := offloaded(t, packet.ProtocolTCP, 64_992, 1354)
	sent, buffer := make([]byte, len(whole)), make([]byte, 70_000)
	if n := testing.AllocsPerRun(50, func() {
		copy(sent, whole)
		if v, err := a.Send(3, 2, from, p, sent); v != verdict.Forward || err != nil {
			t.Fatalf("Send returned verdict %v, error %v", v, err)
		}
		if _, _, v, err := receive(b, buffer); v != verdict.Forward || err != nil {
			t.Fatalf("Receive returned verdict %v, error %v", v, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for each large frame, want 0", n)
	}
}

// FuzzReceive receives what a node seals: any content, in trains of any size. Each datagram ends in
// a frame or in a verdict that drops, and no frame exceeds the longest possible.
func FuzzReceive(f *testing.F) {
	p, b := offloaded(f, packet.ProtocolTCP, 3_000, 1000)
	var c packet.Cutter
	c.Begin(b, b[packet.OffloadLen:], p)
	var inner []byte
	for start, end, ok := c.Next(); ok; start, end, ok = c.Next() {
		inner = putInnerFrame(inner, b[packet.OffloadLen:][start:end])
	}
	f.Add(inner, uint16(innerLen+1054), byte(packet.Unfinished), byte(0))
	f.Add(inner, uint16(innerLen+1054), byte(packet.Unfinished), byte(9))
	f.Add([]byte("no frame at all, nor a header before it"), uint16(7), byte(3), byte(1))
	local := netip.MustParseAddrPort("127.0.0.1:0")
	keys := bytes.Repeat([]byte{1}, keyLen)
	d := &Device{socket: -1, table: new(atomic.Pointer[table])}
	buffer := make([]byte, 70_000)
	f.Fuzz(func(t *testing.T, plain []byte, size uint16, marks, spoil byte) {
		if size == 0 || len(plain) == 0 || (len(plain)/int(size)+1)*(int(size)+headerLen+tagLen) > 1<<16 {
			return
		}
		s, err := newAssociation(keys, keys)
		if err != nil {
			t.Fatal(err)
		}
		s.node, s.address, s.index, s.remoteIndex = 9, local, 5, 5
		d.table.Store(&table{receive: map[uint32]*association{5: s}})
		q, r := new(sender), &d.receiver
		r.n, r.size, r.at, r.sender = 0, int(size)+headerLen+tagLen, 0, local
		datagrams := 0
		for rest := plain; len(rest) > 0; datagrams++ {
			n := min(len(rest), int(size))
			out := s.sealPacket(r.in[r.n:], rest[:n], &q.nonce, 2, packet.Marks(marks)&knownMarks)
			if spoil == byte(datagrams+1) {
				out[len(out)-1]++
			}
			r.n, rest = r.n+len(out), rest[n:]
		}
		fates := 0
		for {
			n, _, v, err := d.Receive(buffer)
			if err != nil {
				break
			}
			if fates++; fates > datagrams {
				t.Fatalf("already %d verdicts for %d datagrams, want at most one for each", fates, datagrams)
			}
			if v == verdict.Unset || n > packet.OffloadLen+14+65535 {
				t.Fatalf("Receive returned verdict %v and %d bytes, want a verdict and at most the longest frame", v, n)
			}
		}
		if r.at != r.n || r.pending.full || fates == 0 {
			t.Errorf("%d verdicts for %d datagrams, want at least one; %d bytes were read and not returned, want 0", fates, datagrams, r.n-r.at)
		}
	})
}

func putInnerFrame(b, frame []byte) []byte {
	at := len(b)
	b = append(b, make([]byte, innerLen)...)
	putInner(b[at:], from)
	return append(b, frame...)
}
