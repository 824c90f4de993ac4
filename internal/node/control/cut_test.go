package control

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/node/plane/planetest"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	vswitch "palisade/switch"
	"palisade/switch/tap/taptest"
)

func TestEndsOfACutAreNamedAsUsersNameThem(t *testing.T) {
	f := planetest.New(t)
	web, other := f.Group("web", planetest.TCP(80, planetest.Everywhere)), f.Group("other")
	f.Group("empty")
	eni := f.Register(planetest.Node, "vm0", f.Public, web, other)
	f.Register(planetest.Node, "vm1", f.Public, other)
	vpc2 := f.Do(&state.CreateVPC{Account: planetest.Dev, Region: planetest.Region, CIDR: f.VPC.CIDR}).VPC
	f.Do(&state.CreateSecurityGroup{Account: planetest.Dev, Region: planetest.Region, VPC: vpc2.ID, Name: "web", Description: "web"})
	public := f.Elastic(eni, eni.Private)
	for who, want := range map[string]string{
		string(eni.ID):       "VPC 10.0.1.4/32, all 198.18.0.2/32",
		string(web):          "VPC 10.0.1.4/32, all 198.18.0.2/32",
		"other":              "VPC 10.0.1.4/32, all 198.18.0.2/32, VPC 10.0.1.5/32",
		eni.Private.String(): "all 10.0.1.4/32",
		public.String():      "all 198.18.0.2/32, VPC 10.0.1.4/32",
		"203.0.113.25/24":    "all 203.0.113.0/24",
		"198.18.0.0/16":      "all 198.18.0.0/16, VPC 10.0.1.4/32",
		"0.0.0.0/0":          "all 0.0.0.0/0",
		"web":                "error there are 2 groups named",
		"empty":              "error empty has no interface with an address",
		"nobody":             "error neither the id",
		"10.0.0.0/33":        "error neither the id",
		"fd00::1":            "error neither the id",
		"":                   "error neither the id",
	} {
		ends, err := endsOf(f.View, who)
		var got []string
		for _, e := range ends {
			network := map[ec2.VNI]string{0: "all", f.VPC.VNI: "VPC"}[e.VNI]
			got = append(got, network+" "+e.Prefix.String())
		}
		if refusal, refused := strings.CutPrefix(want, "error "); refused {
			if err == nil || !strings.Contains(err.Error(), refusal) {
				t.Errorf("%q is %v, error %v; want an error that contains %q", who, got, err, refusal)
			}
			continue
		}
		slices.Sort(got)
		if all := strings.Split(want, ", "); err != nil || !slices.Equal(got, slices.Sorted(slices.Values(all))) {
			t.Errorf("%q is %v, error %v; want %v", who, got, err, all)
		}
	}
	for _, bad := range []CutRequest{{}, {From: "web"}, {To: "web"}, {Rule: "sgr-0a1b", From: "0.0.0.0/0", To: "0.0.0.0/0"}, {Rule: "sgr-0a1b"}} {
		if s, err := selectionOf(f.View, bad); err == nil {
			t.Errorf("the request %+v selects %+v, want an error", bad, s)
		}
	}
}

// TestNodeListsItsConnectionsForVotersOnly: what passes at a node is listed for the operator at a
// voter, and for no other node.
func TestNodeListsItsConnectionsForVotersOnly(t *testing.T) {
	f := planetest.New(t)
	s := newServer(f)
	group := f.Group("web", planetest.TCP(80, planetest.Everywhere))
	devices := map[string]*taptest.Device{}
	register := func(name string) *ec2.Interface {
		eni := f.Do(&state.RegisterInterface{Account: planetest.Dev, Region: planetest.Region, Node: planetest.Node, External: ec2.ExternalDevice{Device: name},
			Spec: state.InterfaceSpec{Subnet: f.Public.ID, Groups: []ec2.GroupID{group}}}).Interface
		devices[name] = f.Device()
		if err := f.Plane.Attach(eni.Epoch, devices[name]); err != nil {
			t.Fatal(err)
		}
		return eni
	}
	client, server := register("client"), register("server")
	flow := packet.Flow{Src: client.Private, Dst: server.Private, SrcPort: 1000, DstPort: 80, Protocol: packet.ProtocolTCP}
	if err := devices["client"].Send(packettest.Build(packettest.Frame{Flow: flow, SrcMAC: client.MAC, DstMAC: vswitch.GatewayMAC, TCPFlags: packet.SYN})); err != nil {
		t.Fatal(err)
	}
	f.Switch.Step()
	f.AddNode("node2")
	f.Do(&state.PutNode{Node: ec2.Node{ID: "node3", Zone: "us-east-1a", Role: ec2.NonVoter, Address: "192.0.2.13:7400"}})
	selection, err := selectionOf(f.View, CutRequest{From: string(client.ID), To: "10.0.0.0/16"})
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(connectionsRequest{Selection: selection})
	if err != nil {
		t.Fatal(err)
	}
	var a connectionsAnswer
	data, err := s.answerConnections(t.Context(), "node2", body)
	if err == nil {
		err = json.Unmarshal(data, &a)
	}
	if err != nil || a.Total != 1 || len(a.Connections) != 1 || a.Connections[0].Interface != client.ID || a.Connections[0].DestPort != 80 {
		t.Errorf("a voter gets %+v, error %v; want the connection of %s to port 80", a, err, client.ID)
	}
	for _, from := range []string{"node3", "node4", ""} {
		if data, err := s.answerConnections(t.Context(), from, body); err == nil || !strings.Contains(err.Error(), "voters only") {
			t.Errorf("node %q gets %s, error %v; want a refusal", from, data, err)
		}
	}
}
