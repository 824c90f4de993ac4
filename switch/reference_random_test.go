package vswitch

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/firewall"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

// The interfaces of the random tests. router forwards for others.
var refHosts = []string{"web", "app", "router"}

var refAddress = map[string]netip.Addr{"web": addr("10.10.0.4"), "app": addr("10.10.0.5"), "router": addr("10.10.0.7")}

// A refStep is one step of a random test: a packet or a change of rules, after some time.
type refStep struct {
	after  time.Duration
	from   string // who sends the packet; "" for a change
	via    string // to whose MAC address it is sent; "" for the gateway
	packet packet.Template
	quoted *packet.Template

	group string
	rules []ec2.Rule
}

func (s *refStep) String() string {
	if s.from == "" {
		var all []string
		for _, r := range s.rules {
			direction := "in"
			if r.Direction == ec2.Egress {
				direction = "out"
			}
			source := r.Source.Prefix.String()
			if r.Source.IsGroup() {
				source = string(r.Source.Group.ID)
			}
			all = append(all, fmt.Sprintf("#%d %s protocol %v %d-%d %s", r.Serial, direction, r.Protocol, r.From, r.To, source))
		}
		return fmt.Sprintf("+%v rules of %s: %s", s.after, s.group, strings.Join(all, "; "))
	}
	p := s.packet
	text := fmt.Sprintf("+%v %s", s.after, s.from)
	if s.via != "" {
		text += " via " + s.via
	}
	text += fmt.Sprintf(" %d %v:%d > %v:%d", p.Flow.Protocol, p.Flow.Src, p.Flow.SrcPort, p.Flow.Dst, p.Flow.DstPort)
	switch p.Flow.Protocol {
	case packet.ProtocolTCP:
		for i, flag := range []string{"FIN", "SYN", "RST", "PSH", "ACK"} {
			if p.TCPFlags&(1<<i) != 0 {
				text += " " + flag
			}
		}
		text += fmt.Sprintf(" seq %d ack %d window %d scale %d, %d bytes", p.TCPSeq, p.TCPAck, p.TCPWindow, p.TCPScale, len(p.Payload))
	case packet.ProtocolICMP:
		text += fmt.Sprintf(" type %d", p.ICMPType)
		if s.quoted != nil {
			text += fmt.Sprintf(" about %d %v:%d > %v:%d", s.quoted.Flow.Protocol, s.quoted.Flow.Src, s.quoted.Flow.SrcPort, s.quoted.Flow.Dst, s.quoted.Flow.DstPort)
		}
	}
	return text
}

// A refBed is a switch with references of its interfaces.
type refBed struct {
	*testbed
	zones map[string]*reference
	now   time.Duration
	steps int
	// verbose: a difference tells what the references know.
	verbose bool
}

func newRefBed(t testing.TB, c conntrack.Config, strict bool) *refBed {
	t.Helper()
	b := &refBed{testbed: newTestbedWith(t, c), zones: map[string]*reference{}, now: 1_000_000 * time.Second}
	e := b.sw.Edit(1)
	e.now = b.now
	n := *b.sw.Snapshot().networks[1]
	n.Strict = strict
	e.Network(n)
	b.view["router"] = &ec2.Group{ID: "router", Name: "router"}
	b.place(e, 1, "router", Endpoint{Epoch: 9, Address: refAddress["router"], Unchecked: true}, "router")
	b.sw.Publish(e)
	for _, name := range refHosts {
		group := *b.view[ec2.GroupID(name)]
		group.VPC = "vpc-1"
		b.view[group.ID] = &group
		b.zones[name] = &reference{name: name, address: refAddress[name], unchecked: name == "router", strict: strict}
	}
	for _, name := range refHosts {
		b.change(name, nil)
	}
	return b
}

