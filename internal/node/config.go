package node

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/pelletier/go-toml/v2"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/node/plane"
	"palisade/internal/secret"
	"palisade/switch/overlay"
)

// Config is the configuration file of a node.
type Config struct {
	// Name of the node, unique in its cluster. Required. It is part of the node's identity: with
	// another name the daemon does not start.
	Name ec2.NodeID `toml:"name"`
	// Zone is the node's availability zone, such as us-east-1a. Required; read when the node begins
	// or joins a cluster. Subnets of a zone without a node can have no instances. For a region whose
	// zones are set by palisade cluster set, what is set there counts.
	Zone string `toml:"zone"`
	// Region is the region that the cluster begins with; a new access key is printed with it. Required.
	// Requests for a region that is neither this one nor served (regions, palisade cluster set) are
	// refused.
	Region ec2.Region `toml:"region"`
	// Regions is "all" if the cluster serves every region of AWS, with AWS's zones, on the nodes that it
	// has. Read only when a cluster begins; palisade cluster set changes it later. Default "": only
	// region, whose zones are those of the nodes.
	Regions string `toml:"regions"`
	// DataDir is the directory of the Raft log, the enforced index, the keys and the node's
	// identity. Required; created if it is missing. It must survive a reboot: without it the node has
	// to join again under a new name.
	DataDir string `toml:"data_dir"`
	// APISocket is the path of the Unix socket that serves the EC2 Query API. Required; created at
	// each start, for root only. Two nodes with one path replace each other's socket.
	APISocket string `toml:"api_socket"`
	// ControlSocket is the path of the Unix socket that the palisade command asks. Required; created at
	// each start, for root only. Two nodes with one path replace each other's socket.
	ControlSocket string `toml:"control_socket"`
	// Arena is the path of the file that holds the tracked connections; a file beside it, with
	// ".owners" after its name, has the owners of their addresses. Both must be on a tmpfs, belong to the
	// daemon's user and have mode 0600, else the daemon does not start; their directory must not let
	// others replace them. Files of another boot are emptied, which is logged. Default:
	// none; the connections are in the daemon's memory, and end when the daemon restarts.
	Arena string `toml:"arena"`

	// ConntrackAllowance is the largest number of tracked connections of one interface, up to 262,144, the
	// room of a node. Default: a quarter of that. If it is too small, a busy interface loses new
	// connections; if too large, one interface can leave others only their reserve of 256 each.
	ConntrackAllowance int `toml:"conntrack_allowance"`

	// APIListen is an address and port that serves the Query API too, over TLS with the node's
	// certificate, such as 192.0.2.11:8443. Default: none. It requires peer.listen. Strangers who can
	// reach the address can try access keys.
	APIListen netip.AddrPort `toml:"api_listen"`

	// Halt lets idle processors of a virtual machine halt while frames flow. Default false: they never
	// halt. With true a round trip takes about 40 us longer, but the host can give the processors to
	// other machines.
	Halt bool `toml:"halt"`

	APILimits API       `toml:"api"`
	Peer      Peer      `toml:"peer"`
	Lab       Lab       `toml:"lab"`
	Uplink    Uplink    `toml:"uplink"`
	Classic   Classic   `toml:"classic"`
	Settings  Settings  `toml:"settings"`
	Account   []Account `toml:"account"`
}

// API bounds what the callers of the Query API can take of this node.
type API struct {
	// Rate is how many times as often as at EC2 an account may call each action at this node, up to 1e6.
	// Default 1: EC2's own rates, such as 20 reads in a second after a burst of 100. Beyond it the error is
	// RequestLimitExceeded. If it is too low, useful requests are throttled; if too high, one account can
	// take most of the processor.
	Rate float64 `toml:"rate"`
	// Connections is how many connections the Unix socket and api_listen may each have, from 4 to 100,000.
	// Default 1024. One address has at most a quarter of those of api_listen. Connections beyond it displace
	// idle ones. With fewer, busy clients are refused; with more, strangers can take more memory.
	Connections int `toml:"connections"`
}

const defaultAPIConnections = 1024

func (a API) check() error {
	if a.Rate != 0 && !(a.Rate > 0 && a.Rate <= 1e6) {
		return fmt.Errorf(`"api.rate" is %g; it must be above 0, and at most 1000000`, a.Rate)
	}
	if a.Connections != 0 && (a.Connections < 4 || a.Connections > 100_000) {
		return fmt.Errorf(`"api.connections" is %d; it must be 4 to 100,000`, a.Connections)
	}
	return nil
}

