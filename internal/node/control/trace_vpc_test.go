package control

import (
	"net/netip"
	"strings"
	"testing"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/firewall"
	"palisade/internal/node/plane/planetest"
	"palisade/internal/packet"
)

// asks checks that a trace is refused with an error that has all of the texts.
func (v *traceTest) asks(from, to string, texts ...string) {
	v.Helper()
	got, err := v.server.trace(v.Context(), traceRequest{from, to, "tcp/80"})
	if err == nil {
		v.Errorf("trace from %s to %s: verdict %s, want a question with %q", from, to, got.Verdict, texts)
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			v.Errorf("trace from %s to %s: error %v, want one that contains %q", from, to, err, text)
		}
	}
}

// TestTraceFindsPrivateAddressesOfVPCs: an address that several VPCs have is the one in the VPC of the other end. Where
// that leaves several, the trace asks.
func TestTraceFindsPrivateAddressesOfVPCs(t *testing.T) {
	f := &traceTest{Fixture: planetest.New(t)}
	f.server = newServer(f.Fixture)
	open := f.Group("open", planetest.TCP(80, planetest.Everywhere))
	web, db := f.Register("node1", "web", f.Public, open), f.Register("node1", "db", f.Private, open)
	w, d := web.Private.String(), db.Private.String()
	f.traces(w, d, "tcp/80", "forward", "") // no other interface has these addresses
	f.traces(w, d, "tcp/81", "no-rule", "ec2-authorize "+string(open)+" -P tcp -p 81 -s "+w+"/32")

	// A second VPC has the address of web, but not that of db.
	other := f.Do(&state.CreateVPC{Account: planetest.Dev, Region: planetest.Region, CIDR: netip.MustParsePrefix("10.0.0.0/16")}).VPC
	subnet := func(cidr string) *ec2.Subnet {
		return f.Do(&state.CreateSubnet{Account: planetest.Dev, Region: planetest.Region, VPC: other.ID, CIDR: netip.MustParsePrefix(cidr)}).Subnet
	}
	twin := f.Register("node1", "twin", subnet("10.0.1.0/24"), other.Group)
	if twin.Private != web.Private {
		t.Fatalf("the interfaces have the addresses %s and %s, want equal ones", twin.Private, web.Private)
	}
	f.traces(w, d, "tcp/80", "forward", "")
	f.traces(d, w, "tcp/80", "forward", "")
	f.asks(planetest.Laptop, w, w+" may be 2 interfaces", string(web.ID), string(twin.ID))

	// It has both.
	further := f.Register("node1", "further", subnet("10.0.2.0/24"), other.Group)
	f.Do(&state.CreateTags{Account: planetest.Dev, Region: planetest.Region, Resources: []string{string(twin.ID)}, Tags: map[string]string{"Name": "standby"}})
	f.asks(w, d, w+" may be 2 interfaces; name one of them by its id", string(web.ID)+", "+w+" in "+string(f.VPC.ID)+", us-east-1, account dev",
		string(twin.ID)+" (standby), "+w+" in "+string(other.ID)+", us-east-1, account dev")
	f.traces(string(web.ID), d, "tcp/80", "forward", "")
	f.traces(w, string(further.ID), "tcp/80", "forward", "")
	f.traces("standby", d, "tcp/80", "forward", "")
	f.asks("nobody", d, `"nobody" is neither the id or name of an instance or interface nor an IPv4 address`)
	f.Do(&state.CreateTags{Account: planetest.Dev, Region: planetest.Region, Resources: []string{string(web.ID)}, Tags: map[string]string{"Name": "standby"}})
	f.asks("standby", planetest.Laptop, "standby may be 2 interfaces", string(web.ID), string(twin.ID))
	f.traces("standby", string(db.ID), "tcp/80", "forward", "") // the one in the VPC of db

	// A third host of the second VPC: no interface of the first has its address.
	third := f.Register("node1", "third", subnet("10.0.3.0/24"), other.Group)
	f.traces(string(web.ID), third.Private.String(), "tcp/80", "no-route", "no interface in "+string(f.VPC.ID)+" has "+third.Private.String())
	f.traces(string(web.ID), third.Private.String(), "tcp/80", "no-route", "it is the address of "+string(third.ID)+", ")
	f.traces(string(web.ID), "10.0.1.200", "tcp/80", "no-route", "no interface in "+string(f.VPC.ID)+" has 10.0.1.200")
}

