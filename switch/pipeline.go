package vswitch

import (
	"net/netip"
	"time"

	"palisade/conntrack"
	"palisade/firewall"
	"palisade/internal/failpoint"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

const (
	offloadLen  = packet.OffloadLen
	ethernetLen = 14
)

// A frame is one frame on its way, and the scratch space of the poller that carries it.
type frame struct {
	sw       *Switch
	snapshot *Snapshot
	now      time.Duration
	decoder  *packet.Decoder
	memory   []byte // of a batch
	buffer   []byte // virtio header and frame: memory from where it is on
	batch    batch
	train    packet.Train
	scratch  []byte // one segment for devices without the offloads
	plain    *Port  // the device emitPlain writes to
	emit     func([]byte) error
	queue    int // the poller's number
	suspect  int // how many writes are still to be timed, to whatever port
	sending  sending

	in *Port
	// origin is what the tunnel said of a frame from another node.
	origin packet.Origin
	pkt    packet.Packet
	tuple  conntrack.Tuple // of pkt, once observe was asked
	dst    *Endpoint       // who has the destination, in the sender's network; nil: nobody
	from   firewall.Source // who the receiver's rules see
	// viaGateway: the receiver sees the gateway's MAC, not the sender's.
	viaGateway bool

	trace *Trace // a dry run: nothing is remembered or written
}

func newFrame(s *Switch) *frame {
	f := &frame{sw: s, decoder: packet.NewDecoder(), memory: make([]byte, aheadBytes+frameSize), scratch: make([]byte, 2*1024+frameSize/8)}
	f.buffer = f.memory
	f.emit = f.emitPlain
	f.sending.begin(f)
	return f
}

// receive handles one frame of n bytes, read from in, which the switch may have joined from
// f.batch.group packets. It runs on in's poller.
func (f *frame) receive(in *Port, n int) {
	failpoint.Reach()
	f.in, f.from, f.viaGateway = in, firewall.Source{}, false
	f.batch.current, f.pkt.Segments = n, 0
	at, v := f.forward(f.buffer[:n])
	if v != verdict.Forward {
		f.batch.vain += f.batch.group
	}
	// What was joined and then refused by Decode is still as many packets.
	at.count(v, max(f.pkt.Segments, uint32(f.batch.group)))
}

// forward is the life of a frame. It returns the frame's verdict and the port that the
// verdict concerns: where the frame came in, or, from deliver on, where it was to leave.
func (f *frame) forward(b []byte) (*Port, verdict.Verdict) {
	failpoint.Reach()
	if v, ok := f.decode(b); !ok {
		f.explainSize(v)
		return f.in, v
	}
	switch f.in.kind {
	case UplinkPort:
		return f.forwardInbound()
	case TunnelPort:
		return f.forwardTunnelled()
	}
	a := f.snapshot.attachment(f.in)
	if v, ok := f.ready(a); !ok {
		return f.in, v
	}
	if v, ok := f.checkSource(a); !ok {
		return f.in, v
	}
	if f.pkt.EtherType == packet.EtherTypeARP {
		return f.in, f.answerARP(a)
	}
	f.dst = a.Network.Find(f.pkt.Flow.Dst)
	if v := f.judge(a, conntrack.Out, f.peer()); v != verdict.Forward {
		return f.in, v
	}
	return f.route(a)
}

// decode reads the frame, and its virtio header anew. The MTU is that of the network it
// came from; a port that is not attached has none and passes nothing anyway.
func (f *frame) decode(b []byte) (verdict.Verdict, bool) {
	failpoint.Reach()
	if v, ok := f.decoder.Decode(b[min(offloadLen, len(b)):], &f.pkt); !ok {
		return v, false
	}
	return packet.Sanitize(b[:offloadLen], &f.pkt, f.mtu())
}

func (f *frame) mtu() int {
	failpoint.Reach()
	if f.in.kind == UplinkPort && f.snapshot.uplink != nil {
		return f.snapshot.uplink.MTU
	}
	if f.in.kind == TunnelPort {
		if n, ok := f.snapshot.networks[VNI(f.origin.VNI)]; ok {
			return n.MTU
		}
	}
	if a := f.snapshot.attachment(f.in); a != nil {
		return a.Network.MTU
	}
	return 65535
}

// ready fails closed: a port without an attachment passes nothing.
func (f *frame) ready(a *Attachment) (verdict.Verdict, bool) {
	if a == nil {
		return verdict.NotReady, false
	}
	return verdict.Unset, true
}

// peer is the far end of a packet that leaves an instance, as egress rules see it. What is
// handed to somebody else, who forwards, goes to no member, whoever it is for.
func (f *frame) peer() firewall.Source {
	peer := firewall.Source{Addr: f.pkt.Flow.Dst}
	if f.dst != nil && (f.pkt.DstMAC == GatewayMAC || f.pkt.DstMAC == f.dst.MAC) {
		peer.Groups = f.dst.Groups
	}
	return peer
}

// route finds who is to have the packet: an instance of the network, the owner of a
// public address, or the world outside.
func (f *frame) route(a *Attachment) (*Port, verdict.Verdict) {
	failpoint.Reach()
	f.from = firewall.Source{Addr: f.pkt.Flow.Src}
	if a.Endpoint.Owns(f.pkt.Flow.Src) {
		f.from.Groups = a.Endpoint.Groups
	}
	dst := f.pkt.Flow.Dst
	f.viaGateway = f.pkt.DstMAC == GatewayMAC
	owner := f.forwarder(a.Network)
	switch {
	case owner != nil && a.subnet.contains(owner.Address):
	case !a.Network.Prefix.Contains(dst):
		return f.routeOutside(a)
	default:
		if owner = f.dst; owner == nil {
			return f.in, f.nobody(a.Network)
		}
		if !f.viaGateway && (f.pkt.DstMAC != owner.MAC || !a.subnet.contains(dst)) {
			return f.in, f.misaddressed()
		}
	}
	if v, ok := f.checkSize(a, owner); !ok {
		return f.in, v
	}
	return f.deliver(owner)
}

// nobody is the verdict of a packet to an address of the network that nobody has.
func (f *frame) nobody(n *Network) verdict.Verdict {
	if f.pkt.Flow.Dst == n.SubnetOf(f.pkt.Flow.Dst).Gateway {
		return verdict.GatewayLocal
	}
	return f.unreachable()
}

// forwarder is the interface that a frame is handed to by its MAC and that forwards for
// others, so that the packet need not be its own.
func (f *frame) forwarder(n *Network) *Endpoint {
	if f.viaGateway || len(n.unchecked) == 0 {
		return nil
	}
	return n.unchecked[f.pkt.DstMAC]
}

// Each dropping verdict has one function that makes it; these are shared.

func (f *frame) unreachable() verdict.Verdict  { return verdict.NoRoute }
func (f *frame) misaddressed() verdict.Verdict { return verdict.WrongMAC }
func (f *frame) toMany() verdict.Verdict       { return verdict.NotUnicast }
func (f *frame) ignoreARP() verdict.Verdict    { return verdict.ARPIgnored }

// deliver hands the packet to an instance of this node, if its rules admit it, or to the
// node that has the instance, where its rules are asked.
func (f *frame) deliver(to *Endpoint) (*Port, verdict.Verdict) {
	failpoint.Reach()
	if to.Port == nil {
		return f.in, f.send(to)
	}
	if to.Port.shut.Load() {
		return to.Port, shutPort()
	}
	a := f.snapshot.attachment(to.Port)
	if v, ok := f.ready(a); !ok {
		return to.Port, v
	}
	if v := f.judge(a, conntrack.In, f.from); v != verdict.Forward {
		return to.Port, v
	}
	src := f.pkt.SrcMAC
	if f.viaGateway {
		src = GatewayMAC
	}
	packet.SetMACs(f.bytes(), to.MAC, src)
	return to.Port, f.write(to.Port)
}

// bytes is the Ethernet frame.
func (f *frame) bytes() []byte { return f.buffer[offloadLen : offloadLen+f.pkt.Len] }

// write hands the frame to a device, cut and finished if the device does not take it whole.
func (f *frame) write(to *Port) verdict.Verdict {
	failpoint.Reach()
	if f.trace != nil {
		return verdict.Forward
	}
	var begin time.Duration
	if f.timesWrites(to) {
		var ok bool
		if begin, ok = f.beginWrite(to); !ok {
			return f.overShare()
		}
	}
	var err error
	if to.offloads.Take(&f.pkt) {
		err = to.device.Write(f.buffer[:offloadLen+f.pkt.Len])
	} else {
		f.plain = to
		err = packet.Segment(f.buffer[:offloadLen], f.bytes(), &f.pkt, f.scratch[offloadLen:], f.emit)
	}
	if begin != 0 {
		f.endWrite(to, begin, f.pkt.Len, int(f.pkt.Segments))
	}
	if err == nil {
		to.txFrames.Add(1)
		to.txBytes.Add(uint64(f.pkt.Len))
	}
	return f.written(err)
}

// written is the verdict of what was handed to a device.
func (f *frame) written(err error) verdict.Verdict {
	if err != nil {
		return verdict.WriteFailed
	}
	return verdict.Forward
}

// emitPlain writes one finished packet that packet.Segment has put behind ten bytes of
// its own buffer, or into f.scratch.
func (f *frame) emitPlain(out []byte) error {
	failpoint.Reach()
	if &out[0] == &f.scratch[offloadLen] {
		clear(f.scratch[:offloadLen])
		return f.plain.device.Write(f.scratch[:offloadLen+len(out)])
	}
	clear(f.buffer[:offloadLen])
	return f.plain.device.Write(f.buffer[:offloadLen+len(out)])
}

// addresses an instance may never send from or to, in any network.
func unroutable(a netip.Addr) bool {
	return a.IsMulticast() || a.IsLoopback() || a.IsUnspecified() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255})
}
