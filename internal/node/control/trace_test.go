package control

import (
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/node/plane"
	"palisade/internal/node/plane/planetest"
)

func TestParsePacketAcceptsOnlyDocumentedForms(t *testing.T) {
	type want struct {
		protocol           uint8
		srcPort, dstPort   uint16
		icmpType, icmpCode uint8
	}
	for _, tt := range []struct {
		text string
		want want
	}{
		{"tcp/22", want{6, 40000, 22, 8, 0}},
		{"tcp/0", want{6, 40000, 0, 8, 0}},
		{"tcp/65535", want{6, 40000, 65535, 8, 0}},
		{"tcp/1234>22", want{6, 1234, 22, 8, 0}},
		{"udp/53", want{17, 40000, 53, 8, 0}},
		{"udp/53>5353", want{17, 53, 5353, 8, 0}},
		{"icmp", want{1, 1, 1, 8, 0}},
		{"icmp/8", want{1, 1, 1, 8, 0}},
		{"icmp/3:4", want{1, 1, 1, 3, 4}},
	} {
		p, err := parsePacket(tt.text)
		got := want{p.Flow.Protocol, p.Flow.SrcPort, p.Flow.DstPort, p.ICMPType, p.ICMPCode}
		if err != nil || got != tt.want {
			t.Errorf("parsePacket(%q) returns %+v, error %v; want %+v", tt.text, got, err, tt.want)
		}
	}
	for _, text := range []string{
		"", "tcp", "tcp/", "tcp/ssh", "tcp/65536", "tcp/-1", "tcp/22-23", "tcp/22>", "tcp/>22", "tcp/65536>22", "tcp/1>2>3",
		"TCP/22", "udp", "icmp/", "icmp/256", "icmp/8:", "icmp/8:256", "icmp/8:0:0", "icmp/echo", "sctp/1", "22", "/22",
	} {
		if p, err := parsePacket(text); err == nil || !strings.Contains(err.Error(), "want tcp/22") {
			t.Errorf("parsePacket(%q) returns %+v, error %v; want an error that lists the forms", text, p.Flow, err)
		}
	}
}

// newServer makes the Server of a node that enforces the state of a Fixture and has no cluster.
func newServer(f *planetest.Fixture) *Server {
	return New(Config{
		Node: planetest.Node, Region: planetest.Region, Plane: f.Plane, Switch: f.Switch, Tracker: f.Tracker,
		Ready: func() bool { return true }, Logger: slog.New(slog.DiscardHandler),
	})
}

// newTraced makes two instances of EC2-Classic: web in group web, which admits tcp 80 from
// everywhere and 22 from the laptop, and db in group db, which admits group web.
func newTraced(t *testing.T) (f *planetest.Fixture, web, db *ec2.Instance) {
	t.Helper()
	f = planetest.New(t)
	launch := func(group string, rules ...state.RuleSpec) *ec2.Instance {
		f.Do(&state.CreateSecurityGroup{Account: planetest.Albert, Region: planetest.Region, Name: group, Description: group})
		f.Do(&state.AuthorizeRules{Account: planetest.Albert, Region: planetest.Region, Group: state.GroupSelector{Name: group}, Rules: rules})
		in := f.Do(&state.RunInstances{Account: planetest.Albert, Region: planetest.Region, Image: "ami-eca54085", MinCount: 1, MaxCount: 1,
			Groups: []state.GroupSelector{{Name: group}}}).Instances[0].After
		eni, ok := f.View.Interface(in.Interface)
		if !ok {
			t.Fatalf("there is no interface %s", in.Interface)
		}
		f.Attach(eni)
		return in
	}
	web = launch("web", planetest.TCP(80, planetest.Everywhere), planetest.TCP(22, netip.MustParsePrefix("203.0.113.25/32")))
	db = launch("db", state.RuleSpec{Protocol: ec2.TCP, From: 3306, To: 3306, Group: ec2.GroupRef{Account: planetest.Albert, Name: "web"}})
	return f, web, db
}