// TestTraceAndFlowsNameEntriesOfNetworkACLs: the entry that admits or denies a packet, at either end.
func TestTraceAndFlowsNameEntriesOfNetworkACLs(t *testing.T) {
	f := &traceTest{Fixture: planetest.New(t)}
	f.server = newServer(f.Fixture)
	open := f.Group("open", planetest.TCP(80, planetest.Everywhere))
	web, db := f.Register("node1", "web", f.Public, open), f.Register("node1", "db", f.Private, open)
	w, d := string(web.ID), string(db.ID)
	acl := f.Do(&state.CreateNetworkACL{Account: planetest.Dev, Region: planetest.Region, VPC: f.VPC.ID}).ACL
	put := func(e ec2.ACLEntry) {
		e.Traffic = ec2.ACLTraffic{One: true, Protocol: ec2.TCP, From: e.Traffic.From, To: e.Traffic.To}
		f.Do(&state.CreateACLEntry{Account: planetest.Dev, Region: planetest.Region, ACL: acl.ID, Entry: e})
	}
	f.Do(&state.ReplaceACLAssociation{Account: planetest.Dev, Region: planetest.Region, Association: f.Private.AssociationWithACL(), ACL: acl.ID})
	f.traces(w, d, "tcp/80", "acl-denied", d+": the ingress entry 32767 deny all traffic from 0.0.0.0/0 of "+acl.ID+", the network ACL of "+string(f.Private.ID)+", denies it")
	put(ec2.ACLEntry{Number: 90, Allow: true, CIDR: f.Public.CIDR, Traffic: ec2.ACLTraffic{From: 80, To: 81}})
	f.traces(w, d, "tcp/80", "forward", "")
	f.traces(d, w, "tcp/80", "acl-denied", "the egress entry 32767")
	put(ec2.ACLEntry{Number: 7, Egress: true, Allow: true, CIDR: planetest.Everywhere, Traffic: ec2.ACLTraffic{From: 80, To: 80}})
	got, err := f.server.trace(t.Context(), traceRequest{d, w, "tcp/80"})
	if err != nil || len(got.Steps) != 2 || got.Steps[0].ACL != acl.ID || got.Steps[0].ACLEntry != "7 allow tcp 80 to 0.0.0.0/0" || got.Steps[1].ACL != f.VPC.ACL || got.Steps[1].ACLEntry != "100 allow all traffic from 0.0.0.0/0" {
		t.Errorf("the trace is %+v (%v), want one with the egress entry 7 and the default ACL's ingress entry 100", got, err)
	}
	view := f.Plane.View()
	flow := packet.Flow{Src: web.Private, Dst: db.Private, SrcPort: 40000, DstPort: 80, Protocol: 6}
	out, in := (&aclDeciders{view, map[ec2.SubnetID]*firewall.ACL{}}).of(db, conntrack.Connection{Flow: flow, Outside: true})
	if out != acl.ID+" 32767" || in != acl.ID+" 90" {
		t.Errorf("the entries of the connection are %q and %q, want 32767 for its answers and 90", out, in)
	}
	if out, in := (&aclDeciders{view, map[ec2.SubnetID]*firewall.ACL{}}).of(web, conntrack.Connection{Flow: flow}); out != f.VPC.ACL+" 100" || in != out {
		t.Errorf("the entries of the connection at its sender are %q and %q, want 100 of the default ACL", out, in)
	}
}

// TestTraceSaysWhichPublicAddressIsMissing, at either end.
func TestTraceSaysWhichPublicAddressIsMissing(t *testing.T) {
	f := &traceTest{Fixture: planetest.New(t)}
	f.server = newServer(f.Fixture)
	open := f.Group("open", planetest.TCP(80, planetest.Everywhere))
	web, db := f.Register("node1", "web", f.Public, open), f.Register("node1", "db", f.Private, open)
	w, d := string(web.ID), string(db.ID)
	f.traces(w, planetest.Laptop, "tcp/80", "no-route", w+" has no public address, so it reaches nothing outside of its network")
	f.traces(planetest.Laptop, w, "tcp/80", "no-route", w+" has no public address, and 203.0.113.25 is outside of the cluster")
	f.traces(planetest.Laptop, web.Private.String(), "tcp/80", "no-route", web.Private.String()+" has no public address")
	f.traces(d, planetest.Laptop, "tcp/80", "not-routed", d+": its subnet has no route to a gateway: "+string(f.Private.ID)+" uses ")
	f.traces(d, planetest.Laptop, "tcp/80", "not-routed", "; and it has no public address")
	f.traces(planetest.Laptop, "198.18.0.99", "tcp/80", "no-route", "no interface has 198.18.0.99 as its public address")

	public := f.Elastic(web, netip.Addr{})
	f.traces(w, planetest.Laptop, "tcp/80", "forward", "")
	for _, to := range []string{w, web.Private.String(), public.String()} {
		f.traces(planetest.Laptop, to, "tcp/80", "forward", "")
	}
	f.traces(w, "198.18.0.99", "tcp/80", "no-route", "no interface has 198.18.0.99 as its public address")
	f.Elastic(db, netip.Addr{})
	f.traces(planetest.Laptop, d, "tcp/80", "not-routed", d+": its subnet has no route to a gateway")

	for _, p := range f.server.drops() {
		if p.Port != w {
			continue
		}
		if p.Of == nil || p.Of.Interface != web.ID || p.Of.Address != web.Private.String() || p.Of.VPC != string(f.VPC.ID) || p.Of.AccountName != "dev" {
			t.Errorf("the port of web is of %+v, want its interface, address, VPC and account", p.Of)
		}
		return
	}
	t.Errorf("drops has no port %s", w)
}
