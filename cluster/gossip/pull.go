package gossip

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"palisade/ec2"
	"palisade/internal/peer"
)

// digests is what push/pull carries.
type digests struct {
	Format    int        `json:"format"`
	From      ec2.NodeID `json:"from"`
	Documents []claim    `json:"documents"`
}

const digestsFormat = 1

// read takes another node's list of digests.
func (g *Gossip) read(list []byte) {
	var d digests
	if err := json.Unmarshal(list, &d); err != nil || d.Format != digestsFormat {
		g.count.unknown.Add(1)
		return
	}
	if g.board.hear(g.cfg.View(), d.From, d.Documents) {
		poke(g.pull)
	}
}

// runPull fetches what the board wants.
func (g *Gossip) runPull(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, pullsAtOnce)
	for {
		list, next := g.board.due(time.Now())
		for _, w := range list {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			wg.Go(func() {
				answered := g.fetch(ctx, w)
				<-slots
				wait := min(time.Second<<min(w.failed, 10), pullRetryMax)
				g.board.asked(w, answered, time.Now(), wait+rand.N(wait))
				poke(g.pull)
			})
		}
		look := time.NewTimer(next)
		select {
		case <-ctx.Done():
			look.Stop()
			return
		case <-g.pull:
		case <-look.C:
		}
		look.Stop()
	}
}

// fetch asks a document's owner for it, else whoever showed it; the signature makes them
// equal. It reports whether somebody answered.
func (g *Gossip) fetch(ctx context.Context, w want) bool {
	answered := false
	sources := slices.Compact([]ec2.NodeID{w.Node, w.shownBy})
	for _, source := range sources {
		if source == g.cfg.Node || source == "" {
			continue
		}
		asking, cancel := context.WithTimeout(ctx, pullTimeout)
		raw, err := g.cfg.Peer.Call(asking, string(source), presenceMethod, []byte(w.Node))
		cancel()
		if err != nil {
			if _, remote := errors.AsType[*peer.RemoteError](err); remote {
				answered = true
			}
			continue
		}
		answered = true
		err = g.board.accept(g.cfg.View(), w.Node, raw)
		if w.Node == g.cfg.Node {
			poke(g.announce) // the boot may have moved
		}
		if err == nil {
			return true
		}
		g.cfg.Logger.Warn("presence is ignored", "node", w.Node, "from", source, "err", err)
		if errors.Is(err, errReplayed) && source == w.Node {
			return true // the owner has nothing newer, so nobody has
		}
	}
	return answered
}

// servePresence answers presence.get: a node's name, for its sealed document.
func (g *Gossip) servePresence(_ context.Context, _ string, body []byte) ([]byte, error) {
	raw, ok := g.board.raw(ec2.NodeID(body))
	if !ok {
		return nil, fmt.Errorf("no presence document of %.64q", body)
	}
	return raw, nil
}
