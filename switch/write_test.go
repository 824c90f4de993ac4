package vswitch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

var errDevice = errors.New("the device fails")

// TestWrittenFramesAreCounted: at the port that they leave by, and not if the device fails.
func TestWrittenFramesAreCounted(t *testing.T) {
	b := newTestbed(t)
	pipe := b.tunnel(1500)
	b.rules("app", permit(ec2.UDP, 53, 60, "web"))
	web := addr("10.10.0.4")
	frames := map[string][]byte{
		"app":    b.of("web", template(17, web, addr("10.10.0.5"), 1, 53)),
		"uplink": b.of("web", template(17, web, laptop, 1, 53)),
		"tunnel": b.of("web", template(17, web, addr("10.10.0.7"), 1, 53)),
		"web":    packettest.ARP(1, macOf("web"), web, addr("10.0.0.1")),
	}
	for _, fails := range []error{nil, errDevice} {
		for _, d := range b.devices {
			d.fails = fails
		}
		pipe.fails = fails
		for port, frame := range frames {
			before := b.ports[port].Counters()
			at, v := b.send("web", bytes.Clone(frame))
			after := b.ports[port].Counters()
			frames, bytes := after.TxFrames-before.TxFrames, after.TxBytes-before.TxBytes
			wantV, wantFrames, wantBytes := verdict.Forward, uint64(1), uint64(len(frame))
			switch {
			case fails != nil:
				wantV, wantFrames, wantBytes = verdict.WriteFailed, 0, 0
			case port == "web":
				wantV = verdict.Answered
			}
			if v != wantV || frames != wantFrames || bytes != wantBytes {
				t.Errorf("a frame to %s, whose device fails with %v: %v at %s, %d frames of %d bytes counted; want %v, %d of %d", port, fails, v, at, frames, bytes, wantV, wantFrames, wantBytes)
			}
		}
	}
}

// TestFinishedFramesHaveAnEmptyVirtioHeader: for a device without offloads a checksum is computed in place,
// and a larger frame is cut. A failure of the device is the verdict of both.
func TestFinishedFramesHaveAnEmptyVirtioHeader(t *testing.T) {
	for _, size := range []int{100, 4000} {
		for _, fails := range []error{nil, errDevice} {
			b := newTestbed(t)
			b.rules("app", permit(ec2.TCP, 80, 80, "web"))
			b.ports["app"].offloads = packet.NoOffloads
			b.devices["app"].fails, b.devices["app"].all = fails, [][]byte{}
			f := template(packet.ProtocolTCP, addr("10.10.0.4"), addr("10.10.0.5"), 4000, 80)
			f.Payload = make([]byte, size)
			offload := make([]byte, offloadLen)
			offload[0] = 1
			if size > 1460 {
				offload[1] = 1
				binary.NativeEndian.PutUint16(offload[4:], 1460)
			}
			binary.NativeEndian.PutUint16(offload[6:], 34)
			binary.NativeEndian.PutUint16(offload[8:], 16)
			for i := range b.frame.scratch {
				b.frame.scratch[i] = 0xff
			}
			want, frames := verdict.Forward, (size+1459)/1460
			if fails != nil {
				want, frames = verdict.WriteFailed, 0
			}
			if at, v := b.sendOffload("web", offload, b.of("web", f)); at != "app" || v != want || len(b.devices["app"].all) != frames {
				t.Errorf("%d bytes to a device that fails with %v: %v at %s, %d frames written; want %v, %d", size, fails, v, at, len(b.devices["app"].all), want, frames)
			}
			left := size
			for _, out := range b.devices["app"].all {
				if n := min(left, 1460); !bytes.Equal(out[:offloadLen], make([]byte, offloadLen)) || len(out) != offloadLen+54+n {
					t.Errorf("a finished frame has virtio header % x and %d bytes, want an empty one and %d", out[:offloadLen], len(out)-offloadLen, 54+n)
				}
				left -= 1460
			}
		}
	}
}

