package packet_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
)

// A piece is a packet from a tunnel datagram.
type piece struct {
	frame []byte
	marks packet.Marks
}

// pieces cuts a frame into the packets that its virtio header describes, as the sender of a
// tunnel does.
func pieces(t testing.TB, header, frame []byte) (all []piece) {
	t.Helper()
	header, frame = bytes.Clone(header), bytes.Clone(frame)
	var p packet.Packet
	if v, ok := packet.NewDecoder().Decode(frame, &p); !ok {
		t.Fatalf("Decode refused the frame with %v", v)
	}
	if v, ok := packet.Sanitize(header, &p); !ok {
		t.Fatalf("Sanitize refused the virtio header with %v", v)
	}
	var marks packet.Marks
	if p.Partial {
		marks = packet.Unfinished
	}
	if p.Segments == 1 {
		return []piece{{frame, marks}}
	}
	var c packet.Cutter
	c.Begin(header, frame, &p)
	for {
		start, end, ok := c.Next()
		if !ok {
			return all
		}
		more := packet.Followed
		if end == len(frame) {
			more = 0
		}
		all = append(all, piece{bytes.Clone(frame[start:end]), marks | more})
	}
}

// join passes packets through a Train as the overlay does, and returns the joined frames
// with their virtio headers.
func join(all []piece) (frames [][]byte) {
	var train packet.Train
	b := make([]byte, 70_000)
	for i, p := range all {
		if i > 0 {
			if train.Open() && p.marks&packet.Unfinished != 0 && train.Room(len(p.frame)) {
				end := train.End()
				start := end - train.HeaderLen()
				saved := bytes.Clone(b[start:end])
				copy(b[start:], p.frame)
				joined := train.Join(b[start:start+len(p.frame)], p.marks)
				copy(b[start:], saved)
				if joined {
					continue
				}
			}
			frames = append(frames, bytes.Clone(b[:train.Finish()]))
		}
		train.Begin(b, packet.OffloadLen+copy(b[packet.OffloadLen:], p.frame), p.marks)
	}
	return append(frames, bytes.Clone(b[:train.Finish()]))
}

