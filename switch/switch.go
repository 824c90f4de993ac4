// Package vswitch is the virtual switch of one node: it takes frames from ports, decides
// each one's fate, and writes it to the port it is due at.
//
// Read pipeline.go first: forward is the life of a frame. A Port is where frames enter
// and leave. A Snapshot says what every port may do, who owns which address and what the
// rules are; it is immutable, and an Edit makes the next. A poller is the goroutine that
// carries a port's frames from their read to their last write.
//
// Forwarding is static: the Snapshot holds what the cluster has decided, and nothing is
// learned from frames or flooded to ports. A port passes nothing before a Snapshot
// attaches it (fail closed), and goes by the last Snapshot for as long as no newer one
// comes (fail static).
//
// The package composes conntrack and firewall, and knows no control plane.
package vswitch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"palisade/conntrack"
	"palisade/ec2"
)

// GatewayMAC is the gateway's address in every network of every node. It is no node's
// own, so an instance that moves keeps its neighbour entry.
var GatewayMAC = ec2.MAC{0x02, 0x00, 0x5e, 0x00, 0x00, 0x01}

// Config is what a Switch needs. Tracker is required.
type Config struct {
	Tracker *conntrack.Tracker
	Logger  *slog.Logger // default: discard
	Pollers int          // default: one for every two processors, at most four; at most 64
	// Halt lets the idle processors of a virtual machine halt while frames flow. That
	// leaves them to others of its host, and a frame waits for a wake-up by the hypervisor.
	Halt bool
}

// Switch is the data plane of one node.
//
// One goroutine edits and publishes Snapshots and adds and removes ports; the pollers
// read them. Counters may be read by anybody.
type Switch struct {
	tracker  *conntrack.Tracker
	log      *slog.Logger
	pollers  []*poller
	snapshot atomic.Pointer[Snapshot]

	relay, stateless bool // see NewRelay, NewStateless; set before Run

	mu    sync.Mutex
	ports map[int]*Port // by index
	next  int           // index of the next port; never reused

	panics panics
}

// New returns a Switch without ports.
func New(c Config) (*Switch, error) {
	if c.Tracker == nil {
		return nil, errors.New("switch: a Config wants a Tracker")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Pollers == 0 {
		// Whom the frames are for needs the other half: a poller that looks for frames
		// takes a processor, and two on two stand in the way of both ends.
		c.Pollers = min(4, max(1, runtime.NumCPU()/2))
	}
	if c.Pollers > maxPollers {
		return nil, fmt.Errorf("switch: %d pollers are more than %d", c.Pollers, maxPollers)
	}
	s := &Switch{tracker: c.Tracker, log: c.Logger, ports: map[int]*Port{}}
	s.panics.reports = make(chan func(), 8)
	s.snapshot.Store(&Snapshot{})
	for i := range c.Pollers {
		p, err := newPoller(s, i, c.Halt)
		if err != nil {
			for _, done := range s.pollers {
				done.close()
			}
			return nil, fmt.Errorf("switch: %w", err)
		}
		s.pollers = append(s.pollers, p)
	}
	return s, nil
}

// Run carries frames, and forgets connections that have idled out, until ctx ends. It
// returns when nothing of it runs any more.
func (s *Switch) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, p := range s.pollers {
		wg.Go(p.runPoll)
	}
	wg.Go(func() { s.runReports(ctx) })
	s.runSweep(ctx)
	for _, p := range s.pollers {
		p.stop()
	}
	wg.Wait()
	for _, p := range s.pollers {
		p.close()
	}
	return nil
}

// Close gives up what New has opened, for a Switch that was never Run.
func (s *Switch) Close() {
	for _, p := range s.pollers {
		p.close()
	}
}

// sweepInterval is how often idle connections are freed. They stop counting as live on
// time whether swept or not.
const sweepInterval = 2 * time.Second

