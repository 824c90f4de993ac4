package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// An activeList is a running memberlist with its keys. It exists while this node may gossip.
// Run's goroutine owns it.
type activeList struct {
	list *memberlist.Memberlist
	ring *memberlist.Keyring
	stop context.CancelFunc // ends runRejoin
	wg   sync.WaitGroup
}

func (g *Gossip) startList(ctx context.Context, keys [][]byte) (*activeList, error) {
	ring, err := memberlist.NewKeyring(keys, keys[0])
	if err != nil {
		return nil, fmt.Errorf("gossip key: %w", err)
	}
	transport, err := newTransport(g.cfg.Address, g.cfg.Identity.Cluster(), ring, &g.allowed, &g.count, g.memberlistLog)
	if err != nil {
		return nil, fmt.Errorf("gossip on %s: %w", g.cfg.Address, err)
	}
	g.updateMeta()
	list, err := memberlist.Create(g.listConfig(transport, ring))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("gossip on %s: %w", g.cfg.Address, err), transport.Shutdown())
	}
	ctx, stop := context.WithCancel(ctx)
	a := &activeList{list: list, ring: ring, stop: stop}
	a.wg.Go(func() { g.runRejoin(ctx, list) })
	g.mu.Lock()
	g.running, g.keys = true, keys
	g.mu.Unlock()
	return a, nil
}

func (g *Gossip) listConfig(t *transport, ring *memberlist.Keyring) *memberlist.Config {
	cfg := memberlist.DefaultLANConfig()
	cfg.Name = string(g.cfg.Node)
	cfg.Label = g.cfg.Identity.Cluster()
	cfg.Transport = t
	cfg.BindAddr, cfg.BindPort = g.cfg.Address.Addr().String(), int(g.cfg.Address.Port())
	cfg.AdvertiseAddr, cfg.AdvertisePort = cfg.BindAddr, cfg.BindPort
	cfg.Keyring = ring
	cfg.EnableCompression = false // most of the data is digests, which compression does not shorten
	cfg.TCPTimeout = streamTimeout
	cfg.GossipInterval = time.Second        // each round wakes an idle node
	cfg.ProbeInterval = 2 * time.Second     // only the state that operators see depends on it
	cfg.PushPullInterval = 15 * time.Second // bounds the delay that a lost packet causes
	if g.cfg.ForgetDeadAfter > 0 {
		cfg.GossipToTheDeadTime = g.cfg.ForgetDeadAfter
	}
	cfg.DeadNodeReclaimTime = time.Millisecond // accept a new address at once, because NotifyAlive checks it
	d := delegate{g}
	cfg.Delegate, cfg.Events, cfg.Alive, cfg.Conflict, cfg.Ping = d, d, d, d, d
	cfg.Logger = g.memberlistLog
	return cfg
}

func (g *Gossip) stopList(a *activeList) {
	if a == nil {
		return
	}
	g.mu.Lock()
	g.running, g.keys = false, nil
	clear(g.members)
	g.mu.Unlock()
	a.stop()
	if err := a.list.Shutdown(); err != nil {
		g.cfg.Logger.Warn("gossip did not shut down cleanly", "node", g.cfg.Node, "err", err)
	}
	a.wg.Wait()
}

// changeKeys makes memberlist encrypt with the first key and accept exactly these. Messages under way
// that are encrypted with another key are lost; later rounds repeat them.
//
// RemoveKey moves the keys behind the removed one while memberlist may read them. So the keys that go
// are removed from the end, and the one in use last, when the new one has taken its place in front.
func (g *Gossip) changeKeys(a *activeList, keys [][]byte) error {
	stays := func(key []byte) bool {
		return slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, key) })
	}
	was := slices.Clone(a.ring.GetKeys())
	var errs []error
	for _, key := range slices.Backward(was[1:]) {
		if !stays(key) {
			errs = append(errs, a.ring.RemoveKey(key))
		}
	}
	for _, key := range keys {
		errs = append(errs, a.ring.AddKey(key))
	}
	errs = append(errs, a.ring.UseKey(keys[0]))
	if !stays(was[0]) {
		errs = append(errs, a.ring.RemoveKey(was[0]))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("change gossip keys: %w", err)
	}
	g.mu.Lock()
	g.keys = keys
	g.mu.Unlock()
	g.advertise(a)
	signal(g.rejoin)
	return nil
}

// runRejoin calls, again and again until ctx ends, the members that memberlist does not report
// alive. memberlist itself forgets a dead node after half a minute, so without runRejoin a
// longer partition would never heal.
func (g *Gossip) runRejoin(ctx context.Context, list *memberlist.Memberlist) {
	for {
		var calls sync.WaitGroup
		for _, at := range g.lostMembers() {
			calls.Go(func() { _, _ = list.Join([]string{at}) }) // the next round repeats a call that failed
		}
		calls.Wait()
		next := time.NewTimer(rejoinEvery + rand.N(rejoinEvery/2))
		select {
		case <-ctx.Done():
			next.Stop()
			return
		case <-g.rejoin:
		case <-next.C:
		}
		next.Stop()
	}
}

// lostMembers returns up to rejoinAtOnce members that memberlist does not report alive, each
// as "name/address".
func (g *Gossip) lostMembers() []string {
	view := g.cfg.View()
	var list []string
	g.mu.Lock()
	for row := range view.Nodes() {
		at, ok := gossipAddress(view, row.ID)
		if m := g.members[row.ID]; !ok || row.ID == g.cfg.Node || m != nil && m.alive {
			continue
		}
		list = append(list, string(row.ID)+"/"+at.String())
	}
	g.mu.Unlock()
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list[:min(len(list), rejoinAtOnce)]
}
