package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// session is memberlist from the moment this node may gossip until it may not.
type session struct {
	list *memberlist.Memberlist
	ring *memberlist.Keyring
	key  []byte
	stop context.CancelFunc
	wg   sync.WaitGroup
}

func (g *Gossip) begin(ctx context.Context, key []byte) (*session, error) {
	ring, err := memberlist.NewKeyring(nil, key)
	if err != nil {
		return nil, fmt.Errorf("gossip key: %w", err)
	}
	transport, err := newTransport(g.cfg.Address, &g.sources, &g.count, g.log)
	if err != nil {
		return nil, fmt.Errorf("gossip on %s: %w", g.cfg.Address, err)
	}
	cfg := memberlist.DefaultLANConfig()
	cfg.Name = string(g.cfg.Node)
	cfg.Label = g.cfg.Identity.Cluster()
	cfg.Transport = transport
	cfg.BindAddr, cfg.BindPort = g.cfg.Address.Addr().String(), int(g.cfg.Address.Port())
	cfg.AdvertiseAddr, cfg.AdvertisePort = cfg.BindAddr, cfg.BindPort
	cfg.Keyring = ring
	cfg.EnableCompression = false // what there is to send is digests
	cfg.TCPTimeout = streamTimeout
	cfg.GossipInterval = time.Second        // each wakes an idle node
	cfg.ProbeInterval = 2 * time.Second     // nothing but what people see depends on it
	cfg.PushPullInterval = 15 * time.Second // what a lost packet costs at most
	if g.cfg.GiveUp > 0 {
		cfg.GossipToTheDeadTime = g.cfg.GiveUp
	}
	cfg.DeadNodeReclaimTime = time.Millisecond // whose address a name has, the node table says
	d := delegate{g}
	cfg.Delegate, cfg.Events, cfg.Alive, cfg.Conflict, cfg.Ping = d, d, d, d, d
	cfg.Logger = g.log
	g.encodeMeta()
	list, err := memberlist.Create(cfg)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("gossip on %s: %w", g.cfg.Address, err), transport.Shutdown())
	}
	ctx, stop := context.WithCancel(ctx)
	s := &session{list: list, ring: ring, key: bytes.Clone(key), stop: stop}
	s.wg.Go(func() { g.runRejoin(ctx, list) })
	g.mu.Lock()
	g.mine = true
	g.mu.Unlock()
	return s, nil
}

func (g *Gossip) end(s *session) {
	if s == nil {
		return
	}
	g.mu.Lock()
	g.mine = false
	clear(g.seen)
	g.mu.Unlock()
	s.stop()
	if err := s.list.Shutdown(); err != nil {
		g.cfg.Logger.Warn("gossip does not shut down", "node", g.cfg.Node, "err", err)
	}
	s.wg.Wait()
}

// rotate seals with the new key from now on and takes nothing any more that is sealed
// with the old: the node that was fenced has it. What is under way is lost, and said
// again. The ring never holds more than these two, so that RemoveKey takes off the last
// and does not move keys that memberlist is reading.
func (g *Gossip) rotate(s *session, key []byte) error {
	if err := errors.Join(s.ring.AddKey(key), s.ring.UseKey(key), s.ring.RemoveKey(s.key)); err != nil {
		return fmt.Errorf("rotate gossip key: %w", err)
	}
	s.key = bytes.Clone(key)
	g.advertise(s)
	poke(g.rejoin)
	return nil
}

// runRejoin keeps calling the members that memberlist does not see alive. memberlist by
// itself forgets a node half a minute after it lost sight of it, and a longer partition
// would never heal.
func (g *Gossip) runRejoin(ctx context.Context, list *memberlist.Memberlist) {
	for {
		var calls sync.WaitGroup
		for _, at := range g.missing() {
			calls.Go(func() { _, _ = list.Join([]string{at}) }) // refused or silent: next time
		}
		calls.Wait()
		again := time.NewTimer(rejoinEvery + rand.N(rejoinEvery/2))
		select {
		case <-ctx.Done():
			again.Stop()
			return
		case <-g.rejoin:
		case <-again.C:
		}
		again.Stop()
	}
}

// missing are some members that are not alive, as memberlist writes addresses.
func (g *Gossip) missing() []string {
	view := g.cfg.View()
	var list []string
	g.mu.Lock()
	for row := range view.Nodes() {
		at, ok := gossipAddress(view, row.ID)
		if seen := g.seen[row.ID]; !ok || row.ID == g.cfg.Node || seen != nil && seen.alive {
			continue
		}
		list = append(list, string(row.ID)+"/"+at.String())
	}
	g.mu.Unlock()
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list[:min(len(list), rejoinAtOnce)]
}
