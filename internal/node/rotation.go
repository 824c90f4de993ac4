package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/node/control"
	"palisade/internal/secret"
)

// The keys of a cluster are replaced while they are in use: a fenced or removed node has the old ones, or
// an operator asks for it. The state has the progress, as an ec2.Rotation, and the ids of the keys. Nodes
// fetch the keys from each other, over mutual TLS. The leader ends a step when every node concerned reports
// that it is done with it. So a rotation waits for a node that cannot be reached, and the next leader
// continues it.

const (
	// rotationEvery is how often a node tries again what a rotation still needs of it, and the leader asks
	// the others.
	rotationEvery = 250 * time.Millisecond
	// rotationReportWithin is how long a node may take to report.
	rotationReportWithin = 2 * time.Second
)

// runRotation does this node's part of rotations, and on the leader advances them. When there is none, only
// a change of the state wakes it.
func (n *Node) runRotation(ctx context.Context) error {
	for ready := false; !ready; {
		select {
		case <-ctx.Done():
			return nil
		case <-n.cluster.Ready():
			ready = true
		case <-time.After(lateEvery):
			if n.peer != nil {
				n.renewLate(ctx)
			}
		}
	}
	for logged := ""; ; {
		var again <-chan time.Time
		err := errors.Join(n.followAuthority(ctx), n.followRotations(ctx))
		if leader, _ := n.cluster.Leader(); leader == n.config.Name {
			err = errors.Join(err, n.advanceRotations(ctx))
		}
		if err != nil && ctx.Err() == nil && err.Error() != logged {
			n.log.Warn("keys are not replaced yet", "err", err)
			logged = err.Error()
		}
		if err != nil || len(n.cluster.View().Rotations()) > 0 {
			again = time.After(rotationEvery)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-n.rotationDue:
		case <-again:
		}
	}
}

// noticeRotation tells runRotation that the state has changed. It does not block.
func (n *Node) noticeRotation() {
	select {
	case n.rotationDue <- struct{}{}:
	default:
	}
}

// renewTunnels does this node's part of a rotation of the tunnels' keys: new keys begin with the state that
// asks for them, and the old ones are dropped when all nodes have reported.
func (n *Node) renewTunnels(view *state.View) {
	if n.overlay == nil {
		return
	}
	n.overlay.Renew(view.TunnelEpoch())
	if _, ok := view.Rotation(ec2.TunnelKeys); !ok {
		n.overlay.DropRenewed()
	}
}

// followRotations fetches the keys that the state names and this node does not have, and deletes those that
// are not in force any more.
func (n *Node) followRotations(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	view := n.cluster.View()
	var failures []error
	wanted := wantedGossipKeys(view)
	for _, id := range wanted {
		if n.peer == nil || n.gossipKeys.find(id) != nil {
			continue
		}
		key, err := n.fetchRotationKey(ctx, view, ec2.GossipKey, id)
		if err == nil {
			err = n.gossipKeys.add(key)
		}
		failures = append(failures, err)
	}
	if err := errors.Join(failures...); err != nil {
		return err
	}
	if err := n.gossipKeys.keepOnly(wanted); err != nil {
		return err
	}
	if err := n.keys.follow(view); err != nil {
		return err
	}
	r, ok := view.Rotation(ec2.ClusterKey)
	if !ok || r.Step != ec2.RotationSpread || n.keys.find(r.Key) != nil || !n.keepsClusterKey(view) {
		return nil
	}
	key, err := n.fetchRotationKey(ctx, view, ec2.ClusterKey, r.Key)
	if err != nil {
		return err
	}
	return n.keys.setNext(key)
}

// keepsClusterKey reports whether this node is one of those that have the cluster key.
func (n *Node) keepsClusterKey(view *state.View) bool {
	self, ok := view.Node(n.config.Name)
	return ok && hasClusterKey(self)
}

// hasClusterKey reports whether a node may have the cluster key.
func hasClusterKey(node *ec2.Node) bool { return node.Votes() }

// advanceRotations, on the leader, ends the steps of rotations that all nodes are done with.
func (n *Node) advanceRotations(ctx context.Context) error {
	view := n.cluster.View()
	if len(view.Rotations()) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var failures []error
	reports := n.rotationReports(ctx, view)
	for _, r := range slices.Clone(view.Rotations()) {
		if err := n.advance(ctx, view, r, reports); err != nil {
			failures = append(failures, fmt.Errorf("rotation of %s, step %q: %w", r.Kind, r.Step, err))
		}
	}
	return errors.Join(failures...)
}

