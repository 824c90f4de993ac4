package overlay

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"

	"palisade/ec2"
	"palisade/firewall"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

// A datagram with an unknown header is dropped, whether or not its seal is right.
func TestHeaderIsReadStrictly(t *testing.T) {
	sound := make([]byte, headerLen+innerLen+tagLen)
	putHeader(sound, knownMarks, 5, 63<<counterBits|9)
	if h, ok := readHeader(sound); !ok || h != (header{marks: knownMarks, index: 5, queue: 63, counter: 9}) {
		t.Fatalf("a correct header: readHeader = %+v, %v, want it accepted with all its fields", h, ok)
	}
	for name, change := range map[string]func(b []byte) []byte{
		"version 0":         func(b []byte) []byte { b[0] = 0; return b },
		"version 2":         func(b []byte) []byte { b[0] = 2; return b },
		"another mark":      func(b []byte) []byte { b[1] |= 4; return b },
		"all marks":         func(b []byte) []byte { b[1] = 0xff; return b },
		"a reserved byte":   func(b []byte) []byte { b[2] = 1; return b },
		"the other one":     func(b []byte) []byte { b[3] = 0x80; return b },
		"queue 64":          func(b []byte) []byte { b[8] = 64; return b },
		"queue 255":         func(b []byte) []byte { b[8] = 255; return b },
		"one byte too few":  func(b []byte) []byte { return b[:len(b)-1] },
		"the header alone":  func(b []byte) []byte { return b[:headerLen] },
		"half of it":        func(b []byte) []byte { return b[:8] },
		"nothing":           func(b []byte) []byte { return nil },
		"a frame in clear":  func([]byte) []byte { return packettest.Build(of("web", 6, "10.10.0.4", "10.10.0.5", 1, 22)) },
		"a datagram of DNS": func([]byte) []byte { return append([]byte{0, 7, 1, 0, 0, 1}, make([]byte, 60)...) },
	} {
		if h, ok := readHeader(change(bytes.Clone(sound))); ok {
			t.Errorf("header with %s is accepted as %+v, want it refused", name, h)
		}
	}
}

// Two associations have the same address, as of two nodes behind one NAT, and the kernel returns
// their datagrams together. A datagram of one association is never joined to a packet of the other.
func TestTrainJoinsDatagramsOfOneNodeOnly(t *testing.T) {
	a, b := ends(t)
	first := a.table.Load().send[2]
	keys := bytes.Repeat([]byte{7}, keyLen)
	second, err := newAssociation(keys, keys)
	if err != nil {
		t.Fatal(err)
	}
	second.remoteIndex = 6
	there, err := newAssociation(keys, keys)
	if err != nil {
		t.Fatal(err)
	}
	there.node, there.address, there.index = 3, a.addr, 6
	known := b.table.Load()
	b.table.Store(&table{send: known.send, receive: map[uint32]*association{5: known.receive[5], 6: there}})

	p, whole := offloaded(t, packet.ProtocolTCP, 2_000, 1000)
	q := new(sender)
	q.cutter.Begin(whole, whole[packet.OffloadLen:], p)
	var both []byte
	size := 0
	for _, s := range []*association{first, second} {
		start, end, _ := q.cutter.Next()
		n := q.sealCopy(s, 3, 0, from, whole[packet.OffloadLen:][start:end], packet.Unfinished)
		both, size = append(both, q.out[:n]...), n
	}
	if err := a.sendTrain(&a.queues[3].message, both, size, &first.to); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 70_000)
	for _, node := range []uint32{1, 3} {
		n, origin, v, err := receive(b, buffer)
		if err != nil || v != verdict.Forward || origin.Node != node || n != packet.OffloadLen+54+1000 {
			t.Errorf("Receive = %d bytes from node %d, verdict %v, error %v; want one packet of node %d", n, origin.Node, v, err, node)
		}
	}
}

