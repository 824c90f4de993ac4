package node

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/pelletier/go-toml/v2"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/node/plane"
	"palisade/internal/secret"
	"palisade/switch/overlay"
)

// Config is a node's configuration file.
type Config struct {
	Name          ec2.NodeID `toml:"name"`
	Zone          string     `toml:"zone"` // its availability zone
	Region        ec2.Region `toml:"region"`
	DataDir       string     `toml:"data_dir"`       // durable: the log, the enforced index
	APISocket     string     `toml:"api_socket"`     // where the EC2 Query API is served
	ControlSocket string     `toml:"control_socket"` // where this node answers its operator
	Arena         string     `toml:"arena"`          // the connections' file, on a tmpfs

	// APIListen serves the Query API on an address as well, with TLS and this node's
	// certificate. Empty: on the socket alone.
	APIListen netip.AddrPort `toml:"api_listen"`

	// Halt lets idle processors of a virtual machine halt while frames flow: a round trip
	// takes some 40 us more, and the host has them for others.
	Halt bool `toml:"halt"`

	Peer     Peer      `toml:"peer"`
	Lab      Lab       `toml:"lab"`
	Uplink   Uplink    `toml:"uplink"`
	Classic  Classic   `toml:"classic"`
	Settings Settings  `toml:"settings"`
	Account  []Account `toml:"account"`
}

// Peer is how the nodes of a cluster reach each other. Without an address the node is a
// cluster of one, and nothing listens.
type Peer struct {
	// Listen is this node's own address on the underlay: Raft, calls between nodes and
	// the exchange of keys, all within TLS. Gossip has the next port, tunnels the one
	// behind it, or VXLAN's.
	Listen netip.AddrPort `toml:"listen"`
	// MTU of the underlay, in bytes of an IP packet. Default 1500.
	MTU int `toml:"mtu"`
	// Overlay is the form of the tunnels, and the same at every node: "sealed", the
	// default, or "vxlan", for an underlay that is trusted as a wire is.
	Overlay overlay.Form `toml:"overlay"`
}

func (p Peer) gossip() netip.AddrPort { return netip.AddrPortFrom(p.Listen.Addr(), p.Listen.Port()+1) }

func (p Peer) tunnel() netip.AddrPort { return plane.TunnelAddress(p.Listen, p.Overlay) }

// Lab lets a node run images. Without it the node starts no process for anybody.
type Lab struct {
	NamespacePrefix string `toml:"namespace_prefix"` // "lab-": instances are lab-i-…
	InstanceDir     string `toml:"instance_dir"`
	CgroupPrefix    string `toml:"cgroup_prefix"`
}

// Uplink is the node's way to what is no instance. No device: no way.
type Uplink struct {
	Device     string  `toml:"device"`
	Namespace  string  `toml:"namespace"` // where the device's other end is
	Bridge     string  `toml:"bridge"`    // what it is a port of there
	GatewayMAC ec2.MAC `toml:"gateway_mac"`
}

// Classic is the region's EC2-Classic network. It is read when a cluster begins.
type Classic struct {
	Network     netip.Prefix   `toml:"network"`
	Pools       []netip.Prefix `toml:"pools"`
	PublicPools []netip.Prefix `toml:"public_pools"`
}

// Settings are waiting times and limits of the cluster. They are read when a cluster
// begins; what is missing has the default of ec2.Settings.
type Settings struct {
	Quarantine duration `toml:"quarantine"` // of an address between two leases: "60s"
	Limits     string   `toml:"limits"`     // those of a time, a name that ec2.Preset knows: "vpc-2012"

	// AuditRecords is how many records of who changed what are kept. Default 10,000.
	AuditRecords int `toml:"audit_records"`
}

// maxAuditRecords bounds what every node holds of them in memory: some 5 kB each.
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

// duration is written as time.ParseDuration reads it.
type duration time.Duration

func (d *duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil || parsed <= 0 || parsed > 24*time.Hour {
		return fmt.Errorf("%q is no time from nothing to 24h, as \"60s\" is", text)
	}
	*d = duration(parsed)
	return nil
}

