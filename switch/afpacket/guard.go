package afpacket

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"palisade/internal/netns"
)

// Take takes a device from the host, on behalf of owner. It writes what Release must restore into the
// device's alias, where the next daemon finds it, and moves the device into a network namespace of
// its own, which HeldIn names. If owner has taken the device already, Take completes what is missing.
// It refuses a device that has another use.
//
// A TAP that no process has open waits in the host's namespace, where a machine looks for it by its
// name: down and blocked, so that nothing passes. Take must be called again once a process has opened
// it, and once that process has ended; Find reports both.
func Take(c Config, owner string) error { return at(c, owner, (*place).take) }

// Release gives the device back as Take found it. It does nothing if the device is gone or another
// owner has taken it. If the host has another device of the name, the device gets another name, and
// the error says which.
func Release(c Config, owner string) error {
	return at(c, owner, func(p *place) error {
		name, err := p.release()
		if err == nil && name != p.device {
			err = fmt.Errorf("device %s is given back as %s, because the host has another device %s", p.device, name, p.device)
		}
		return err
	})
}

// Check returns the error that Take would return, and changes nothing.
func Check(c Config, owner string) error {
	return at(c, owner, func(p *place) error {
		all, err := p.taken()
		if err != nil {
			return err
		}
		for _, t := range all {
			if t.Device == p.device && t.Owner != owner {
				return inUse(t.Device, t.Owner)
			}
		}
		link, _, err := p.find()
		if err != nil {
			return err
		}
		if link != nil {
			return nil
		}
		if link, err = existing(p.device); err != nil {
			return err
		}
		_, err = check(link, owner)
		return err
	})
}

// Find reports whether owner has the device, and whether it is where Take would put it.
func Find(c Config, owner string) (found, settled bool, err error) {
	err = at(c, owner, func(p *place) error {
		link, held, err := p.find()
		if err != nil || link == nil {
			return err
		}
		found = true
		waits, err := p.waits(link, held)
		settled = waits != held && (held || link.Attrs().Flags&net.FlagUp == 0)
		return err
	})
	return found, settled, err
}

// HeldIn returns the network namespace that has the device while owner has taken it; "" while the
// device waits in the host's namespace for a machine.
func HeldIn(c Config, owner string) (namespace string, err error) {
	err = at(c, owner, func(p *place) error {
		_, held, err := p.find()
		if held {
			namespace = p.held
		}
		return err
	})
	return namespace, err
}

// A Taking is a device that was taken, and who has taken it. Device is "" if the device is gone and
// only its namespace is left.
type Taking struct{ Device, Owner string }

// Taken returns the devices of a namespace that were taken from it. c.Name is not used.
func Taken(c Config) (all []Taking, err error) {
	err = at(c, "", func(p *place) error {
		all, err = p.taken()
		return err
	})
	return all, err
}

// A place says where a device is: in the host's namespace, in which the thread runs, or in a namespace
// of its own.
type place struct {
	device, owner string
	prefix        string // of the names of all namespaces for taken devices
	suffix        string // of those for devices of this host; namespaces are named on the whole machine
	held          string // the namespace that has the device while it is taken
	host          *os.File
}

// at calls do with the place of a device, on a thread in the host's namespace.
func at(c Config, owner string, do func(*place) error) error {
	err := netns.Do(c.Namespace, func() error {
		host, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		defer host.Close()
		var st unix.Stat_t
		if err := unix.Fstat(int(host.Fd()), &st); err != nil {
			return fmt.Errorf("read the number of the host's network namespace: %w", err)
		}
		p := &place{device: c.Name, owner: owner, prefix: c.Prefix, suffix: fmt.Sprintf("-%x", st.Ino), host: host}
		p.held = p.prefix + owner + p.suffix
		return do(p)
	})
	if err != nil && c.Namespace != "" {
		return fmt.Errorf("namespace %q: %w", c.Namespace, err)
	}
	return err
}

