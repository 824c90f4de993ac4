package vswitch

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

// TestFramesLostInDeviceAreCounted: each lost frame has a verdict at its port, and the frames after
// it are read.
func TestFramesLostInDeviceAreCounted(t *testing.T) {
	b := newTestbed(t)
	b.rules("app", permit(ec2.TCP, 80, 80, "web"))
	frame := append(make([]byte, offloadLen), b.of("web", template(packet.ProtocolTCP, addr("10.10.0.4"), addr("10.10.0.5"), 1, 80))...)
	b.devices["web"].queue = slices.Repeat([][]byte{nil, frame}, batchFrames)
	b.frame.snapshot = b.sw.Snapshot()
	b.sw.pollers[0].drain(b.frame, b.ports["web"])
	in, out := b.ports["web"].Counters(), b.ports["app"].Counters()
	const half = batchFrames / 2
	if in.RxFrames != batchFrames || in.Verdicts[verdict.UnknownOffload] != half || out.Verdicts[verdict.Forward] != half || b.frame.batch.unforwarded != half {
		t.Errorf("%d frames read, %d lost, %d forwarded, %d charged as not forwarded; want %d, %d, %d and %d", in.RxFrames,
			in.Verdicts[verdict.UnknownOffload], out.Verdicts[verdict.Forward], b.frame.batch.unforwarded, batchFrames, half, half, half)
	}
}