// finished returns a packet with its missing checksum filled in by a naive sum.
func finished(t testing.TB, p piece) []byte {
	t.Helper()
	b := bytes.Clone(p.frame)
	if p.marks&packet.Unfinished == 0 {
		return b
	}
	l4 := b[14+int(b[14]&15)*4:]
	at := 16
	if b[23] == packet.ProtocolUDP {
		at = 6
	}
	field := l4[at:]
	field[0], field[1] = 0, 0
	pseudo := append(bytes.Clone(b[26:34]), 0, b[23], byte(len(l4)>>8), byte(len(l4)))
	sum := ^ones(append(pseudo, l4...))
	if sum == 0 && b[23] == packet.ProtocolUDP {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(field, sum)
	return b
}

// segments cuts frames into finished packets, as the switch does for a device without
// offloads.
func segments(t testing.TB, frames [][]byte) (all [][]byte) {
	t.Helper()
	for _, b := range frames {
		b = bytes.Clone(b)
		header, frame := b[:packet.OffloadLen], b[packet.OffloadLen:]
		var p packet.Packet
		if v, ok := packet.NewDecoder().Decode(frame, &p); !ok {
			t.Fatalf("Decode refused a joined frame with %v\n% x", v, frame)
		}
		if v, ok := packet.Sanitize(header, &p); !ok {
			t.Fatalf("Sanitize refused the virtio header of a joined frame with %v\n% x", v, b[:packet.OffloadLen])
		}
		if err := packet.Segment(header, frame, &p, make([]byte, 70_000), func(out []byte) error {
			all = append(all, bytes.Clone(out))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// same checks that joined frames stand for the packets that were sent, in order.
func same(t testing.TB, frames [][]byte, sent []piece) {
	t.Helper()
	got := segments(t, frames)
	if len(got) != len(sent) {
		t.Fatalf("the joined frames stand for %d packets, want %d", len(got), len(sent))
	}
	for i, p := range sent {
		if want := finished(t, p); !bytes.Equal(got[i], want) {
			t.Fatalf("packet %d of %d differs:\ngot  % x\nwant % x", i, len(sent), got[i], want)
		}
	}
}

// options adds TCP options to a frame without a finished checksum.
func options(frame []byte, o ...byte) []byte {
	frame = append(bytes.Clone(frame[:54]), append(o, frame[54:]...)...)
	frame[46] += byte(len(o)/4) << 4
	binary.BigEndian.PutUint16(frame[16:], uint16(len(frame)-14))
	binary.BigEndian.PutUint16(frame[24:], 0)
	binary.BigEndian.PutUint16(frame[24:], ^ones(frame[14:34]))
	n := len(frame) - 34
	binary.BigEndian.PutUint16(frame[50:], ones(append(bytes.Clone(frame[26:34]), 0, packet.ProtocolTCP, byte(n>>8), byte(n))))
	return frame
}

func reduced(frame []byte) []byte { frame[47] |= 0x80; return frame }

func numbered(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7 >> (i & 3))
	}
	return string(b)
}

// A frame that is cut into packets and joined again is the same frame.
func TestJoinRestoresTheFrameThatWasCut(t *testing.T) {
	timestamps := []byte{1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8}
	for _, tt := range []struct {
		name   string
		header []byte
		frame  []byte
		frames int
	}{
		{"TCP", offload(1, 1, 1400, 34, 16), partial(tcp(packet.ACK, numbered(50_000)), 16), 1},
		{"TCP, pushed at its end", offload(1, 1, 1400, 34, 16), partial(tcp(packet.ACK|packet.PSH|packet.FIN, numbered(50_000)), 16), 1},
		{"TCP of whole segments", offload(1, 1, 1000, 34, 16), partial(tcp(packet.ACK, numbered(64_000)), 16), 1},
		{"TCP with timestamps", offload(1, 1, 1348, 34, 16), options(partial(tcp(packet.ACK, numbered(60_000)), 16), timestamps...), 1},
		{"TCP with the smallest segments", offload(1, 1, 48, 34, 16), partial(tcp(packet.ACK, numbered(2_000)), 16), 1},
		{"TCP with CWR, which only the first segment has", offload(1, 0x81, 1400, 34, 16), reduced(partial(tcp(packet.ACK, numbered(9_000)), 16)), 2},
		{"UDP", offload(1, 5, 1200, 34, 6), partial(udp(numbered(20_000)), 6), 1},
		{"UDP of tiny datagrams", offload(1, 5, 2, 34, 6), partial(udp(numbered(9)), 6), 1},
		{"UDP of a hundred datagrams", offload(1, 5, 100, 34, 6), partial(udp(numbered(10_000)), 6), 2},
	} {
		cut := pieces(t, tt.header, tt.frame)
		frames := join(cut)
		if len(frames) != tt.frames {
			t.Errorf("%s: %d packets became %d frames, want %d", tt.name, len(cut), len(frames), tt.frames)
		}
		same(t, frames, cut)
		p := decode(t, tt.frame)
		h := bytes.Clone(tt.header)
		packet.Sanitize(h, &p)
		if tt.frames == 1 && !bytes.Equal(frames[0], append(h, tt.frame...)) {
			t.Errorf("%s: the joined frame differs from the frame that was cut", tt.name)
		}
	}
}

// header returns a change of bits in the IP header, whose checksum stays right.
func header(at int, bits byte) func(*piece) {
	return func(p *piece) {
		p.frame[at] ^= bits
		p.frame[24], p.frame[25] = 0, 0
		binary.BigEndian.PutUint16(p.frame[24:], ^ones(p.frame[14:34]))
	}
}

func TestMalformedPacketsAreNotJoined(t *testing.T) {
	tcpPieces := pieces(t, offload(1, 1, 1000, 34, 16), partial(tcp(packet.ACK, numbered(3_000)), 16))
	for name, change := range map[string]func(*piece){"IP length": header(17, 1), "IP version": header(14, 0x20), "a fragment": header(21, 1)} {
		malformed := piece{bytes.Clone(tcpPieces[1].frame), tcpPieces[1].marks}
		change(&malformed)
		if frames := join([]piece{tcpPieces[0], malformed}); len(frames) != 2 {
			t.Errorf("a packet with another %s was joined", name)
		}
		if frames := join([]piece{malformed, tcpPieces[1]}); len(frames) != 2 {
			t.Errorf("a packet was joined to one with another %s", name)
		}
	}
}

// In each case one field of the second packet has changed, and joining would lose the
// change.
func TestPacketsOfDifferentHeadersAreNotJoined(t *testing.T) {
	udpPieces := pieces(t, offload(1, 5, 1000, 34, 6), partial(udp(numbered(3_000)), 6))
	tcpPieces := pieces(t, offload(1, 1, 1000, 34, 16), partial(tcp(packet.ACK, numbered(3_000)), 16))
	tests := []struct {
		name   string
		train  []piece
		change func(*piece)
	}{
		{"destination MAC", tcpPieces, func(p *piece) { p.frame[5]++ }},
		{"source MAC", tcpPieces, func(p *piece) { p.frame[11]++ }},
		{"type of service", tcpPieces, header(15, 4)},
		{"congestion experienced", tcpPieces, header(15, 3)},
		{"identification", tcpPieces, header(19, 8)},
		{"do not fragment", tcpPieces, header(20, 0x40)},
		{"time to live", tcpPieces, header(22, 1)},
		{"source address", tcpPieces, header(29, 1)},
		{"destination address", tcpPieces, header(33, 1)},
		{"IP checksum", tcpPieces, func(p *piece) { p.frame[25]++ }},
		{"source port", tcpPieces, func(p *piece) { p.frame[35]++ }},
		{"destination port", tcpPieces, func(p *piece) { p.frame[37]++ }},
		{"sequence before the end: overlap", tcpPieces, func(p *piece) { p.frame[41]-- }},
		{"sequence behind the end: gap", tcpPieces, func(p *piece) { p.frame[41]++ }},
		{"acknowledgement", tcpPieces, func(p *piece) { p.frame[45]++ }},
		{"reserved bits", tcpPieces, func(p *piece) { p.frame[46] ^= 1 }},
		{"RST", tcpPieces, func(p *piece) { p.frame[47] = packet.RST | packet.ACK }},
		{"SYN", tcpPieces, func(p *piece) { p.frame[47] = packet.SYN | packet.ACK }},
		{"URG", tcpPieces, func(p *piece) { p.frame[47] |= packet.URG }},
		{"ECE", tcpPieces, func(p *piece) { p.frame[47] |= 0x40 }},
		{"CWR", tcpPieces, func(p *piece) { p.frame[47] |= 0x80 }},
		{"window", tcpPieces, func(p *piece) { p.frame[49]++ }},
		{"urgent pointer", tcpPieces, func(p *piece) { p.frame[53]++ }},
		{"options", tcpPieces, func(p *piece) { p.frame = options(p.frame[:len(p.frame)-4], 1, 1, 1, 1) }},
		{"a checksum of its own", tcpPieces, func(p *piece) { p.frame, p.marks = finished(t, *p), 0 }},
		{"longer than the first", tcpPieces, func(p *piece) { p.frame = packettest.Build(tcp(packet.ACK, numbered(1_001))) }},
		{"nothing in it", tcpPieces, func(p *piece) { p.frame = packettest.Build(tcp(packet.ACK, "")) }},
		{"another protocol", tcpPieces, func(p *piece) { p.frame = packettest.Build(udp(numbered(900))) }},
		{"UDP source port", udpPieces, func(p *piece) { p.frame[35]++ }},
		{"UDP longer than the first", udpPieces, func(p *piece) { p.frame = packettest.Build(udp(numbered(1_001))) }},
	}
	for _, tt := range tests {
		all := make([]piece, 2)
		for i := range all {
			all[i] = piece{bytes.Clone(tt.train[i].frame), tt.train[i].marks}
		}
		if frames := join(all); len(frames) != 1 {
			t.Fatalf("%s: the unchanged packets became %d frames, want 1", tt.name, len(frames))
		}
		// If the first packet has it, the train must still stand for what was sent.
		first := piece{bytes.Clone(tt.train[0].frame), tt.train[0].marks}
		tt.change(&first)
		if frames := join([]piece{first, all[1]}); len(frames) == 1 {
			same(t, frames, []piece{first, all[1]})
		}
		tt.change(&all[1])
		frames := join(all)
		if len(frames) != 2 {
			t.Errorf("packets that differ in %s were joined, want 2 frames", tt.name)
			continue
		}
		same(t, frames, all)
	}
	// Datagrams are joined only if the sender had them in one frame.
	for _, p := range udpPieces {
		p.marks &^= packet.Followed
	}
	separate := []piece{{udpPieces[0].frame, packet.Unfinished}, udpPieces[1]}
	if frames := join(separate); len(frames) != 2 {
		t.Error("datagrams that were sent one by one became one frame, want 2")
	}
}

// Malformed frames, and packets whose checksum is finished, stay as they are, so that
// Decode and Sanitize judge them.
func TestTrainPassesUnjoinablePacketsUnchanged(t *testing.T) {
	for _, frame := range [][]byte{
		nil, {1, 2, 3}, packettest.Build(echo()), packettest.ARP(1, ec2.MAC{2}, client, server),
		fragment(udp(""), 0, true, 64), withOptions(7, 4, 4, 0), append(packettest.Build(udp("x")), 0, 0),
	} {
		for _, marks := range []packet.Marks{0, packet.Unfinished, packet.Unfinished | packet.Followed} {
			frames := join([]piece{{frame, marks}, {frame, marks}})
			if len(frames) != 2 || !bytes.Equal(frames[0][packet.OffloadLen:], frame) && marks == 0 || (frames[0][0] != 0) != (marks != 0) {
				t.Errorf("marks %d: % x became % x, want two unchanged frames", marks, frame, frames)
			}
		}
	}
}

// scramble returns the packets of several frames, of which some are lost, repeated,
// reordered or changed.
func scramble(t testing.TB, seed uint64) (all []piece) {
	r := rand.New(rand.NewPCG(seed, 2))
	for range 1 + r.IntN(4) {
		payload := numbered(1 + r.IntN(12_000))
		size := 48 + r.IntN(1400)
		if r.IntN(2) == 0 {
			frame := partial(tcp([]uint8{packet.ACK, packet.ACK, packet.ACK | packet.PSH, packet.ACK | packet.FIN}[r.IntN(4)], payload), 16)
			if r.IntN(5) == 0 {
				frame = reduced(frame)
			}
			all = append(all, pieces(t, offload(1, 1, uint16(size), 34, 16), frame)...)
		} else {
			all = append(all, pieces(t, offload(1, 5, uint16(max(size, len(payload)/100)), 34, 6), partial(udp(payload), 6))...)
		}
	}
	for range r.IntN(6) {
		i, j := r.IntN(len(all)), r.IntN(len(all))
		switch r.IntN(4) {
		case 0:
			all = append(all[:i:i], all[i+1:]...)
		case 1:
			all = append(all[:i:i], append([]piece{all[j]}, all[i:]...)...)
		case 2:
			all[i], all[j] = all[j], all[i]
		case 3:
			frame := bytes.Clone(all[i].frame)
			frame[[]int{0, 15, 19, 22, 29, 35, 41, 45, 48}[r.IntN(9)]] ^= 1 << r.IntN(8)
			frame[24], frame[25] = 0, 0
			binary.BigEndian.PutUint16(frame[24:], ^ones(frame[14:34]))
			all[i].frame = frame
		}
		if len(all) == 0 {
			return pieces(t, offload(1, 0, 0, 34, 6), partial(udp("x"), 6))
		}
	}
	return all
}

// The test joins scrambled streams, and compares the packets of the joined frames with the
// packets that were passed in, in order.
func TestJoinedFramesSegmentToThePacketsSent(t *testing.T) {
	sent, came := 0, 0
	for seed := range uint64(400) {
		all := scramble(t, seed)
		frames := join(all)
		same(t, frames, all)
		sent, came = sent+len(all), came+len(frames)
	}
	if came > sent/3 {
		t.Errorf("%d packets became %d frames, want at most a third", sent, came)
	}
}

// For any bytes that a hostile node sends, a joined frame stands for the packets that were
// received, and no frame is too long.
func FuzzTrain(f *testing.F) {
	cut := pieces(f, offload(1, 1, 100, 34, 16), partial(tcp(packet.ACK, numbered(300)), 16))
	f.Add(cut[0].frame, cut[1].frame, byte(1))
	datagrams := pieces(f, offload(1, 5, 100, 34, 6), partial(udp(numbered(300)), 6))
	f.Add(datagrams[0].frame, datagrams[1].frame, byte(3))
	f.Fuzz(func(t *testing.T, first, second []byte, marks byte) {
		if len(first) > 60_000 || len(second) > 60_000 {
			return
		}
		m := packet.Marks(marks & 3)
		frames := join([]piece{{first, m}, {second, m}})
		if len(frames) == 2 {
			if len(frames[0]) != packet.OffloadLen+len(first) || len(frames[1]) != packet.OffloadLen+len(second) {
				t.Errorf("packets of %d and %d bytes became frames of %d and %d bytes with virtio headers, want them unchanged", len(first), len(second), len(frames[0]), len(frames[1]))
			}
			return
		}
		var p packet.Packet
		if _, ok := packet.NewDecoder().Decode(bytes.Clone(frames[0][packet.OffloadLen:]), &p); ok {
			same(t, frames, []piece{{first, m}, {second, m}})
		}
	})
}
