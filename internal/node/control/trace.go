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

// Trace is what GET /v1/trace?from=A&to=B&packet=tcp/22 answers: the fate of one imagined
// packet, decided by the switch's own pipeline, and why.
type Trace struct {
	From     string     `json:"from"`
	To       string     `json:"to"`
	Packet   string     `json:"packet"`
	Admitted bool       `json:"admitted"`
	Verdict  string     `json:"verdict"`
	Meaning  string     `json:"meaning"`
	At       string     `json:"at"`   // the port the verdict concerns
	Node     ec2.NodeID `json:"node"` // and where that is
	// Reason says more than the verdict does, where a route is what lacks.
	Reason string      `json:"reason,omitempty"`
	Steps  []TraceStep `json:"steps"`
	// Admit is a command that would let the packet in, where a rule is all it lacks.
	Admit string `json:"admit,omitempty"`
}

// TraceStep is one interface on the way.
type TraceStep struct {
	Node       ec2.NodeID      `json:"node"`
	Instance   ec2.InstanceID  `json:"instance"`
	Interface  ec2.InterfaceID `json:"interface"`
	Direction  string          `json:"direction"`
	Flow       string          `json:"flow"` // as this interface sees it
	Connection string          `json:"connection"`
	Admitted   bool            `json:"admitted"`
	Rule       string          `json:"rule,omitempty"` // that admits it
	Group      string          `json:"group,omitempty"`
	RuleText   string          `json:"rule_text,omitempty"`
	Refusals   []string        `json:"refusals,omitempty"` // why each rule does not
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

// trace imagines a packet between two ends: an instance's id, or an address. It begins at
// the node that the packet enters by, and goes on at the one that it leaves by.
func (s *Server) trace(ctx context.Context, r traceRequest) (*Trace, error) {
	view := s.Plane.View()
	if view == nil {
		return nil, fmt.Errorf("this node has no table yet")
	}
	src, dst, err := s.ends(view, r)
	if err != nil {
		return nil, err
	}
	template, err := parsePacket(r.Packet)
	if err != nil {
		return nil, err
	}
	if number := entersAt(src, dst); number != 0 {
		return s.traceElsewhere(ctx, view, number, r)
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
		if err := s.traceOnward(ctx, view, result.Onward, t); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// report puts what the pipeline of this node did into words.
func (s *Server) report(view *state.View, result vswitch.Trace) *Trace {
	t := &Trace{
		Admitted: !result.Verdict.Drops(), Verdict: result.Verdict.String(), Meaning: result.Verdict.Meaning(),
		At: result.At.Name(), Node: s.Node, Steps: []TraceStep{}, Reason: reason(view, result),
	}
	for i, step := range result.Steps {
		refused := i == len(result.Steps)-1 && refuses(result.Verdict)
		t.Steps = append(t.Steps, s.explain(view, step, !refused))
		if refused && step.Asked && step.Connection.Status != conntrack.Blocked {
			t.Admit = admitting(view, step)
		}
	}
	return t
}

// refuses reports whether a verdict is an interface's: its rules or its connections do not
// admit the packet. All other drops happen on the way between interfaces.
func refuses(v verdict.Verdict) bool {
	return v == verdict.NoRule || v == verdict.Revoked || v == verdict.NoConnection
}

// parsePacket reads "tcp/22", "udp/53", "icmp", "icmp/8:0", each with an optional source
// port in front, as "tcp/40000>22".
func parsePacket(text string) (packet.Template, error) {
	t := packet.Template{TCPFlags: packet.SYN, ICMPType: packet.ICMPEcho, Payload: make([]byte, 8)}
	wrong := fmt.Errorf("%q is no packet: say tcp/22, udp/53, icmp, icmp/8:0, or tcp/40000>22 with a source port", text)
	protocol, rest, ranged := strings.Cut(text, "/")
	switch protocol {
	case "icmp":
		t.Flow.Protocol, t.Flow.SrcPort, t.Flow.DstPort = packet.ProtocolICMP, 1, 1
		if !ranged {
			return t, nil
		}
		icmpType, code, coded := strings.Cut(rest, ":")
		kind, err := strconv.ParseUint(icmpType, 10, 8)
		if err != nil {
			return t, wrong
		}
		t.ICMPType = uint8(kind)
		if coded {
			c, err := strconv.ParseUint(code, 10, 8)
			if err != nil {
				return t, wrong
			}
			t.ICMPCode = uint8(c)
		}
		return t, nil
	case "tcp":
		t.Flow.Protocol, t.Payload = packet.ProtocolTCP, nil
	case "udp":
		t.Flow.Protocol = packet.ProtocolUDP
	default:
		return t, wrong
	}
	t.Flow.SrcPort = 40000
	if source, port, given := strings.Cut(rest, ">"); given {
		s, err := strconv.ParseUint(source, 10, 16)
		if err != nil {
			return t, wrong
		}
		t.Flow.SrcPort, rest = uint16(s), port
	}
	port, err := strconv.ParseUint(rest, 10, 16)
	if err != nil {
		return t, wrong
	}
	t.Flow.DstPort = uint16(port)
	return t, nil
}

// explain puts one step into words.
func (s *Server) explain(view *state.View, in vswitch.Step, admitted bool) TraceStep {
	step := TraceStep{Node: s.Node, Direction: "egress", Flow: in.Flow.String(), Connection: "none: the rules decide", Admitted: admitted}
	if in.Direction == conntrack.In {
		step.Direction = "ingress"
	}
	if eni, ok := interfaceOf(view, in.Endpoint); ok {
		step.Instance, step.Interface = eni.Instance, eni.ID
	}
	switch in.Connection.Status {
	case conntrack.Live:
		step.Connection = "tracked: it passes until it ends, whatever the rules say now"
	case conntrack.Checked:
		step.Connection = "untracked: the rules in force admit it"
	case conntrack.Stale:
		step.Connection = "older than the rules in force: they decide again"
	case conntrack.Blocked:
		step.Connection = "cut when its rule went"
	}
	if !in.Asked {
		return step
	}
	e := s.Plane.Explain(in)
	if e.By != nil {
		step.Rule, step.Group, step.RuleText = string(e.By.Rule.ID), e.By.Group.Name, ruleText(e.By.Rule)
	}
	if !admitted && len(e.Refusals) == 0 {
		step.Refusals = []string{fmt.Sprintf("anything: its groups have no %s rule", step.Direction)}
	}
	for _, r := range e.Refusals {
		step.Refusals = append(step.Refusals, fmt.Sprintf("%s: %s", ruleText(r.Rule), r))
	}
	return step
}

// ruleText says a rule as the ec2-* tools print it.
func ruleText(r ec2.Rule) string {
	what := fmt.Sprintf("%s %d-%d", r.Protocol, r.From, r.To)
	switch {
	case r.Protocol == ec2.AnyProtocol:
		what = "all traffic"
	case r.Protocol == ec2.ICMP:
		what = fmt.Sprintf("icmp %d:%d", r.From, r.To)
	case r.From == r.To:
		what = fmt.Sprintf("%s %d", r.Protocol, r.From)
	}
	way := "from"
	if r.Direction == ec2.Egress {
		way = "to"
	}
	if r.Source.IsGroup() {
		return fmt.Sprintf("%s %s group %s of %s", what, way, r.Source.Group.ID, r.Source.Group.Account)
	}
	return fmt.Sprintf("%s %s %s", what, way, r.Source.Prefix)
}

// admitting is a command that adds the narrowest rule for a refused packet. The groups of
// a VPC are named by their ids (EC2 User Guide 2012, "ec2-authorize").
func admitting(view *state.View, s vswitch.Step) string {
	eni, ok := interfaceOf(view, s.Endpoint)
	if !ok || len(eni.Groups) == 0 {
		return ""
	}
	g, ok := view.Group(eni.Groups[0])
	if !ok {
		return ""
	}
	group, far := string(g.ID), s.Flow.Src
	if g.VPC == "" {
		group = fmt.Sprintf("%q", g.Name)
	}
	if s.Direction != conntrack.In {
		group, far = group+" --egress", s.Flow.Dst
	}
	return fmt.Sprintf("ec2-authorize %s %s -s %s/32", group, options(s), far)
}

// leaseOf finds the lease behind an interface of the switch.
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
