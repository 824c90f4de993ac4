package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"

	"palisade/ec2"
	"palisade/internal/bench/world"
	"palisade/internal/netns"
)

// pairTitle is the phase of RunPair.
const pairTitle = "pair"

// PairPlan is the plan of RunPair.
func PairPlan(quickly bool) Plan {
	p := Plan{Kind: "pair", Durations: full}
	repetitions := repetitions
	if quickly {
		p.Durations, repetitions = quick, quickRepetitions
	}
	p.Phases = []Phase{{Title: pairTitle, Repetitions: repetitions, tasks: []task{
		bulk{1, false}, bulk{8, false}, bulk{1, true}, packets{size: 64, flows: 1, lossless: true}, packets{size: 64, flows: manyFlows}, packets{size: 1280, flows: 1},
		connections{}, trips{"udp", false}, trips{"tcp", false}, trips{"udp", true},
	}}}
	return p
}

// RunPair measures between two existing network namespaces, such as those of a lab's
// instances. The path must admit TCP and UDP to the server's ports world.FirstPort to
// world.LastPort. Label names the pair in the report.
func RunPair(ctx context.Context, c Config, label, client, server string) (*Report, error) {
	p := &pair{}
	defer p.EndServers()
	for _, e := range []struct {
		at        *world.Endpoint
		namespace string
	}{{&p.client, client}, {&p.server, server}} {
		if err := describe(e.at, e.namespace); err != nil {
			return nil, err
		}
	}
	hop, err := nextHop(p.client, p.server.Address)
	if err != nil {
		return nil, fmt.Errorf("%s does not reach %s: %w", client, p.server.Address, err)
	}
	p.client.Peer = hop
	one, err := newRig(ctx, p, c.Traffic)
	if err != nil {
		return nil, err
	}
	defer one.close()
	one.label = label
	run := newRun(c)
	defer run.say("")
	about := fmt.Sprintf("%s, %s to %s", p.client.Namespace, p.client.Address, p.server.Address)
	err = run.measure(ctx, c.Plan.Phases[0], []*rig{one}, PhaseResult{Entrants: []EntrantResult{{Label: label, Name: label, About: about}}})
	if err != nil {
		return nil, err
	}
	return run.end(), nil
}

// A pair is two endpoints that this package did not make.
type pair struct {
	world.Programs
	client, server world.Endpoint
}

func (p *pair) Client() world.Endpoint { return p.client }
func (p *pair) Server() world.Endpoint { return p.server }

// describe finds the first device of a namespace that has an IPv4 address.
func describe(e *world.Endpoint, namespace string) error {
	return netns.Do(namespace, func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, link := range links {
			attrs := link.Attrs()
			addresses, err := netlink.AddrList(link, netlink.FAMILY_V4)
			if err != nil {
				return err
			}
			if attrs.Flags&net.FlagLoopback != 0 || attrs.Flags&net.FlagUp == 0 || len(addresses) == 0 || len(attrs.HardwareAddr) != len(e.MAC) {
				continue
			}
			address, _ := netip.AddrFromSlice(addresses[0].IP.To4())
			e.Namespace, e.Device, e.Address = namespace, attrs.Name, address
			copy(e.MAC[:], attrs.HardwareAddr)
			return nil
		}
		return fmt.Errorf("%s has no Ethernet device with an IPv4 address", namespace)
	})
}

// nextHop returns the MAC address to which a client sends its frames for an IP address. The
// kernel knows it after it has sent a packet to that address.
func nextHop(client world.Endpoint, to netip.Addr) (mac ec2.MAC, err error) {
	err = netns.Do(client.Namespace, func() error {
		routes, err := netlink.RouteGet(to.AsSlice())
		if err != nil {
			return err
		}
		hop := net.IP(to.AsSlice())
		if len(routes) > 0 && routes[0].Gw != nil {
			hop = routes[0].Gw
		}
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			conn, err := net.Dial("udp4", netip.AddrPortFrom(to, echoPort).String())
			if err != nil {
				return err
			}
			_, _ = conn.Write([]byte{0}) // an error can be the refusal of an earlier datagram
			_ = conn.Close()
			neighbours, err := netlink.NeighList(0, netlink.FAMILY_V4)
			if err != nil {
				return err
			}
			for _, n := range neighbours {
				if n.IP.Equal(hop) && len(n.HardwareAddr) == len(mac) {
					copy(mac[:], n.HardwareAddr)
					return nil
				}
			}
		}
		return errors.New("its next hop does not answer")
	})
	return mac, err
}
