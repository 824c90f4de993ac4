package overlay

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// TestWindowAcceptsEachCounterOnce compares the window with a set, over counters that arrive in
// order, out of order, repeatedly, and after long gaps.
func TestWindowAcceptsEachCounterOnce(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		var w window
		taken, newest := map[uint64]bool{}, uint64(0)
		for range 20_000 {
			counter := newest + 1
			switch r.IntN(10) {
			case 0, 1, 2, 3:
				counter = newest - min(newest, r.Uint64N(3000))
			case 4:
				counter = newest + r.Uint64N(100)
			case 5:
				if r.IntN(50) == 0 {
					counter = newest + r.Uint64N(10_000)
				}
			}
			want := !taken[counter] && (counter > newest || newest-counter < windowSize)
			if got := w.take(counter); got != want {
				t.Fatalf("seed %d: counter %d, with %d as the newest: accepted %v, want %v", seed, counter, newest, got, want)
			}
			taken[counter] = true
			newest = max(newest, counter)
		}
	}
	if windowSize < 1024 {
		t.Errorf("the window has only %d counters, want at least 1024", windowSize)
	}
}

// ends returns the data paths of two nodes, numbers 1 and 2, with one association.
func ends(t testing.TB) (a, b *Device) {
	t.Helper()
	local := netip.MustParseAddrPort("127.0.0.1:0")
	keys := bytes.Repeat([]byte{1}, keyLen)
	other := bytes.Repeat([]byte{2}, keyLen)
	open := func() (*Device, *atomic.Pointer[table]) {
		p := new(atomic.Pointer[table])
		d, err := openDevice(Sealed, local, p)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		return d, p
	}
	a, at := open()
	b, bt := open()
	join := func(p *atomic.Pointer[table], to *Device, number uint32, sealKey, openKey []byte) {
		s, err := newAssociation(sealKey, openKey)
		if err != nil {
			t.Fatal(err)
		}
		s.node, s.address, s.to, s.index, s.remoteIndex = number, to.addr, newSockaddr(to.addr), 5, 5
		p.Store(&table{send: map[uint32]*association{number: s}, receive: map[uint32]*association{5: s}})
	}
	join(at, b, 2, keys, other)
	join(bt, a, 1, other, keys)
	return a, b
}

var from = packet.Origin{VNI: 0xabcdef, Epoch: 1<<63 + 5}

// one returns a frame that stands for one packet, as the switch passes it to Send.
func one(frame []byte) (*packet.Packet, []byte) {
	return &packet.Packet{Len: len(frame), Segments: 1}, append(make([]byte, packet.OffloadLen), frame...)
}

// receive returns what Receive returns. If a batch has ended, it reads the next one.
func receive(d *Device, b []byte) (int, packet.Origin, verdict.Verdict, error) {
	n, from, v, err := d.Receive(b)
	if err == unix.EAGAIN {
		return d.Receive(b)
	}
	return n, from, v, err
}

// sealed returns a datagram that the association seals with a frame from an interface.
func (s *association) sealed(queue int, from packet.Origin, frame []byte) []byte {
	q := new(sender)
	return q.out[:q.sealCopy(s, queue, 0, from, frame, 0)]
}

func TestFrameArrivesUnchanged(t *testing.T) {
	a, b := ends(t)
	buffer := make([]byte, 70_000)
	want := from
	want.Node = 1
	for _, length := range []int{0, 1, 60, 1420, 9000} {
		frame := bytes.Repeat([]byte{7}, length)
		p, whole := one(frame)
		if v, err := a.Send(3, 2, from, p, whole); v != verdict.Forward || err != nil {
			t.Fatalf("Send returned verdict %v, error %v", v, err)
		}
		buffer[0], buffer[9] = 1, 1 // as if left from an earlier frame
		n, origin, v, err := receive(b, buffer)
		if v != verdict.Forward || err != nil || origin != want || !bytes.Equal(buffer[packet.OffloadLen:n], frame) ||
			[packet.OffloadLen]byte(buffer) != [packet.OffloadLen]byte{} {
			t.Errorf("frame of %d bytes: Receive = %d bytes from %+v, verdict %v, error %v; want the frame unchanged, from %+v", length, n, origin, v, err, want)
		}
	}
	p, empty := one(nil)
	if v, _ := a.Send(3, 4, from, p, empty); v != verdict.TunnelDown {
		t.Errorf("Send to a node without an association: verdict %v, want %v", v, verdict.TunnelDown)
	}
	p, long := one(make([]byte, 1<<16))
	if _, err := a.Send(3, 2, from, p, long); err == nil {
		t.Error("Send accepted a frame longer than any datagram, want an error")
	}
}

