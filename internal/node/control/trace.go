package control

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/packet"
	"palisade/internal/verdict"
	vswitch "palisade/switch"
)

// Trace is the answer of GET /v1/trace?from=A&to=B&packet=tcp/22: the verdict of the switch's own
// pipeline on an imagined packet, and the reasons.
type Trace struct {
	From     string     `json:"from"`
	To       string     `json:"to"`
	Packet   string     `json:"packet"`
	Admitted bool       `json:"admitted"`
	Verdict  string     `json:"verdict"`
	Meaning  string     `json:"meaning"`
	At       string     `json:"at"`   // port at which the verdict is counted
	Node     ec2.NodeID `json:"node"` // of that port
	// Reason says which entry of a network ACL denies the packet or, if the packet has no route, what is
	// missing: a route to a gateway, a public address, or an owner of the destination.
	Reason string `json:"reason,omitempty"`
	// Route says which route leads the packet on, and where to, unless it goes straight to an interface of the network.
	Route string      `json:"route,omitempty"`
	Steps []TraceStep `json:"steps"`
	// Admit is a command that adds the missing rule, if only a rule is missing.
	Admit string `json:"admit,omitempty"`
}

// TraceStep is the check at one interface on the packet's way.
type TraceStep struct {
	Node       ec2.NodeID      `json:"node"`
	Instance   ec2.InstanceID  `json:"instance"`
	Interface  ec2.InterfaceID `json:"interface"`
	Direction  string          `json:"direction"`
	Flow       string          `json:"flow"` // with the addresses that this interface sees
	Connection string          `json:"connection"`
	Admitted   bool            `json:"admitted"`
	Rule       string          `json:"rule,omitempty"` // that admits the flow
	// ACL and ACLEntry name the entry of the subnet's network ACL that admits or denies the packet. They are
	// "" if the packet stays in the subnet.
	ACL      string   `json:"acl,omitempty"`
	ACLEntry string   `json:"acl_entry,omitempty"`
	Group    string   `json:"group,omitempty"`
	RuleText string   `json:"rule_text,omitempty"`
	Refusals []string `json:"refusals,omitempty"` // why each rule does not admit it
}

func (s *Server) traceHandler(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	t, err := s.trace(r.Context(), traceRequest{q.Get("from"), q.Get("to"), q.Get("packet")})
	if err != nil {
		refuse(w, err)
		return
	}
	answer(w, t)
}

