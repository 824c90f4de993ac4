package vswitch

import (
	"sync/atomic"

	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// A Device is where a port reads and writes frames. Packages tap and afpacket implement it for
// devices of the kernel, taptest for tests.
type Device interface {
	// FD is readable when Read has a frame.
	FD() int
	// Offloads returns which offloads a frame may need when it is written. A frame that is read may
	// need any.
	Offloads() packet.Offloads
	// Read reads one frame behind its virtio header, without blocking. Its error is EAGAIN
	// if there is no frame, and verdict.Lost if a frame was lost in the device. After any
	// other error the port is not read again. Only the port's poller calls Read.
	Read(b []byte) (int, error)
	// Write writes one frame behind its virtio header. Any poller may call it, several at a time.
	Write(b []byte) error
	Close() error
}

// PortKind is what a port leads to.
type PortKind uint8

const (
	InstancePort PortKind = iota // one interface of an instance
	UplinkPort                   // all hosts that are no instances
	TunnelPort                   // the instances of other nodes
)

// An end is what all kinds of devices have in common.
type end interface {
	FD() int
	Close() error
}

// A Port is where frames enter and leave the switch. The Switch owns it from AddPort to RemovePort.
//
// The fields above share do not change after AddPort. share, panics and errors belong to the port's poller.
// All other fields are atomic: any poller writes to the port and counts, and any goroutine reads
// the counters.
type Port struct {
	name     string
	kind     PortKind
	end      end
	device   Device       // nil for a tunnel port
	tunnel   TunnelDevice // nil for all others
	offloads packet.Offloads
	index    int
	poller   *poller
	partner  atomic.Pointer[Port] // in a relay

	share  share       // of the poller's time; used by the poller alone
	pace   pace        // of the writes to the port
	panics panicCount  // used by the poller alone
	errors errorBudget // of an instance; used by the poller alone
	shut   atomic.Bool // see IsShut

	// What was read from the device, and what was written to it.
	rxFrames, rxBytes atomic.Uint64
	txFrames, txBytes atomic.Uint64
	// The verdicts of the frames that concern this port, counted in packets as a wire would carry
	// them.
	verdicts [verdict.Count]atomic.Uint64
	denials  [maxDenials]denial
}

// Name returns the port's name.
func (p *Port) Name() string { return p.name }

// Kind returns what the port leads to.
func (p *Port) Kind() PortKind { return p.kind }

// IsShut reports whether the port passes nothing any more, because frames from it made the pipeline
// panic too often. It stays shut until it is removed.
func (p *Port) IsShut() bool { return p.shut.Load() }

func (p *Port) count(v verdict.Verdict, segments uint32) { p.verdicts[v].Add(uint64(segments)) }

// QueueDrops returns how many frames the kernel dropped before the switch read them. They have no
// verdict. It returns 0 for a device that does not count them.
func (p *Port) QueueDrops() (uint64, error) {
	if d, ok := p.end.(interface{ QueueDrops() (uint64, error) }); ok {
		return d.QueueDrops()
	}
	return 0, nil
}

// Counters is a copy of a port's counters. rx is what the switch received.
type Counters struct {
	RxFrames uint64 `json:"rx_frames"`
	RxBytes  uint64 `json:"rx_bytes"`
	TxFrames uint64 `json:"tx_frames"`
	TxBytes  uint64 `json:"tx_bytes"`
	Verdicts [verdict.Count]uint64
}

// Counters reads the counters one by one, so they may be of slightly different times.
func (p *Port) Counters() Counters {
	c := Counters{RxFrames: p.rxFrames.Load(), RxBytes: p.rxBytes.Load(), TxFrames: p.txFrames.Load(), TxBytes: p.txBytes.Load()}
	for v := range c.Verdicts {
		c.Verdicts[v] = p.verdicts[v].Load()
	}
	return c
}
