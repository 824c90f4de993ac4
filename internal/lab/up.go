package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"palisade/ec2"
	"palisade/internal/instance"
	"palisade/internal/secret"
)

// Options describe the lab that Up makes.
type Options struct {
	Name         string         // default "lab". Up removes an earlier lab of that name
	Nodes        int            // number of nodes, 1 to MaxNodes; default 1. Each node takes memory and processor time
	Zones        int            // number of zones of Region that the nodes are labelled with in turn; default: one for each node, up to maxZones
	Port         int            // TCP port of the front door on 127.0.0.1; default 8773. Up fails if it is in use
	ClassicPools []netip.Prefix // private addresses of EC2-Classic, inside 10.0.0.0/8; default 10.10.0.0/16. A small pool runs out of addresses

	// Quarantine is how long a released address is not leased again, up to 24 h; default 1 min. If it is
	// too short, packets to the last instance with the address reach the next one.
	Quarantine time.Duration
	// Limits selects a set of EC2 limits: "vpc-2012", "classic-2012" or "today" (default).
	Limits string
	// Overlay is the form of the tunnels between nodes: "sealed" (default), or "vxlan", which every
	// host on the underlay can read and forge.
	Overlay string
	// UnderlayMTU is the MTU of the network between nodes, 1280 to 9216. The default gives instances 1500:
	// 1594, or 1550 with vxlan.
	UnderlayMTU int

	// Progress is called after each step, by one goroutine at a time; nil: not called.
	Progress func(step string)
}

// MaxNodes bounds the nodes of a lab. More nodes would overload one machine.
const MaxNodes = 32

// maxZones is the number of zones of Region.
const maxZones = 6

func (o *Options) fill() error {
	if o.Name == "" {
		o.Name = "lab"
	}
	if o.Nodes == 0 {
		o.Nodes = 1
	}
	if o.Zones == 0 {
		o.Zones = min(o.Nodes, maxZones)
	}
	if o.Port == 0 {
		o.Port = 8773
	}
	if len(o.ClassicPools) == 0 {
		o.ClassicPools = []netip.Prefix{netip.MustParsePrefix("10.10.0.0/16")}
	}
	if o.UnderlayMTU == 0 {
		o.UnderlayMTU = 1594
		if o.Overlay == "vxlan" {
			o.UnderlayMTU = 1550
		}
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	classic := netip.MustParsePrefix("10.0.0.0/8")
	for _, pool := range o.ClassicPools {
		if !classic.Contains(pool.Addr()) || pool.Bits() < classic.Bits() || pool != pool.Masked() {
			return fmt.Errorf("%v cannot be a pool of EC2-Classic: must be a network inside %v", pool, classic)
		}
	}
	switch {
	case o.Nodes < 1 || o.Nodes > MaxNodes:
		return fmt.Errorf("a lab has 1 to %d nodes, not %d", MaxNodes, o.Nodes)
	case o.Zones < 1 || o.Zones > min(o.Nodes, maxZones):
		return fmt.Errorf("%d nodes can be in 1 to %d zones, not in %d", o.Nodes, min(o.Nodes, maxZones), o.Zones)
	case o.Quarantine < 0 || o.Quarantine > 24*time.Hour:
		return fmt.Errorf("the quarantine must be between 0 and 24h, not %v", o.Quarantine)
	case o.Limits != "" && !isPreset(o.Limits):
		return fmt.Errorf("unknown limits %q: must be today, vpc-2012 or classic-2012", o.Limits)
	case o.Overlay != "" && o.Overlay != "sealed" && o.Overlay != "vxlan":
		return fmt.Errorf("unknown overlay %q: must be sealed or vxlan", o.Overlay)
	case o.UnderlayMTU < 1280 || o.UnderlayMTU > 9216:
		return fmt.Errorf("the MTU of the underlay must be 1280 to 9216, not %d", o.UnderlayMTU)
	case o.Overlay == "vxlan" && o.Nodes == 1:
		return errors.New("a lab of one node has no tunnels: vxlan needs two nodes or more")
	case o.Port < 1 || o.Port > 65535:
		return fmt.Errorf("%d is not a TCP port", o.Port)
	}
	return CheckName(o.Name)
}

func isPreset(name string) bool {
	_, ok := ec2.Preset(name)
	return ok
}

// Up makes a lab and returns when its API answers. First it removes what is left of an earlier lab of
// that name. If Up fails, it removes what it has made.
func Up(ctx context.Context, o Options) (_ *Lab, err error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("a lab needs network namespaces: run this as root")
	}
	release, err := lock(o.Name)
	if err != nil {
		return nil, err
	}
	defer release()

	begin := time.Now()
	l := &Lab{Name: o.Name, Port: o.Port, Zones: o.Zones, ClassicPools: o.ClassicPools, Quarantine: o.Quarantine, Limits: o.Limits, Overlay: o.Overlay, UnderlayMTU: o.UnderlayMTU, locked: true}
	defer func() { l.locked = false }()
	cleared, err := l.clear(ctx)
	if err != nil {
		return nil, fmt.Errorf("remove what is left of an earlier lab %s: %w", l.Name, err)
	}
	if cleared {
		o.Progress("removed what was left of an earlier lab of this name")
	}
	// Open the door first: if the port is in use, Up fails before it has made anything.
	door, err := listenDoor(o.Port)
	if err != nil {
		return nil, fmt.Errorf("%w; choose another with palisade lab up --port", err)
	}
	defer door.Close()
	defer func() {
		if err != nil {
			_, undone := l.clear(context.WithoutCancel(ctx))
			err = errors.Join(err, undone)
		}
	}()

	if err := l.create(ctx, o, door); err != nil {
		return nil, err
	}
	o.Progress(fmt.Sprintf("the EC2 API answers at %s after %.1f s", l.Endpoint(), time.Since(begin).Seconds()))
	return l, nil
}

