package node

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"testing"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/netns"
	"palisade/internal/node/control"
	"palisade/internal/node/plane/planetest"
)

// A conn is a TCP connection between two instances, of which the test has both ends.
type conn struct {
	client, server net.Conn
	packet         sentPacket // the first, for the report of a failure
}

// dial connects two instances and sends data both ways.
func (w *world) dial(client, server ec2.InstanceID, port uint16) *conn {
	w.t.Helper()
	c := &conn{packet: sentPacket{string(client), string(server), fmt.Sprint("tcp/", port)}}
	address := netip.AddrPortFrom(w.primary(server).Private, port).String()
	err := netns.Do(w.namespace(server), func() error {
		listener, err := net.Listen("tcp4", address)
		if err != nil {
			return err
		}
		defer listener.Close()
		err = netns.Do(w.namespace(client), func() (err error) {
			c.client, err = net.DialTimeout("tcp4", address, patience)
			return err
		})
		if err == nil {
			c.server, err = listener.Accept()
		}
		return err
	})
	if err != nil {
		w.t.Fatalf("connection from %s to %s: %v", client, address, err)
	}
	w.t.Cleanup(func() { _, _ = c.client.Close(), c.server.Close() })
	w.transfers(c, true, "just opened")
	return c
}

// transfers sends data both ways, from the server first, and checks that the data arrive in both
// directions or, if want is false, in neither.
func (w *world) transfers(c *conn, want bool, what string) {
	w.t.Helper()
	for _, direction := range []struct {
		name     string
		from, to net.Conn
	}{{"server to client", c.server, c.client}, {"client to server", c.client, c.server}} {
		if _, err := direction.from.Write([]byte(".")); err != nil {
			w.t.Fatalf("%s: write, %s: %v", what, direction.name, err)
		}
		wait := 700 * time.Millisecond
		if want {
			wait = patience
		}
		_ = direction.to.SetReadDeadline(time.Now().Add(wait))
		n, err := direction.to.Read(make([]byte, 64))
		if arrived := n > 0; arrived != want || err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			w.failed(c.packet, "%s: data from %s arrived %v, want %v; error %v", what, direction.name, arrived, want, err)
		}
	}
}

// TestGroupChangeCutsOnlyUntrackedConnections: when an interface leaves a group, its tracked
// connections stay. A connection that only a rule for 0.0.0.0/0 admitted is untracked, and is cut at
// once, even if another interface has the same groups already. The same holds after a restart of the
// daemon.
func TestGroupChangeCutsOnlyUntrackedConnections(t *testing.T) {
	w := newWorld(t, "live")
	world, narrow := w.group("world"), w.group("narrow")
	client := w.launch(w.Private, w.none)
	w.permit(world, planetest.TCP(9000, planetest.Everywhere))
	w.permit(narrow, planetest.TCP(9001, w.Private.CIDR))
	server := w.launch(w.Public, world, narrow)
	w.launch(w.Public, w.none) // its set of groups is the one that the server will have
	untracked, tracked := w.dial(client, server, 9000), w.dial(client, server, 9001)
	groups := func(ids ...ec2.GroupID) {
		t.Helper()
		w.do(&state.ModifyNetworkInterface{Account: dev, Region: region, Interface: w.primary(server).ID, Groups: ids})
	}
	groups(w.none)
	w.transfers(untracked, false, "untracked, after its group was left")
	w.transfers(tracked, true, "tracked, after its group was left")
	w.connects(w.of(client), w.primary(server).Private.String(), 9001, false, "new connection")

	groups(world)
	w.transfers(tracked, true, "tracked, in another group")
	again := w.dial(client, server, 9000)
	groups(w.none)
	w.restart()
	w.transfers(again, false, "untracked, group left before a restart")
	w.transfers(tracked, true, "tracked, after a restart")

	// Without any egress rule, replies of a tracked connection still pass.
	for _, g := range []ec2.GroupID{w.none, world, narrow} {
		w.do(&state.RevokeRules{Account: dev, Region: region, Group: state.GroupSelector{ID: g}, Direction: ec2.Egress,
			Rules: []state.RuleSpec{{Protocol: ec2.AnyProtocol, From: -1, To: -1, Prefix: planetest.Everywhere}}})
	}
	w.transfers(tracked, true, "tracked, without egress")
	w.connects(w.of(client), w.primary(server).Private.String(), 9001, false, "without egress")
}

// TestCutEndsConnectionsThatRulesStillAdmit: after a cut no packet of a connection arrives, in neither
// direction, tracked or not, and neither a further rule nor a restart of the daemon brings it back.
// The rules still admit new connections.
func TestCutEndsConnectionsThatRulesStillAdmit(t *testing.T) {
	w := newWorld(t, "cut")
	group := w.group("server")
	client, server := w.launch(w.Private, w.none), w.launch(w.Public, group)
	w.permit(group, planetest.TCP(9000, planetest.Everywhere), planetest.TCP(9001, w.Private.CIDR), planetest.TCP(80, planetest.Everywhere))
	untracked, tracked := w.dial(client, server, 9000), w.dial(client, server, 9001)
	r := control.CutRequest{From: string(client), To: string(group)}
	list, err := request[control.CutStatus](t, w.node, "GET", "/v1/cut?"+url.Values{"from": {r.From}, "to": {r.To}}.Encode(), nil)
	if err != nil || list.Total != 4 || len(list.Connections) != 4 || list.Index != 0 {
		t.Errorf("the list before the cut is %+v, error %v; want 2 connections at both ends", list, err)
	}
	w.transfers(tracked, true, "listed")
	cut, err := request[control.CutStatus](t, w.node, "POST", "/v1/cut", r)
	if err != nil || cut.Total != 4 || cut.Index == 0 || len(cut.Unreached) != 0 {
		t.Fatalf("the cut answers %+v, error %v; want 2 connections at both ends, and no unreached node", cut, err)
	}
	w.transfers(untracked, false, "untracked, cut")
	w.connects(w.of(client), w.primary(server).Private.String(), 80, true, "a new connection")
	w.permit(group, planetest.TCP(9002, planetest.Everywhere))
	w.restart()
	w.transfers(tracked, false, "tracked, cut, after another rule and a restart")
	if records := slices.Collect(w.node.plane.View().AuditRecords()); len(records) == 0 || records[len(records)-1].Action != "CutConnections" || records[len(records)-1].Parameters["To"] != string(group) {
		t.Errorf("the last audit record is not that of the cut: %+v", records)
	}
}