// trace follows an imagined packet from one host to another; a host is the id of an instance or
// interface, or an address. The trace begins on the node where the packet enters the cluster and
// continues on the node where it leaves.
func (s *Server) trace(ctx context.Context, r traceRequest) (*Trace, error) {
	view := s.Plane.View()
	if view == nil {
		return nil, fmt.Errorf("this node enforces no state yet")
	}
	src, dst, err := s.findHosts(view, r)
	if err != nil {
		return nil, err
	}
	template, err := parsePacket(r.Packet)
	if err != nil {
		return nil, err
	}
	if number := entersAt(src, dst); number != 0 {
		return s.traceOnNode(ctx, view, number, r)
	}
	if t := s.unaddressed(src, &dst); t != nil {
		t.From, t.To, t.Packet = r.From, r.To, r.Packet
		return t, nil
	}
	in, err := s.aim(src, dst, &template)
	if err != nil {
		return nil, err
	}
	frame, err := packet.Compose(template)
	if err != nil {
		return nil, err
	}
	result := s.Switch.Trace(in, frame)
	t := s.report(view, result)
	t.From, t.To, t.Packet = r.From, r.To, r.Packet
	if result.Onward != nil {
		if err := s.traceRemainder(ctx, view, result.Onward, t); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// report returns a Trace of the steps in this node's pipeline.
func (s *Server) report(view *state.View, result vswitch.Trace) *Trace {
	t := &Trace{
		Admitted: !result.Verdict.Drops(), Verdict: result.Verdict.String(), Meaning: result.Verdict.Meaning(),
		At: result.At.Name(), Node: s.Node, Steps: []TraceStep{}, Reason: reason(view, result),
		Route: routed(view, result.Routed),
	}
	for i, step := range result.Steps {
		refused := i == len(result.Steps)-1 && (refuses(result.Verdict) || result.Verdict == verdict.ACLDenied)
		t.Steps = append(t.Steps, s.explain(view, step, !refused))
		if refused && step.Asked && step.Connection.Status != conntrack.Blocked {
			t.Admit = admitting(view, step)
		}
	}
	return t
}

// refuses reports whether the verdict means that the rules or connections of an interface dropped the
// packet. With every other drop verdict the interfaces of all steps admitted the packet.
func refuses(v verdict.Verdict) bool {
	return v == verdict.NoRule || v == verdict.Revoked || v == verdict.NoConnection
}

// parsePacket parses "tcp/22", "udp/53", "icmp" and "icmp/8:0". TCP and UDP may have a source port,
// as in "tcp/40000>22".
func parsePacket(text string) (packet.Template, error) {
	t := packet.Template{TCPFlags: packet.SYN, ICMPType: packet.ICMPEcho, Payload: make([]byte, 8)}
	invalid := fmt.Errorf("%q is not a packet: want tcp/22, udp/53, icmp, icmp/8:0, or tcp/40000>22 with a source port", text)
	protocol, ports, ranged := strings.Cut(text, "/")
	switch protocol {
	case "icmp":
		t.Flow.Protocol, t.Flow.SrcPort, t.Flow.DstPort = packet.ProtocolICMP, 1, 1
		if !ranged {
			return t, nil
		}
		icmpType, code, coded := strings.Cut(ports, ":")
		kind, err := strconv.ParseUint(icmpType, 10, 8)
		if err != nil {
			return t, invalid
		}
		t.ICMPType = uint8(kind)
		if coded {
			c, err := strconv.ParseUint(code, 10, 8)
			if err != nil {
				return t, invalid
			}
			t.ICMPCode = uint8(c)
		}
		return t, nil
	case "tcp":
		t.Flow.Protocol, t.Payload = packet.ProtocolTCP, nil
	case "udp":
		t.Flow.Protocol = packet.ProtocolUDP
	default:
		return t, invalid
	}
	t.Flow.SrcPort = 40000
	if source, port, given := strings.Cut(ports, ">"); given {
		s, err := strconv.ParseUint(source, 10, 16)
		if err != nil {
			return t, invalid
		}
		t.Flow.SrcPort, ports = uint16(s), port
	}
	port, err := strconv.ParseUint(ports, 10, 16)
	if err != nil {
		return t, invalid
	}
	t.Flow.DstPort = uint16(port)
	return t, nil
}

// explain returns a step with its reasons. admitted says whether the packet passed the step.
func (s *Server) explain(view *state.View, in vswitch.Step, admitted bool) TraceStep {
	step := TraceStep{Node: s.Node, Direction: "egress", Flow: in.Flow.String(), Connection: "none: the rules decide", Admitted: admitted}
	if in.Direction == conntrack.In {
		step.Direction = "ingress"
	}
	if in.ACL != nil {
		step.ACL, step.ACLEntry = in.ACL.ACL, in.ACL.Entry.String()
	}
	strict := false
	if eni, ok := interfaceOf(view, in.Endpoint); ok {
		step.Instance, step.Interface = eni.Instance, eni.ID
		network, ok := view.Network(eni.VNI)
		strict = ok && network.Mode == ec2.TrackStrict
	}
	if in.Verdict == verdict.ACLDenied {
		step.Connection = "not asked: the network ACL decides about each packet"
		return step
	}
	switch in.Connection.Status {
	case conntrack.Live:
		step.Connection = "tracked: it passes until it ends, even if its rule is revoked"
		if strict {
			step.Connection = "tracked: it passes until it ends or no rule admits it"
		}
	case conntrack.Checked:
		step.Connection = "untracked: the rules in force admit it"
	case conntrack.Stale:
		step.Connection = "older than the rules in force: the rules decide again"
	case conntrack.Blocked:
		step.Connection = "cut: its rule was revoked, or an operator ended it"
	}
	if in.Endpoint.IsNAT {
		step.Connection = "translated by NAT gateway " + natOf(view, in.Endpoint)
	}
	if !in.Asked {
		return step
	}
	e := s.Plane.Explain(in)
	if e.By != nil {
		step.Rule, step.Group, step.RuleText = string(e.By.Rule.ID), e.By.Group.Name, ruleText(e.By.Rule)
		if e.Entry.IsValid() {
			step.RuleText += fmt.Sprintf(", entry %s", e.Entry)
		}
	}
	if !admitted && len(e.Refusals) == 0 {
		step.Refusals = []string{fmt.Sprintf("anything: its groups have no %s rule", step.Direction)}
	}
	for _, r := range e.Refusals {
		step.Refusals = append(step.Refusals, fmt.Sprintf("%s: %s", ruleText(r.Rule), r))
	}
	return step
}

// natOf returns the id of the NAT gateway whose interface an endpoint is.
func natOf(view *state.View, e *vswitch.Endpoint) string {
	if eni, ok := interfaceOf(view, e); ok {
		return string(eni.NATGateway)
	}
	return e.Address.String()
}

// ruleText returns a rule as the ec2-* tools print it.
func ruleText(r ec2.Rule) string {
	traffic := fmt.Sprintf("%s %d-%d", r.Protocol, r.From, r.To)
	switch {
	case r.Protocol == ec2.AnyProtocol:
		traffic = "all traffic"
	case !r.Protocol.HasRange():
		traffic = fmt.Sprintf("protocol %d", r.Protocol)
	case r.Protocol == ec2.ICMP, r.Protocol == ec2.ICMPv6:
		traffic = fmt.Sprintf("%s %d:%d", r.Protocol, r.From, r.To)
	case r.From == r.To:
		traffic = fmt.Sprintf("%s %d", r.Protocol, r.From)
	}
	preposition := "from"
	if r.Direction == ec2.Egress {
		preposition = "to"
	}
	if r.Source.IsGroup() {
		return fmt.Sprintf("%s %s group %s of %s", traffic, preposition, r.Source.Group.ID, r.Source.Group.Account)
	}
	if r.Source.IsPrefixList() {
		return fmt.Sprintf("%s %s prefix list %s", traffic, preposition, r.Source.PrefixList)
	}
	return fmt.Sprintf("%s %s %s", traffic, preposition, r.Source.Prefix)
}

// admitting returns an ec2-authorize command that adds the narrowest rule for a refused packet. It
// names groups of a VPC by id (EC2 User Guide 2012, "ec2-authorize").
func admitting(view *state.View, s vswitch.Step) string {
	eni, ok := interfaceOf(view, s.Endpoint)
	if !ok || len(eni.Groups) == 0 {
		return ""
	}
	g, ok := view.Group(eni.Groups[0])
	if !ok {
		return ""
	}
	group, remote := string(g.ID), s.Flow.Src
	if g.VPC == "" {
		group = fmt.Sprintf("%q", g.Name)
	}
	if s.Direction != conntrack.In {
		group, remote = group+" --egress", s.Flow.Dst
	}
	return fmt.Sprintf("ec2-authorize %s %s -s %s/32", group, options(s), remote)
}

// interfaceOf finds the interface of an endpoint.
func interfaceOf(view *state.View, e *vswitch.Endpoint) (*ec2.Interface, bool) {
	for eni := range view.Interfaces() {
		if eni.Epoch == e.Epoch {
			return eni, true
		}
	}
	return nil, false
}

func options(s vswitch.Step) string {
	switch s.Flow.Protocol {
	case packet.ProtocolICMP:
		return fmt.Sprintf("-P icmp -t %d:%d", s.Key>>8, s.Key&0xff)
	case packet.ProtocolUDP:
		return fmt.Sprintf("-P udp -p %d", s.Key)
	}
	return fmt.Sprintf("-P tcp -p %d", s.Key)
}