// inHeld calls do on a thread in the namespace for the device.
func (p *place) inHeld(do func() error) error { return netns.Do(p.held, do) }

// find returns the device if owner has taken it, and nil otherwise. held is false if the device is in
// the host's namespace.
func (p *place) find() (link netlink.Link, held bool, err error) {
	if netns.Exists(p.held) {
		err := p.inHeld(func() (err error) {
			link, err = ownedLink(p.device, p.owner)
			return err
		})
		if err != nil || link != nil {
			return link, true, err
		}
	}
	link, err = ownedLink(p.device, p.owner)
	return link, false, err
}

// ownedLink returns a device of the thread's namespace if owner has taken it, and nil otherwise.
func ownedLink(name, owner string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	if _, none := errors.AsType[netlink.LinkNotFoundError](err); none {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for device %s: %w", name, err)
	}
	if f, taken := parseAlias(link.Attrs().Alias); !taken || f.owner != owner {
		return nil, nil
	}
	return link, nil
}

// existing returns a device of the thread's namespace.
func existing(name string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	if _, none := errors.AsType[netlink.LinkNotFoundError](err); none {
		return nil, fmt.Errorf("there is no device %s", name)
	}
	return link, err
}

func (p *place) taken() (all []Taking, err error) {
	links, err := netns.Dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list the devices of the host: %w", err)
	}
	for _, l := range links {
		if f, taken := parseAlias(l.Attrs().Alias); taken {
			all = append(all, Taking{l.Attrs().Name, f.owner})
		}
	}
	names, err := netns.List(p.prefix)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		owner, ours := strings.CutSuffix(strings.TrimPrefix(name, p.prefix), p.suffix)
		if !ours {
			continue
		}
		device := ""
		err := netns.Do(name, func() error {
			links, err := netns.Dump(netlink.LinkList)
			for _, l := range links {
				if f, taken := parseAlias(l.Attrs().Alias); taken && f.owner == owner {
					device = l.Attrs().Name
				}
			}
			return err
		})
		if err != nil && netns.Exists(name) { // an unbound name is left over, and has no device
			return nil, fmt.Errorf("list the devices of namespace %s: %w", name, err)
		}
		all = append(all, Taking{device, owner})
	}
	return all, nil
}

// waits reports whether a device that was taken should wait for its machine in the host's namespace.
// held says where it is.
func (p *place) waits(link netlink.Link, held bool) (waits bool, err error) {
	if !held {
		return isUnopened(link)
	}
	err = p.inHeld(func() error {
		waits, err = isUnopened(link)
		return err
	})
	return waits, err
}

func (p *place) take() error {
	link, held, err := p.find()
	if err != nil {
		return err
	}
	if link == nil {
		if link, err = existing(p.device); err != nil {
			return err
		}
	}
	waits, err := p.waits(link, held)
	if err != nil {
		return err
	}
	if held {
		if waits {
			return p.machineEnded(link)
		}
		return p.inHeld(func() error { return settle(link) })
	}
	f, err := check(link, p.owner)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetAlias(link, f.String()); err != nil {
		return fmt.Errorf("mark device %s as taken: %w", p.device, err)
	}
	if waits {
		return wait(link)
	}
	return p.hold(link)
}

// machineEnded lets the TAP of a machine that has ended wait in the host's namespace. If the next
// machine has made another TAP of the name, that one is taken, and this one is given back.
func (p *place) machineEnded(link netlink.Link) error {
	if _, err := netlink.LinkByName(p.device); err == nil {
		if _, err := p.release(); err != nil {
			return err
		}
		return p.take()
	}
	if err := p.moveToHost(link); err != nil {
		return err
	}
	link, err := existing(p.device)
	if err != nil {
		return err
	}
	return errors.Join(wait(link), p.deleteHeld())
}