// TestPacketIsCutForTheTunnel: into fragments that fit, each behind an empty virtio header and described as
// one packet. What fits is sent as it is.
func TestPacketIsCutForTheTunnel(t *testing.T) {
	b := newTestbed(t)
	pipe := b.tunnel(1000)
	web, far := addr("10.10.0.4"), addr("10.10.0.7")
	for size, want := range map[int][]int{972: {1014}, 973: {14 + 996, 14 + 25}, 1472: {14 + 996, 14 + 524}} {
		f := template(17, web, far, 1, 53)
		f.Payload = make([]byte, size)
		for i := range b.frame.cutting.piece {
			b.frame.cutting.piece[i] = 0xff
		}
		pipe.all = []sent{}
		before := b.ports["tunnel"].Counters()
		b.expect("web", b.of("web", f), "web", verdict.Forward)
		after := b.ports["tunnel"].Counters()
		sum := 0
		for i, out := range pipe.all {
			if i >= len(want) || out.p.Len != want[i] || out.p.Segments != 1 || len(out.b) != offloadLen+want[i] || !bytes.Equal(out.b[:offloadLen], make([]byte, offloadLen)) {
				t.Errorf("%d bytes of payload: frame %d is of %d bytes, described as %+v, behind % x; want the lengths %d", size, i, len(out.b)-offloadLen, out.p, out.b[:offloadLen], want)
			}
			sum += out.p.Len
		}
		if frames, bytes := after.TxFrames-before.TxFrames, after.TxBytes-before.TxBytes; len(pipe.all) != len(want) || int(frames) != len(want) || int(bytes) != sum {
			t.Errorf("%d bytes of payload were sent in %d frames, counted as %d of %d bytes; want %d of %d", size, len(pipe.all), frames, bytes, len(want), sum)
		}
		if origin := (packet.Origin{VNI: 1, Epoch: 1}); pipe.to != 2 || pipe.from != origin {
			t.Errorf("sent to node %d with origin %+v, want 2 and %+v", pipe.to, pipe.from, origin)
		}
		pipe.fails = errDevice
		b.expect("web", b.of("web", f), "web", verdict.WriteFailed)
		pipe.fails, pipe.down, pipe.tried = nil, true, 0
		if b.expect("web", b.of("web", f), "web", verdict.TunnelDown); pipe.tried != 1 {
			t.Errorf("%d frames were sent into a tunnel that is down, want 1", pipe.tried)
		}
		pipe.down = false
	}
}

// TestErrorAboutALargePacketIsAWriteToItsSender: it is counted if the device takes it, waits for its time at
// a slow port, and is charged to a port whose writes are timed. A trace sends none.
func TestErrorAboutALargePacketIsAWriteToItsSender(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b := newTestbed(t)
	b.rules("app", permit(ec2.UDP, 53, 53, "web"))
	port, device := b.ports["web"], b.devices["web"]
	large := template(17, addr("10.10.0.4"), addr("10.10.0.5"), 1, 53)
	large.DontFragment, large.Payload = true, make([]byte, 1501)
	far := monotonic() + time.Hour
	for name, tt := range map[string]struct {
		next  time.Duration
		burns time.Duration
		fails error
		sent  bool
	}{
		"usual":           {0, 0, nil, true},
		"slow":            {0, 2 * slowWrite, nil, true},
		"not due":         {far, 0, nil, false},
		"a broken device": {0, 0, errDevice, false},
	} {
		port.pace = pace{}
		port.pace.watch.Store(int64(far))
		port.pace.next.Store(int64(tt.next))
		device.before, device.fails, device.last = func() { burn(tt.burns) }, tt.fails, nil
		before := port.Counters()
		b.expect("web", b.of("web", large), "app", verdict.TooBig)
		after := port.Counters()
		wantFrames, wantBytes := uint64(0), uint64(0)
		if tt.sent {
			wantFrames, wantBytes = 1, uint64(len(device.last)-offloadLen)
		}
		if frames, bytes := after.TxFrames-before.TxFrames, after.TxBytes-before.TxBytes; frames != wantFrames || bytes != wantBytes || (device.last != nil) != tt.sent {
			t.Errorf("%s: %d errors of %d bytes are counted, want %d of %d", name, frames, bytes, wantFrames, wantBytes)
		}
		if tt.burns > 0 && port.pace.owed.Load() == 0 {
			t.Errorf("%s: the port is not charged", name)
		}
	}
	device.before, device.fails, port.pace = nil, nil, pace{}
	count := device.count
	e := b.sw.Edit(b.generation)
	e.AddEndpoint(1, &Endpoint{Epoch: 7, Address: addr("10.10.0.7"), MAC: macOf("far"), Node: 2})
	b.sw.Publish(e)
	remote := large
	remote.Flow.Dst, remote.Payload = addr("10.10.0.7"), make([]byte, 1400)
	b.expect("web", b.of("web", remote), "web", verdict.NoRoute) // there is no tunnel
	if at, v := b.sendOffload("web", bytes.Repeat([]byte{0xff}, offloadLen), b.of("web", remote)); v != verdict.BadOffload || device.count != count {
		t.Errorf("a frame with a forged virtio header: %v at %s, and %d errors about its size, want %v and 0", v, at, device.count-count, verdict.BadOffload)
	}
	if tr := b.sw.Trace(port, b.of("web", large)); tr.Verdict != verdict.TooBig || device.count != count {
		t.Errorf("the trace ends with %v and sends %d errors, want %v and 0", tr.Verdict, device.count-count, verdict.TooBig)
	}
}