func (a API) rate() float64 { return cmp.Or(a.Rate, 1) }

// Peer is how the nodes of a cluster reach each other. Without it the node is a cluster of one.
type Peer struct {
	// Listen is the IPv4 address and port of this node on the underlay, such as 192.0.2.11:7400, for
	// Raft, calls between nodes and the exchange of keys, all over TLS. Default: none. Gossip uses the
	// next port; tunnels use the port after that, or 4789 for VXLAN. If the other nodes cannot reach
	// the address, this node cannot join, or loses contact with the cluster.
	Listen netip.AddrPort `toml:"listen"`
	// MTU of the underlay, in bytes of an IP packet, from 1280 to 9216. Default 1500. An instance has what
	// is left of it in a tunnel: 94 bytes less if sealed, 50 less with "vxlan", and at most 9001. So an
	// underlay of 1594 or 1550 gives instances the usual 1500. Nodes may differ: larger packets to a node
	// with less are fragmented, or answered. If it is larger than the underlay's, full packets between
	// nodes are lost; if smaller, throughput is lower.
	MTU int `toml:"mtu"`
	// Overlay is the form of the tunnels: "sealed" (encrypted) or "vxlan" (not encrypted). Default
	// "sealed". It must be the same on all nodes, otherwise no packet passes between them. With "vxlan"
	// whoever can send on the underlay can send as any instance.
	Overlay overlay.Form `toml:"overlay"`
}

func (p Peer) gossip() netip.AddrPort { return netip.AddrPortFrom(p.Listen.Addr(), p.Listen.Port()+1) }

func (p Peer) tunnel() netip.AddrPort { return plane.TunnelAddress(p.Listen, p.Overlay) }

// Lab lets a node boot instances. Without it the node only attaches interfaces to namespaces and
// devices that exist.
type Lab struct {
	// NamespacePrefix begins the name of each instance's network namespace: with "lab-", instance
	// i-1234 is in lab-i-1234. Default "": the node boots no instances. Two nodes on one machine may
	// share it.
	NamespacePrefix string `toml:"namespace_prefix"`
	// InstanceDir is the directory of the instances' files. Required to boot instances. If it is lost,
	// running instances cannot be adopted by the next daemon.
	InstanceDir string `toml:"instance_dir"`
	// CgroupPrefix is the cgroup below which each instance has its own. Required to boot instances. Two
	// labs with one cgroup share its limits.
	CgroupPrefix string `toml:"cgroup_prefix"`
}

// Uplink is the node's device to the network outside the cluster. Without it instances reach only
// instances.
type Uplink struct {
	// Device is the name of the TAP that the node makes. Default "": no uplink.
	Device string `toml:"device"`
	// Namespace is the network namespace, below /run/netns, in which the device is made. Default "":
	// the namespace of the daemon. In a wrong namespace the packets reach no router.
	Namespace string `toml:"namespace"`
	// Bridge is the bridge in Namespace to which the device is added. Default "": none.
	Bridge string `toml:"bridge"`
	// GatewayMAC is the unicast MAC of the next router. Required with a device. With a wrong MAC the
	// network drops every packet to the outside.
	GatewayMAC ec2.MAC `toml:"gateway_mac"`
}

// Classic is the region's EC2-Classic network. It is read only when a cluster begins.
type Classic struct {
	// Network is the IPv4 network of all private addresses, of 16 addresses or more, such as
	// 10.0.0.0/8. Required. An address outside the cluster that it contains cannot be reached.
	Network netip.Prefix `toml:"network"`
	// Pools are networks within Network from which private addresses are leased. Required. If they are
	// too small, a launch in EC2-Classic fails with InsufficientAddressCapacity.
	Pools []netip.Prefix `toml:"pools"`
	// PublicPools are the IPv4 networks of public addresses, outside Network. Default: none, so that
	// instances have no public address. If the network outside does not route them to the uplinks, no
	// reply arrives.
	PublicPools []netip.Prefix `toml:"public_pools"`
}

// Settings are waiting times and limits of the cluster. They are read only when a cluster begins.
type Settings struct {
	// Quarantine is how long a released address is not leased again, up to 24h. Default "60s". If it is
	// too short, packets for its previous interface can reach its next interface; if too long, pools
	// run empty.
	Quarantine duration `toml:"quarantine"`
	// Limits is the preset of EC2 limits: "today", "vpc-2012" or "classic-2012". Default "today". With
	// older limits, requests of today's clients may be refused.
	Limits string `toml:"limits"`

	// AuditRecords is how many records of changes of one account, and of the operators, each node keeps in
	// memory, up to 5 kB each, from 1 to 1,000,000. Default 10,000. All accounts together have at most four
	// times as many. With fewer, older changes cannot be looked up.
	AuditRecords int `toml:"audit_records"`
}