// runSweep and the pollers read connections from a file in a tmpfs. Where that has no room
// left, or somebody has cut the file, the kernel faults; that is a panic, and contained.
func (s *Switch) runSweep(ctx context.Context) {
	debug.SetPanicOnFault(true)
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.sweep()
		}
	}
}

func (s *Switch) sweep() {
	defer func() {
		if cause := recover(); cause != nil {
			s.log.Error("connections were not swept", "cause", cause)
		}
	}()
	s.tracker.Sweep(Now())
}

// AddPort begins to take frames from a device. They are dropped as NotReady until a
// Snapshot attaches the port. The Switch closes the device when the port is removed.
func (s *Switch) AddPort(name string, kind PortKind, device Device) (*Port, error) {
	return s.add(&Port{name: name, kind: kind, end: device, device: device, offloads: device.Offloads()})
}

// AddTunnel is AddPort for the device that leads to the other nodes. What it receives is
// dropped as NotReady until a Snapshot names the port as its Tunnel.
func (s *Switch) AddTunnel(name string, device TunnelDevice) (*Port, error) {
	return s.add(&Port{name: name, kind: TunnelPort, end: device, tunnel: device})
}

func (s *Switch) add(port *Port) (*Port, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	port.index = s.next
	port.poller = s.pollers[0]
	for _, p := range s.pollers {
		if p.load() < port.poller.load() {
			port.poller = p
		}
	}
	if err := port.poller.add(port); err != nil {
		return nil, fmt.Errorf("add port %s: %w", port.name, err)
	}
	s.ports[port.index] = port
	if s.relay {
		if partner, ok := s.ports[port.index^1]; ok {
			port.partner.Store(partner)
			partner.partner.Store(port)
		}
	}
	s.next++
	return port, nil
}

// RemovePort ends a port that the current Snapshot does not attach. When it returns no
// poller holds anything of it, and its device is closed.
func (s *Switch) RemovePort(port *Port) error {
	s.mu.Lock()
	delete(s.ports, port.index)
	s.mu.Unlock()
	port.poller.remove(port)
	s.synchronize()
	if err := port.end.Close(); err != nil {
		return fmt.Errorf("remove port %s: %w", port.name, err)
	}
	return nil
}

// synchronize waits until every poller has been idle or begun a new batch since the
// call: a batch is bounded, so this is.
func (s *Switch) synchronize() {
	for _, p := range s.pollers {
		for batch := p.batch.Load(); p.busy() && p.batch.Load() == batch; {
			time.Sleep(50 * time.Microsecond)
		}
	}
}

// Step gives every port that is readable one turn, on the calling goroutine, and reports
// whether there was one. It is what Run's pollers do for ever, for tests that want to know
// when a frame has met its fate. Run must not be running.
func (s *Switch) Step() bool {
	runtime.LockOSThread() // writes are timed by the thread
	defer runtime.UnlockOSThread()
	worked := false
	var events [64]unix.EpollEvent
	for _, p := range s.pollers {
		n := epollNow(p.epoll, events[:])
		for n == 0 && len(p.resting) > 0 { // it has something to say, later
			p.wakeRested(monotonic())
			n = epollNow(p.epoll, events[:])
		}
		if n > 0 {
			p.round(events[:n])
			worked = true
		}
	}
	return worked
}

// Ports are the ports there are.
func (s *Switch) Ports() []*Port {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*Port, 0, len(s.ports))
	for i := range s.next {
		if p, ok := s.ports[i]; ok {
			all = append(all, p)
		}
	}
	return all
}

// Snapshot is the one in force.
func (s *Switch) Snapshot() *Snapshot { return s.snapshot.Load() }

// Enforced is the newest generation that every poller goes by. A poller that waits for
// frames goes by the current one.
func (s *Switch) Enforced() uint64 {
	generation := s.snapshot.Load().Generation
	for _, p := range s.pollers {
		generation = min(generation, p.enforced())
	}
	return generation
}
