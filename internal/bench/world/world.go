// Package world builds what the benchmark compares: contestants, each two endpoints and
// what carries packets between them.
//
// An endpoint is a network namespace with a kernel's TCP stack and a device eth0, the same
// for all. Every contestant that filters has the same policy (policy.go): a hundred rules,
// of which the last two admit TCP and UDP on FirstPort to LastPort from the client, and
// connection tracking for the replies. On one node:
//
//	palisade  the Switch, its tables and its tracker, between two TAP devices
//	relay     the same pollers and devices, with a constant for a verdict: the limit of
//	          what a Switch between TAP devices can do
//	bridge    a Linux bridge between two veth pairs, iptables, ipset and the kernel's
//	          connection tracking: what one would use instead
//	ovs       Open vSwitch's userspace datapath with segmentation offload and ct()
//	vde2      VDE's switch, which has no filter
//
// On two nodes, each with one endpoint, joined by an underlay of MTU 1500 (underlay.go):
//
//	palisade  two Switches and the sealed tunnel between them; palisade-unsealed without
//	          the seal
//	vxlan     the kernel's VXLAN, not sealed, between two bridges as above
//	nebula    Nebula at the endpoints themselves, sealed
//
// A Builder makes a World; Contestants lists them in the order of the report. Everything
// is made in namespaces called pal-bench-PID-…, gone when Close returns; what a killed run
// left behind is cleared by ClearLeftovers.
package world

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"

	"palisade/ec2"
)

// Placement is where the two endpoints of a World are.
type Placement string

const (
	SameNode Placement = "one node"
	TwoNodes Placement = "two nodes"
)

// The ports, of TCP and of UDP, that every contestant's rules admit from the client to the
// server. Others they drop.
const (
	FirstPort = 5201
	LastPort  = 5299
)

// Config is what a World is built with; its zero value is what the report compares.
type Config struct {
	Pollers int // of each Switch. Default: the Switch's own
	MTU     int // bytes, of the endpoints' devices, or of the underlay of two nodes. Default 1500

	Rules   int // of the server's group. Default 100; the last two match
	Members int // of the client's group. Default 10
	Ports   int // of the switch; behind those but two nothing happens. Default 2

	// Ablations: what the numbers would be without. They are for the switches of this
	// repository alone.
	NoOffloads  bool
	NoConntrack bool // the rules are asked about every packet, and admit answers
	NoSeal      bool // VXLAN between two nodes
}

func (c *Config) fill() error {
	for value, by := range map[*int]int{&c.MTU: 1500, &c.Rules: 100, &c.Members: 10, &c.Ports: 2} {
		if *value == 0 {
			*value = by
		}
	}
	if c.Rules < 2 || c.Rules > maxRules || c.Members < 1 || c.Members > maxMembers {
		return fmt.Errorf("%d rules are not 2 to %d, or %d members not 1 to %d", c.Rules, maxRules, c.Members, maxMembers)
	}
	if c.Ports < 2 || c.Ports > maxPorts {
		return fmt.Errorf("%d ports are not 2 to %d", c.Ports, maxPorts)
	}
	return nil
}

// A Builder makes the Worlds of one contestant.
type Builder struct {
	Name      string
	Placement Placement
	About     string   // one line, for people
	Needs     []string // command:package, as the Makefile has them

	build func(context.Context, *World) error
	can   abilities
}

// abilities are what of a Config a contestant can be built with besides its sizes.
type abilities uint8

const (
	morePorts abilities = 1 << iota
	jumbo               // frames above 1500 bytes
	noOffloads
	noConntrack
	noSeal
)

// wants are the abilities that a Config asks for.
func (c Config) wants() (all abilities) {
	if c.Ports > 2 {
		all |= morePorts
	}
	if c.MTU > 1500 {
		all |= jumbo
	}
	if c.NoOffloads {
		all |= noOffloads
	}
	if c.NoConntrack {
		all |= noConntrack
	}
	if c.NoSeal {
		all |= noSeal
	}
	return all
}

// Can reports whether the contestant can be built so.
func (b Builder) Can(c Config) bool { return c.wants()&^b.can == 0 }

// built numbers Worlds: several of one contestant may stand side by side.
var built atomic.Int64

// Build makes a World. The caller closes it, whatever happens to ctx.
func (b Builder) Build(ctx context.Context, c Config) (*World, error) {
	if err := c.fill(); err != nil {
		return nil, err
	}
	if missing := b.Missing(); len(missing) > 0 {
		return nil, fmt.Errorf("build %s: not installed: %s", b.Name, strings.Join(missing, " "))
	}
	if !b.Can(c) {
		return nil, fmt.Errorf("build %s: it cannot be built with %+v", b.Name, c)
	}
	w := &World{
		name: b.Name, id: fmt.Sprintf("%d-%s", built.Add(1), b.Name), config: c, policy: newPolicy(c), mtu: c.MTU,
		client: Endpoint{role: "client", Device: "eth0", Address: clientAddress, MAC: clientMAC, Peer: serverMAC},
		server: Endpoint{role: "server", Device: "eth0", Address: serverAddress, MAC: serverMAC, Peer: clientMAC},
		verify: func() error { return nil },
	}
	w.client.Namespace, w.server.Namespace = w.namespace("client"), w.namespace("server")
	before := heapInUse()
	if err := b.build(ctx, w); err != nil {
		return nil, errors.Join(fmt.Errorf("build %s: %w", b.Name, err), w.Close())
	}
	if len(w.arenas) > 0 {
		w.heap = max(0, heapInUse()-before)
	}
	return w, nil
}