func (n *Node) advance(ctx context.Context, view *state.View, r ec2.Rotation, reports map[ec2.NodeID]rotationReport) error {
	step := state.AdvanceRotation{Kind: r.Kind, Index: r.Index, From: r.Step}
	if r.Step == ec2.RotationDue && r.Kind == ec2.Authority {
		return n.beginAuthority(ctx, r)
	}
	if r.Step == ec2.RotationDue {
		key := secret.NewKey()
		step.To, step.Key = ec2.RotationSpread, key.ID()
		if err := n.keepNewKey(view, r.Kind, key); err != nil {
			return err
		}
		return n.applyStep(ctx, step)
	}
	if r.Step == ec2.RotationSpread && !anyHas(reports, r) {
		step.To = ec2.RotationDue // the leader that made the key was lost before anybody got it
		return n.applyStep(ctx, step)
	}
	var waits []string
	for _, p := range rotationProgress(view, r, reports).Nodes {
		if !p.Done {
			waits = append(waits, string(p.Node)+": "+p.Why)
		}
	}
	switch {
	case len(waits) > 0:
		return fmt.Errorf("waits for %s", strings.Join(waits, "; "))
	case r.Step == ec2.RotationUse && r.Kind == ec2.Authority:
		step.To = ec2.RotationDrop
	case r.Step != ec2.RotationSpread:
		step.To = ec2.RotationDone
	case r.Kind == ec2.ClusterKey:
		return n.reseal(ctx, r)
	default:
		step.To = ec2.RotationUse
	}
	return n.applyStep(ctx, step)
}

func (n *Node) applyStep(ctx context.Context, step state.AdvanceRotation) error {
	if _, _, err := n.cluster.Apply(ctx, state.Command{Request: &step}); err != nil {
		return err
	}
	n.log.Info("rotation of keys", "kind", step.Kind, "began_at", step.Index, "from", step.From, "to", step.To, "key", step.Key)
	return nil
}

// keepNewKey stores a new key before its id is in the log.
func (n *Node) keepNewKey(view *state.View, kind ec2.KeyKind, key *secret.Key) error {
	switch {
	case kind == ec2.GossipKey:
		return n.gossipKeys.add(key)
	case view.SealKey() == "":
		return errors.New("the cluster has no key for secrets yet; see palisade cluster status")
	case !n.keys.has(view.SealKey()):
		return fmt.Errorf("this node does not have cluster key %s", view.SealKey())
	}
	return n.keys.setNext(key)
}

// reseal seals all secrets with the new cluster key, in one entry.
func (n *Node) reseal(ctx context.Context, r ec2.Rotation) error {
	view, err := n.cluster.ReadView(ctx)
	if err != nil {
		return err
	}
	next := n.keys.find(r.Key)
	if next == nil {
		return fmt.Errorf("this node does not have cluster key %s", r.Key)
	}
	seal := &state.SealSecrets{Key: r.Key, Replaces: view.SealKey(), AccessKeys: map[string][]byte{}}
	for a := range view.AccessKeys() {
		plain, err := n.keys.open(a)
		if err != nil {
			return err
		}
		seal.AccessKeys[a.ID] = next.Seal(string(a.Account), a.ID, plain)
	}
	_, index, err := n.cluster.Apply(ctx, state.Command{Request: seal})
	if err != nil {
		return fmt.Errorf("seal secrets with the new cluster key: %w", err)
	}
	n.log.Info("secrets of access keys sealed with a new cluster key", "key", r.Key, "replaces", seal.Replaces, "sealed", len(seal.AccessKeys), "index", index)
	return nil
}

// A rotationReport says which keys a node has and uses.
type rotationReport struct {
	GossipHas     []string `json:"gossip_has,omitempty"`
	GossipUses    string   `json:"gossip_uses,omitempty"` // "" if it does not gossip
	GossipAccepts []string `json:"gossip_accepts,omitempty"`
	ClusterKeys   []string `json:"cluster_keys,omitempty"`
	Tunnels       uint64   `json:"tunnels,omitempty"`     // epoch of the tunnels' keys
	OldTunnels    []string `json:"old_tunnels,omitempty"` // nodes with which it still uses older ones
	CATrusts      []string `json:"ca_trusts,omitempty"`
	CAKeys        []string `json:"ca_keys,omitempty"`
	CASigners     []string `json:"ca_signers,omitempty"` // of its certificates, the newest first
	err           error    // why there is no report
}