// change replaces the rules of an interface, for the switch and for the reference.
func (b *refBed) change(name string, rules []ec2.Rule) {
	b.generation++
	id := ec2.GroupID(name)
	group := *b.view[id]
	group.Rules = rules
	b.view[id] = &group
	b.compiler.Update(b.view, []ec2.GroupID{id}, b.generation)
	e := b.sw.Edit(b.generation)
	e.now = b.now
	for _, other := range b.names {
		b.sets[other] = b.compiler.Current(b.sets[other])
		b.attach(e, 1, other)
	}
	b.sw.Publish(e)
	b.zones[name].setRules(rules, b.now)
}

// step plays one step. It returns who got the packet, "" if it was dropped, and what differs if the
// switch and the reference disagree. A packet of which the reference is unsure is not sent.
func (b *refBed) step(s *refStep) (delivered, difference string) {
	b.now += s.after
	b.frame.now = b.now
	if s.from == "" {
		b.change(s.group, s.rules)
		return "", ""
	}
	if b.steps++; b.steps%256 == 0 || s.after > time.Minute {
		b.tracker.Sweep(b.now)
	}
	known := b.known(s)
	want, at := b.wanted(s)
	if want == verdict.Unset {
		return "", ""
	}
	frame := s.frame()
	b.frame.snapshot, b.frame.in, b.frame.from, b.frame.viaGateway = b.sw.Snapshot(), b.ports[s.from], firewall.Source{}, false
	clear(b.frame.buffer[:offloadLen])
	n := copy(b.frame.buffer[offloadLen:], frame)
	port, got := b.frame.forward(b.frame.buffer[:offloadLen+n])
	if got != want || port.name != at {
		return "", fmt.Sprintf("the switch says %v at %s, want %v at %s;\nthe reference knew %s", got, port.name, want, at, known)
	}
	if got != verdict.Forward {
		return "", ""
	}
	return at, ""
}

// known returns the connections that the references have for the packet of a step.
func (b *refBed) known(s *refStep) string {
	if !b.verbose {
		return ""
	}
	var all []string
	for _, name := range refHosts {
		for _, d := range []conntrack.Direction{conntrack.In, conntrack.Out} {
			if c, w := b.zones[name].find(s.packet.Flow, s.packet.ICMPType, d, b.now); c != nil {
				all = append(all, fmt.Sprintf("at %s (way %d): %+v", name, w, *c))
			}
		}
	}
	return strings.Join(all, "\n")
}

func (s *refStep) frame() []byte {
	f := s.packet
	f.SrcMAC, f.DstMAC = macOf(s.from), GatewayMAC
	if s.via != "" {
		f.DstMAC = macOf(s.via)
	}
	if s.quoted != nil {
		return packettest.ICMPError(f.ICMPType, f.ICMPCode, f.Flow.Src, f.Flow.Dst, packettest.Build(*s.quoted), f.SrcMAC, f.DstMAC)
	}
	return packettest.Build(f)
}

// wanted returns the verdict that a packet must get, and where. It is Unset if the reference does
// not know.
func (b *refBed) wanted(s *refStep) (verdict.Verdict, string) {
	sender := b.zones[s.from]
	src, dst := s.packet.Flow.Src, s.packet.Flow.Dst
	if src != sender.address && !sender.unchecked {
		return verdict.SpoofedIP, s.from
	}
	owner := ""
	for _, name := range refHosts {
		if refAddress[name] == dst {
			owner = name
		}
	}
	to := owner
	if s.via != "" {
		to = s.via
	}
	out := refPacket{Template: s.packet, quoted: s.quoted, peer: dst}
	if to == owner {
		out.member = ec2.GroupID(owner)
	}
	in := refPacket{Template: s.packet, quoted: s.quoted, peer: src}
	if src == sender.address {
		in.member = ec2.GroupID(s.from)
	}
	if sender.unsure(&out, conntrack.Out, b.now) || b.zones[to].unsure(&in, conntrack.In, b.now) {
		return verdict.Unset, ""
	}
	if v := sender.judge(&out, conntrack.Out, b.now); v != verdict.Forward {
		return v, s.from
	}
	return b.zones[to].judge(&in, conntrack.In, b.now), to
}
