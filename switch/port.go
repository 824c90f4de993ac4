package vswitch

import (
	"sync/atomic"

	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// A Device is where a port's frames come from and go to. Package tap has the real one,
// taptest one for tests.
type Device interface {
	// FD is readable when Read has a frame.
	FD() int
	// Offloads are what frames may be written. What is read may have all of them.
	Offloads() packet.Offloads
	// Read reads one frame behind its virtio header, without blocking. Its error is EAGAIN
	// if there is no frame, and verdict.Lost if a frame was lost in the device. After any
	// other error the port is not read again. Only the port's poller calls Read.
	Read(b []byte) (int, error)
	// Write writes one frame behind its virtio header. Any poller calls it.
	Write(b []byte) error
	Close() error
}

// PortKind is what is at the other end of a port.
type PortKind uint8

const (
	InstancePort PortKind = iota // one interface of an instance
	UplinkPort                   // the way to everything that is no instance
	TunnelPort                   // the way to the instances of other nodes
)

// An end is what every kind of device has.
type end interface {
	FD() int
	Close() error
}

// A Port is where frames enter and leave the switch. Its counters are safe for anybody.
type Port struct {
	name     string
	kind     PortKind
	end      end
	device   Device       // nil for a tunnel port
	tunnel   TunnelDevice // nil for all others
	offloads packet.Offloads
	index    int
	poller   *poller
	partner  atomic.Pointer[Port] // of a relay

	share  share      // of the poller's time
	pace   pace       // of what is written to it
	panics panicCount // of the poller
	shut   atomic.Bool

	// What was read from the device, and what was written to it.
	rxFrames, rxBytes atomic.Uint64
	txFrames, txBytes atomic.Uint64
	// Fates of the frames that concern this port, in packets as a wire would carry them.
	verdicts [verdict.Count]atomic.Uint64
}

// Name is the port's name.
func (p *Port) Name() string { return p.name }

// Kind is what is at the other end.
func (p *Port) Kind() PortKind { return p.kind }

// IsShut reports whether the port passes nothing any more, because frames that came in by it
// made the pipeline panic too often. It stays so until it is removed.
func (p *Port) IsShut() bool { return p.shut.Load() }

func (p *Port) count(v verdict.Verdict, segments uint32) { p.verdicts[v].Add(uint64(segments)) }

// QueueDrops is how many frames the kernel dropped before the switch could read them: the
// one loss that no verdict counts. It is zero for a device that cannot tell.
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

// Counters reads the counters, each by itself.
func (p *Port) Counters() Counters {
	c := Counters{RxFrames: p.rxFrames.Load(), RxBytes: p.rxBytes.Load(), TxFrames: p.txFrames.Load(), TxBytes: p.txBytes.Load()}
	for v := range c.Verdicts {
		c.Verdicts[v] = p.verdicts[v].Load()
	}
	return c
}
