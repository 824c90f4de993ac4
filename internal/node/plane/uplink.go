package plane

import (
	"errors"
	"fmt"
	"hash/fnv"

	"github.com/vishvananda/netlink"

	"palisade/ec2"
	"palisade/internal/netns"
	vswitch "palisade/switch"
	"palisade/switch/tap"
)

// ethernetMTU is the MTU of an uplink whose device is not known.
const ethernetMTU = 1500

// UplinkConfig names the device that connects the node to the network outside the cluster.
type UplinkConfig struct {
	Device     string  // name of the TAP that is made. Default "": no uplink
	Namespace  string  // the network namespace, below /run/netns, in which the device is made. Default "": the daemon's
	Bridge     string  // the bridge in Namespace to which the device is added. Default "": none
	GatewayMAC ec2.MAC // MAC of the next router; with a wrong one packets to the outside are lost
}

// OpenUplink opens the device, adds it to its bridge and makes it the uplink port.
func (p *Plane) OpenUplink(c UplinkConfig) error {
	if c.Device == "" {
		return nil
	}
	d, err := tap.Open(tap.Config{Name: c.Device, Namespace: c.Namespace})
	if err != nil {
		return fmt.Errorf("uplink: %w", err)
	}
	err = netns.Do(c.Namespace, func() error {
		link, err := netlink.LinkByName(c.Device)
		if err != nil {
			return err
		}
		if c.Bridge != "" {
			bridge, err := netlink.LinkByName(c.Bridge)
			if err != nil {
				return fmt.Errorf("find bridge %s: %w", c.Bridge, err)
			}
			if err := netlink.LinkSetMaster(link, bridge); err != nil {
				return fmt.Errorf("add to bridge %s: %w", c.Bridge, err)
			}
		}
		return netlink.LinkSetUp(link)
	})
	if err != nil {
		return errors.Join(fmt.Errorf("uplink %s: %w", c.Device, err), d.Close())
	}
	if err := p.AddUplink(d, c.GatewayMAC); err != nil {
		return err
	}
	p.mu.Lock()
	p.uplinkConfig = c
	p.mu.Unlock()
	return p.ReadUplinkMTU()
}

// ReadUplinkMTU tells the switch the MTU of the uplink's device, which the operator can change at any time. It
// does nothing without a device of the kernel.
func (p *Plane) ReadUplinkMTU() error {
	p.mu.Lock()
	c := p.uplinkConfig
	p.mu.Unlock()
	if c.Device == "" {
		return nil
	}
	mtu := 0
	err := netns.Do(c.Namespace, func() error {
		link, err := netlink.LinkByName(c.Device)
		if err == nil {
			mtu = link.Attrs().MTU
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("read the MTU of uplink %s: %w", c.Device, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.uplink.MTU == mtu {
		return nil
	}
	changed := *p.uplink
	changed.MTU = mtu
	p.uplink = &changed
	if p.sw.Snapshot().UplinkPort() != nil { // in force already
		edit := p.sw.Edit(p.sw.Snapshot().Generation)
		edit.Uplink(p.uplink)
		p.publish(edit)
	}
	return nil
}

// AddUplink makes an open device the uplink port, with gateway as the MAC of the next router. It
// closes the device on an error.
func (p *Plane) AddUplink(d vswitch.Device, gateway ec2.MAC) error {
	port, err := p.sw.AddPort("uplink", vswitch.UplinkPort, d)
	if err != nil {
		return errors.Join(fmt.Errorf("uplink: %w", err), d.Close())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.uplink = &vswitch.Uplink{Port: port, MAC: uplinkMAC(p.node), NextHop: gateway, MTU: ethernetMTU}
	return nil
}

// uplinkMAC derives a MAC from the node's name, so that a restart does not change it.
func uplinkMAC(n ec2.NodeID) ec2.MAC {
	h := fnv.New32a()
	_, _ = h.Write([]byte(n)) // never fails
	sum := h.Sum32()
	return ec2.MAC{0x02, 0x75, byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)}
}
