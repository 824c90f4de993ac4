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

// claimList is the list of a node's claims. Two nodes exchange theirs in memberlist's push/pull.
type claimList struct {
	Format    int        `json:"format"`
	From      ec2.NodeID `json:"from"`
	Documents []claim    `json:"documents"`
}

const claimListFormat = 1

// readClaims decodes another node's list of claims and passes it to the board.
func (g *Gossip) readClaims(list []byte) {
	var l claimList
	if err := json.Unmarshal(list, &l); err != nil || l.Format != claimListFormat {
		g.count.unknown.Add(1)
		return
	}
	if g.board.noteClaims(g.cfg.View(), l.From, l.Documents) {
		signal(g.pull)
	}
}

// runPull fetches the documents that the board wants, until ctx ends.
func (g *Gossip) runPull(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, pullsAtOnce)
	for {
		list, next := g.board.takeWanted(time.Now())
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
				g.board.fetched(w, answered, time.Now(), wait+rand.N(wait))
				signal(g.pull)
			})
		}
		retry := time.NewTimer(next)
		select {
		case <-ctx.Done():
			retry.Stop()
			return
		case <-g.pull:
		case <-retry.C:
		}
		retry.Stop()
	}
}

// fetch asks for a document at the node that signed it, then at the node that claimed to have
// it, until one copy is accepted. Both copies are as good, because the document is signed. It
// reports whether a node answered.
func (g *Gossip) fetch(ctx context.Context, w wantedDocument) bool {
	answered := false
	sources := slices.Compact([]ec2.NodeID{w.Node, w.claimedBy})
	for _, source := range sources {
		if source == g.cfg.Node || source == "" {
			continue
		}
		callCtx, cancel := context.WithTimeout(ctx, pullTimeout)
		raw, err := g.cfg.Peer.Call(callCtx, string(source), presenceMethod, []byte(w.Node))
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
			signal(g.announce) // accept may have raised this node's boot
		}
		if err == nil {
			return true
		}
		g.cfg.Logger.Warn("presence document rejected", "node", w.Node, "from", source, "err", err)
		if errors.Is(err, errReplayed) && source == w.Node {
			return true // the node that signs the document has no newer version
		}
	}
	return answered
}

// servePresence handles presence.get: body is a node's name, and the answer is the sealed
// document of that node.
func (g *Gossip) servePresence(_ context.Context, _ string, body []byte) ([]byte, error) {
	raw, ok := g.board.sealed(ec2.NodeID(body))
	if !ok {
		return nil, fmt.Errorf("this node has no presence document of %.64q", body)
	}
	return raw, nil
}
