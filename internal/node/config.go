package node

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/pelletier/go-toml/v2"

	"palisade/ec2"
	"palisade/internal/packet"
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

	Lab     Lab       `toml:"lab"`
	Uplink  Uplink    `toml:"uplink"`
	Classic Classic   `toml:"classic"`
	Account []Account `toml:"account"`
}

// Lab lets a node run images. Without it the node starts no process for anybody.
type Lab struct {
	NamespacePrefix string `toml:"namespace_prefix"` // "lab-": instances are lab-i-…
	InstanceDir     string `toml:"instance_dir"`
	CgroupPrefix    string `toml:"cgroup_prefix"`
}

// Uplink is the node's way to what is no instance. No device: no way.
type Uplink struct {
	Device     string     `toml:"device"`
	Namespace  string     `toml:"namespace"` // where the device's other end is
	Bridge     string     `toml:"bridge"`    // what it is a port of there
	GatewayMAC packet.MAC `toml:"gateway_mac"`
}

// Classic is the region's EC2-Classic network. It is read when a cluster begins.
type Classic struct {
	Network     netip.Prefix   `toml:"network"`
	Pools       []netip.Prefix `toml:"pools"`
	PublicPools []netip.Prefix `toml:"public_pools"`
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
	return c.rehearse()
}

// rehearse lets the domain judge what a cluster would begin with, accounts above all.
func (c *Config) rehearse() error {
	commands, err := c.bootstrap()
	if err != nil {
		return err
	}
	state := ec2.NewState()
	for i, cmd := range commands {
		if _, err := state.Apply(uint64(i+1), cmd); err != nil {
			return fmt.Errorf("no cluster can begin with it: %w", err)
		}
	}
	return nil
}

// bootstrap is what a cluster that this node begins holds first.
func (c *Config) bootstrap() ([]ec2.Command, error) {
	var seed [16]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, err
	}
	requests := []ec2.Request{
		&ec2.Bootstrap{Seed: hex.EncodeToString(seed[:])},
		&ec2.PutNode{Node: ec2.Node{ID: c.Name, Zone: c.Zone}},
		&ec2.PutNetwork{Network: ec2.Network{
			VNI: classicVNI, Region: c.Region, Prefix: c.Classic.Network, Gateway: c.Classic.Network.Addr().Next(),
			Pools: c.Classic.Pools, PublicPools: c.Classic.PublicPools,
		}},
	}
	for _, a := range c.Account {
		requests = append(requests, &ec2.CreateAccount{
			ID: a.ID, Name: a.Name, Platform: a.Platform, AccessKey: a.AccessKey, Secret: a.SecretKey,
		})
	}
	commands := make([]ec2.Command, len(requests))
	for i, r := range requests {
		commands[i] = ec2.Command{Request: r}
	}
	return commands, nil
}