// A node may put more options before a frame than this version does. The payload of the frame then
// does not land at the end of the train, and is not joined.
func TestExtraOptionsDoNotDisplaceFrames(t *testing.T) {
	a, b := ends(t)
	s := a.table.Load().send[2]
	p, whole := offloaded(t, packet.ProtocolTCP, 1_500, 1000)
	want := packets(t, whole)
	q := new(sender)
	q.cutter.Begin(whole, whole[packet.OffloadLen:], p)
	for i := range want {
		start, end, _ := q.cutter.Next()
		more := bytes.Repeat(option(0x0102, 1, 1, 2, 3, 4), i%2) // before every second frame
		inner := make([]byte, innerLen)
		putInner(inner, from)
		inner[0] += byte(len(more) / 4)
		inner = append(append(inner, more...), whole[packet.OffloadLen:][start:end]...)
		datagram := make([]byte, headerLen+len(inner)+tagLen)
		copy(datagram[headerLen:], inner)
		if err := a.sendTo(s.sealPacket(datagram, datagram[headerLen:headerLen+len(inner)], &q.nonce, 3, packet.Unfinished), &s.to); err != nil {
			t.Fatal(err)
		}
	}
	buffer := make([]byte, 70_000)
	var got [][]byte
	for len(got) < len(want) {
		n, _, v, err := receive(b, buffer)
		if err != nil || v != verdict.Forward {
			t.Fatalf("Receive after %d packets: verdict %v, error %v", len(got), v, err)
		}
		got = append(got, packets(t, buffer[:n])...)
	}
	if !equal(got, want) {
		t.Error("other packets arrived than were sealed")
	}
}

// A node that ignores DF sends datagrams that continue each other beyond the longest frame.
func TestTrainNeverExceedsTheBuffer(t *testing.T) {
	a, b := ends(t)
	s := a.table.Load().send[2]
	f := of("web", packet.ProtocolTCP, "10.10.0.4", "10.10.0.5", 1, 8000)
	f.TCPFlags, f.Payload, f.DontFragment = packet.ACK, make([]byte, 8000), true
	q := new(sender)
	buffer := make([]byte, packet.OffloadLen+1<<16)
	sent, received := 0, 0
	for range 20 {
		frame := packettest.Build(f)
		binary.BigEndian.PutUint32(frame[38:], uint32(8000*sent))
		sum := binary.BigEndian.Uint16(frame[24:])
		binary.BigEndian.PutUint16(frame[18:], uint16(sent))
		binary.BigEndian.PutUint16(frame[24:], sum-uint16(sent))
		n := q.sealCopy(s, 3, 0, from, frame, packet.Unfinished)
		if err := a.sendTo(q.out[:n], &s.to); err != nil {
			t.Fatal(err)
		}
		sent++
	}
	for frames := 0; received < sent*8000; frames++ {
		n, _, v, err := receive(b, buffer)
		if err != nil || v != verdict.Forward || n > packet.OffloadLen+14+65535 || frames > sent {
			t.Fatalf("frame %d: %d bytes, verdict %v, error %v, after %d of %d payload bytes; want frames of at most 65535 bytes of IP", frames, n, v, err, received, sent*8000)
		}
		received += n - packet.OffloadLen - 54
	}
}

// If a node exchanges keys faster than old associations retire, only its newest associations are
// kept.
func TestNumberOfAssociationsIsBounded(t *testing.T) {
	o := &Overlay{peers: map[string]*remotePeer{}}
	o.table.Store(&table{})
	f := &remotePeer{Remote: Remote{Number: 2, Node: "node2", Address: netip.MustParseAddrPort("127.0.0.1:9")}}
	o.peers["node2"] = f
	keys := bytes.Repeat([]byte{1}, keyLen)
	for range 100 {
		s, err := newAssociation(keys, keys)
		if err != nil {
			t.Fatal(err)
		}
		if err := o.startReceiving(f, s); err != nil {
			t.Fatal(err)
		}
		if err := o.startSending(f, s, nil); err != nil {
			t.Fatal(err)
		}
	}
	if n, known := len(f.associations), len(o.table.Load().receive); n > maxAssociations || known != n || f.associations[n-1] != f.current {
		t.Errorf("%d associations are kept and %d are in the table; want the same number in both, at most %d, the newest among them", n, known, maxAssociations)
	}
}