func TestTraceExplainsVerdict(t *testing.T) {
	f, web, db := newTraced(t)
	s, view := newServer(f), f.View
	eni := func(in *ec2.Instance) *ec2.Interface {
		l, ok := view.Interface(in.Interface)
		if !ok {
			t.Fatalf("%s has no lease", in.ID)
		}
		return l
	}
	group := func(name string) ec2.GroupID {
		g, _ := view.GroupNamed(planetest.Albert, "us-east-1", "", name)
		return g.ID
	}
	w, d := string(web.ID), string(db.ID)
	webIP, dbIP := eni(web).Private.String(), eni(db).Private.String()
	fromWeb := "tcp 3306 from group " + string(group("web")) + " of 598916040194"
	const anyOut = "admitted by all traffic to 0.0.0.0/0 of EC2-Classic"
	for _, tt := range []struct {
		from, to, packet string
		verdict, at      string
		steps            []string
		admit            string
	}{
		{"203.0.113.25", w, "tcp/22", "forward", w,
			[]string{w + " ingress tcp 203.0.113.25:40000 > " + webIP + ":22: admitted by tcp 22 from 203.0.113.25/32 of web"}, ""},
		{"198.51.100.7", w, "tcp/22", "no-rule", w,
			[]string{w + " ingress tcp 198.51.100.7:40000 > " + webIP + ":22: refused"}, `ec2-authorize "web" -P tcp -p 22 -s 198.51.100.7/32`},
		{"198.51.100.7", w, "udp/53", "no-rule", w,
			[]string{w + " ingress udp 198.51.100.7:40000 > " + webIP + ":53: refused"}, `ec2-authorize "web" -P udp -p 53 -s 198.51.100.7/32`},
		{"198.51.100.7", w, "icmp/8:0", "no-rule", w,
			[]string{w + " ingress icmp 198.51.100.7:1 > " + webIP + ":1: refused"}, `ec2-authorize "web" -P icmp -t 8:0 -s 198.51.100.7/32`},
		{"198.51.100.7", w, "tcp/1234>80", "forward", w,
			[]string{w + " ingress tcp 198.51.100.7:1234 > " + webIP + ":80: admitted by tcp 80 from 0.0.0.0/0 of web"}, ""},
		{w, d, "tcp/3306", "forward", d, []string{
			w + " egress tcp " + webIP + ":40000 > " + dbIP + ":3306: " + anyOut,
			d + " ingress tcp " + webIP + ":40000 > " + dbIP + ":3306: admitted by " + fromWeb + " of db"}, ""},
		{d, w, "tcp/22", "no-rule", w, []string{
			d + " egress tcp " + dbIP + ":40000 > " + webIP + ":22: " + anyOut,
			w + " ingress tcp " + dbIP + ":40000 > " + webIP + ":22: refused"}, `ec2-authorize "web" -P tcp -p 22 -s ` + dbIP + "/32"},
		// A rule whose source is a group does not admit a packet that was sent to a public
		// address.
		{w, eni(db).Public.String(), "tcp/3306", "no-rule", d, []string{
			w + " egress tcp " + webIP + ":40000 > " + eni(db).Public.String() + ":3306: " + anyOut,
			d + " ingress tcp " + eni(web).Public.String() + ":40000 > " + dbIP + ":3306: refused"},
			`ec2-authorize "db" -P tcp -p 3306 -s ` + eni(web).Public.String() + "/32"},
		{w, "203.0.113.25", "tcp/443", "forward", "uplink",
			[]string{w + " egress tcp " + webIP + ":40000 > 203.0.113.25:443: " + anyOut}, ""},
		{w, "10.99.0.1", "tcp/443", "no-route", w,
			[]string{w + " egress tcp " + webIP + ":40000 > 10.99.0.1:443: " + anyOut}, ""},
		{webIP, dbIP, "tcp/3306", "forward", d, []string{
			w + " egress tcp " + webIP + ":40000 > " + dbIP + ":3306: " + anyOut,
			d + " ingress tcp " + webIP + ":40000 > " + dbIP + ":3306: admitted by " + fromWeb + " of db"}, ""},
	} {
		got, err := s.trace(t.Context(), traceRequest{tt.from, tt.to, tt.packet})
		if err != nil {
			t.Errorf("trace from %s to %s, %s: %v", tt.from, tt.to, tt.packet, err)
			continue
		}
		if got.Verdict != tt.verdict || got.At != tt.at || got.Admit != tt.admit || got.Admitted != (tt.verdict == "forward") || got.Meaning == "" {
			t.Errorf("trace from %s to %s, %s: verdict %s at %s, command to admit it %q; want %s at %s, %q",
				tt.from, tt.to, tt.packet, got.Verdict, got.At, got.Admit, tt.verdict, tt.at, tt.admit)
		}
		if d := cmp.Diff(tt.steps, stepTexts(got.Steps)); d != "" {
			t.Errorf("trace from %s to %s, %s: steps (-want +got)\n%s", tt.from, tt.to, tt.packet, d)
		}
	}

	if u := s.Tracker.Usage(); u.Tracked+u.Untracked != 0 {
		t.Errorf("tracing made connections: %+v", u)
	}
}

