package node

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/netns"
	"palisade/internal/node/plane/planetest"
)

// A line is one TCP connection between two instances; the test has both ends.
type line struct{ client, server net.Conn }

// line connects two instances, and says a word each way.
func (w *world) line(client, server ec2.InstanceID, port uint16) *line {
	w.t.Helper()
	l := &line{}
	address := netip.AddrPortFrom(w.primary(server).Private, port).String()
	err := netns.Do(w.namespace(server), func() error {
		listener, err := net.Listen("tcp4", address)
		if err != nil {
			return err
		}
		defer listener.Close()
		err = netns.Do(w.namespace(client), func() (err error) {
			l.client, err = net.DialTimeout("tcp4", address, patience)
			return err
		})
		if err == nil {
			l.server, err = listener.Accept()
		}
		return err
	})
	if err != nil {
		w.t.Fatalf("%s to %s: %v", client, address, err)
	}
	w.t.Cleanup(func() { _, _ = l.client.Close(), l.server.Close() })
	w.says(l, true, "just opened")
	return l
}

// says has both ends talk, the server first, and wants both to be heard or neither.
func (w *world) says(l *line, want bool, what string) {
	w.t.Helper()
	for _, way := range []struct {
		name     string
		from, to net.Conn
	}{{"the server", l.server, l.client}, {"the client", l.client, l.server}} {
		if _, err := way.from.Write([]byte(".")); err != nil {
			w.t.Fatalf("%s: %s cannot speak: %v", what, way.name, err)
		}
		wait := 700 * time.Millisecond
		if want {
			wait = patience
		}
		_ = way.to.SetReadDeadline(time.Now().Add(wait))
		n, err := way.to.Read(make([]byte, 64))
		if heard := n > 0; heard != want || err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			w.t.Errorf("%s: %s is heard: %v, want %v (%v)\n%s", what, way.name, heard, want, err, w.drops())
		}
	}
}

// TestGroupChangeCutsOnlyUntrackedConnections: with real TCP on both sides, both talking. What is
// tracked goes on through a change of groups; what only a rule for the world admitted is cut
// at once, though the other interface of that group has never changed; and both survive the
// daemon.
func TestGroupChangeCutsOnlyUntrackedConnections(t *testing.T) {
	w := newWorld(t, "live")
	world, narrow := w.group("world"), w.group("narrow")
	client := w.launch(w.Private, w.none)
	w.permit(world, planetest.TCP(9000, planetest.Everywhere))
	w.permit(narrow, planetest.TCP(9001, w.Private.CIDR))
	server := w.launch(w.Public, world, narrow)
	w.launch(w.Public, w.none) // has the set of groups that the server will
	untracked, tracked := w.line(client, server, 9000), w.line(client, server, 9001)
	groups := func(ids ...ec2.GroupID) {
		t.Helper()
		w.do(&state.ModifyNetworkInterface{Account: dev, Region: region, Interface: w.primary(server).ID, Groups: ids})
	}
	groups(w.none)
	w.says(untracked, false, "untracked, its group left")
	w.says(tracked, true, "tracked, its group left")
	w.connects(w.of(client), w.primary(server).Private.String(), 9001, false, "a new one")

	groups(world)
	w.says(tracked, true, "tracked, in another group")
	again := w.line(client, server, 9000)
	groups(w.none)
	w.restart()
	w.says(again, false, "untracked, left before a restart")
	w.says(tracked, true, "tracked, over a restart")

	// With all egress gone from both, a connection that is tracked still has its replies.
	for _, g := range []ec2.GroupID{w.none, world, narrow} {
		w.do(&state.RevokeRules{Account: dev, Region: region, Group: state.GroupSelector{ID: g}, Direction: ec2.Egress,
			Rules: []state.RuleSpec{{Protocol: ec2.AnyProtocol, From: -1, To: -1, Prefix: planetest.Everywhere}}})
	}
	w.says(tracked, true, "tracked, without egress")
	w.connects(w.of(client), w.primary(server).Private.String(), 9001, false, "without egress")
}