// TestPublicAddressIsAnnounced: by a gratuitous ARP at the uplink. Without an uplink there is nobody to
// tell.
func TestPublicAddressIsAnnounced(t *testing.T) {
	b := newTestbed(t)
	device := b.devices["uplink"]
	if err := b.sw.Announce(addr("198.18.0.4")); err != nil {
		t.Fatal(err)
	}
	p := b.delivered("uplink")
	if p.EtherType != packet.EtherTypeARP || p.ARPSender != upMAC || p.ARPSenderIP != addr("198.18.0.4") || p.ARPTargetIP != addr("198.18.0.4") || p.SrcMAC != upMAC || !bytes.Equal(device.last[:offloadLen], make([]byte, offloadLen)) {
		t.Errorf("the announcement is %+v behind % x", p, device.last[:offloadLen])
	}
	device.fails = errDevice
	if err := b.sw.Announce(addr("198.18.0.4")); !errors.Is(err, errDevice) {
		t.Errorf("an announcement whose write fails: error %v, want %v", err, errDevice)
	}
	e := b.sw.Edit(b.generation)
	e.Uplink(nil)
	b.sw.Publish(e)
	if err := b.sw.Announce(addr("198.18.0.4")); err != nil || device.count != 1 {
		t.Errorf("without an uplink: error %v, %d announcements; want none, 1", err, device.count)
	}
}

