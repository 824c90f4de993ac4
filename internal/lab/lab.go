// Package lab runs a whole cluster on one machine: node daemons, each in a network
// namespace of its own, an underlay between them, and an internet in front of them, on
// which Albert's laptop and a stranger live.
//
//	laptop 203.0.113.25 --.                              .-- up-node1 == node1 --.
//	                       internet (router, 198.18.0.1)-|                       |-- underlay
//	stranger 198.51.100.7 -'                              '-- up-node2 == node2 --'
//
// It drives the binary: a daemon is `palisade node --config FILE` and is asked over its
// control socket. It imports none of what the daemon is made of. Up makes everything,
// Down finds everything again by the lab's name alone, so that it also clears what a
// crash at any point left behind. Read Lab, then Up (up.go), topology.go, cluster.go,
// node.go, supervisor.go (which starts daemons, again if they die), partition.go, Down.
//
// A lab is named, and so is every namespace, cgroup, directory and process of it.
// Addresses live in its namespaces; only the front door's loopback port is the machine's,
// so labs of other names and ports run beside it.
package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

const (
	labsDir = "/var/lib/palisade/labs" // what lasts until Down
	runDir  = "/run/palisade"          // sockets
	shmDir  = "/dev/shm"               // connection arenas
)

// Region is where every lab is.
const Region = "us-east-1"

// A Lab is what `lab up` decided. It is stored in the lab's directory, readable by root
// alone, for it holds the accounts' secret keys.
type Lab struct {
	Name         string         `json:"name"`
	Port         int            `json:"port"` // of the front door, on 127.0.0.1
	Nodes        []string       `json:"nodes"`
	Zones        int            `json:"zones"` // node n, from 0, is in zone n modulo Zones
	ClassicPools []netip.Prefix `json:"classic_pools"`
	Cuts         []Cut          `json:"cuts,omitempty"` // in the order they were made
	Quarantine   time.Duration  `json:"quarantine"`     // 0: the default
	Limits       string         `json:"limits,omitempty"`
	Overlay      string         `json:"overlay,omitempty"` // of the nodes; "": the default
	Accounts     []Account      `json:"accounts"`

	locked bool // this command has the lock of the lab: it is Up
}

// An Account may call the API of the lab.
type Account struct {
	Name      string `json:"name" toml:"name"`
	ID        string `json:"id" toml:"id"`
	Platform  string `json:"platform" toml:"platform"` // "classic", or "vpc": it has a default VPC
	AccessKey string `json:"access_key" toml:"access_key"`
	SecretKey string `json:"secret_key" toml:"secret_key"`
}

// A name stands in paths, namespaces and cgroups. It has no hyphen: the namespaces of lab
// "a" begin with "a-" and those of no other lab may.
var nameRule = regexp.MustCompile(`^[a-z][a-z0-9]{0,15}$`)

// CheckName returns why name cannot be a lab's.
func CheckName(name string) error {
	if !nameRule.MatchString(name) {
		return fmt.Errorf("%q cannot be a lab's name: it has up to 16 letters and digits, all lower case, a letter first", name)
	}
	return nil
}

// Open returns the lab called name, which must be up.
func Open(name string) (*Lab, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	l := &Lab{Name: name}
	data, err := os.ReadFile(l.path("lab.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no lab is called %s: palisade lab up --name %s makes it", name, name)
	}
	if err != nil {
		return nil, fmt.Errorf("open lab %s: %w", name, err)
	}
	if err := json.Unmarshal(data, l); err != nil {
		return nil, fmt.Errorf("open lab %s: %w", name, err)
	}
	return l, nil
}

func (l *Lab) save() error {
	data, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(l.path("lab.json"), append(data, '\n'), 0o600)
}

// Endpoint is the EC2 API's address.
func (l *Lab) Endpoint() string { return fmt.Sprintf("http://127.0.0.1:%d", l.Port) }

// account returns the account called name.
func (l *Lab) account(name string) (Account, error) {
	var names []string
	for _, a := range l.Accounts {
		if a.Name == name {
			return a, nil
		}
		names = append(names, a.Name)
	}
	return Account{}, fmt.Errorf("lab %s has no account %q; it has %s", l.Name, name, strings.Join(names, ", "))
}

func (l *Lab) hasNode(name string) error {
	for _, n := range l.Nodes {
		if n == name {
			return nil
		}
	}
	return fmt.Errorf("lab %s has no node %q; it has %s", l.Name, name, strings.Join(l.Nodes, ", "))
}

// What belongs to a lab, by name.

func (l *Lab) dir() string { return filepath.Join(labsDir, l.Name) }
func (l *Lab) path(elem ...string) string {
	return filepath.Join(append([]string{l.dir()}, elem...)...)
}
func (l *Lab) sockets() string              { return filepath.Join(runDir, l.Name) }
func (l *Lab) namespace(host string) string { return l.Name + "-" + host }
func (l *Lab) cgroup() string               { return "palisade-" + l.Name }
func (l *Lab) arena(node string) string {
	return filepath.Join(shmDir, "palisade-"+l.Name+"-"+node)
}
func (l *Lab) apiSocket(node string) string     { return filepath.Join(l.sockets(), node+"-api.sock") }
func (l *Lab) controlSocket(node string) string { return filepath.Join(l.sockets(), node+".sock") }

// Control returns the path of the socket on which a node answers its operator.
func (l *Lab) Control(node string) string { return l.controlSocket(node) }

// lock keeps two commands from making and unmaking the same lab at once. An abstract
// socket is its form because the kernel drops it with the process and no file is left. A
// child that a killed command was about to start has it until it becomes what it is to be.
func lock(name string) (release func(), err error) {
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		l, err := net.Listen("unix", "@palisade-lab-"+name)
		if err == nil {
			return func() { l.Close() }, nil
		}
		if time.Since(began) > lockPatience {
			return nil, fmt.Errorf("another command is at work on lab %s: %w", name, err)
		}
	}
}

const lockPatience = time.Second
