package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
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

// groups is what the compiler reads rules from.
type groups map[ec2.GroupID]*ec2.Group

func (g groups) Group(id ec2.GroupID) (*ec2.Group, bool) { one, ok := g[id]; return one, ok }

// newPalisade builds a Switch as a node does: one network, two instances, a tracker in a
// file on a tmpfs. The server's group has 100 rules; two, for the client's group, admit
// the traffic, so that every connection is tracked.
func newPalisade(ctx context.Context, config Config) (*Contestant, error) {
	w, err := wire(ctx, palisade, config, vswitch.New)
	if err != nil {
		return nil, err
	}
	compiler := firewall.NewCompiler()
	rules := groups{
		"sg-client": {ID: "sg-client", Name: "client"},
		"sg-server": {ID: "sg-server", Name: "server", Rules: serverRules()},
	}
	edit := w.sw.Edit(generation)
	edit.Network(vswitch.Network{VNI: vni, Prefix: onLink, Gateway: onLink.Addr().Next(), MTU: mtu})
	for i, e := range []endpoint{client, server} {
		set := compiler.Acquire(rules, []ec2.GroupID{ec2.GroupID("sg-" + e.role)}, generation)
		epoch := uint64(i + 1)
		owner := &vswitch.Endpoint{Epoch: epoch, Address: e.address, MAC: e.mac, Groups: set.Numbers, Port: w.ports[i]}
		edit.AddEndpoint(vni, owner)
		edit.Attach(w.ports[i], vni, vswitch.Attachment{Endpoint: owner, Zone: w.tracker.AddZone(epoch, conntrack.Timeouts{}), Rules: set})
	}
	w.sw.Publish(edit)
	w.about = fmt.Sprintf("%d rules, %s", len(rules["sg-server"].Rules), w.devices)
	w.verify = w.verifyTracked
	return w.Contestant, errors.Join(compiler.Errors()...)
}

// newRelay builds the relay on the same devices.
func newRelay(ctx context.Context, config Config) (*Contestant, error) {
	w, err := wire(ctx, relay, config, vswitch.NewRelay)
	if err != nil {
		return nil, err
	}
	w.about = w.devices
	w.verify = func() error { return nil }
	return w.Contestant, nil
}

// serverRules are 98 rules that do not match, half for CIDRs and half for groups, and
// the two that do, last.
func serverRules() []ec2.Rule {
	var all []ec2.Rule
	add := func(r ec2.Rule) {
		r.Serial = uint64(len(all) + 1)
		r.ID = ec2.RuleID(fmt.Sprintf("sgr-%08x", r.Serial))
		all = append(all, r)
	}
	for i := range ruleCount - 2 {
		r := ec2.Rule{Protocol: ec2.TCP, From: 1000 + 10*i, To: 1009 + 10*i}
		if i%2 == 0 {
			r.Source.Prefix = netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 32)
		} else {
			r.Source.Group = ec2.GroupRef{ID: ec2.GroupID(fmt.Sprintf("sg-other%d", i))}
		}
		add(r)
	}
	admitted := ec2.Source{Group: ec2.GroupRef{ID: "sg-client"}}
	add(ec2.Rule{Protocol: ec2.TCP, From: iperfPort, To: echoPort, Source: admitted})
	add(ec2.Rule{Protocol: ec2.UDP, From: echoPort, To: echoPort, Source: admitted})
	return all
}

// A wired is a Switch of either kind between two TAP devices.
type wired struct {
	*Contestant
	sw      *vswitch.Switch
	tracker *conntrack.Tracker
	ports   []*vswitch.Port // client, server
	devices string
}

func wire(ctx context.Context, name string, config Config, build func(vswitch.Config) (*vswitch.Switch, error)) (w *wired, err error) {
	w = &wired{Contestant: &Contestant{name: name}}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("build %s: %w", name, err), w.close())
		}
	}()
	path := fmt.Sprintf("%s%d-%s", arenaPath, os.Getpid(), name)
	if w.tracker, err = conntrack.Open(conntrack.Config{Path: path}); err != nil {
		return w, err
	}
	w.cleanup = append(w.cleanup, func() error { return errors.Join(w.tracker.Close(), os.Remove(path)) })
	if w.sw, err = build(vswitch.Config{Tracker: w.tracker, Pollers: config.Pollers}); err != nil {
		return w, err
	}
	w.devices = "TAP devices with offloads"
	for _, e := range []endpoint{client, server} {
		if err := w.addPort(e); err != nil {
			return w, err
		}
	}
	w.run(ctx)
	return w, w.serve(ctx, config)
}

func (w *wired) addPort(e endpoint) error {
	if err := w.make(e.role); err != nil {
		return err
	}
	device, err := tap.Open(tap.Config{Name: "eth0", Namespace: w.namespace(e.role)})
	if err != nil {
		return err
	}
	if !device.Offloads() {
		w.devices = "TAP devices WITHOUT offloads"
	}
	port, err := w.sw.AddPort(e.role, vswitch.InstancePort, device)
	if err != nil {
		return errors.Join(err, device.Close())
	}
	w.ports = append(w.ports, port)
	return w.plug(e)
}

// run starts the pollers and the sweeper, and has close end them.
func (w *wired) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { _ = w.sw.Run(ctx) }) // returns nil
	wg.Go(func() { w.runSweep(ctx) })
	w.cleanup = append(w.cleanup, func() error {
		var errs []error
		for _, port := range w.ports {
			edit := w.sw.Edit(generation)
			edit.Detach(port)
			w.sw.Publish(edit)
			errs = append(errs, w.sw.RemovePort(port))
		}
		cancel()
		wg.Wait()
		return errors.Join(errs...)
	})
}

func (w *wired) runSweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			w.tracker.Sweep(vswitch.Now())
		}
	}
}

// verifyTracked reports what was wrong with a run: connections that left no trace in the
// tracker, or packets that the rules should have admitted and did not.
func (w *wired) verifyTracked() error {
	// Closed connections are remembered for two minutes, so a run leaves its last ones.
	if w.tracker.Usage().Tracked == 0 {
		return errors.New("no connection was tracked")
	}
	for _, port := range w.ports {
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
