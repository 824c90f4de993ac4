package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"palisade/internal/netns"
	"palisade/internal/process"
)

// stopTimeout bounds the wait for the end of killed processes.
const stopTimeout = 5 * time.Second

// A daemon is a background process of the lab: a node, the front door, or the supervisor, which
// starts the other two kinds. A daemon outlives the command that started it; later commands find
// the daemon by its pid file.
type daemon struct {
	name      string     // "node1", "door", "supervisor"
	namespace string     // network namespace; "": the machine's
	binary    string     // path; "": this binary
	args      []string   // after `palisade`
	files     []*os.File // inherited as descriptors 3, 4, …
}

func (l *Lab) pidFile(name string) string { return l.path(name + ".pid") }
func (l *Lab) logFile(name string) string { return l.path(name + ".log") }

// start runs d in a new session and returns its process, whose only open files are d.files and its log.
// The caller must wait for the process, so that it does not stay a zombie, and write its pid file.
func (l *Lab) start(d daemon) (*exec.Cmd, error) {
	if d.binary == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		d.binary = self
	}
	log, err := os.OpenFile(l.logFile(d.name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", d.name, err)
	}
	defer log.Close()
	// The daemon must not keep the pipes of this command open: whoever started the command may wait until
	// they are closed.
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return nil, fmt.Errorf("start %s: close inherited descriptors: %w", d.name, err)
	}
	cmd := exec.Command(d.binary, d.args...)
	cmd.Args[0] = "palisade"
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = d.files
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := netns.Do(d.namespace, cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", d.name, err)
	}
	return cmd, nil
}

// running returns the process in the daemon's pid file, and whether it runs.
func (l *Lab) running(name string) (process.ID, bool) {
	id, err := process.ReadFile(l.pidFile(name))
	return id, err == nil && id.Alive()
}

// find is like running, but also finds a daemon without a pid file: the supervisor may have been
// killed before it wrote the file.
func (l *Lab) find(name string) (process.ID, bool, error) {
	if id, ok := l.running(name); ok {
		return id, true, nil
	}
	ids, err := l.processes(func(args []string) bool {
		if name == doorName {
			return slices.Equal(args, l.doorArgs())
		}
		return len(args) > 2 && args[0] == "node" && args[1] == "--config" && args[2] == l.configFile(name)
	})
	if err != nil || len(ids) == 0 {
		return process.ID{}, false, err
	}
	return ids[0], true, nil
}

// processes returns the processes named palisade whose arguments the function match accepts.
func (l *Lab) processes(match func(args []string) bool) ([]process.ID, error) {
	return process.List(func(pid int) bool {
		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil {
			return false
		}
		args := strings.Split(strings.TrimSuffix(string(cmdline), "\x00"), "\x00")
		return args[0] == "palisade" && match(args[1:])
	})
}

// kill kills the daemon that its pid file names, and removes the file. No supervisor may run, because
// it would restart the daemon. It is no error if the daemon does not run.
func (l *Lab) kill(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	id, err := process.ReadFile(l.pidFile(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = process.Kill(ctx, id)
	}
	if err != nil {
		return fmt.Errorf("kill %s: %w", name, err)
	}
	return os.Remove(l.pidFile(name))
}

// logTail returns the end of a daemon's log, for the error that reports a failed start.
func (l *Lab) logTail(name string) string {
	const lines = 20
	data, err := os.ReadFile(l.logFile(name))
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(data)), "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return fmt.Sprintf("the end of %s:\n  %s", l.logFile(name), strings.Join(all, "\n  "))
}

// nodeConfig is the configuration file of a node.
type nodeConfig struct {
	Name          string         `toml:"name"`
	Zone          string         `toml:"zone"`
	Region        string         `toml:"region"`
	Regions       string         `toml:"regions"`
	DataDir       string         `toml:"data_dir"`
	APISocket     string         `toml:"api_socket"`
	ControlSocket string         `toml:"control_socket"`
	Arena         string         `toml:"arena"`
	API           apiConfig      `toml:"api"`
	Peer          *peerConfig    `toml:"peer,omitempty"` // nil: a cluster of one
	Lab           labConfig      `toml:"lab"`
	Uplink        uplinkConfig   `toml:"uplink"`
	Classic       classicConfig  `toml:"classic"`
	Settings      settingsConfig `toml:"settings"`
	Accounts      []Account      `toml:"account"`
}

// apiConfig bounds what callers of the API may take.
type apiConfig struct {
	Rate float64 `toml:"rate"`
}

// apiRate is how many times as often as at EC2 an account of a lab may call the API: a lab is for tests and
// for tools that do not wait.
const apiRate = 1000

// peerConfig says where the other nodes reach this node.
type peerConfig struct {
	Listen  string `toml:"listen"`
	Overlay string `toml:"overlay,omitempty"`
	MTU     int    `toml:"mtu,omitempty"`
}

// labConfig lets a node run images: it names the resources of their instances.
type labConfig struct {
	NamespacePrefix string `toml:"namespace_prefix"`
	InstanceDir     string `toml:"instance_dir"`
	CgroupPrefix    string `toml:"cgroup_prefix"`
}

type uplinkConfig struct {
	Device     string `toml:"device"`
	Namespace  string `toml:"namespace"`
	Bridge     string `toml:"bridge"`
	GatewayMAC string `toml:"gateway_mac"`
}

// settingsConfig has those settings of a node that differ from the defaults.
type settingsConfig struct {
	Quarantine string `toml:"quarantine,omitempty"`
	Limits     string `toml:"limits,omitempty"`
}

type classicConfig struct {
	Network     string         `toml:"network"`
	Pools       []netip.Prefix `toml:"pools"`
	PublicPools []string       `toml:"public_pools"`
}

func uplinkDevice(node string) string { return "up-" + node }

func (l *Lab) nodeConfig(index int) nodeConfig {
	node := l.Nodes[index]
	var peer *peerConfig
	if len(l.Nodes) > 1 {
		peer = &peerConfig{Listen: peerAddress(index), Overlay: l.Overlay, MTU: l.UnderlayMTU}
	}
	return nodeConfig{
		Name: node, Zone: l.zone(index), Region: Region, Regions: "all",
		DataDir:       l.path(node),
		APISocket:     l.apiSocket(node),
		ControlSocket: l.controlSocket(node),
		Arena:         l.arena(node),
		API:           apiConfig{Rate: apiRate},
		Peer:          peer,
		Lab: labConfig{
			NamespacePrefix: l.namespace(""),
			InstanceDir:     l.instanceDir(node),
			CgroupPrefix:    l.cgroup(),
		},
		Uplink: uplinkConfig{
			Device: uplinkDevice(node), Namespace: l.namespace(internetHost),
			Bridge: internetHost, GatewayMAC: gatewayMAC,
		},
		Classic:  classicConfig{Network: "10.0.0.0/8", Pools: l.ClassicPools, PublicPools: []string{publicPool}},
		Settings: l.settings(),
		Accounts: l.Accounts,
	}
}

// zone returns the label of the node with this index: the availability zone of Region that it carries.
func (l *Lab) zone(index int) string {
	zones := l.Zones
	if zones == 0 { // stored by a version in which each node had its own zone
		zones = maxZones
	}
	return Region + string(rune('a'+index%zones))
}

func (l *Lab) settings() (s settingsConfig) {
	if l.Quarantine > 0 {
		s.Quarantine = l.Quarantine.String()
	}
	s.Limits = l.Limits
	return s
}

func (l *Lab) configFile(node string) string  { return l.path(node + ".toml") }
func (l *Lab) instanceDir(node string) string { return filepath.Join(l.path(node), "instances") }
