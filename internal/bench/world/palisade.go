package world

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/firewall"
	"palisade/internal/packet"
	"palisade/internal/verdict"
	vswitch "palisade/switch"
	"palisade/switch/tap"
)

const (
	vni        = 1
	generation = 1
)

// buildPalisade builds a Switch as a node does: one network, two instances, a tracker in a
// file on a tmpfs.
func buildPalisade(ctx context.Context, w *World) error {
	n, err := w.newAlone(w.newSwitch())
	if err != nil {
		return err
	}
	if err := n.publish(nil); err != nil {
		return err
	}
	n.run(ctx, n.sw.Run)
	w.about = fmt.Sprintf("%d ports, %v, %s", w.config.Ports, w.policy, n.devices)
	w.verify = n.verifyTracked
	return nil
}

// buildRelay builds the relay on the same devices.
func buildRelay(ctx context.Context, w *World) error {
	n, err := w.newAlone(vswitch.NewRelay)
	if err != nil {
		return err
	}
	n.run(ctx, n.sw.Run)
	w.about = fmt.Sprintf("%d ports, %s", w.config.Ports, n.devices)
	return nil
}

// A node is a Switch or a relay with TAP devices, and its tracker.
type node struct {
	*World
	number  uint32 // its number in tunnels; 0 if it is the only node
	sw      *vswitch.Switch
	tracker *conntrack.Tracker
	ports   map[string]*vswitch.Port // by the endpoint's role
	devices string
}

func (w *World) newNode(number uint32, build func(vswitch.Config) (*vswitch.Switch, error)) (n *node, err error) {
	n = &node{World: w, number: number, ports: map[string]*vswitch.Port{}, devices: "TAP devices with offloads"}
	if w.config.NoConntrack {
		n.devices = "rules checked for every packet, " + n.devices
	}
	arena := w.files()
	if number != 0 {
		arena = fmt.Sprintf("%s/arena%d", w.files(), number)
	}
	if n.tracker, err = conntrack.Open(conntrack.Config{Path: arena}); err != nil {
		return nil, err
	}
	w.cleanup, w.arenas = append(w.cleanup, n.tracker.Close), append(w.arenas, arena)
	if n.sw, err = build(vswitch.Config{Tracker: n.tracker, Pollers: w.config.Pollers}); err != nil {
		return nil, err
	}
	w.cleanup = append(w.cleanup, n.removePorts) // of a node whose run was never called
	return n, nil
}

func (n *node) removePorts() error {
	var errs []error
	for _, port := range n.sw.Ports() {
		errs = append(errs, n.sw.RemovePort(port))
	}
	return errors.Join(errs...)
}

// newSwitch returns the constructor of the Switch that the Config asks for.
func (w *World) newSwitch() func(vswitch.Config) (*vswitch.Switch, error) {
	if w.config.NoConntrack {
		return vswitch.NewStateless
	}
	return vswitch.New
}

// newAlone makes the only node of a World, with all endpoints.
func (w *World) newAlone(build func(vswitch.Config) (*vswitch.Switch, error)) (*node, error) {
	if err := w.makeEndpoints(); err != nil {
		return nil, err
	}
	n, err := w.newNode(0, build)
	if err != nil {
		return nil, err
	}
	for _, e := range w.endpoints() {
		if err := n.addPort(e); err != nil {
			return nil, fmt.Errorf("port of the %s: %w", e.role, err)
		}
	}
	return n, nil
}

func (n *node) addPort(e Endpoint) error {
	device, err := tap.Open(tap.Config{Name: e.Device, Namespace: e.Namespace, Plain: n.config.NoOffloads})
	if err != nil {
		return err
	}
	if device.Offloads() == packet.NoOffloads {
		n.devices = strings.Replace(n.devices, " with ", " WITHOUT ", 1)
	}
	port, err := n.sw.AddPort(e.role, vswitch.InstancePort, device)
	if err != nil {
		return errors.Join(err, device.Close())
	}
	n.ports[e.role] = port
	return n.plug(e)
}

// publish enforces the policy for the endpoints of this node, and makes the endpoints of the
// other node reachable through the tunnel.
func (n *node) publish(tunnel *vswitch.Tunnel) error {
	compiler, groups := firewall.NewCompiler(), newGroups(n.policy, n.config.NoConntrack)
	edit := n.sw.Edit(generation)
	edit.Network(vswitch.Network{VNI: vni, Prefix: onLink, Gateway: onLink.Addr().Next(), MTU: n.mtu})
	edit.Tunnel(tunnel)
	groups.addMembers(edit, compiler)
	for i, e := range n.endpoints() {
		id := ec2.GroupID("sg-server") // also the group of the idle endpoints
		if e.role == n.client.role {
			id = groupID(clientGroup)
		}
		set := compiler.Acquire(groups, []ec2.GroupID{id}, generation)
		port, epoch := n.ports[e.role], uint64(i+1)
		owner := &vswitch.Endpoint{Epoch: epoch, Address: e.Address, MAC: e.MAC, Groups: set.Numbers, Port: port}
		if port == nil {
			owner.Node = 3 - n.number // the other of nodes 1 and 2
		}
		edit.AddEndpoint(vni, owner)
		if port != nil {
			edit.Attach(port, vni, vswitch.Attachment{Endpoint: owner, Zone: n.tracker.AddZone(epoch, conntrack.Timeouts{}), Rules: set})
		}
	}
	n.sw.Publish(edit)
	return errors.Join(compiler.Errors()...)
}

// run starts the node's goroutines. Close ends them.
func (n *node) run(ctx context.Context, runs ...func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // only Close ends it
	ended := make(chan error, len(runs))
	for _, run := range runs {
		go func() { ended <- run(ctx) }()
	}
	n.cleanup = append(n.cleanup, func() error {
		edit := n.sw.Edit(generation)
		edit.Tunnel(nil)
		for _, port := range n.ports {
			edit.Detach(port)
		}
		n.sw.Publish(edit)
		errs := []error{n.removePorts()}
		cancel()
		for range runs {
			errs = append(errs, <-ended)
		}
		return errors.Join(errs...)
	})
}

// verifyTracked returns an error if the tracker has no connections, or if the rules refused
// packets that they should admit.
func (n *node) verifyTracked() error {
	// Closed connections stay in the tracker for two minutes, so the last ones are still there.
	if n.tracker.Usage().Tracked == 0 && !n.config.NoConntrack {
		return errors.New("no connection was tracked")
	}
	for _, e := range []Endpoint{n.client, n.server} {
		port := n.ports[e.role]
		if port == nil {
			continue // the endpoint is on the other node
		}
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