// create makes the files and namespaces of the lab, and starts its daemons. It closes door, the listening
// socket of the front door.
func (l *Lab) create(ctx context.Context, o Options, door *os.File) error {
	if err := instance.MakeRoomForNeighbours(); err != nil {
		o.Progress(fmt.Sprintf("instances can fill the neighbour table of this machine, which all nodes share: %v", err))
	}
	for i := range o.Nodes {
		l.Nodes = append(l.Nodes, fmt.Sprintf("node%d", i+1))
	}
	l.Accounts = []Account{
		newAccount("albert", "598916040194", "classic"),
		newAccount("mary", "495219933132", "classic"),
		newAccount("dev", "123456789012", "vpc"),
	}
	if err := l.makeFiles(); err != nil {
		return fmt.Errorf("make lab %s: %w", l.Name, err)
	}
	if err := l.build(); err != nil {
		return fmt.Errorf("make lab %s: %w", l.Name, err)
	}
	o.Progress("network: " + strings.Join(l.hosts(), ", "))
	if err := l.startSupervisor(ctx, door); err != nil {
		return err
	}
	door.Close() // the supervisor has a duplicate
	if err := l.form(ctx, o.Progress); err != nil {
		return err
	}
	return l.startDoor(ctx)
}

// makeFiles makes the lab's directories and files.
func (l *Lab) makeFiles() error {
	for _, dir := range []string{l.path("bin"), l.sockets()} {
		if err := makeDir(dir); err != nil {
			return err
		}
	}
	if err := l.save(); err != nil {
		return err
	}
	for i := range l.Nodes {
		if err := l.writeNodeConfig(i); err != nil {
			return err
		}
	}
	if err := os.WriteFile(l.path("resolv.conf"), []byte(resolvConf), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(l.path("bin"), "aws"), []byte(awsLauncher), 0o755)
}

// makeDir makes dir and its parents. It retries, because Down of another lab removes parents that are
// empty.
func makeDir(dir string) error {
	for {
		err := os.MkdirAll(dir, 0o700)
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
}

// resolvConf is the content of /etc/resolv.conf on the lab's hosts. It names no server, so that no program
// waits for the answer of one.
const resolvConf = "# A lab has no name server.\noptions attempts:1 timeout:1\n"

// newAccount returns an account with random keys in Amazon's format, which some tools check.
func newAccount(name, id, platform string) Account {
	accessKey, secretKey := secret.NewAccessKey()
	return Account{Name: name, ID: id, Platform: platform, AccessKey: accessKey, SecretKey: secretKey}
}
