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

// Options say what lab to make.
type Options struct {
	Name         string         // default "lab"
	Nodes        int            // default 1
	Zones        int            // that the nodes are in, in turn; default one for each, up to maxZones
	Port         int            // of the front door on 127.0.0.1; default 8773
	ClassicPools []netip.Prefix // EC2-Classic leases private addresses from these; default 10.10.0.0/16

	// Quarantine is how long an address rests between two leases; default a minute.
	Quarantine time.Duration
	// Limits are those of a time: "vpc-2012", "classic-2012" or today, the default.
	Limits string
	// Overlay is the form of the tunnels between nodes: "sealed", the default, or "vxlan".
	Overlay string

	// Progress is called with each step as it is done. It may be nil.
	Progress func(step string)
}

// MaxNodes is what the underlay's addresses and one machine can carry.
const MaxNodes = 32

// maxZones is how many letters there are to tell a region's zones apart.
const maxZones = 26

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
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	classic := netip.MustParsePrefix("10.0.0.0/8")
	for _, pool := range o.ClassicPools {
		if !classic.Contains(pool.Addr()) || pool.Bits() < classic.Bits() || pool != pool.Masked() {
			return fmt.Errorf("%v cannot be a pool of EC2-Classic: it must be a network inside %v", pool, classic)
		}
	}
	switch {
	case o.Nodes < 1 || o.Nodes > MaxNodes:
		return fmt.Errorf("a lab has 1 to %d nodes, not %d", MaxNodes, o.Nodes)
	case o.Zones < 1 || o.Zones > min(o.Nodes, maxZones):
		return fmt.Errorf("%d nodes can be in 1 to %d zones, not in %d", o.Nodes, min(o.Nodes, maxZones), o.Zones)
	case o.Quarantine < 0 || o.Quarantine > 24*time.Hour:
		return fmt.Errorf("an address rests for up to 24h, not %v", o.Quarantine)
	case o.Limits != "" && !isPreset(o.Limits):
		return fmt.Errorf("%q is no time whose limits are known: today, vpc-2012 and classic-2012 are", o.Limits)
	case o.Overlay != "" && o.Overlay != "sealed" && o.Overlay != "vxlan":
		return fmt.Errorf("%q is no form of tunnels: sealed and vxlan are", o.Overlay)
	case o.Overlay == "vxlan" && o.Nodes == 1:
		return errors.New("a lab of one node has no tunnels; VXLAN is for two and more")
	case o.Port < 1 || o.Port > 65535:
		return fmt.Errorf("%d is not a TCP port", o.Port)
	}
	return CheckName(o.Name)
}

func isPreset(name string) bool {
	_, ok := ec2.Preset(name)
	return ok
}

// Up makes a lab and returns when its API answers. What an earlier lab of that name left
// is cleared first; if Up cannot finish, it clears what it began.
func Up(ctx context.Context, o Options) (_ *Lab, err error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("a lab is made of network namespaces: run this as root")
	}
	release, err := lock(o.Name)
	if err != nil {
		return nil, err
	}
	defer release()

	begin := time.Now()
	l := &Lab{Name: o.Name, Port: o.Port, Zones: o.Zones, ClassicPools: o.ClassicPools, Quarantine: o.Quarantine, Limits: o.Limits, Overlay: o.Overlay, locked: true}
	defer func() { l.locked = false }()
	cleared, err := l.clear(ctx)
	if err != nil {
		return nil, fmt.Errorf("clear what an earlier lab %s left: %w", l.Name, err)
	}
	if cleared {
		o.Progress("cleared what an earlier lab of this name left")
	}
	// First, so that a port in use is known before anything is made.
	door, err := listenDoor(o.Port)
	if err != nil {
		return nil, fmt.Errorf("%w; palisade lab up --port takes another", err)
	}
	defer door.Close()
	defer func() {
		if err != nil {
			_, undone := l.clear(context.WithoutCancel(ctx))
			err = errors.Join(err, undone)
		}
	}()

	if err := instance.MakeRoomForNeighbours(); err != nil {
		o.Progress(fmt.Sprintf("instances can fill this machine's table of neighbours, which the nodes share: %v", err))
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
		return nil, fmt.Errorf("make lab %s: %w", l.Name, err)
	}
	if err := l.build(); err != nil {
		return nil, fmt.Errorf("make lab %s: %w", l.Name, err)
	}
	o.Progress("network: " + strings.Join(l.hosts(), ", "))
	if err := l.startSupervisor(ctx, door); err != nil {
		return nil, err
	}
	door.Close() // the supervisor has it now
	if err := l.form(ctx, o.Progress); err != nil {
		return nil, err
	}
	if err := l.startDoor(ctx); err != nil {
		return nil, err
	}
	o.Progress(fmt.Sprintf("the EC2 API answers at %s after %.1f s", l.Endpoint(), time.Since(begin).Seconds()))
	return l, nil
}

// makeFiles makes the lab's directories and writes everything that is known by now.
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

// makeDir makes dir and its parents. Another lab's end takes the parents away when nothing
// is in them, which may be between our making one and what goes into it.
func makeDir(dir string) error {
	for {
		err := os.MkdirAll(dir, 0o700)
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
}

// resolvConf is what the lab's hosts see: no name server, so that no name is waited for.
const resolvConf = "# A lab has no name server.\noptions attempts:1 timeout:1\n"

// newAccount makes keys that look like Amazon's, for tools that check: 20 capitals and
// digits, 40 of base64.
func newAccount(name, id, platform string) Account {
	accessKey, secretKey := secret.NewAccessKey()
	return Account{Name: name, ID: id, Platform: platform, AccessKey: accessKey, SecretKey: secretKey}
}