// No nonce is used twice, neither by two queues nor after a queue's counter has reached its end.
func TestNoNonceIsUsedTwice(t *testing.T) {
	a, b := ends(t)
	buffer := make([]byte, 70_000)
	p, frame := one([]byte("frame"))
	for queue := range queues {
		if _, err := a.Send(queue, 2, from, p, frame); err != nil {
			t.Fatal(err)
		}
		if _, _, v, err := receive(b, buffer); v != verdict.Forward || err != nil {
			t.Fatalf("queue %d: Receive returned verdict %v, error %v", queue, v, err)
		}
		if got, want := binary.BigEndian.Uint64(a.queues[queue].nonce[4:]), uint64(queue)<<56|1; got != want {
			t.Errorf("queue %d: nonce %x, want %x", queue, got, want)
		}
	}
	a.table.Load().send[2].sent[0].counter.Store(1<<counterBits - 1)
	if _, err := a.Send(0, 2, from, p, frame); err == nil {
		t.Error("a datagram was sent after the last counter, want an error")
	}
}

func TestWireFormatDoesNotChange(t *testing.T) {
	b := make([]byte, headerLen+innerLen)
	putHeader(b, packet.Unfinished|packet.Followed, 0x01020304, 7<<counterBits|0x0a0b)
	putInner(b[headerLen:], packet.Origin{VNI: 0x123456, Epoch: 0x1122334455667788})
	want := "01030000 01020304 07000000 00000a0b 03406558 12345600 ff508102 11223344 55667788"
	got := ""
	for i := 0; i < len(b); i += 4 {
		got += fmt.Sprintf(" %x", b[i:i+4])
	}
	if got[1:] != want {
		t.Errorf("got  %s\nwant %s", got[1:], want)
	}
}

func option(class uint16, kind byte, body ...byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, class)
	return append(append(b, kind, byte(len(body)/4)), body...)
}

// TestInnerHeaderIsReadStrictly reads inner headers that a node of another version, or one that was
// taken over, may have sealed.
func TestInnerHeaderIsReadStrictly(t *testing.T) {
	source := option(optionClass, sourceOption, 0, 0, 0, 0, 0, 0, 0, 9)
	geneve := func(options ...[]byte) []byte {
		all := bytes.Join(options, nil)
		return append(append([]byte{byte(len(all) / 4), 0x40, 0x65, 0x58, 0, 0, 7, 0}, all...), "frame"...)
	}
	with := func(at int, value byte) []byte { b := geneve(source); b[at] = value; return b }
	tests := []struct {
		name string
		b    []byte
		ok   bool
	}{
		{"source", geneve(source), true},
		{"an option that may be skipped", geneve(option(optionClass, 5, 1, 2, 3, 4), source), true},
		{"another's option that may be skipped", geneve(source, option(0x0102, 1)), true},
		{"no source", geneve(), false},
		{"two sources", geneve(source, source), false},
		{"a source of another length", geneve(option(optionClass, sourceOption, 0, 0, 0, 9)), false},
		{"an unknown critical option", geneve(source, option(optionClass, critical|9)), false},
		{"a critical option of another class", geneve(source, option(0x0102, sourceOption, 0, 0, 0, 0, 0, 0, 0, 9)), false},
		{"an option longer than the header", with(11, 31), false},
		{"options longer than the datagram", with(0, 63), false},
		{"another version of Geneve", with(0, 0x43), false},
		{"a control message", with(1, 0xc0), false},
		{"no Ethernet", with(2, 8), false},
		{"nothing", nil, false},
		{"a part of a header", []byte{0, 0x40, 0x65}, false},
	}
	for _, tt := range tests {
		var o packet.Origin
		frame, ok := readInner(tt.b, &o)
		if ok != tt.ok {
			t.Errorf("inner header with %s: accepted %v, want %v", tt.name, ok, tt.ok)
		}
		if ok && (string(frame) != "frame" || o != packet.Origin{VNI: 7, Epoch: 9}) {
			t.Errorf("inner header with %s: frame %q from %+v, want \"frame\" from VNI 7, epoch 9", tt.name, frame, o)
		}
	}
}

