package node

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"palisade/ec2"
	vswitch "palisade/switch"
	"palisade/switch/tap/taptest"
)

func TestParsePacket(t *testing.T) {
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
			t.Errorf("%q: %+v, %v; want %+v", tt.text, got, err, tt.want)
		}
	}
	for _, text := range []string{
		"", "tcp", "tcp/", "tcp/ssh", "tcp/65536", "tcp/-1", "tcp/22-23", "tcp/22>", "tcp/>22", "tcp/65536>22", "tcp/1>2>3",
		"TCP/22", "udp", "icmp/", "icmp/256", "icmp/8:", "icmp/8:256", "icmp/8:0:0", "icmp/echo", "sctp/1", "22", "/22",
	} {
		if p, err := parsePacket(text); err == nil || !strings.Contains(err.Error(), "say tcp/22") {
			t.Errorf("%q: %+v, %v; want an error that says how", text, p.Flow, err)
		}
	}
}

// traced is a node with an uplink and two instances: web in group web, which admits tcp 80
// from everybody and 22 from the laptop, and db in group db, which admits group web.
func traced(t *testing.T) (n testNode, web, db *ec2.Instance) {
	t.Helper()
	c := nodeConfig(t)
	n = newNode(t, c)
	commands, err := c.bootstrap(nil)
	if err != nil {
		t.Fatal(err)
	}
	state := ec2.NewState()
	do := func(r ec2.Request) ec2.Result {
		t.Helper()
		result, err := state.Apply(state.Index()+1, ec2.Command{Time: time.Unix(1e9, 0), Request: r})
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
	for _, cmd := range commands {
		do(cmd.Request)
	}
	launch := func(group string, rules ...ec2.RuleSpec) *ec2.Instance {
		do(&ec2.CreateSecurityGroup{Account: albert, Region: c.Region, Name: group, Description: group})
		do(&ec2.AuthorizeRules{Account: albert, Region: c.Region, Group: ec2.GroupSelector{Name: group}, Rules: rules})
		return do(&ec2.RunInstances{Account: albert, Region: c.Region, Image: "ami-eca54085", MinCount: 1, MaxCount: 1,
			Groups: []ec2.GroupSelector{{Name: group}}}).Instances[0].After
	}
	web = launch("web",
		ec2.RuleSpec{Protocol: ec2.TCP, From: 80, To: 80, Prefix: netip.MustParsePrefix("0.0.0.0/0")},
		ec2.RuleSpec{Protocol: ec2.TCP, From: 22, To: 22, Prefix: netip.MustParsePrefix("203.0.113.25/32")})
	db = launch("db", ec2.RuleSpec{Protocol: ec2.TCP, From: 3306, To: 3306, Group: ec2.GroupRef{Account: albert, Name: "web"}})

	device := func() *taptest.Device {
		d, err := taptest.New()
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	port, err := n.sw.AddPort("uplink", vswitch.UplinkPort, device())
	if err != nil {
		t.Fatal(err)
	}
	n.plane.uplink = &vswitch.Uplink{Port: port, MAC: uplinkMAC("node1"), NextHop: ec2.MAC{2, 0, 0, 0, 0, 1}, MTU: uplinkMTU}
	if err := n.plane.apply(state.View()); err != nil {
		t.Fatal(err)
	}
	for _, in := range []*ec2.Instance{web, db} {
		if err := n.plane.attach(epochOf(t, state.View(), in.Interface), device()); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(n.plane.close)
	return n, web, db
}

func epochOf(t *testing.T, view *ec2.View, id ec2.InterfaceID) uint64 {
	t.Helper()
	lease, ok := view.Interface(id)
	if !ok {
		t.Fatalf("there is no interface %s", id)
	}
	return lease.Epoch
}

// TestTraceSaysWhy: each line is what an operator reads of a packet's fate.
func TestTraceSaysWhy(t *testing.T) {
	n, web, db := traced(t)
	view, _ := n.plane.state()
	lease := func(in *ec2.Instance) *ec2.Interface {
		l, ok := view.Interface(in.Interface)
		if !ok {
			t.Fatalf("%s has no lease", in.ID)
		}
		return l
	}
	group := func(name string) ec2.GroupID {
		g, _ := view.GroupNamed(albert, "us-east-1", "", name)
		return g.ID
	}
	w, d := string(web.ID), string(db.ID)
	webIP, dbIP := lease(web).Private.String(), lease(db).Private.String()
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
		// By its public address a member is none.
		{w, lease(db).Public.String(), "tcp/3306", "no-rule", d, []string{
			w + " egress tcp " + webIP + ":40000 > " + lease(db).Public.String() + ":3306: " + anyOut,
			d + " ingress tcp " + lease(web).Public.String() + ":40000 > " + dbIP + ":3306: refused"},
			`ec2-authorize "db" -P tcp -p 3306 -s ` + lease(web).Public.String() + "/32"},
		{w, "203.0.113.25", "tcp/443", "forward", "uplink",
			[]string{w + " egress tcp " + webIP + ":40000 > 203.0.113.25:443: " + anyOut}, ""},
		{w, "10.99.0.1", "tcp/443", "no-route", w,
			[]string{w + " egress tcp " + webIP + ":40000 > 10.99.0.1:443: " + anyOut}, ""},
		{webIP, dbIP, "tcp/3306", "forward", d, []string{
			w + " egress tcp " + webIP + ":40000 > " + dbIP + ":3306: " + anyOut,
			d + " ingress tcp " + webIP + ":40000 > " + dbIP + ":3306: admitted by " + fromWeb + " of db"}, ""},
	} {
		got, err := n.trace(t.Context(), traceRequest{tt.from, tt.to, tt.packet})
		if err != nil {
			t.Errorf("%s to %s, %s: %v", tt.from, tt.to, tt.packet, err)
			continue
		}
		var steps []string
		for _, s := range got.Steps {
			text := string(s.Instance) + " " + s.Direction + " " + s.Flow + ": "
			switch {
			case s.Admitted && s.Group != "":
				text += "admitted by " + s.RuleText + " of " + s.Group
			case s.Admitted:
				text += "admitted"
			default:
				text += "refused"
			}
			steps = append(steps, text)
		}
		if got.Verdict != tt.verdict || got.At != tt.at || got.Admit != tt.admit || got.Admitted != (tt.verdict == "forward") || got.Meaning == "" {
			t.Errorf("%s to %s, %s: %s at %s, would need %q; want %s at %s, %q",
				tt.from, tt.to, tt.packet, got.Verdict, got.At, got.Admit, tt.verdict, tt.at, tt.admit)
		}
		if d := cmp.Diff(tt.steps, steps); d != "" {
			t.Errorf("%s to %s, %s: steps\n%s", tt.from, tt.to, tt.packet, d)
		}
	}

	// Every rule that does not admit says why.
	got, err := n.trace(t.Context(), traceRequest{"198.51.100.7", w, "tcp/22"})
	if err != nil {
		t.Fatal(err)
	}
	refusals := got.Steps[0].Refusals
	slices.Sort(refusals)
	if len(refusals) != 2 || !strings.HasPrefix(refusals[0], "tcp 22 from 203.0.113.25/32: ") || !strings.HasPrefix(refusals[1], "tcp 80 from 0.0.0.0/0: ") {
		t.Errorf("refusals: %q", refusals)
	}
	if u := n.tracker.Usage(); u.Tracked+u.Untracked != 0 {
		t.Errorf("tracing left connections: %+v", u)
	}
}

func TestTraceSaysWhatItCannotTrace(t *testing.T) {
	n, web, _ := traced(t)
	for _, tt := range []struct{ from, to, packet, want string }{
		{"i-00000000", string(web.ID), "tcp/22", `"i-00000000" is neither an instance's id, nor an interface's, nor an IPv4 address`},
		{string(web.ID), "2001:db8::1", "tcp/22", `"2001:db8::1" is neither`},
		{string(web.ID), "", "tcp/22", `"" is neither`},
		{string(web.ID), "203.0.113.25", "tcp", `"tcp" is no packet`},
	} {
		if _, err := n.trace(t.Context(), traceRequest{tt.from, tt.to, tt.packet}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s to %s, %s: %v, want %s", tt.from, tt.to, tt.packet, err, tt.want)
		}
	}
	empty := newNode(t, nodeConfig(t))
	if _, err := empty.trace(t.Context(), traceRequest{"203.0.113.25", "198.18.0.2", "tcp/22"}); err == nil || !strings.Contains(err.Error(), "no table yet") {
		t.Errorf("a node that has no View: %v", err)
	}
}