// stepTexts prints each step as one line.
func stepTexts(steps []TraceStep) (texts []string) {
	for _, s := range steps {
		text := string(s.Instance) + " " + s.Direction + " " + s.Flow + ": "
		switch {
		case s.Admitted && s.Group != "":
			text += "admitted by " + s.RuleText + " of " + s.Group
		case s.Admitted:
			text += "admitted"
		default:
			text += "refused"
		}
		texts = append(texts, text)
	}
	return texts
}

func TestTraceSaysWhyEachRuleRefuses(t *testing.T) {
	f, web, _ := newTraced(t)
	got, err := newServer(f).trace(t.Context(), traceRequest{"198.51.100.7", string(web.ID), "tcp/22"})
	if err != nil {
		t.Fatal(err)
	}
	refusals := got.Steps[0].Refusals
	slices.Sort(refusals)
	if len(refusals) != 2 || !strings.HasPrefix(refusals[0], "tcp 22 from 203.0.113.25/32: ") || !strings.HasPrefix(refusals[1], "tcp 80 from 0.0.0.0/0: ") {
		t.Errorf("refusals %q, want a reason for each of the two rules", refusals)
	}
}

func TestTraceRejectsInvalidRequests(t *testing.T) {
	f, web, _ := newTraced(t)
	s := newServer(f)
	for _, tt := range []struct{ from, to, packet, want string }{
		{"i-00000000", string(web.ID), "tcp/22", `"i-00000000" is neither the id or name of an instance or interface nor an IPv4 address`},
		{string(web.ID), "2001:db8::1", "tcp/22", `"2001:db8::1" is neither`},
		{string(web.ID), "", "tcp/22", `"" is neither`},
		{string(web.ID), "203.0.113.25", "tcp", `"tcp" is not a packet`},
	} {
		if _, err := s.trace(t.Context(), traceRequest{tt.from, tt.to, tt.packet}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("trace from %s to %s, %s: error %v, want one that contains %s", tt.from, tt.to, tt.packet, err, tt.want)
		}
	}
	empty := newServer(&planetest.Fixture{Plane: plane.New(plane.Config{})})
	if _, err := empty.trace(t.Context(), traceRequest{"203.0.113.25", "198.18.0.2", "tcp/22"}); err == nil || !strings.Contains(err.Error(), "enforces no state yet") {
		t.Errorf("trace on a node without a View: error %v, want one that says the node enforces no state yet", err)
	}
}

// A traceTest traces packets in a Fixture.
type traceTest struct {
	*planetest.Fixture
	server *Server
}

// traces traces a packet, which must have the verdict. The explanation must contain says.
func (v *traceTest) traces(from, to, text, verdict, says string) {
	v.Helper()
	got, err := v.server.trace(v.Context(), traceRequest{from, to, text})
	if err != nil {
		v.Errorf("trace of %s from %s to %s: %v", text, from, to, err)
		return
	}
	all := got.Reason + "\n" + got.Admit
	for _, s := range got.Steps {
		all += "\n" + strings.Join(s.Refusals, "\n")
	}
	if got.Verdict != verdict || !strings.Contains(all, says) {
		v.Errorf("trace of %s from %s to %s: verdict %s, explanation %q; want %s, explained with %q", text, from, to, got.Verdict, all, verdict, says)
	}
}

