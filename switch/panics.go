package vswitch

import (
	"context"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"palisade/internal/packet"
	"palisade/internal/verdict"
)

const (
	// maxPanics panics within panicWindow shut the port of an instance.
	maxPanics   = 100
	panicWindow = time.Minute
	// reportEvery is the least time between two panics that are logged.
	reportEvery = time.Minute
	// reportBytes is how much of a frame is logged: more than all headers.
	reportBytes = 2048
	// maxSenders bounds the interfaces of other nodes whose panics are counted. A node that was
	// taken over can send from all interfaces that are leased to it.
	maxSenders = 1024
)

// A panic while a frame is read, forwarded or written costs the frames of its batch and nothing
// else: the poller recovers and continues. All locks of the data path are released by defer.
//
// The panic is charged to the instance that sent the frame. If it causes too many, its port is
// shut, because each panic costs the poller time that other ports need. A tunnel carries the frames
// of many instances, so a panic there is charged to the interface that the sealed datagram names as
// its sender, and only frames from that interface are dropped. The uplink is never shut.

// A panicCount counts the panics of the current panicWindow. Only the poller of its port uses it,
// or whoever holds panics.mu.
type panicCount struct {
	since time.Duration
	n     int
}

// add counts a panic and reports whether there are now maxPanics within panicWindow.
func (c *panicCount) add(now time.Duration) bool {
	if c.n == 0 || now-c.since > panicWindow {
		*c = panicCount{since: now}
	}
	c.n++
	return c.n >= maxPanics
}

// A sender is an interface of another node, as the sealed part of a datagram names it.
type sender struct {
	node  uint32
	epoch uint64
}

// panics is the record of a Switch's panics. mu guards the fields below it; no other lock is taken
// within it. Without panics the pollers read only refused, once for each frame from a tunnel.
type panics struct {
	refused atomic.Pointer[map[sender]bool] // senders whose frames are dropped; nil: none
	reports chan func()                     // log messages for runReports; when it is full messages are lost

	mu         sync.Mutex
	senders    map[sender]*panicCount
	reported   time.Duration // when the last panic was logged; 0: never
	suppressed int           // panics since then that were not logged
	total      uint64
	last       Panic
}

// A Panic is the newest panic of the pipeline that was logged.
type Panic struct {
	Cause string
	Port  string // where the frame came in
	Frame []byte // behind its virtio header, as the pipeline had changed it
}

// recoverPanic ends a panic of the pipeline, if there is one, counts its frames and reports it. It
// must be deferred.
func (p *poller) recoverPanic(port *Port) {
	cause := recover()
	if cause == nil {
		return
	}
	f := p.frame
	var lost int
	var from packet.Origin
	if port.tunnel != nil {
		lost, from = port.tunnel.Discard()
	} else {
		lost = f.lost()
	}
	port.count(verdict.PipelinePanicked, uint32(lost))
	p.sw.charge(port, from, monotonic())
	length := f.batch.currentBytes
	if length == 0 && port.tunnel != nil {
		length = reportBytes // the tunnel was still joining the frame, so its length is not known
	}
	p.sw.report(port, from, f.buffer[:max(length, offloadLen)], cause)
	p.frame = newFrame(p.sw) // the state of the old one is undefined
	p.frame.queue = p.number
}

// charge counts a panic against the sender of the frame. If the sender has caused too many, charge
// shuts its port, or refuses the interface of another node.
func (s *Switch) charge(port *Port, from packet.Origin, now time.Duration) {
	switch port.kind {
	case InstancePort:
		if port.panics.add(now) && !port.shut.Swap(true) {
			s.logLater("port shut: its frames made the pipeline panic too often", "port", port.name, "panics", maxPanics, "within", panicWindow)
		}
	case TunnelPort:
		s.chargeSender(from, now)
	}
}

// chargeSender counts a panic against an interface of another node. Frames whose sender is not
// known are never refused.
func (s *Switch) chargeSender(from packet.Origin, now time.Duration) {
	if from.Node == 0 || from.Unnamed {
		return
	}
	who := sender{from.Node, from.Epoch}
	s.panics.mu.Lock()
	defer s.panics.mu.Unlock()
	c := s.panics.senders[who]
	if c == nil {
		if s.panics.senders == nil || len(s.panics.senders) >= maxSenders {
			s.panics.senders = map[sender]*panicCount{}
		}
		c = new(panicCount)
		s.panics.senders[who] = c
	}
	if !c.add(now) {
		return
	}
	refused := map[sender]bool{who: true}
	if old := s.panics.refused.Load(); old != nil {
		if (*old)[who] {
			return
		}
		if len(*old) < maxSenders {
			maps.Copy(refused, *old)
		}
	}
	s.panics.refused.Store(&refused)
	s.logLater("interface of another node refused: its frames made the pipeline panic too often", "node", from.Node, "epoch", from.Epoch)
}

// Refused returns the leases, by epoch, of those interfaces of other nodes whose frames are dropped
// because they made the pipeline panic too often.
func (s *Switch) Refused() (epochs []uint64) {
	if refused := s.panics.refused.Load(); refused != nil {
		for who := range *refused {
			epochs = append(epochs, who.epoch)
		}
	}
	slices.Sort(epochs)
	return epochs
}

// refuses reports whether the frames of an interface of another node are dropped because of its
// panics.
func (s *Switch) refuses(from packet.Origin) bool {
	refused := s.panics.refused.Load()
	return refused != nil && (*refused)[sender{from.Node, from.Epoch}]
}

// report logs a panic and its frame, at most once in reportEvery.
func (s *Switch) report(port *Port, from packet.Origin, frame []byte, cause any) {
	now := monotonic()
	s.panics.mu.Lock()
	defer s.panics.mu.Unlock()
	s.panics.total++
	if s.panics.reported != 0 && now-s.panics.reported < reportEvery {
		s.panics.suppressed++
		return
	}
	frame = append([]byte(nil), frame...)
	s.panics.last = Panic{Cause: fmt.Sprint(cause), Port: port.name, Frame: frame}
	s.logLater("pipeline panicked; please report this frame", "cause", s.panics.last.Cause, "port", port.name,
		"node", from.Node, "epoch", from.Epoch, "frame", fmt.Sprintf("%x", frame[:min(len(frame), reportBytes)]), "bytes", len(frame),
		"not_logged_before", s.panics.suppressed, "stack", string(debug.Stack()))
	s.panics.reported, s.panics.suppressed = now, 0
}

// logLater has runReports log an error, because a log that blocks would stop the calling poller. If
// the queue is full the message is lost.
func (s *Switch) logLater(message string, about ...any) {
	select {
	case s.panics.reports <- func() { s.log.Error(message, about...) }:
	default:
	}
}

// runReports logs the messages of pollers until ctx ends.
func (s *Switch) runReports(ctx context.Context) {
	for {
		select {
		case write := <-s.panics.reports:
			write()
		case <-ctx.Done():
			return
		}
	}
}

// Panics returns how often the pipeline has panicked, and the newest panic that was logged.
func (s *Switch) Panics() (total uint64, last Panic) {
	s.panics.mu.Lock()
	defer s.panics.mu.Unlock()
	return s.panics.total, s.panics.last
}

// shutPort returns the verdict of frames to and from a port that was shut, and of frames from a
// refused interface of another node.
func shutPort() verdict.Verdict { return verdict.PortShut }
