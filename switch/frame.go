package vswitch

import (
	"math/rand/v2"
	"time"

	"palisade/conntrack"
	"palisade/firewall"
	"palisade/internal/packet"
)

const (
	offloadLen  = packet.OffloadLen
	ethernetLen = 14
)

// A frame is the frame in the pipeline and the scratch memory of its poller. Only the poller uses
// it; a trace has a frame of its own.
type frame struct {
	sw           *Switch
	snapshot     *Snapshot
	now          time.Duration
	decoder      *packet.Decoder
	memory       []byte // of the whole batch
	buffer       []byte // virtio header and frame: a part of memory
	batch        batch
	train        packet.Train
	scratch      []byte // one segment, for devices without offloads, or an answer
	plain        *Port  // where emitPlain writes to
	emit         func([]byte) error
	queue        int // the poller's number
	writesToTime int // how many more writes are timed, whatever port they are to
	sending      sending
	cutting      cutting
	errors       errorBudgets

	in *Port
	// origin is what the tunnel says of the sender of a frame from another node.
	origin packet.Origin
	pkt    packet.Packet
	tuple  conntrack.Tuple // of pkt; set by observe
	dst    *Endpoint       // the interface with the destination address, in the network that target leads to; nil: none
	target Target          // where the route leads, of a frame from an instance
	next   *Endpoint       // the interface that target leads to; nil: none
	from   firewall.Source // the source as the receiver's rules see it
	sender *Endpoint       // the interface that sent it; nil if it comes through a public address
	// viaGateway: the packet crosses the gateway, so the receiver sees the gateway's MAC address.
	viaGateway bool
	// toPublic: the packet was sent to a public address, and its destination is now the private one.
	toPublic bool
	crossed  translation // the NAT gateway that the packet has crossed

	deniedBy *firewall.ACLDecision // the entry that denied the last packet that is ACLDenied

	trace *Trace // nil, except in a dry run, which stores and writes nothing
}

func newFrame(s *Switch) *frame {
	f := &frame{sw: s, decoder: packet.NewDecoder(), memory: make([]byte, readAheadBytes+frameSize), scratch: make([]byte, frameSize)}
	f.buffer = f.memory
	f.emit = f.emitPlain
	f.errors.seed = rand.Uint32() | 1
	f.sending.begin(f)
	f.cutting.begin(f)
	return f
}

// bytes returns the frame, from its Ethernet header on.
func (f *frame) bytes() []byte { return f.buffer[offloadLen : offloadLen+f.pkt.Len] }
