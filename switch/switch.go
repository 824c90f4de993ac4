// Package vswitch is the virtual switch of one node: it reads frames from ports, decides the fate
// of each, and writes it to the port of its receiver.
//
// Read pipeline.go first: it has the way of a frame from each kind of port. A Port is where frames
// enter and leave. A Snapshot holds what every port may do, which interface has which address, and
// the compiled rules; it is immutable, and an Edit builds the next one. A poller is the goroutine
// that reads the frames of a port and carries each of them to its last write.
//
// Forwarding is static: the Snapshot holds what the cluster has decided. Nothing is learned from
// frames and nothing is flooded to ports. A port passes nothing before a Snapshot attaches it (fail
// closed). It obeys the last Snapshot until a newer one is published (fail static).
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
	"palisade/nat"
)

// GatewayMAC is the MAC address of the gateway in every network on every node. It is the same
// everywhere, so an instance that moves to another node keeps its neighbour entry.
var GatewayMAC = ec2.MAC{0x02, 0x00, 0x5e, 0x00, 0x00, 0x01}

// Config is what New needs.
type Config struct {
	// Tracker holds the connections of all interfaces. It is required. The caller closes it after
	// Run has returned; if it is closed earlier, a poller reads unmapped memory.
	Tracker *conntrack.Tracker
	// NAT holds the translations of NAT gateways. The switch only frees those that are idle. Default: none.
	NAT *nat.Table
	// Logger gets what happens to ports and pollers. Default: discard, so that a panic of the
	// pipeline is only counted.
	Logger *slog.Logger
	// Pollers is the number of goroutines that carry frames, 1 to 64. Default: one for every two
	// processors, at most 4. With more, pollers that look for frames take processors from the
	// instances; with fewer, one poller limits the throughput of all ports.
	Pollers int
	// Halt lets the idle processors of a virtual machine halt while frames flow. Default: they stay
	// awake. With Halt the other virtual machines of the host get the idle time, and each frame to
	// an idle processor waits some 20 us for a wake-up by the hypervisor.
	Halt bool
}

// Switch is the data plane of one node. Whoever calls New owns it, and calls Run once or Close.
//
// Any goroutine may call its exported methods. One goroutine at a time builds and publishes
// Snapshots, because an Edit begins with the Snapshot in force. The pollers read the Snapshot
// without a lock.
//
// mu guards the ports; it is held while a port is added to a poller, so poller.mu is locked within
// mu. panics.mu is apart from both: no other lock is taken within it.
type Switch struct {
	tracker  *conntrack.Tracker
	nat      *nat.Table // nil: none
	log      *slog.Logger
	pollers  []*poller
	snapshot atomic.Pointer[Snapshot]

	relay, stateless bool // see NewRelay, NewStateless; written before Run

	mu    sync.Mutex
	ports map[int]*Port // by index
	next  int           // index of the next port; no index is used twice

	panics panics
}

// New returns a Switch without ports.
func New(c Config) (*Switch, error) {
	if c.Tracker == nil {
		return nil, errors.New("switch: Config.Tracker is required")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Pollers == 0 {
		// A poller that looks for frames takes a whole processor. The senders and the receivers of
		// the frames need the other processors.
		c.Pollers = min(4, max(1, runtime.NumCPU()/2))
	}
	if c.Pollers > maxPollers {
		return nil, fmt.Errorf("switch: Config.Pollers is %d, the limit is %d", c.Pollers, maxPollers)
	}
	s := &Switch{tracker: c.Tracker, nat: c.NAT, log: c.Logger, ports: map[int]*Port{}}
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

// Run carries frames and frees idle connections until ctx ends. It returns when all its goroutines
// have ended.
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

// Close frees what New has opened, for a Switch that was never Run.
func (s *Switch) Close() {
	for _, p := range s.pollers {
		p.close()
	}
}

// sweepInterval is how often idle connections are freed. A connection no longer counts as live once
// it has timed out, even if it is not freed yet.
const sweepInterval = 2 * time.Second

// runSweep frees idle connections until ctx ends.
//
// Connections are memory of a file in a tmpfs. If the tmpfs is full or somebody truncates the file,
// the access faults. The fault is a panic here and in the pollers, and both recover.
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
			s.log.Error("idle connections not freed: the sweep panicked", "cause", cause)
		}
	}()
	s.tracker.Sweep(Now())
	if s.nat != nil {
		s.nat.Sweep(Now())
	}
}

// AddPort begins to read frames from a device. They are dropped as NotReady until a Snapshot
// attaches the port. The Switch closes the device when the port is removed.
func (s *Switch) AddPort(name string, kind PortKind, device Device) (*Port, error) {
	return s.add(&Port{name: name, kind: kind, end: device, device: device, offloads: device.Offloads()})
}

// AddTunnel adds the port to the other nodes. Frames from it are dropped as NotReady until a
// Snapshot names the port in its Tunnel.
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

// RemovePort removes a port that the current Snapshot does not attach. When it returns no poller
// uses the port, and its device is closed.
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

// synchronize waits until every poller has been idle, or has begun a new batch, since the call.
// That takes no longer than a batch.
func (s *Switch) synchronize() {
	for _, p := range s.pollers {
		for batch := p.batch.Load(); p.busy() && p.batch.Load() == batch; {
			time.Sleep(50 * time.Microsecond)
		}
	}
}

// Step gives every readable port one turn on the calling goroutine, and reports whether a port had
// one. Tests call it in place of Run, to know when a frame has its verdict.
func (s *Switch) Step() bool {
	runtime.LockOSThread() // writes are timed by the thread
	defer runtime.UnlockOSThread()
	worked := false
	var events [64]unix.EpollEvent
	for _, p := range s.pollers {
		n := epollNow(p.epoll, events[:])
		for n == 0 && len(p.paused) > 0 { // a port may be readable when its pause is over
			p.resumePaused(monotonic())
			n = epollNow(p.epoll, events[:])
		}
		if n > 0 {
			p.round(events[:n])
			worked = true
		}
	}
	return worked
}

// Ports returns all ports in the order they were added.
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

// Snapshot returns the Snapshot in force.
func (s *Switch) Snapshot() *Snapshot { return s.snapshot.Load() }

// Enforced returns the newest generation that every poller obeys. An idle poller counts as obeying
// the current one, because it loads the current Snapshot before its next frame.
func (s *Switch) Enforced() uint64 {
	generation := s.snapshot.Load().Generation
	for _, p := range s.pollers {
		generation = min(generation, p.enforced())
	}
	return generation
}