// maxAuditRecords bounds the memory of each node: a record takes about 5 kB.
const maxAuditRecords = 1_000_000

func (s Settings) domain() (ec2.Settings, error) {
	var settings ec2.Settings
	if s.Limits != "" {
		var known bool
		if settings, known = ec2.Preset(s.Limits); !known {
			return ec2.Settings{}, fmt.Errorf(`"settings.limits" is %q; it must be "today", "vpc-2012" or "classic-2012"`, s.Limits)
		}
	}
	if s.Quarantine != 0 {
		settings.Quarantine = time.Duration(s.Quarantine)
	}
	if s.AuditRecords < 0 || s.AuditRecords > maxAuditRecords {
		return ec2.Settings{}, fmt.Errorf(`"settings.audit_records" is %d; it must be 1 to %d`, s.AuditRecords, maxAuditRecords)
	}
	settings.AuditRecords = s.AuditRecords
	return settings, nil
}

// A duration is written in the file as time.ParseDuration reads it, such as "60s".
type duration time.Duration

func (d *duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil || parsed <= 0 || parsed > 24*time.Hour {
		return fmt.Errorf("%q must be a duration up to 24h, such as \"60s\"", text)
	}
	*d = duration(parsed)
	return nil
}

// Account is an account with which a cluster begins. It is read only then.
type Account struct {
	// ID of 12 digits. Required.
	ID ec2.AccountID `toml:"id"`
	// Name for operators, unique. Required.
	Name string `toml:"name"`
	// Platform is "classic", an account with EC2-Classic, or "vpc", an account with a default VPC.
	// Required. It cannot be changed.
	Platform ec2.Platform `toml:"platform"`
	// AccessKey is the id of the account's access key. Required.
	AccessKey string `toml:"access_key"`
	// SecretKey is the secret of that key. Required. Whoever reads the file can act as the account.
	SecretKey string `toml:"secret_key"`
}

// classicVNI is the VNI of the region's EC2-Classic network.
const classicVNI ec2.VNI = 1

