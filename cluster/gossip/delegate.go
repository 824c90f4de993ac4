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

// delegate implements memberlist's delegate interfaces. memberlist calls its methods with its
// own lock held.
type delegate struct{ g *Gossip }

// NodeMeta returns this node's meta: metaSize bytes, less than memberlist's limit of 512.
func (d delegate) NodeMeta(int) []byte { return *d.g.meta.Load() }

// NotifyMsg counts a user message as unknown. No node of ours sends one, because memberlist
// carries too few per second for lists of interfaces.
func (d delegate) NotifyMsg([]byte) { d.g.count.unknown.Add(1) }

// GetBroadcasts returns no user messages: see NotifyMsg.
func (d delegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState returns this node's list of claims, in JSON, for a push/pull exchange.
func (d delegate) LocalState(bool) []byte {
	list, err := json.Marshal(claimList{claimListFormat, d.g.cfg.Node, d.g.board.claims()})
	if err != nil {
		panic(fmt.Sprintf("gossip: encode claims: %v", err)) // plain values always encode
	}
	return list
}

// MergeRemoteState queues another node's list of claims, which Run reads later.
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

// NotifyAlive returns an error, and so refuses a node, if the node table does not have the
// node or has another address for it. memberlist calls it for every node that it adds, also
// for each node in another node's list. So a MergeDelegate, which could only refuse a whole
// list, is not needed.
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

// NotifyConflict counts a node that uses the name of another node.
func (d delegate) NotifyConflict(_, _ *memberlist.Node) { d.g.count.intruders.Add(1) }

func (d delegate) NotifyJoin(n *memberlist.Node)   { d.g.noteMember(n, true) }
func (d delegate) NotifyUpdate(n *memberlist.Node) { d.g.noteMember(n, true) }
func (d delegate) NotifyLeave(n *memberlist.Node)  { d.g.noteMember(n, false) }

func (d delegate) AckPayload() []byte { return nil }

func (d delegate) NotifyPingComplete(n *memberlist.Node, _ time.Duration, _ []byte) {
	d.g.setSuspect(n.Name, false)
}

// noteMember stores whether memberlist reports a node alive, and the claim in its meta. The
// document of a dead node remains valid.
func (g *Gossip) noteMember(n *memberlist.Node, alive bool) {
	node := ec2.NodeID(n.Name)
	if node == g.cfg.Node {
		return
	}
	view := g.cfg.View()
	if _, ok := memberRow(view, node); !ok {
		return // the node was fenced or removed meanwhile
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

// logWriter receives memberlist's log lines, because memberlist reports only there what it
// refused and which node did not answer a probe.
type logWriter struct{ g *Gossip }

// refusals are texts that memberlist logs about data that is not encrypted with our key, or is harmful.
var refusals = []string{"Decrypt packet failed", "label", "failed to receive", errHarmful.Error(), errTooLong.Error()}

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