// wait blocks a device of the host's namespace until a machine opens it. The device is down, so that a
// process that passes the filters writes nothing either.
func wait(link netlink.Link) error {
	name := link.Attrs().Name
	if err := netlink.LinkSetDown(link); err != nil {
		return fmt.Errorf("set device %s down: %w", name, err)
	}
	if err := setIPv6(name, "1"); err != nil {
		return fmt.Errorf("disable IPv6 on device %s: %w", name, err)
	}
	if err := dropAt(link, ingress, egress); err != nil {
		return fmt.Errorf("block device %s for the host: %w", name, err)
	}
	return nil
}

// hold moves a device into its namespace.
func (p *place) hold(link netlink.Link) error {
	if !netns.Exists(p.held) {
		if err := netns.New(p.held); err != nil {
			return err
		}
	}
	if err := p.inHeld(func() error { return setIPv6("default", "1") }); err != nil {
		return fmt.Errorf("disable IPv6 in namespace %s: %w", p.held, err)
	}
	held, err := os.Open(netns.Path(p.held))
	if err != nil {
		return err
	}
	defer held.Close()
	if err := netlink.LinkSetNsFd(link, int(held.Fd())); err != nil {
		return fmt.Errorf("move device %s into network namespace %s: %w", p.device, p.held, err)
	}
	return p.inHeld(func() error {
		link, err := existing(p.device)
		if err != nil {
			return err
		}
		return settle(link)
	})
}

// settle brings up a device in its namespace. The namespace has no address, so its network stack has
// no use for the device's frames.
func settle(link netlink.Link) error {
	if err := dropAt(link, ingress); err != nil {
		return fmt.Errorf("keep frames of device %s from the network stack: %w", link.Attrs().Name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set device %s up: %w", link.Attrs().Name, err)
	}
	return nil
}

// release gives the device back, and returns its name.
func (p *place) release() (name string, err error) {
	name = p.device
	link, held, err := p.find()
	if err != nil {
		return name, err
	}
	if held {
		if name, err = p.giveName(link); err != nil {
			return name, err
		}
		if err := p.moveToHost(link); err != nil {
			return name, err
		}
	}
	if link != nil {
		if link, err = existing(name); err != nil {
			return name, err
		}
		if err := restore(link); err != nil {
			return name, err
		}
	}
	return name, p.deleteHeld()
}

// moveToHost moves a device from its namespace into the host's. The kernel sets it down.
func (p *place) moveToHost(link netlink.Link) error {
	err := p.inHeld(func() error { return netlink.LinkSetNsFd(link, int(p.host.Fd())) })
	if err != nil {
		return fmt.Errorf("move device %s out of network namespace %s: %w", link.Attrs().Name, p.held, err)
	}
	return nil
}

// giveName gives a device that is held a name which the host's namespace does not have, and returns it.
func (p *place) giveName(link netlink.Link) (string, error) {
	const limit = 15
	name := p.device
	for n := 1; ; n++ {
		_, err := netlink.LinkByName(name)
		if _, none := errors.AsType[netlink.LinkNotFoundError](err); none {
			break
		}
		if err != nil {
			return "", fmt.Errorf("look for device %s: %w", name, err)
		}
		end := fmt.Sprintf("-%d", n)
		name = p.device[:min(len(p.device), limit-len(end))] + end
	}
	if name == p.device {
		return name, nil
	}
	err := p.inHeld(func() error {
		return errors.Join(netlink.LinkSetDown(link), netlink.LinkSetName(link, name))
	})
	if err != nil {
		return "", fmt.Errorf("rename device %s to %s: %w", p.device, name, err)
	}
	link.Attrs().Name = name
	return name, nil
}

// deleteHeld removes the namespace for the device, unless another device that was taken is in it.
func (p *place) deleteHeld() error {
	if !netns.Exists(p.held) {
		return netns.Delete(p.held) // an unbound name may be left over
	}
	empty := true
	err := p.inHeld(func() error {
		links, err := netns.Dump(netlink.LinkList)
		for _, l := range links {
			empty = empty && l.Attrs().Flags&net.FlagLoopback != 0
		}
		return err
	})
	if err != nil || !empty {
		return err
	}
	return netns.Delete(p.held)
}