// FuzzOpen passes any bytes to the receiver, as a datagram and as sealed content. They give a frame
// that was sealed, or a verdict that drops.
func FuzzOpen(f *testing.F) {
	keys := bytes.Repeat([]byte{1}, keyLen)
	s, err := newAssociation(keys, keys)
	if err != nil {
		f.Fatal(err)
	}
	s.remoteIndex = 5
	f.Add(s.sealed(2, from, []byte("frame")))
	f.Add([]byte{3, 0x40, 0x65, 0x58, 0, 0, 7, 0, 0xff, 0x50, 0x81, 2, 0, 0, 0, 0, 0, 0, 0, 9, 1, 2, 3})
	f.Add([]byte{})
	local := netip.MustParseAddrPort("127.0.0.1:0")
	d := &Device{table: new(atomic.Pointer[table])}
	buffer := make([]byte, 70_000)
	f.Fuzz(func(t *testing.T, b []byte) {
		b = b[:min(len(b), 60_000)]
		var o packet.Origin
		if frame, ok := readInner(b, &o); ok && (len(frame) > len(b)-innerLen || o.VNI >= 1<<24 || o.Node != 0) {
			t.Errorf("sealed content % x gives an impossible frame of %d bytes from %+v", b, len(frame), o)
		}
		fresh, err := newAssociation(keys, keys)
		if err != nil {
			t.Fatal(err)
		}
		fresh.node, fresh.address, fresh.index = 9, local, 5
		d.table.Store(&table{receive: map[uint32]*association{5: fresh}})
		n, o, _, v := d.openDatagram(bytes.Clone(b), local, buffer)
		switch {
		case v == verdict.Forward && (o.Node != 9 || n < packet.OffloadLen || n > packet.OffloadLen+len(b)-headerLen-innerLen-tagLen):
			t.Errorf("datagram % x gives an impossible frame of %d bytes from %+v", b, n, o)
		case v == verdict.Unset:
			t.Errorf("datagram % x gets no verdict", b)
		}
	})
}

func TestNoAllocs(t *testing.T) {
	a, b := ends(t)
	buffer := make([]byte, 70_000)
	p, frame := one(make([]byte, 1420))
	round := func() {
		if v, err := a.Send(3, 2, from, p, frame); v != verdict.Forward || err != nil {
			t.Fatalf("Send returned verdict %v, error %v", v, err)
		}
		if _, _, v, err := receive(b, buffer); v != verdict.Forward || err != nil {
			t.Fatalf("Receive returned verdict %v, error %v", v, err)
		}
	}
	if n := testing.AllocsPerRun(500, round); n != 0 {
		t.Errorf("%v allocations for each datagram sent and received, want 0", n)
	}
	s := a.table.Load().send[2]
	hostile := func(change func(b []byte)) func() {
		datagram := s.sealed(4, from, frame)
		change(datagram)
		return func() {
			if err := a.sendTo(datagram, &s.to); err != nil {
				t.Fatal(err)
			}
			if _, _, v, err := receive(b, buffer); !v.Drops() || err != nil {
				t.Fatalf("Receive returned verdict %v, error %v, want a drop", v, err)
			}
		}
	}
	for name, change := range map[string]func([]byte){
		"forged":  func(b []byte) { b[100]++ },
		"unknown": func(b []byte) { b[4]++ },
	} {
		if n := testing.AllocsPerRun(500, hostile(change)); n != 0 {
			t.Errorf("%s datagram: %v allocations, want 0", name, n)
		}
	}
}

// BenchmarkTunnel measures the cost of one frame between two nodes: for sealing and opening alone,
// and with the kernel's loopback.
func BenchmarkTunnel(b *testing.B) {
	for _, size := range []int{60, 1420} {
		p, whole := one(make([]byte, size))
		frame := whole[packet.OffloadLen:]
		b.Run(fmt.Sprintf("seal/%d", size), func(b *testing.B) {
			near, _ := ends(b)
			s := near.table.Load().send[2]
			b.SetBytes(int64(size))
			for b.Loop() {
				near.queues[0].sealCopy(s, 0, 0, from, frame, 0)
			}
		})
		b.Run(fmt.Sprintf("open/%d", size), func(b *testing.B) {
			near, far := ends(b)
			datagram := near.table.Load().send[2].sealed(0, from, frame)
			opened := make([]byte, len(datagram))
			s := far.table.Load().receive[5]
			buffer := make([]byte, 70_000)
			b.SetBytes(int64(size))
			for b.Loop() {
				s.seen[0] = window{}
				copy(opened, datagram)
				if _, _, _, v := far.openDatagram(opened, near.addr, buffer); v != verdict.Forward {
					b.Fatalf("openDatagram returned verdict %v, want %v", v, verdict.Forward)
				}
			}
		})
		b.Run(fmt.Sprintf("loopback/%d", size), func(b *testing.B) {
			near, far := ends(b)
			buffer := make([]byte, 70_000)
			b.SetBytes(int64(size))
			for b.Loop() {
				if _, err := near.Send(0, 2, from, p, whole); err != nil {
					b.Fatal(err)
				}
				if _, _, v, err := receive(far, buffer); v != verdict.Forward || err != nil {
					b.Fatalf("Receive returned verdict %v, error %v", v, err)
				}
			}
		})
	}
}