// Account is one that a cluster begins with.
type Account struct {
	ID        ec2.AccountID `toml:"id"`
	Name      string        `toml:"name"`
	Platform  ec2.Platform  `toml:"platform"`
	AccessKey string        `toml:"access_key"`
	SecretKey string        `toml:"secret_key"`
}

// classicVNI is the VNI of the region's EC2-Classic network.
const classicVNI ec2.VNI = 1

// ReadConfig reads a configuration file. An unknown key, a wrong type or a missing value
// is an error that names the key and, where there is one, the line.
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

// describe puts line and key into the library's errors.
func describe(err error) error {
	if unknown, ok := errors.AsType[*toml.StrictMissingError](err); ok {
		first := unknown.Errors[0]
		line, _ := first.Position()
		return fmt.Errorf("line %d: %q is no key of a node's configuration", line, join(first.Key()))
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
	n := c.Classic.Network
	if !n.IsValid() || !n.Addr().Is4() || n != n.Masked() || n.Bits() > 28 {
		return fmt.Errorf(`"classic.network" is %q; it must be an IPv4 network of 16 addresses or more, as "10.0.0.0/8"`, n)
	}
	for _, p := range c.Classic.Pools {
		if !n.Overlaps(p) || p.Bits() < n.Bits() || p != p.Masked() {
			return fmt.Errorf(`"classic.pools" has %s, which is no network within "classic.network" %s`, p, n)
		}
	}
	for _, p := range c.Classic.PublicPools {
		if !p.Addr().Is4() || p != p.Masked() || p.Overlaps(n) {
			return fmt.Errorf(`"classic.public_pools" has %s, which is no IPv4 network apart from "classic.network" %s`, p, n)
		}
	}
	if len(c.Classic.Pools) == 0 {
		return errors.New(`"classic.pools" is empty: there is no address to lease`)
	}
	if c.Uplink.Device != "" && !c.Uplink.GatewayMAC.IsUnicast() {
		return fmt.Errorf(`"uplink.gateway_mac" is %s; it must be the router's unicast address`, c.Uplink.GatewayMAC)
	}
	if err := c.Peer.check(); err != nil {
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
		return fmt.Errorf(`"peer.mtu" is %d; it must be what the underlay carries, 1280 to 9216`, p.MTU)
	case !p.Listen.IsValid() && p.Listen == (netip.AddrPort{}):
		if p.Overlay != overlay.Sealed {
			return fmt.Errorf(`"peer.overlay" is %q, but there is no "peer.listen": a cluster of one has no tunnels`, p.Overlay)
		}
		return nil
	case !p.Listen.Addr().Is4() || p.Listen.Addr().IsUnspecified() || p.Listen.Port() == 0 || p.Listen.Port() > 65533:
		return fmt.Errorf(`"peer.listen" is %s; it must be the one IPv4 address that the other nodes reach this one at, and a port up to 65533, as "192.0.2.11:7400"`, p.Listen)
	}
	return nil
}

// rehearse lets the domain judge what a cluster would begin with, accounts above all.
func (c *Config) rehearse() error {
	commands, err := c.bootstrap(nil)
	if err != nil {
		return err
	}
	var keys keyring
	keys.key.Store(secret.NewKey())
	st := state.NewState()
	for i, cmd := range keys.sealed(commands) {
		if _, err := st.Apply(uint64(i+1), cmd); err != nil {
			return fmt.Errorf("no cluster can begin with it: %w", err)
		}
	}
	return nil
}

// bootstrap is what a cluster that this node begins holds first. A nil publicKey is that
// of a cluster of one, which nobody joins.
func (c *Config) bootstrap(publicKey []byte) ([]state.Command, error) {
	var seed [16]byte
	gossipKey := make([]byte, 32)
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, err
	}
	if _, err := rand.Read(gossipKey); err != nil {
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
		&state.Bootstrap{Seed: hex.EncodeToString(seed[:]), GossipKey: gossipKey, Settings: settings},
		&state.PutNode{Node: self},
		&state.PutNetwork{Network: ec2.Network{
			VNI: classicVNI, Region: c.Region, Prefix: c.Classic.Network, Gateway: c.Classic.Network.Addr().Next(),
			Pools: c.Classic.Pools, PublicPools: c.Classic.PublicPools,
		}},
	}
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
