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

// delegate is what memberlist calls, with its lock held.
type delegate struct{ g *Gossip }

// NodeMeta is below memberlist's limit of 512 bytes, always.
func (d delegate) NodeMeta(int) []byte { return *d.g.meta.Load() }

// NotifyMsg gets what nobody of ours sends: user messages are too few per second for
// instance lists.
func (d delegate) NotifyMsg([]byte) { d.g.count.unknown.Add(1) }

func (d delegate) GetBroadcasts(int, int) [][]byte { return nil }

func (d delegate) LocalState(bool) []byte {
	list, err := json.Marshal(digests{digestsFormat, d.g.cfg.Node, d.g.board.claims()})
	if err != nil {
		panic(fmt.Sprintf("gossip: digests: %v", err)) // of plain values
	}
	return list
}

func (d delegate) MergeRemoteState(list []byte, _ bool) {
	if len(list) > maxHeardBytes {
		d.g.count.tooLarge.Add(1)
		return
	}
	select {
	case d.g.heard <- bytes.Clone(list):
	default:
		d.g.count.dropped.Add(1)
	}
}

// NotifyAlive refuses who is not in the node table, and who is elsewhere than it says.
// Every way into memberlist's list leads through here, a merge with another node's list
// as well, so there is no MergeDelegate: it could only refuse the good with the bad.
func (d delegate) NotifyAlive(n *memberlist.Node) error {
	at, ok := gossipAddress(d.g.cfg.View(), ec2.NodeID(n.Name))
	if !ok {
		d.g.count.intruders.Add(1)
		return errors.New("no member of this cluster")
	}
	if ip, _ := netip.AddrFromSlice(n.Addr); netip.AddrPortFrom(ip.Unmap(), n.Port) != at {
		d.g.count.intruders.Add(1)
		return fmt.Errorf("the node table has it at %s", at)
	}
	return nil
}

func (d delegate) NotifyConflict(_, _ *memberlist.Node) { d.g.count.intruders.Add(1) }

func (d delegate) NotifyJoin(n *memberlist.Node)   { d.g.notice(n, true) }
func (d delegate) NotifyUpdate(n *memberlist.Node) { d.g.notice(n, true) }
func (d delegate) NotifyLeave(n *memberlist.Node)  { d.g.notice(n, false) }

func (d delegate) AckPayload() []byte { return nil }

func (d delegate) NotifyPingComplete(n *memberlist.Node, _ time.Duration, _ []byte) {
	d.g.suspect(n.Name, false)
}

// notice keeps what memberlist says of a node. A node that it calls dead keeps its
// document in force.
func (g *Gossip) notice(n *memberlist.Node, alive bool) {
	node := ec2.NodeID(n.Name)
	if node == g.cfg.Node {
		return
	}
	view := g.cfg.View()
	if _, ok := memberRow(view, node); !ok {
		return // fenced or removed since
	}
	g.mu.Lock()
	seen, known := g.seen[node]
	if !known {
		seen = &seenMember{}
		g.seen[node] = seen
	}
	changed := seen.alive != alive
	seen.alive, seen.suspect = alive, false
	c, enforced, ok := decodeMeta(n.Name, n.Meta)
	if ok {
		seen.enforced = enforced
	}
	g.mu.Unlock()
	if changed {
		g.cfg.Logger.Info("gossip", "member", node, "alive", alive)
	}
	if ok && alive && g.board.hear(view, node, []claim{c}) {
		poke(g.pull)
	}
}

func (g *Gossip) suspect(node string, suspect bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if seen, ok := g.seen[ec2.NodeID(node)]; ok {
		seen.suspect = suspect
	}
}

// logWriter takes memberlist's log. It has no other way to say what it refused, nor
// which node did not answer its probe.
type logWriter struct{ g *Gossip }

// refusals are memberlist's words for what is not sealed with a key of ours.
var refusals = []string{"Decrypt packet failed", "label", "failed to receive"}

func (l logWriter) Write(line []byte) (int, error) {
	text := string(bytes.TrimSpace(line))
	if name, ok := strings.CutPrefix(text, "[INFO] memberlist: Suspect "); ok {
		if name, _, ok := strings.Cut(name, " has failed"); ok {
			l.g.suspect(name, true)
		}
	}
	if slices.ContainsFunc(refusals, func(r string) bool { return strings.Contains(text, r) }) {
		l.g.count.refused.Add(1)
	}
	l.g.cfg.Logger.Debug("memberlist", "text", text)
	return len(line), nil
}