func TestTraceExplainsVerdictInVPC(t *testing.T) {
	f := &traceTest{Fixture: planetest.New(t)}
	f.server = newServer(f.Fixture)
	in := planetest.TCP(80, planetest.Everywhere)
	wide, shut := f.Group("wide", in), f.Group("shut", in)
	allOut := state.RuleSpec{Protocol: ec2.AnyProtocol, From: -1, To: -1, Prefix: planetest.Everywhere}
	f.Do(&state.RevokeRules{Account: planetest.Dev, Region: planetest.Region, Group: state.GroupSelector{ID: shut}, Direction: ec2.Egress, Rules: []state.RuleSpec{allOut}})
	web, db := f.Register("node1", "web", f.Public, wide), f.Register("node1", "db", f.Private, shut)
	w, b := string(web.ID), string(db.ID)
	public, dbPublic := f.Elastic(web, netip.Addr{}), f.Elastic(db, netip.Addr{})

	f.traces(w, b, "tcp/80", "forward", "")
	f.traces(w, db.Private.String(), "tcp/80", "forward", "")  // a private address is looked up in the VPC of web
	f.traces(web.Private.String(), b, "tcp/80", "forward", "") // or in the VPC of db
	f.traces(w, b, "tcp/81", "no-rule", "ec2-authorize "+string(shut)+" -P tcp -p 81 -s "+web.Private.String()+"/32")
	f.traces(b, w, "tcp/80", "no-rule", "its groups have no egress rule")
	f.traces(b, w, "tcp/80", "no-rule", "ec2-authorize "+string(shut)+" --egress -P tcp -p 80 -s "+web.Private.String()+"/32")
	f.Do(&state.AuthorizeRules{Account: planetest.Dev, Region: planetest.Region, Group: state.GroupSelector{ID: shut}, Direction: ec2.Egress, Rules: []state.RuleSpec{planetest.TCP(443, planetest.Everywhere)}})
	f.traces(b, w, "tcp/80", "no-rule", "tcp 443 to 0.0.0.0/0")
	f.traces(b, w, "tcp/80", "no-rule", "is for another range")
	every6 := state.RuleSpec{Protocol: ec2.AnyProtocol, From: -1, To: -1, Prefix: netip.MustParsePrefix("::/0")}
	f.Do(&state.AuthorizeRules{Account: planetest.Dev, Region: planetest.Region, Group: state.GroupSelector{ID: shut}, Direction: ec2.Egress, Rules: []state.RuleSpec{every6}, IPv6: true})
	f.traces(b, w, "tcp/80", "no-rule", "all traffic to ::/0: ")
	f.traces(b, w, "tcp/80", "no-rule", "is for IPv6")
	f.traces(public.String(), b, "tcp/81", "no-rule", "-s "+web.Private.String()+"/32") // from the public address of web
	f.traces(w, planetest.Laptop, "tcp/80", "forward", "")
	f.traces(planetest.Laptop, w, "tcp/80", "forward", "")
	f.traces(planetest.Laptop, public.String(), "tcp/80", "forward", "")

	none := b + ": its subnet has no route to a gateway: " + string(f.Private.ID) + " uses " + string(f.VPC.RouteTable) + ", which has no route to "
	f.traces(b, planetest.Laptop, "tcp/443", "not-routed", none+planetest.Laptop)
	f.traces(planetest.Laptop, dbPublic.String(), "tcp/80", "not-routed", none+planetest.Laptop)
	f.traces(w, dbPublic.String(), "tcp/80", "not-routed", none+public.String())
	f.Do(&state.CreateRoute{Account: planetest.Dev, Region: planetest.Region, RouteTable: f.VPC.RouteTable, Destination: planetest.Everywhere, Gateway: f.Gateway.ID})
	f.traces(planetest.Laptop, dbPublic.String(), "tcp/80", "forward", "")
	f.traces(w, dbPublic.String(), "tcp/80", "forward", "")

	// An interface is traced by each of its addresses, and from another network by its public one.
	more := f.Do(&state.AssignPrivateAddresses{Account: planetest.Dev, Region: planetest.Region, Interface: web.ID, Count: 1}).Addresses[0]
	f.traces(more.String(), b, "tcp/80", "forward", "")
	f.traces(b, more.String(), "tcp/80", "no-rule", "-s "+more.String()+"/32")
	other := f.Do(&state.CreateVPC{Account: planetest.Dev, Region: planetest.Region, CIDR: netip.MustParsePrefix("10.0.0.0/16")}).VPC
	theirs := f.Do(&state.CreateSubnet{Account: planetest.Dev, Region: planetest.Region, VPC: other.ID, CIDR: netip.MustParsePrefix("10.0.1.0/24")}).Subnet
	remote := f.Register("node1", "remote", theirs, other.Group)
	f.traces(w, string(remote.ID), "tcp/80", "no-route", string(remote.ID)+" has no public address, and "+w+" is in another network")
	f.traces(string(remote.ID), w, "tcp/80", "not-routed", "which has no route to "+public.String())
}
