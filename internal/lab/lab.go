// Package lab runs a whole cluster on one machine: node daemons, each in its own network namespace, an
// underlay that connects them, and an internet segment with a router, Albert's laptop and a stranger.
//
//	laptop 203.0.113.25 --.                              .-- up-node1 == node1 --.
//	                       internet (router, 198.18.0.1)-|                       |-- underlay
//	stranger 198.51.100.7 -'                              '-- up-node2 == node2 --'
//
// The package drives the binary: a daemon is `palisade node --config FILE`, which answers on its
// control socket. It imports no package of the daemon. Up makes everything. Down finds everything
// by the name of the lab alone, so that it also removes what is left after a crash at any point.
// Read Lab, then Up (up.go), topology.go, cluster.go, node.go, supervisor.go (which starts daemons, and
// restarts those that die), partition.go, Down (down.go).
//
// The name of every namespace, cgroup, directory and process of a lab contains the lab's name. All
// addresses are inside its namespaces, except that the front door listens on a loopback port of
// the machine. So several labs with different names and ports can run at once.
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
	labsDir = "/var/lib/palisade/labs" // a directory for each lab, until Down
	runDir  = "/run/palisade"          // sockets
	shmDir  = "/dev/shm"               // connection arenas
)

// Region is the region that the cluster of a lab begins with, and whose zones its nodes are labelled
// with. A lab serves every region of AWS.
const Region = "us-east-1"

// A Lab is the description of a lab that `lab up` stores in the lab's directory. Only root can read
// it, because it contains the secret keys of the accounts.
//
// Each command opens its own Lab and uses it on one goroutine. Up, Down, Partition and Heal hold
// the lock of the lab's name while they change the lab (see the function lock).
type Lab struct {
	Name         string         `json:"name"`
	Port         int            `json:"port"` // TCP port of the front door on 127.0.0.1
	Nodes        []string       `json:"nodes"`
	Zones        int            `json:"zones"` // number of zones of Region that nodes are labelled with; node n, counted from 0, is in zone n modulo Zones
	ClassicPools []netip.Prefix `json:"classic_pools"`
	Cuts         []Cut          `json:"cuts,omitempty"` // in force, oldest first
	Quarantine   time.Duration  `json:"quarantine"`     // 0: the default
	Limits       string         `json:"limits,omitempty"`
	Overlay      string         `json:"overlay,omitempty"`      // form of the tunnels between nodes; "": the default
	UnderlayMTU  int            `json:"underlay_mtu,omitempty"` // 0: 1500
	Accounts     []Account      `json:"accounts"`

	locked bool // true while Up, which holds the lock, runs
}

// An Account can call the API of the lab.
type Account struct {
	Name      string `json:"name" toml:"name"`
	ID        string `json:"id" toml:"id"`
	Platform  string `json:"platform" toml:"platform"` // "classic", or "vpc": it has a default VPC
	AccessKey string `json:"access_key" toml:"access_key"`
	SecretKey string `json:"secret_key" toml:"secret_key"`
}

// nameRule matches the names that a lab may have. They become part of paths and of names of namespaces and
// cgroups. A name has no hyphen, so that only the namespaces of lab "a" begin with "a-".
var nameRule = regexp.MustCompile(`^[a-z][a-z0-9]{0,15}$`)

// CheckName returns an error if name cannot be the name of a lab.
func CheckName(name string) error {
	if !nameRule.MatchString(name) {
		return fmt.Errorf("%q cannot be the name of a lab: use up to 16 lower-case letters and digits, a letter first", name)
	}
	return nil
}

// Open returns the lab with this name, or an error if it is not up.
func Open(name string) (*Lab, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	l := &Lab{Name: name}
	data, err := os.ReadFile(l.path("lab.json"))
	if errors.Is(err, fs.ErrNotExist) {
		why := ""
		if os.Getenv(NameVariable) == name {
			why = ", which " + NameVariable + " names"
		}
		return nil, fmt.Errorf("there is no lab %s%s; palisade lab up --name %s makes it", name, why, name)
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

// Endpoint returns the URL of the EC2 API.
func (l *Lab) Endpoint() string { return fmt.Sprintf("http://127.0.0.1:%d", l.Port) }

// account returns the account with this name.
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

// The paths and names of the lab's files, sockets, namespaces and cgroups.

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

// lock keeps two commands from changing the same lab at once. The caller must call release. The lock is
// an abstract socket, which is not a file and which the kernel removes when the process ends. If a
// command is killed while it starts a child, the child holds the lock until it calls exec.
func lock(name string) (release func(), err error) {
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		l, err := net.Listen("unix", "@palisade-lab-"+name)
		if err == nil {
			return func() { l.Close() }, nil
		}
		if time.Since(began) > lockPatience {
			return nil, fmt.Errorf("another command is changing lab %s: %w", name, err)
		}
	}
}

// lockPatience bounds the wait for another command to release the lock.
const lockPatience = time.Second
