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

// uplinkMTU is Ethernet's: the segment outside knows of no tunnels.
const uplinkMTU = 1500

// UplinkConfig names the device that leads to the world outside.
type UplinkConfig struct {
	Device     string  // "" for no uplink
	Namespace  string  // where the device's other end is
	Bridge     string  // what it is a port of there; "" for none
	GatewayMAC ec2.MAC // of the router there
}

// OpenUplink opens the device to the world outside and makes it a port of the bridge there.
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
				return fmt.Errorf("find %s: %w", c.Bridge, err)
			}
			if err := netlink.LinkSetMaster(link, bridge); err != nil {
				return fmt.Errorf("join %s: %w", c.Bridge, err)
			}
		}
		return netlink.LinkSetUp(link)
	})
	if err != nil {
		return errors.Join(fmt.Errorf("uplink %s: %w", c.Device, err), d.Close())
	}
	return p.AddUplink(d, c.GatewayMAC)
}

// AddUplink makes an open device the port to the world outside, whose router has the MAC gateway.
// It closes the device if it cannot.
func (p *Plane) AddUplink(d vswitch.Device, gateway ec2.MAC) error {
	port, err := p.sw.AddPort("uplink", vswitch.UplinkPort, d)
	if err != nil {
		return errors.Join(fmt.Errorf("uplink: %w", err), d.Close())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.uplink = &vswitch.Uplink{Port: port, MAC: uplinkMAC(p.node), NextHop: gateway, MTU: uplinkMTU}
	return nil
}

// uplinkMAC is the same for a node at every start, so its neighbours need not learn anew.
func uplinkMAC(n ec2.NodeID) ec2.MAC {
	h := fnv.New32a()
	_, _ = h.Write([]byte(n)) // never fails
	sum := h.Sum32()
	return ec2.MAC{0x02, 0x75, byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)}
}
