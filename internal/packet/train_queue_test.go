package packet_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"palisade/internal/packet"
)

// datagrams returns UDP frames of one flow with virtio headers, as a device returns them, with
// the don't-fragment flag and payloads of the given sizes.
func datagrams(sizes ...int) (all [][]byte) {
	for _, size := range sizes {
		frame := partial(udp(numbered(size)), 6)
		renumber(frame, func() { frame[20] |= 0x40 })
		all = append(all, append(offload(1, 0, 0, 34, 6), frame...))
	}
	return all
}

// renumber changes an IP header and corrects its checksum.
func renumber(frame []byte, change func()) {
	change()
	frame[24], frame[25] = 0, 0
	binary.BigEndian.PutUint16(frame[24:], ^ones(frame[14:34]))
}

// follow passes frames through a Train as a poller does with the frames of a device, and
// returns the joined frames.
func follow(all [][]byte) (frames [][]byte) {
	var train packet.Train
	for i := 0; i < len(all); {
		b := make([]byte, 70_000)
		n := copy(b, all[i])
		i++
		if train.Lead(b, n) {
			for i < len(all) && train.Follow(bytes.Clone(all[i])) {
				i++
			}
			n = train.Finish()
		}
		frames = append(frames, b[:n])
	}
	return frames
}

// finishAll gives datagrams complete checksums and empty virtio headers.
func finishAll(t testing.TB, all [][]byte) {
	for _, b := range all {
		frame := b[packet.OffloadLen:]
		copy(frame, finished(t, piece{frame, packet.Unfinished}))
		clear(b[:packet.OffloadLen])
	}
}

// packetsIn returns the number of packets that each frame stands for.
func packetsIn(frames [][]byte) (counts []int) {
	for _, b := range frames {
		var p packet.Packet
		if _, ok := packet.NewDecoder().Decode(bytes.Clone(b[packet.OffloadLen:]), &p); ok {
			packet.Sanitize(bytes.Clone(b), &p)
		}
		counts = append(counts, max(1, int(p.Segments)))
	}
	return counts
}

// Consecutive datagrams of one flow are joined, up to and with the first shorter one. The
// joined frame stands for the same packets, except that it does not keep their
// identification.
func TestQueuedDatagramsOfOneFlowAreJoined(t *testing.T) {
	finish := func(all [][]byte) { finishAll(t, all) }
	many := make([]int, 100)
	for i := range many {
		many[i] = 22
	}
	for _, tt := range []struct {
		name   string
		frames [][]byte
		change func([][]byte)
		want   []int // number of packets in each resulting frame
	}{
		{"one", datagrams(22), nil, []int{1}},
		{"five", datagrams(22, 22, 22, 22, 22), nil, []int{5}},
		{"five with finished checksums", datagrams(22, 22, 22, 22, 22), finish, []int{5}},
		{"more than one frame may hold", datagrams(many...), nil, []int{64, 36}},
		{"as long as a frame can be", datagrams(30_000, 30_000, 30_000), nil, []int{2, 1}},
		{"the last is shorter", datagrams(30, 30, 29, 30, 30), nil, []int{3, 2}},
		{"the next ones are longer", datagrams(30, 31, 31), nil, []int{1, 2}},
		{"empty payloads", datagrams(0, 0), nil, []int{1, 1}},
		{"other identifications", datagrams(22, 22), func(all [][]byte) { f := all[1][10:]; renumber(f, func() { f[18] ^= 0x55 }) }, []int{2}},
		{"may be fragmented", datagrams(22, 22), func(all [][]byte) {
			for _, b := range all {
				renumber(b[10:], func() { b[10+20] = 0 })
			}
		}, []int{1, 1}},
		{"another source port", datagrams(22, 22, 22), func(all [][]byte) { all[1][10+35]++ }, []int{1, 1, 1}},
		{"another time to live", datagrams(22, 22), func(all [][]byte) { renumber(all[1][10:], func() { all[1][10+22]-- }) }, []int{1, 1}},
		{"a wrong IP checksum", datagrams(22, 22), func(all [][]byte) { all[1][10+25]++ }, []int{1, 1}},
		{"a wrong checksum, in the first", datagrams(22, 22), func(all [][]byte) { finish(all); all[0][10+41]++ }, []int{1, 1}},
		{"a wrong checksum, in the second", datagrams(22, 22, 22), func(all [][]byte) { finish(all); all[1][10+41]++ }, []int{1, 1, 1}},
		{"no checksum", datagrams(22, 22), func(all [][]byte) {
			for _, b := range all {
				clear(b[:10])
				b[10+40], b[10+41] = 0, 0
			}
		}, []int{1, 1}},
		{"a wrong IP checksum, in the first", datagrams(22, 22), func(all [][]byte) { all[0][10+25]++ }, []int{1, 1}},
		{"another UDP length, in the first", datagrams(22, 22), func(all [][]byte) { all[0][10+39]-- }, []int{1, 1}},
		{"another checksum start", datagrams(22, 22), func(all [][]byte) { all[1][6]++ }, []int{1, 1}},
		{"another checksum start, in the first", datagrams(22, 22), func(all [][]byte) { all[0][6]++ }, []int{1, 1}},
		{"already several datagrams, in the first", datagrams(22, 22), func(all [][]byte) { all[0][1], all[0][4] = 5, 22 }, []int{1, 1}},
		{"another checksum offset", datagrams(22, 22), func(all [][]byte) { all[1][8] = 4 }, []int{1, 1}},
		{"already several datagrams", datagrams(22, 22), func(all [][]byte) { all[1][1], all[1][4] = 5, 22 }, []int{1, 1}},
		{"padded", datagrams(22, 22), func(all [][]byte) { all[1] = append(all[1], 0) }, []int{1, 1}},
		{"a runt", datagrams(22, 22), func(all [][]byte) { all[1] = all[1][:30] }, []int{1, 1}},
		{"an empty frame", datagrams(22, 22), func(all [][]byte) { all[0] = all[0][:10] }, []int{1, 1}},
		{"TCP", [][]byte{append(offload(1, 0, 0, 34, 16), partial(tcp(packet.ACK, numbered(500)), 16)...), datagrams(22)[0]}, nil, []int{1, 1}},
	} {
		if tt.change != nil {
			tt.change(tt.frames)
		}
		frames := follow(tt.frames)
		if got := packetsIn(frames); !slices.Equal(got, tt.want) {
			t.Errorf("%s: the frames stand for %v packets, want %v", tt.name, got, tt.want)
			continue
		}
		at := 0
		for i, n := range tt.want {
			checkQueued(t, tt.name, frames[i], tt.frames[at:at+n])
			at += n
		}
	}
}

// checkQueued checks that a frame of one packet is unchanged, and that a joined frame
// stands for the packets in sent.
func checkQueued(t *testing.T, name string, frame []byte, sent [][]byte) {
	t.Helper()
	if len(sent) == 1 {
		if !bytes.Equal(frame, sent[0]) {
			t.Errorf("%s: a frame that was not joined has changed", name)
		}
		return
	}
	for i, out := range segments(t, [][]byte{frame}) {
		want := sent[i][packet.OffloadLen:]
		if sent[i][0] != 0 {
			want = finished(t, piece{want, packet.Unfinished})
		}
		renumber(out, func() { copy(out[18:20], want[18:20]) })
		if !bytes.Equal(out, want) {
			t.Errorf("%s: packet %d of the joined frame\ngot  % x\nwant % x", name, i, out, want)
		}
	}
}
