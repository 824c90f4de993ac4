package gossip

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"

	"palisade/ec2"
)

// delegate has the methods that memberlist calls, with memberlist's lock held.
type delegate struct{ g *Gossip }

// NodeMeta returns metaSize bytes, less than memberlist's limit of 512.
func (d delegate) NodeMeta(int) []byte { return *d.g.meta.Load() }

// NotifyMsg counts user messages, which no node of ours sends: memberlist carries too few
// of them per second for lists of interfaces.
func (d delegate) NotifyMsg([]byte) { d.g.count.unknown.Add(1) }

// GetBroadcasts returns nothing: see NotifyMsg.
func (d delegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState returns the list of claims that push/pull sends.
func (d delegate) LocalState(bool) []byte {
	list, err := json.Marshal(claimList{claimListFormat, d.g.cfg.Node, d.g.board.claims()})
	if err != nil {
		panic(fmt.Sprintf("gossip: encode claims: %v", err)) // plain values always encode
	}
	return list
}

// MergeRemoteState queues another node's list of claims for Run.
func (d delegate) MergeRemoteState(list []byte, _ bool) {
	if len(list) > maxListBytes {
		d.g.count.tooLarge.Add(1)
		return
	}
	select {
	case d.g.claimLists <- bytes.Clone(list):
	default:
		d.g.count.dropped.Add(1)
	}
}

// NotifyAlive refuses a node that is not in the node table, or has another address there.
// memberlist adds no node without this call, also none from another node's list. So there
// is no MergeDelegate: it could only refuse such a list as a whole.
func (d delegate) NotifyAlive(n *memberlist.Node) error {
	at, ok := gossipAddress(d.g.cfg.View(), ec2.NodeID(n.Name))
	if !ok {
		d.g.count.intruders.Add(1)
		return errors.New("not a member of this cluster")
	}
	if ip, _ := netip.AddrFromSlice(n.Addr); netip.AddrPortFrom(ip.Unmap(), n.Port) != at {
		d.g.count.intruders.Add(1)
		return fmt.Errorf("its address in the node table is %s", at)
	}
	return nil
}

// NotifyConflict counts a node that uses another's name.
func (d delegate) NotifyConflict(_, _ *memberlist.Node) { d.g.count.intruders.Add(1) }

func (d delegate) NotifyJoin(n *memberlist.Node)   { d.g.noteMember(n, true) }
func (d delegate) NotifyUpdate(n *memberlist.Node) { d.g.noteMember(n, true) }
func (d delegate) NotifyLeave(n *memberlist.Node)  { d.g.noteMember(n, false) }

func (d delegate) AckPayload() []byte { return nil }

func (d delegate) NotifyPingComplete(n *memberlist.Node, _ time.Duration, _ []byte) {
	d.g.setSuspect(n.Name, false)
}

// noteMember stores a node's state in memberlist, and its claim. The document of a dead
// node stays in force.
func (g *Gossip) noteMember(n *memberlist.Node, alive bool) {
	node := ec2.NodeID(n.Name)
	if node == g.cfg.Node {
		return
	}
	view := g.cfg.View()
	if _, ok := memberRow(view, node); !ok {
		return // fenced or removed meanwhile
	}
	g.mu.Lock()
	m, known := g.members[node]
	if !known {
		m = &memberState{}
		g.members[node] = m
	}
	changed := m.alive != alive
	m.alive, m.suspect = alive, false
	c, enforced, ok := decodeMeta(n.Name, n.Meta)
	if ok {
		m.enforced = enforced
	}
	g.mu.Unlock()
	if changed {
		g.cfg.Logger.Info("gossip state of a member changed", "member", node, "alive", alive)
	}
	if ok && alive && g.board.noteClaims(view, node, []claim{c}) {
		signal(g.pull)
	}
}

func (g *Gossip) setSuspect(node string, suspect bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if m, ok := g.members[ec2.NodeID(node)]; ok {
		m.suspect = suspect
	}
}

// logWriter receives memberlist's log lines. Only they say what memberlist refused, and
// which node did not answer its probe.
type logWriter struct{ g *Gossip }

// refusals are parts of memberlist's log lines about data that is not encrypted with our key.
var refusals = []string{"Decrypt packet failed", "label", "failed to receive"}

func (l logWriter) Write(line []byte) (int, error) {
	text := string(bytes.TrimSpace(line))
	if name, ok := strings.CutPrefix(text, "[INFO] memberlist: Suspect "); ok {
		if name, _, ok := strings.Cut(name, " has failed"); ok {
			l.g.setSuspect(name, true)
		}
	}
	if slices.ContainsFunc(refusals, func(r string) bool { return strings.Contains(text, r) }) {
		l.g.count.refused.Add(1)
	}
	l.g.cfg.Logger.Debug("memberlist", "text", text)
	return len(line), nil
}