// Missing returns what of Needs is not installed.
func (b Builder) Missing() []string {
	var missing []string
	for _, need := range b.Needs {
		command, _, _ := strings.Cut(need, ":")
		if _, err := exec.LookPath(command); err != nil {
			missing = append(missing, need)
		}
	}
	return missing
}

// Contestants returns the builders of a placement, in the order of the report.
func Contestants(p Placement) []Builder {
	all := map[Placement][]Builder{SameNode: {
		{Name: "palisade", About: "the switch, its rules and its tracker", build: buildPalisade, can: jumbo | morePorts | noOffloads | noConntrack},
		{Name: "relay", About: "the same pollers and devices without a filter: the limit", build: buildRelay, can: jumbo | morePorts | noOffloads},
		{Name: "bridge", About: "Linux bridge, iptables, ipset, conntrack", Needs: []string{"iptables:iptables", "ipset:ipset"}, build: buildBridge, can: jumbo | morePorts},
		{Name: "ovs", About: "Open vSwitch, userspace datapath with TSO and ct()", Needs: []string{"ovs-vswitchd:openvswitch-switch"}, build: buildOVS, can: jumbo | morePorts},
		{Name: "vde2", About: "VDE's switch, without any filter", Needs: []string{"vde_switch:vde2"}, build: buildVDE},
	}, TwoNodes: {
		{Name: "palisade", About: "two switches, a sealed tunnel", build: buildTunnelled, can: jumbo | noOffloads | noConntrack | noSeal},
		{Name: "palisade-unsealed", About: "two switches, VXLAN between them", build: buildUnsealed, can: jumbo | noOffloads | noConntrack | noSeal},
		{Name: "vxlan", About: "kernel VXLAN, not sealed, and bridge at both nodes", Needs: []string{"iptables:iptables", "ipset:ipset"}, build: buildVXLAN, can: jumbo},
		{Name: "nebula", About: "Nebula as packaged, sealed, without offloads", Needs: []string{"nebula:nebula", "nebula-cert:nebula"}, build: buildNebula, can: jumbo},
	}}
	builders := all[p]
	for i := range builders {
		builders[i].Placement = p
	}
	return builders
}

// The endpoints are the same in every World; each is a world of its own.
var (
	clientMAC = ec2.MAC{2, 0, 0, 0, 0, 4}
	serverMAC = ec2.MAC{2, 0, 0, 0, 0, 5}
)

// An Endpoint is where programs send and receive.
type Endpoint struct {
	Namespace string // below /run/netns
	Device    string
	Address   netip.Addr
	MAC       ec2.MAC
	Peer      ec2.MAC // whom it addresses its frames for the other endpoint to
	// Both are zero where the device carries IP packets without an Ethernet header.

	role string
	idle bool // it is an instance that does nothing
}

// A World is two endpoints and what is between them. Start and Serve may be called by
// several goroutines at a time, the rest by one. Close ends every process and goroutine
// that it started.
type World struct {
	Programs
	name, id       string
	about          string
	config         Config
	policy         policy
	mtu            int
	client, server Endpoint
	verify         func() error

	between    []int    // processes that carry packets
	arenas     []string // files of trackers
	tracking   []string // namespaces that the kernel tracks connections in
	heap       int64    // bytes that it grew by, where Switches are in it
	namespaces []string
	cleanup    []func() error // in reverse order
}

// Name is the contestant's.
func (w *World) Name() string { return w.name }

// Client is the endpoint that connections are made from, Server the one they are made to.
func (w *World) Client() Endpoint { return w.client }
func (w *World) Server() Endpoint { return w.server }

// endpoints are the client, the server, and those that only fill ports.
func (w *World) endpoints() []Endpoint {
	all := []Endpoint{w.client, w.server}
	for i := range w.config.Ports - 2 {
		all = append(all, Endpoint{role: fmt.Sprintf("idle%d", i), idle: true, Namespace: w.namespace("idle"), Device: fmt.Sprintf("eth%d", i),
			Address: nth(idleInstances, i), MAC: ec2.MAC{2, 0, 0, 1, 0, byte(i)}})
	}
	return all
}

// MTU is that of the endpoints' devices, in bytes.
func (w *World) MTU() int { return w.mtu }

// Describe says what the numbers of this World depend on: versions, rules, devices.
func (w *World) Describe() string { return w.about }

// Verify reports traffic that went past the filter it was meant to go through. It is
// called after TCP or UDP went from the client to the server and back.
func (w *World) Verify() error { return w.verify() }

// Close ends what runs in the World and removes it.
func (w *World) Close() error {
	w.EndServers()
	var errs []error
	for _, undo := range slices.Backward(w.cleanup) {
		errs = append(errs, undo())
	}
	w.cleanup = nil
	for _, name := range w.namespaces {
		errs = append(errs, removeNamespace(context.Background(), name))
	}
	w.namespaces = nil
	errs = append(errs, os.RemoveAll(w.files()))
	return errors.Join(errs...)
}

// files is where the World keeps files, a file or a directory, in memory.
func (w *World) files() string { return fmt.Sprintf("%s%d-%s", filesPath, os.Getpid(), w.id) }

func (w *World) namespace(role string) string {
	return fmt.Sprintf("%s%d-%s-%s", prefix, os.Getpid(), w.id, role)
}