func (n *Node) rotationReport() rotationReport {
	r := rotationReport{ClusterKeys: n.keys.ids(), GossipHas: n.gossipKeys.ids()}
	for i, raw := range n.cluster.GossipKeysInUse() {
		id := n.gossipKeys.idOf(raw)
		if i == 0 {
			r.GossipUses = id
		}
		r.GossipAccepts = append(r.GossipAccepts, id)
	}
	if n.overlay != nil {
		r.Tunnels, r.OldTunnels = n.overlay.Renewed()
	}
	n.reportAuthority(&r)
	return r
}

// rotationReports asks every member, at once.
func (n *Node) rotationReports(ctx context.Context, view *state.View) map[ec2.NodeID]rotationReport {
	ctx, cancel := context.WithTimeout(ctx, rotationReportWithin)
	defer cancel()
	reports := map[ec2.NodeID]rotationReport{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for m := range view.Nodes() {
		if !m.Member() {
			continue
		}
		wg.Go(func() {
			r := n.askRotation(ctx, m.ID)
			mu.Lock()
			defer mu.Unlock()
			reports[m.ID] = r
		})
	}
	wg.Wait()
	return reports
}

func (n *Node) askRotation(ctx context.Context, node ec2.NodeID) (r rotationReport) {
	if node == n.config.Name {
		return n.rotationReport()
	}
	if n.peer == nil {
		return rotationReport{err: errors.New("this node is a cluster of one")}
	}
	data, err := n.peer.Call(ctx, string(node), methodRotation, nil)
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	r.err = err
	return r
}

// anyHas reports whether a node has the new key of a rotation.
func anyHas(reports map[ec2.NodeID]rotationReport, r ec2.Rotation) bool {
	for _, report := range reports {
		if slices.Contains(report.GossipHas, r.Key) || slices.Contains(report.ClusterKeys, r.Key) || slices.Contains(report.CAKeys, r.Key) {
			return true
		}
	}
	return false
}

// rotationProgress says which nodes are done with the present step of a rotation.
func rotationProgress(view *state.View, r ec2.Rotation, reports map[ec2.NodeID]rotationReport) control.RotationProgress {
	p := control.RotationProgress{Kind: r.Kind, Step: r.Step, Index: r.Index, Key: r.Key, Cause: r.Cause}
	for m := range view.Nodes() {
		if !m.Member() || r.Kind == ec2.ClusterKey && !hasClusterKey(m) {
			continue
		}
		why := rotationWaits(view, r, m, reports[m.ID])
		p.Nodes = append(p.Nodes, control.RotationNode{Node: m.ID, Done: why == "", Why: why})
	}
	return p
}

// rotationWaits returns "" if a node is done with the present step of a rotation, else what it lacks.
func rotationWaits(view *state.View, r ec2.Rotation, node *ec2.Node, report rotationReport) string {
	switch has := report; {
	case report.err != nil:
		return "not reached: " + report.err.Error()
	case r.Step == ec2.RotationDue:
		return "no new key yet"
	case r.Kind == ec2.Authority:
		return authorityWaits(node, r, has)
	case r.Kind == ec2.TunnelKeys && has.Tunnels < r.Index:
		return "has not heard of it yet"
	case r.Kind == ec2.TunnelKeys && len(has.OldTunnels) > 0:
		return "old keys with " + strings.Join(has.OldTunnels, ", ")
	case r.Kind == ec2.GossipKey && !slices.Contains(has.GossipHas, r.Key):
		return "does not have the new key"
	case r.Kind == ec2.GossipKey && has.GossipUses != "" && !slices.Contains(has.GossipAccepts, r.Key):
		return "does not accept the new key yet"
	case r.Kind == ec2.GossipKey && r.Step == ec2.RotationUse && has.GossipUses != "" && has.GossipUses != r.Key:
		return "uses the old key"
	case r.Kind == ec2.ClusterKey && r.Step == ec2.RotationSpread && !slices.Contains(has.ClusterKeys, r.Key):
		return "does not have the new key"
	case r.Kind == ec2.ClusterKey && r.Step == ec2.RotationUse && !slices.Equal(has.ClusterKeys, []string{view.SealKey()}):
		return "still has the old key"
	}
	return ""
}

// Rotations returns the progress of the keys that are being replaced.
func (n *Node) Rotations(ctx context.Context) []control.RotationProgress {
	view := n.cluster.View()
	all := []control.RotationProgress{}
	if len(view.Rotations()) == 0 {
		return all
	}
	reports := n.rotationReports(ctx, view)
	for _, r := range view.Rotations() {
		all = append(all, rotationProgress(view, r, reports))
	}
	return all
}