// TestTraceTellsTheWayOfAPacket: the interfaces that it crosses, with its flow at each of them after NAT,
// the rules asked, and where it goes on at another node.
func TestTraceTellsTheWayOfAPacket(t *testing.T) {
	b := newTestbed(t)
	if _, ok := b.sw.TraceTunnel(packet.Origin{}, nil); ok {
		t.Error("without a tunnel a frame of another node is traced")
	}
	pipe := b.tunnel(1500)
	b.rules("app", permit(ec2.UDP, 80, 80, "198.18.0.4/32"))
	first := b.of("web", template(17, addr("10.10.0.4"), addr("198.18.0.5"), 1, 80))
	tr := b.sw.Trace(b.ports["web"], bytes.Clone(first))
	if tr.Verdict != verdict.Forward || tr.At != b.ports["app"] || tr.Onward != nil || tr.Flow.Src != addr("198.18.0.4") || tr.Flow.Dst != addr("10.10.0.5") || len(tr.Steps) != 2 {
		t.Fatalf("the trace of a packet to a neighbour's public address is %+v", tr)
	}
	out, in := tr.Steps[0], tr.Steps[1]
	if out.Endpoint != b.owners["web"] || out.Flow.Src != addr("10.10.0.4") || out.Flow.Dst != addr("198.18.0.5") || !out.Asked || out.Table != b.sets["web"].Egress || out.Key != 80 || out.Peer.Addr != addr("198.18.0.5") {
		t.Errorf("at its sender the packet is %+v", out)
	}
	if in.Endpoint != b.owners["app"] || in.Flow != tr.Flow || !in.Asked || in.Table != b.sets["app"].Ingress || in.Key != 80 || in.Peer.Addr != addr("198.18.0.4") {
		t.Errorf("at its receiver the packet is %+v", in)
	}
	b.frame.now = 0 // when the kernel started
	b.expect("web", bytes.Clone(first), "app", verdict.Forward)
	if tr = b.sw.Trace(b.ports["web"], bytes.Clone(first)); len(tr.Steps) != 2 || !tr.Steps[0].Asked {
		t.Errorf("of a connection that has timed out the trace is %+v, want the rules asked", tr.Steps)
	}
	b.frame.now = monotonic()
	b.expect("web", bytes.Clone(first), "app", verdict.Forward)
	if tr = b.sw.Trace(b.ports["web"], bytes.Clone(first)); len(tr.Steps) != 2 || tr.Steps[0].Asked || tr.Steps[0].Connection.Status == out.Connection.Status {
		t.Errorf("of a known connection the trace is %+v, want no rules asked", tr.Steps)
	}
	far := b.of("web", template(17, addr("10.10.0.4"), addr("10.10.0.7"), 1, 80))
	tr = b.sw.Trace(b.ports["web"], bytes.Clone(far))
	if o := tr.Onward; o == nil || o.Node != 2 || o.Origin != (packet.Origin{VNI: 1, Epoch: 1}) || !bytes.Equal(o.Frame, far) || tr.Verdict != verdict.Forward || tr.At != b.ports["web"] || pipe.sent != 0 {
		t.Errorf("the trace of a packet to another node is %+v, and %d frames were sent", tr, pipe.sent)
	}
	from := to("far", GatewayMAC, template(17, addr("10.10.0.7"), addr("10.10.0.5"), 1, 80))
	tr, ok := b.sw.TraceTunnel(packet.Origin{Node: 2, VNI: 1, Epoch: 7}, from)
	if !ok || tr.Verdict != verdict.NoRule || tr.At != b.ports["app"] || len(tr.Steps) != 1 {
		t.Errorf("the trace of a packet from another node is %+v", tr)
	}
	gone := packettest.ICMPError(3, 3, laptop, addr("198.18.0.4"), packettest.Build(template(17, addr("198.18.0.4"), laptop, 1, 2)), routerMAC, upMAC)
	if tr = b.sw.Trace(b.ports["uplink"], gone); len(tr.Steps) != 1 || tr.Steps[0].Verdict != verdict.NoConnection || tr.Steps[0].Asked || tr.Steps[0].Endpoint != b.owners["web"] {
		t.Errorf("the trace of an error about no connection is %+v", tr)
	}
}

// TestReportNamesWhatItLeavesOut: a text that is too long ends with the number of lines that follow.
func TestReportNamesWhatItLeavesOut(t *testing.T) {
	for lines, want := range map[int]string{0: "", 1: "1\n", 3: "1\n1\n1\n", 4: "1\n1\n1\nand 1 more lines\n", 9: "1\n1\n1\nand 6 more lines\n"} {
		if got := firstLines(strings.Repeat("1\n", lines), 3); got != want {
			t.Errorf("of %d lines the report has %q, want %q", lines, got, want)
		}
	}
}

// A counting device counts the frames that the kernel dropped.
type counting struct{ *sink }

func (counting) QueueDrops() (uint64, error) { return 7, errDevice }

// TestDropsOfTheKernelAreThoseOfTheDevice: a device that does not count them has none.
func TestDropsOfTheKernelAreThoseOfTheDevice(t *testing.T) {
	b := newTestbed(t)
	if n, err := b.ports["web"].QueueDrops(); n != 0 || err != nil {
		t.Errorf("%d frames are dropped, error %v; want 0", n, err)
	}
	b.ports["web"].end = counting{b.devices["web"]}
	if n, err := b.ports["web"].QueueDrops(); n != 7 || err != errDevice {
		t.Errorf("%d frames are dropped, error %v; want 7, %v", n, err, errDevice)
	}
}
