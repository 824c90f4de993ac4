package vswitch

import (
	"time"

	"palisade/conntrack"
	"palisade/firewall"
	"palisade/internal/packet"
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

// bytes is the Ethernet frame.
func (f *frame) bytes() []byte { return f.buffer[offloadLen : offloadLen+f.pkt.Len] }