// ReadConfig reads a configuration file and fills in defaults. The error for an unknown key, a wrong
// type or a missing value names the key and, where possible, the line.
func ReadConfig(path string) (Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	var c Config
	d := toml.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return Config{}, fmt.Errorf("configuration %s: %w", path, describe(err))
	}
	if err := c.check(); err != nil {
		return Config{}, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

// describe returns an error of the TOML library with the line and key to which it applies.
func describe(err error) error {
	if unknown, ok := errors.AsType[*toml.StrictMissingError](err); ok {
		first := unknown.Errors[0]
		line, _ := first.Position()
		return fmt.Errorf("line %d: %q is not a key of a node's configuration", line, join(first.Key()))
	}
	if wrong, ok := errors.AsType[*toml.DecodeError](err); ok {
		line, _ := wrong.Position()
		return fmt.Errorf("line %d: %q: %w", line, join(wrong.Key()), wrong)
	}
	return err
}

func join(key toml.Key) string {
	text := ""
	for i, k := range key {
		if i > 0 {
			text += "."
		}
		text += k
	}
	return text
}

func (c *Config) check() error {
	for _, required := range []struct{ key, value string }{
		{"name", string(c.Name)}, {"zone", c.Zone}, {"region", string(c.Region)}, {"data_dir", c.DataDir},
		{"api_socket", c.APISocket}, {"control_socket", c.ControlSocket},
	} {
		if required.value == "" {
			return fmt.Errorf("%q is missing", required.key)
		}
	}
	if c.Regions != "" && c.Regions != "all" {
		return fmt.Errorf(`"regions" is %q; it must be "all", or absent; palisade cluster set adds single regions`, c.Regions)
	}
	n := c.Classic.Network
	if !n.IsValid() || !n.Addr().Is4() || n != n.Masked() || n.Bits() > 28 {
		return fmt.Errorf(`"classic.network" is %q; it must be an IPv4 network of 16 addresses or more, such as "10.0.0.0/8"`, n)
	}
	for _, p := range c.Classic.Pools {
		if !n.Overlaps(p) || p.Bits() < n.Bits() || p != p.Masked() {
			return fmt.Errorf(`"classic.pools" has %s, which is not a network within "classic.network" %s`, p, n)
		}
	}
	for _, p := range c.Classic.PublicPools {
		if !p.Addr().Is4() || p != p.Masked() || p.Overlaps(n) {
			return fmt.Errorf(`"classic.public_pools" has %s, which is not an IPv4 network outside "classic.network" %s`, p, n)
		}
	}
	if len(c.Classic.Pools) == 0 {
		return errors.New(`"classic.pools" is empty: no address can be leased`)
	}
	if c.ConntrackAllowance < 0 || c.ConntrackAllowance > conntrack.DefaultCapacity {
		return fmt.Errorf(`"conntrack_allowance" is %d; it must be from 1 to %d, or absent`, c.ConntrackAllowance, conntrack.DefaultCapacity)
	}
	if c.Uplink.Device != "" && !c.Uplink.GatewayMAC.IsUnicast() {
		return fmt.Errorf(`"uplink.gateway_mac" is %s; it must be the unicast MAC of the next router`, c.Uplink.GatewayMAC)
	}
	if err := cmp.Or(c.APILimits.check(), c.Peer.check()); err != nil {
		return err
	}
	return c.rehearse()
}

func (p *Peer) check() error {
	if p.MTU == 0 {
		p.MTU = 1500
	}
	switch {
	case p.MTU < 1280 || p.MTU > 9216:
		return fmt.Errorf(`"peer.mtu" is %d; it must be the MTU of the underlay, from 1280 to 9216`, p.MTU)
	case !p.Listen.IsValid() && p.Listen == (netip.AddrPort{}):
		if p.Overlay != overlay.Sealed {
			return fmt.Errorf(`"peer.overlay" is %q, but there is no "peer.listen": a cluster of one has no tunnels`, p.Overlay)
		}
		return nil
	case !p.Listen.Addr().Is4() || p.Listen.Addr().IsUnspecified() || p.Listen.Port() == 0 || p.Listen.Port() > 65533:
		return fmt.Errorf(`"peer.listen" is %s; it must be the IPv4 address at which the other nodes reach this node, and a port up to 65533, such as "192.0.2.11:7400"`, p.Listen)
	}
	return nil
}

// rehearse applies the first commands of a cluster to an empty state and returns the error of the first
// that is refused, such as one for an invalid account.
func (c *Config) rehearse() error {
	commands, err := c.bootstrap(nil, "")
	if err != nil {
		return err
	}
	var keys keyring
	keys.key.Store(secret.NewKey())
	st := state.NewState()
	for i, cmd := range keys.sealed(commands) {
		if _, err := st.Apply(uint64(i+1), cmd); err != nil {
			return fmt.Errorf("a cluster cannot begin with it: %w", err)
		}
	}
	return nil
}

// bootstrap returns the first commands of a cluster that this node begins. publicKey is nil in a
// cluster of one. gossipKey is the id of the first gossip key.
func (c *Config) bootstrap(publicKey []byte, gossipKey string) ([]state.Command, error) {
	var seed [16]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, err
	}
	settings, err := c.Settings.domain()
	if err != nil {
		return nil, err
	}
	self := ec2.Node{ID: c.Name, Zone: c.Zone, PublicKey: publicKey}
	if c.Peer.Listen.IsValid() {
		self.Role, self.Address = ec2.Voter, c.Peer.Listen.String()
	}
	requests := []state.Request{
		&state.Bootstrap{Seed: hex.EncodeToString(seed[:]), Gossip: gossipKey, Settings: settings},
		&state.PutNode{Node: self},
	}
	if c.Regions == "all" {
		requests = append(requests, &state.SetRegions{Every: new(true)})
	}
	requests = append(requests,
		&state.PutNetwork{Network: ec2.Network{
			VNI: classicVNI, Region: c.Region, Prefix: c.Classic.Network, Gateway: c.Classic.Network.Addr().Next(),
			Pools: c.Classic.Pools, PublicPools: c.Classic.PublicPools,
		}})
	for _, a := range c.Account {
		requests = append(requests, &state.CreateAccount{
			ID: a.ID, Name: a.Name, Platform: a.Platform, AccessKey: a.AccessKey, Secret: a.SecretKey,
		})
	}
	commands := make([]state.Command, len(requests))
	for i, r := range requests {
		commands[i] = state.Command{Request: r}
	}
	return commands, nil
}
