package afpacket

import (
	"encoding/binary"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// MTU returns how many bytes an IP packet may have that is written to a device which owner has taken: the
// MTU of the device and, for a veth, of its other end. The kernel drops larger packets.
func MTU(c Config, owner string) (mtu int, err error) {
	err = at(c, owner, func(p *place) error {
		link, held, err := p.find()
		if err != nil {
			return err
		}
		if link == nil {
			return fmt.Errorf("%s has not taken device %s", owner, c.Name)
		}
		peer := func() error {
			mtu = leastMTU(link)
			return nil
		}
		if held {
			return p.inHeld(peer)
		}
		return peer()
	})
	return mtu, err
}

// leastMTU returns the smaller MTU of a device of the thread's namespace and of its other end, if it is a veth.
// If the other end cannot be read, because it has just been removed, it returns that of the device.
func leastMTU(link netlink.Link) int {
	own := link.Attrs()
	if link.Type() != "veth" || own.ParentIndex == 0 {
		return own.MTU
	}
	request := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_ACK)
	info := nl.NewIfInfomsg(unix.AF_UNSPEC)
	info.Index = int32(own.ParentIndex)
	request.AddData(info)
	if own.NetNsID >= 0 { // the number of the other end's namespace, as this namespace counts
		number := make([]byte, 4)
		binary.NativeEndian.PutUint32(number, uint32(own.NetNsID))
		request.AddData(nl.NewRtAttr(unix.IFLA_TARGET_NETNSID, number))
	}
	answers, err := request.Execute(unix.NETLINK_ROUTE, 0)
	if err != nil || len(answers) == 0 {
		return own.MTU
	}
	other, err := netlink.LinkDeserialize(nil, answers[0])
	if err != nil {
		return own.MTU
	}
	return min(own.MTU, other.Attrs().MTU)
}
