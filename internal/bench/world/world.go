// Package world builds the contestants of the benchmark. Each has two endpoints and a switch
// or tunnel between them.
//
// An endpoint is a network namespace with the kernel's TCP stack and a device eth0; it is the
// same for all contestants. Every contestant with a filter has the same policy (policy.go): a
// hundred rules, of which the last two admit TCP and UDP on FirstPort to LastPort from the
// client, and connection tracking for the replies. On one node:
//
//	palisade  the Switch, its tables and its tracker, between two TAP devices
//	relay     the same pollers and devices, but it forwards every frame without a decision:
//	          the upper limit of a Switch between TAP devices
//	bridge    a Linux bridge between two veth pairs, with iptables, ipset and the kernel's
//	          connection tracking: the usual alternative
//	ovs       Open vSwitch's userspace datapath with segmentation offload and ct()
//	vde2      the switch of VDE, which has no filter
//
// On two nodes, each with one endpoint, joined by an underlay of MTU 1500 (underlay.go):
//
//	palisade  two Switches and the sealed tunnel between them; palisade-unsealed has a VXLAN
//	          tunnel instead
//	vxlan     the kernel's VXLAN, not sealed, between two bridges as above
//	nebula    Nebula, sealed, in the namespaces of the endpoints
//
// A Builder makes a World; Contestants lists the Builders in the order of the report. All
// namespaces are named pal-bench-PID-… and are removed when Close returns. ClearLeftovers
// removes the namespaces of a run that was killed.
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

// Placement says where the two endpoints of a World are.
type Placement string

const (
	SameNode Placement = "one node"
	TwoNodes Placement = "two nodes"
)

// The rules of every contestant admit TCP and UDP from the client to these ports of the
// server, and to no others.
const (
	FirstPort = 5201
	LastPort  = 5299
)

// Config says how a World is built. The report compares Worlds of the zero Config. Values out
// of range are an error of Build.
type Config struct {
	// Pollers is the number of pollers of each Switch. Default: the Switch's own default. More
	// pollers than processors make the Switch slower.
	Pollers int
	// MTU is the MTU of the endpoints' devices or, on two nodes, of the underlay, in bytes.
	// Default 1500. Contestants without jumbo frames cannot be built with more.
	MTU int

	// Rules is the number of rules of the server's group, 2 to 100,000; the last two match.
	// Default 100. Contestants that scan their rules become slower with each.
	Rules int
	// Members is the number of members of the client's group, 1 to 100,000. Default 10. Each
	// member takes memory.
	Members int
	// Ports is the number of ports of the switch, 2 to 202; all but two are idle. Default 2.
	// Each port takes a device.
	Ports int

	// NoOffloads opens TAP devices without offloads. Default false. Like NoConntrack and
	// NoSeal it leaves out one part of palisade's switch; other contestants cannot be built
	// with it.
	NoOffloads bool
	// NoConntrack checks every packet against the rules, and adds rules that admit replies.
	// Default false.
	NoConntrack bool
	// NoSeal uses VXLAN between two nodes instead of the sealed tunnel. Default false.
	NoSeal bool
}

func (c *Config) fill() error {
	for value, by := range map[*int]int{&c.MTU: 1500, &c.Rules: 100, &c.Members: 10, &c.Ports: 2} {
		if *value == 0 {
			*value = by
		}
	}
	if c.Rules < 2 || c.Rules > maxRules || c.Members < 1 || c.Members > maxMembers {
		return fmt.Errorf("%d rules and %d members: must be 2 to %d and 1 to %d", c.Rules, c.Members, maxRules, maxMembers)
	}
	if c.Ports < 2 || c.Ports > maxPorts {
		return fmt.Errorf("%d ports: must be 2 to %d", c.Ports, maxPorts)
	}
	return nil
}

// A Builder makes the Worlds of one contestant.
type Builder struct {
	Name      string
	Placement Placement
	About     string   // one line for the report
	Needs     []string // command:package, as the Makefile has them

	build func(context.Context, *World) error
	can   abilities
}

// abilities are the options of a Config that a contestant supports.
type abilities uint8

const (
	morePorts abilities = 1 << iota
	jumbo               // frames above 1500 bytes
	noOffloads
	noConntrack
	noSeal
)

// wants returns the abilities that a Config needs.
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

// Can reports whether the contestant can be built with c.
func (b Builder) Can(c Config) bool { return c.wants()&^b.can == 0 }

// built numbers the Worlds, because several of one contestant may exist at the same time.
var built atomic.Int64

// Build makes a World. The caller must close it, also after ctx has ended.
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

// Missing returns the Needs that are not installed.
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
		{Name: "relay", About: "the same pollers and devices without a filter: the upper limit", build: buildRelay, can: jumbo | morePorts | noOffloads},
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

// The endpoints have the same addresses in every World; Worlds do not share a network.
var (
	clientMAC = ec2.MAC{2, 0, 0, 0, 0, 4}
	serverMAC = ec2.MAC{2, 0, 0, 0, 0, 5}
)

// An Endpoint is a network namespace in which programs send and receive.
type Endpoint struct {
	Namespace string // below /run/netns
	Device    string
	Address   netip.Addr
	// MAC is the device's address, Peer the destination MAC of its frames for the other
	// endpoint. Both are zero if the device carries IP packets without an Ethernet header.
	MAC, Peer ec2.MAC

	role string
	idle bool // it only occupies a port
}

// A World is a contestant that was built: two endpoints and the switch or tunnel between them.
// Start and Serve may be called by several goroutines at the same time, other methods by one.
// Close ends every process and goroutine that the World started.
type World struct {
	Programs
	name, id       string
	about          string
	config         Config
	policy         policy
	mtu            int
	client, server Endpoint
	verify         func() error

	between    []int    // pids of the processes that carry packets
	arenas     []string // files of trackers
	tracking   []string // namespaces in which the kernel tracks connections
	heap       int64    // growth of this process's heap by its Switches, in bytes
	namespaces []string
	cleanup    []func() error // in reverse order
}

// Name returns the contestant's name.
func (w *World) Name() string { return w.name }

// Client returns the endpoint that opens connections, and Server the endpoint that accepts
// them.
func (w *World) Client() Endpoint { return w.client }
func (w *World) Server() Endpoint { return w.server }

// endpoints returns the client, the server, and the endpoints that only occupy ports.
func (w *World) endpoints() []Endpoint {
	all := []Endpoint{w.client, w.server}
	for i := range w.config.Ports - 2 {
		all = append(all, Endpoint{role: fmt.Sprintf("idle%d", i), idle: true, Namespace: w.namespace("idle"), Device: fmt.Sprintf("eth%d", i),
			Address: nth(idleInstances, i), MAC: ec2.MAC{2, 0, 0, 1, 0, byte(i)}})
	}
	return all
}

// MTU returns the MTU of the endpoints' devices, in bytes.
func (w *World) MTU() int { return w.mtu }

// Describe returns the properties that the results depend on: versions, rules, devices.
func (w *World) Describe() string { return w.about }

// Verify returns an error if traffic bypassed the filter. It is called after TCP or UDP went
// from the client to the server and back.
func (w *World) Verify() error { return w.verify() }

// Close ends the processes and goroutines of the World and removes its namespaces and files.
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

// files returns the path of the World's file or directory, on a tmpfs.
func (w *World) files() string { return fmt.Sprintf("%s%d-%s", filesPath, os.Getpid(), w.id) }

func (w *World) namespace(role string) string {
	return fmt.Sprintf("%s%d-%s-%s", prefix, os.Getpid(), w.id, role)
}