// TestBatchGivesSameResultAsSingleFrames sends the same stream through two switches. One reads it
// from the device, so that datagrams are joined and connections prefetched; the other handles each
// frame by itself. The packets that leave, all counters and all connections are equal, except for
// the IP identification of joined packets.
func TestBatchGivesSameResultAsSingleFrames(t *testing.T) {
	joined := 0
	for seed := range uint64(60) {
		queue := stream(rand.New(rand.NewPCG(seed, 7)))
		batched, single := newTestbed(t), newTestbed(t)
		for _, b := range []*testbed{batched, single} {
			b.rules("app", permit(ec2.UDP, 53, 55, "web"), permit(ec2.UDP, 56, 56, "0.0.0.0/0"), permit(ec2.TCP, 80, 80, "web"))
			b.rules("web", permit(ec2.TCP, 22, 22, "203.0.113.25/32"))
			b.frame.snapshot = b.sw.Snapshot()
			for _, d := range b.devices {
				d.all = [][]byte{}
			}
		}
		batched.devices["web"].queue = slices.Clone(queue)
		for len(batched.devices["web"].queue) > 0 {
			// A garbage collection may make a turn or a write slow, so no time limit may apply.
			batched.frame.now, batched.frame.writesToTime = monotonic(), 0
			for _, p := range batched.ports {
				p.pace = pace{}
			}
			batched.sw.pollers[0].drain(batched.frame, batched.ports["web"])
		}
		for _, frame := range queue {
			copy(single.frame.buffer, frame)
			single.frame.receive(single.ports["web"], len(frame))
		}
		for name, d := range single.devices {
			got, want := packetsOf(t, batched.devices[name].all), packetsOf(t, d.all)
			if !slices.EqualFunc(got, want, bytes.Equal) {
				t.Fatalf("seed %d: %s received %d packets from batches, and they differ from the %d packets from single frames", seed, name, len(got), len(want))
			}
			if got, want := batched.ports[name].Counters().Verdicts, single.ports[name].Counters().Verdicts; got != want {
				t.Errorf("seed %d: verdicts at %s are %v, want %v", seed, name, got, want)
			}
			joined += len(d.all) - len(batched.devices[name].all)
		}
		if got, want := connections(batched), connections(single); !slices.Equal(got, want) {
			t.Errorf("seed %d: the connections are\n%s\nwant\n%s", seed, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	if joined < 500 {
		t.Errorf("%d frames were joined, want at least 500", joined)
	}
}

// stream returns what an instance sends: runs of datagrams of a few flows, mixed with other frames,
// some of them malformed.
func stream(r *rand.Rand) (all [][]byte) {
	for len(all) < 200 {
		f := template(packet.ProtocolUDP, addr("10.10.0.4"), addr("10.10.0.5"), uint16(1000+r.IntN(5)), uint16(53+r.IntN(5)))
		f.SrcMAC, f.DstMAC, f.DontFragment = macOf("web"), GatewayMAC, r.IntN(5) > 0
		switch r.IntN(8) {
		case 0:
			f.Flow.Protocol, f.Flow.DstPort, f.TCPFlags = packet.ProtocolTCP, 80, []uint8{packet.SYN, packet.ACK}[r.IntN(2)]
		case 1:
			f.Flow.Dst = addr("198.18.0.5") // of the app, as seen from outside
		case 2:
			f.Flow.Dst = laptop
		case 3:
			f.Flow.Src = addr("10.10.0.6") // not the sender's address
		}
		size := r.IntN([]int{30, 300, 1440}[r.IntN(3)])
		for range 1 + r.IntN(12) {
			f.Payload = make([]byte, size)
			for i := range f.Payload {
				f.Payload[i] = byte(r.IntN(256))
			}
			f.FragID = uint16(r.IntN(3))
			frame := append(make([]byte, offloadLen), packettest.Build(f)...)
			switch r.IntN(20) {
			case 0:
				frame = frame[:r.IntN(len(frame)-offloadLen)+offloadLen] // cut short
			case 1:
				frame[offloadLen+r.IntN(len(frame)-offloadLen)] ^= 1 << r.IntN(8)
			case 2:
				clear(frame[offloadLen+40 : offloadLen+42]) // no UDP checksum
			case 3, 4: // the checksum is left to the device
				if f.Flow.Protocol == packet.ProtocolUDP {
					frame[0] = 1
					binary.NativeEndian.PutUint16(frame[6:], 34)
					binary.NativeEndian.PutUint16(frame[8:], 6)
					putPseudoSum(frame[offloadLen:])
				}
			}
			all = append(all, frame)
		}
	}
	return all
}

// putPseudoSum writes the sum of the pseudo-header into the UDP checksum, as the kernel does when
// the device must compute the rest.
func putPseudoSum(frame []byte) {
	sum := uint32(packet.ProtocolUDP) + uint32(len(frame)-34)
	for at := 26; at < 34; at += 2 {
		sum += uint32(binary.BigEndian.Uint16(frame[at:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(frame[40:], uint16(sum>>16+sum))
}

// packetsOf returns the finished packets that the written frames consist of. In packets that may
// not be fragmented it clears the IP identification.
func packetsOf(t *testing.T, frames [][]byte) (all [][]byte) {
	t.Helper()
	for _, b := range frames {
		header, frame := b[:offloadLen], b[offloadLen:]
		var p packet.Packet
		if v, ok := packet.NewDecoder().Decode(frame, &p); !ok {
			t.Fatalf("a frame was written that Decode refuses as %v", v)
		}
		if v, ok := packet.Sanitize(header, &p); !ok {
			t.Fatalf("a frame was written whose virtio header Sanitize refuses as %v", v)
		}
		if err := packet.Segment(header, frame, &p, make([]byte, 70_000), func(out []byte) error {
			if out = bytes.Clone(out); p.DontFragment {
				clear(out[18:20]) // IP identification
				clear(out[24:26]) // IP checksum
			}
			all = append(all, out)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// connections returns all connections with their packet counts, sorted. It leaves out byte counts,
// because a joined frame has one set of headers for all its packets.
func connections(b *testbed) (all []string) {
	for c := range b.tracker.Connections(0) {
		all = append(all, fmt.Sprintf("%v, opened by the peer: %v, packets %v", c.Flow, c.Outside, c.Packets))
	}
	slices.Sort(all)
	return all
}

// TestDatagramsOfOneFlowAreJoined: consecutive datagrams of one flow become one frame, in order
// with the frames of other flows, and are counted and judged as single packets. The frame after
// them is not lost, whether it is of another flow or follows the end of a batch.
func TestDatagramsOfOneFlowAreJoined(t *testing.T) {
	b := newTestbed(t)
	b.rules("app", permit(ec2.UDP, 53, 60, "web"))
	web, app := addr("10.10.0.4"), addr("10.10.0.5")
	datagram := func(from, to uint16) []byte {
		f := template(17, web, app, from, to)
		f.SrcMAC, f.DstMAC, f.DontFragment, f.Payload = macOf("web"), GatewayMAC, true, []byte("twenty-two bytes of it")
		return append(make([]byte, offloadLen), packettest.Build(f)...)
	}
	drain := func(queue ...[]byte) (written, left int) {
		b.devices["web"].queue = queue
		b.frame.snapshot = b.sw.Snapshot()
		before := b.devices["app"].count
		b.sw.pollers[0].drain(b.frame, b.ports["web"])
		return b.devices["app"].count - before, len(b.devices["web"].queue)
	}
	// Three datagrams, three of another flow, and one of the first flow: three frames.
	a, c := datagram(1, 53), datagram(2, 53)
	written, _ := drain(a, a, a, c, c, c, a)
	if got := b.delivered("app"); written != 3 || got.Flow.SrcPort != 1 {
		t.Errorf("%d frames written, the last of flow %v; want 3, the last from port 1", written, got.Flow)
	}
	// A hundred datagrams: a batch of 64 becomes one frame, and 36 are still in the queue.
	many := slices.Repeat([][]byte{a}, 100)
	if written, left := drain(many...); written != 1 || left != 36 {
		t.Errorf("%d frames written, %d left in the queue; want 1 and 36", written, left)
	}
	if p := b.delivered("app"); p.Len-p.Payload != 64*22 || b.devices["app"].last[1] != 5 {
		t.Errorf("the frame has %d bytes of payload and virtio header % x, want %d bytes and segmentation of UDP (5)", p.Len-p.Payload, b.devices["app"].last[:offloadLen], 64*22)
	}
	// Joined datagrams that no rule admits are counted one by one.
	refused := datagram(1, 99)
	drain(refused, refused, refused, refused)
	in, out := b.ports["web"].Counters(), b.ports["app"].Counters()
	if out.Verdicts[verdict.NoRule] != 4 || out.Verdicts[verdict.Forward] != 71 || in.RxFrames != 75 || out.TxFrames != 4 {
		t.Errorf("%d packets refused, %d forwarded, %d frames read, %d written; want 4, 71, 75 and 4",
			out.Verdicts[verdict.NoRule], out.Verdicts[verdict.Forward], in.RxFrames, out.TxFrames)
	}
	for c := range b.tracker.Connections(0) {
		if c.Flow.SrcPort == 1 && c.Flow.DstPort == 53 && c.Packets[0] != 68 {
			t.Errorf("connection %v has %v packets, want 68 from the client", c.Flow, c.Packets)
		}
	}
}

// TestBatchKeepsOrderAndContentOfFrames: small and large frames of known and unknown flows, with
// malformed frames between them, leave in order and unchanged.
func TestBatchKeepsOrderAndContentOfFrames(t *testing.T) {
	b := newTestbed(t)
	e := b.sw.Edit(2)
	e.Network(Network{VNI: 1, Prefix: netip.MustParsePrefix("10.0.0.0/8"), Gateway: addr("10.0.0.1"), MTU: 9000})
	b.sw.Publish(e)
	b.rules("app", permit(ec2.UDP, 53, 60, "web"), permit(ec2.TCP, 80, 80, "web"))
	r := rand.New(rand.NewPCG(5, 6))
	var queue, want [][]byte
	for i := range 300 {
		f := template([]uint8{6, 17, 17}[r.IntN(3)], addr("10.10.0.4"), addr("10.10.0.5"), uint16(1000+r.IntN(40)), 53)
		if f.Flow.Protocol == 6 {
			f.Flow.DstPort = 80
		}
		f.SrcMAC, f.DstMAC = macOf("web"), GatewayMAC
		f.Payload = binary.BigEndian.AppendUint32(nil, uint32(i))
		if n := r.IntN(4); n > 0 { // some frames are larger than smallFrame, and end the reading ahead
			f.Payload = append(f.Payload, make([]byte, r.IntN([]int{0, 60, 1400, 8000}[n]))...)
		}
		frame := append(make([]byte, offloadLen), packettest.Build(f)...)
		queue, want = append(queue, frame), append(want, f.Payload)
		if r.IntN(10) == 0 {
			queue = append(queue, append(make([]byte, offloadLen), 1, 2, 3))
		}
	}
	d := b.devices["app"]
	b.devices["web"].queue = queue
	d.all = [][]byte{}
	b.frame.snapshot = b.sw.Snapshot()
	for len(b.devices["web"].queue) > 0 {
		b.sw.pollers[0].drain(b.frame, b.ports["web"])
	}
	if len(d.all) != len(want) {
		t.Fatalf("%d frames arrived, want %d; verdicts at the app: %v", len(d.all), len(want), b.ports["app"].Counters().Verdicts)
	}
	for i, frame := range d.all {
		var p packet.Packet
		if v, ok := packet.NewDecoder().Decode(frame[offloadLen:], &p); !ok || !bytes.Equal(frame[offloadLen+p.Payload:], want[i]) {
			t.Fatalf("frame %d: Decode says %v, payload % x, want % x", i, v, frame[offloadLen+p.Payload:], want[i])
		}
	}
}
