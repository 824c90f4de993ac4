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
	// maxPanics in panicWindow shut the port of an instance.
	maxPanics   = 100
	panicWindow = time.Minute
	// reportEvery is how often a panic is logged.
	reportEvery = time.Minute
	// reportBytes is how much of a frame the log gets: more than the headers of any.
	reportBytes = 2048
	// maxSenders is how many interfaces of other nodes panics are counted for. A node that
	// was taken over can invent any number, within what it has leased.
	maxSenders = 1024
)

// A panic between reading and writing a frame costs the frames of its batch and nothing
// else: the poller recovers and goes on. All locks of the data path are given back by defer.
//
// The instance that sent the frame is charged. If its frames make the pipeline panic too
// often its port is shut: an attacker must not have the poller unwind its stack all day.
// What came by a tunnel is charged to the interface that the seal names, because a tunnel
// carries the frames of many; what that interface sends is then dropped here. The uplink is
// never shut.

// A panicCount counts the panics of the last minute or so.
type panicCount struct {
	since time.Duration
	n     int
}

// add counts a panic and reports whether it was one too many.
func (c *panicCount) add(now time.Duration) bool {
	if c.n == 0 || now-c.since > panicWindow {
		*c = panicCount{since: now}
	}
	c.n++
	return c.n >= maxPanics
}

// A sender is an interface of another node, as the seal names it.
type sender struct {
	node  uint32
	epoch uint64
}

// panics is what a Switch knows of its panics. While there are none, only refused is read,
// once for each frame from a tunnel.
type panics struct {
	refused atomic.Pointer[map[sender]bool] // whose frames from the tunnel are dropped; nil: of none
	reports chan func()                     // what runReports is to log; full: it is not logged

	mu         sync.Mutex
	senders    map[sender]*panicCount
	reported   time.Duration // when the last report was; 0: never
	suppressed int           // panics since that were not reported
	total      uint64
	last       Panic
}

// A Panic is the newest panic of the pipeline that was reported.
type Panic struct {
	Cause string
	Port  string // where the frame came in
	Frame []byte // behind its virtio header, as far as the pipeline had changed it
}

// contain ends a panic of the pipeline, if there is one. It must be deferred.
func (p *poller) contain(port *Port) {
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
	inHand := f.batch.current
	if inHand == 0 && port.tunnel != nil {
		inHand = reportBytes // of the frame that was being put together; how long it was is not known
	}
	p.sw.report(port, from, f.buffer[:max(inHand, offloadLen)], cause)
	p.frame = newFrame(p.sw) // nothing is known of the state of the old one
	p.frame.queue = p.number
}

// charge counts a panic against whoever sent the frame, and shuts the port, or refuses the
// interface of another node, that caused too many.
func (s *Switch) charge(port *Port, from packet.Origin, now time.Duration) {
	switch port.kind {
	case InstancePort:
		if port.panics.add(now) && !port.shut.Swap(true) {
			s.logLater("a port is shut: its frames made the pipeline panic too often", "port", port.name, "panics", maxPanics, "within", panicWindow)
		}
	case TunnelPort:
		s.chargeSender(from, now)
	}
}

// chargeSender is charge for an interface of another node. One that the seal does not name,
// or none, is not refused.
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
	s.logLater("an interface of another node is refused: its frames made the pipeline panic too often", "node", from.Node, "epoch", from.Epoch)
}

// Refused are the epochs of the leases of other nodes' interfaces whose frames are dropped
// unread, because they made the pipeline panic too often.
func (s *Switch) Refused() (epochs []uint64) {
	if refused := s.panics.refused.Load(); refused != nil {
		for who := range *refused {
			epochs = append(epochs, who.epoch)
		}
	}
	slices.Sort(epochs)
	return epochs
}

// refuses reports whether frames from an interface of another node are dropped unread.
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
	s.logLater("the pipeline panicked; please report this frame", "cause", s.panics.last.Cause, "port", port.name,
		"node", from.Node, "epoch", from.Epoch, "frame", fmt.Sprintf("%x", frame[:min(len(frame), reportBytes)]), "bytes", len(frame),
		"not_logged_before", s.panics.suppressed, "stack", string(debug.Stack()))
	s.panics.reported, s.panics.suppressed = now, 0
}

// logLater has an error logged by runReports, because a log that blocks would stop the poller
// that calls. When the queue is full the error is not logged.
func (s *Switch) logLater(message string, about ...any) {
	select {
	case s.panics.reports <- func() { s.log.Error(message, about...) }:
	default:
	}
}

// runReports logs what pollers have to say.
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

// Panics is how often the pipeline has panicked, and the newest panic that was reported.
func (s *Switch) Panics() (total uint64, last Panic) {
	s.panics.mu.Lock()
	defer s.panics.mu.Unlock()
	return s.panics.total, s.panics.last
}

// shutPort is the verdict of frames to and from a port that was shut, and of those of an
// interface of another node that is refused.
func shutPort() verdict.Verdict { return verdict.PortShut }
