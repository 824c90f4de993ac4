package world

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/firewall"
	"palisade/internal/verdict"
	vswitch "palisade/switch"
	"palisade/switch/tap"
)

const (
	vni        = 1
	generation = 1
	// sweepEvery is how often a node looks for connections that have idled out.
	sweepEvery = time.Second
)

// buildPalisade builds a Switch as a node does: one network, two instances, a tracker in a
// file on a tmpfs.
func buildPalisade(ctx context.Context, w *World) error {
	s, err := wire(ctx, w, vswitch.New)
	if err != nil {
		return err
	}
	compiler, groups := firewall.NewCompiler(), newGroups(w.policy)
	edit := s.sw.Edit(generation)
	edit.Network(vswitch.Network{VNI: vni, Prefix: onLink, Gateway: onLink.Addr().Next(), MTU: w.mtu})
	groups.addMembers(edit, compiler)
	for i, e := range []Endpoint{w.client, w.server} {
		set := compiler.Acquire(groups, []ec2.GroupID{ec2.GroupID("sg-" + e.role)}, generation)
		epoch := uint64(i + 1)
		owner := &vswitch.Endpoint{Epoch: epoch, Address: e.Address, MAC: e.MAC, Groups: set.Numbers, Port: s.ports[i]}
		edit.AddEndpoint(vni, owner)
		edit.Attach(s.ports[i], vni, vswitch.Attachment{Endpoint: owner, Zone: s.tracker.AddZone(epoch, conntrack.Timeouts{}), Rules: set})
	}
	s.sw.Publish(edit)
	w.about = fmt.Sprintf("%v, %s", w.policy, s.devices)
	w.verify = s.verifyTracked
	return errors.Join(compiler.Errors()...)
}

// buildRelay builds the relay on the same devices.
func buildRelay(ctx context.Context, w *World) error {
	s, err := wire(ctx, w, vswitch.NewRelay)
	if err != nil {
		return err
	}
	w.about = s.devices
	return nil
}

// A wired is a Switch of either kind between two TAP devices.
type wired struct {
	*World
	sw      *vswitch.Switch
	tracker *conntrack.Tracker
	ports   []*vswitch.Port // client, server
	devices string
}

func wire(ctx context.Context, w *World, build func(vswitch.Config) (*vswitch.Switch, error)) (s *wired, err error) {
	s = &wired{World: w, devices: "TAP devices with offloads"}
	if s.tracker, err = conntrack.Open(conntrack.Config{Path: w.files()}); err != nil {
		return nil, err
	}
	w.cleanup = append(w.cleanup, s.tracker.Close)
	if s.sw, err = build(vswitch.Config{Tracker: s.tracker, Pollers: w.config.Pollers}); err != nil {
		return nil, err
	}
	for _, e := range []Endpoint{w.client, w.server} {
		if err := s.addPort(e); err != nil {
			return nil, err
		}
	}
	s.run(ctx)
	return s, nil
}

func (s *wired) addPort(e Endpoint) error {
	if err := s.make(e.role); err != nil {
		return err
	}
	device, err := tap.Open(tap.Config{Name: e.Device, Namespace: e.Namespace})
	if err != nil {
		return err
	}
	if !device.Offloads() {
		s.devices = "TAP devices WITHOUT offloads"
	}
	port, err := s.sw.AddPort(e.role, vswitch.InstancePort, device)
	if err != nil {
		return errors.Join(err, device.Close())
	}
	s.ports = append(s.ports, port)
	return s.plug(e)
}

// run starts the pollers and the sweeper, and has Close end them.
func (s *wired) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.sw.Run(ctx) }) // returns nil
	wg.Go(func() { s.runSweep(ctx) })
	s.cleanup = append(s.cleanup, func() error {
		var errs []error
		for _, port := range s.ports {
			edit := s.sw.Edit(generation)
			edit.Detach(port)
			s.sw.Publish(edit)
			errs = append(errs, s.sw.RemovePort(port))
		}
		cancel()
		wg.Wait()
		return errors.Join(errs...)
	})
}

func (s *wired) runSweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.tracker.Sweep(vswitch.Now())
		}
	}
}

// verifyTracked reports what was wrong with a run: connections that left no trace in the
// tracker, or packets that the rules should have admitted and did not.
func (s *wired) verifyTracked() error {
	// Closed connections are remembered for two minutes, so a run leaves its last ones.
	if s.tracker.Usage().Tracked == 0 {
		return errors.New("no connection was tracked")
	}
	for _, port := range s.ports {
		counters := port.Counters()
		if counters.Verdicts[verdict.Forward] == 0 {
			return fmt.Errorf("the switch delivered nothing to the %s", port.Name())
		}
		if n := counters.Verdicts[verdict.NoRule]; n != 0 {
			return fmt.Errorf("no rule admitted %d packets for the %s", n, port.Name())
		}
	}
	return nil
}