// A node that is fenced, or replaced under the same name, while keys are exchanged can neither send
// nor receive.
func TestPeerChangedDuringExchangeGetsNoAssociation(t *testing.T) {
	remote := Remote{Number: 2, Node: "node2", Address: netip.MustParseAddrPort("127.0.0.1:9"), PublicKey: []byte("one")}
	other := remote
	other.PublicKey = []byte("another")
	for name, now := range map[string][]Remote{"fenced": nil, "another": {other}} {
		for _, step := range []string{"before its index is sent", "after it"} {
			o := &Overlay{config: Config{Node: "node1"}, peers: map[string]*remotePeer{}}
			o.table.Store(&table{})
			o.SetPeers([]Remote{remote})
			f := o.peers["node2"]
			keys := bytes.Repeat([]byte{1}, keyLen)
			s, err := newAssociation(keys, keys)
			if err != nil {
				t.Fatal(err)
			}
			if step == "after it" {
				if err := o.startReceiving(f, s); err != nil {
					t.Fatal(err)
				}
			}
			o.SetPeers(now)
			if step != "after it" {
				err = o.startReceiving(f, s)
			} else {
				err = o.startSending(f, s, nil)
			}
			if table := o.table.Load(); err == nil || len(table.receive)+len(table.send) != 0 {
				t.Errorf("peer %s %s: error %v, %d associations receive and %d send; want an error and 0 of each", name, step, err, len(table.receive), len(table.send))
			}
		}
	}
}

// A rule is revoked under load, for an instance of the same node and for one of another node. Once
// a node reports that it enforces the change, no packet of a new flow is delivered.
func TestRevokedRuleAdmitsNothingOnceEnforced(t *testing.T) {
	for _, from := range []string{"web", "lone"} { // to the app on the other node, and to the web on the same node
		t.Run(from, func(t *testing.T) {
			c := newCluster(t)
			n1, n2 := c.nodes[0], c.nodes[1]
			at, name, dst := n2, "app", "10.10.0.5"
			if from == "lone" {
				at, name, dst = n1, "web", "10.10.0.4"
			}
			src := map[string]string{"web": "10.10.0.4", "lone": "10.10.0.6"}[from]
			at.only(name, permit(9, 17, 53, 53, src+"/32"))
			port := at.ports[name]
			count := func(v verdict.Verdict) uint64 { return port.Counters().Verdicts[v] }

			var enforced atomic.Bool
			ended := make(chan int, 1)
			go func() {
				n := 0
				for after := 0; after < 2000; n++ {
					for count(verdict.Forward)+count(verdict.NoRule)+200 < uint64(n) { // never more frames than the socket's buffer holds
						runtime.Gosched()
					}
					f := of(from, packet.ProtocolUDP, src, dst, uint16(1024+n%60000), 53)
					if n1.devices[from].Send(packettest.Build(f)) != nil {
						break
					}
					if enforced.Load() {
						after++
					}
				}
				ended <- n
			}()
			eventually(t, "traffic", func() bool { at.devices[name].Take(); return count(verdict.Forward) > 1000 })

			a := *at.sw.Snapshot().Attachment(port)
			e := at.sw.Edit(3)
			a.Rules = noRules(t)
			e.Attach(port, vni, a)
			at.sw.Publish(e)
			for at.sw.Enforced() < 3 {
				runtime.Gosched()
			}
			passed := count(verdict.Forward)
			enforced.Store(true)
			sent := <-ended
			eventually(t, "fate of all", func() bool { return count(verdict.Forward)+count(verdict.NoRule) >= uint64(sent) })
			// Each of the first 60,000 frames has a flow of its own, and a further one would repeat
			// a flow.
			if now := count(verdict.Forward); now != passed || count(verdict.NoRule) < 1000 || sent > 60_000 {
				t.Errorf("of %d frames %d passed before the revocation was enforced and %d after it, want 0 after it; %d were refused, want at least 1000", sent, passed, now-passed, count(verdict.NoRule))
			}
		})
	}
}

// noRules returns the Set of an interface that admits nothing.
func noRules(t *testing.T) *firewall.Set {
	t.Helper()
	return firewall.NewCompiler().Acquire(groups{"none": {ID: "none", Name: "none"}}, []ec2.GroupID{"none"}, 3)
}
