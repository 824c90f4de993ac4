package node

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

// openUplink opens the device to the world outside and makes it a port of the bridge there.
func (p *plane) openUplink(c Config) error {
	if c.Uplink.Device == "" {
		return nil
	}
	d, err := tap.Open(tap.Config{Name: c.Uplink.Device, Namespace: c.Uplink.Namespace})
	if err != nil {
		return fmt.Errorf("uplink: %w", err)
	}
	err = netns.Do(c.Uplink.Namespace, func() error {
		link, err := netlink.LinkByName(c.Uplink.Device)
		if err != nil {
			return err
		}
		if c.Uplink.Bridge != "" {
			bridge, err := netlink.LinkByName(c.Uplink.Bridge)
			if err != nil {
				return fmt.Errorf("find %s: %w", c.Uplink.Bridge, err)
			}
			if err := netlink.LinkSetMaster(link, bridge); err != nil {
				return fmt.Errorf("join %s: %w", c.Uplink.Bridge, err)
			}
		}
		return netlink.LinkSetUp(link)
	})
	if err != nil {
		return errors.Join(fmt.Errorf("uplink %s: %w", c.Uplink.Device, err), d.Close())
	}
	port, err := p.sw.AddPort("uplink", vswitch.UplinkPort, d)
	if err != nil {
		return errors.Join(fmt.Errorf("uplink: %w", err), d.Close())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.uplink = &vswitch.Uplink{Port: port, MAC: uplinkMAC(c.Name), NextHop: c.Uplink.GatewayMAC, MTU: uplinkMTU}
	return nil
}

// uplinkMAC is the same for a node at every start, so its neighbours need not learn anew.
func uplinkMAC(n ec2.NodeID) ec2.MAC {
	h := fnv.New32a()
	_, _ = h.Write([]byte(n)) // never fails
	sum := h.Sum32()
	return ec2.MAC{0x02, 0x75, byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)}
}
