// Package limit bounds what callers of the API can take: Buckets bounds how often they call, and a Gate
// how many calls are worked on at the same time, in fair turns.
package limit

import (
	"container/list"
	"context"
	"sync"
	"time"
)

// A Rate is the size of a token bucket and the tokens that it gets in each second.
type Rate struct {
	Size, PerSecond float64
}

// Times returns a rate that is n times as high.
func (r Rate) Times(n float64) Rate { return Rate{r.Size * n, r.PerSecond * n} }

// Buckets has a token bucket for each key. It may be used by many goroutines. It keeps a bounded number of
// buckets: if there are too many, the one that was used least recently is forgotten, so that it is full again.
type Buckets struct {
	most int

	mu     sync.Mutex
	byKey  map[string]*list.Element // of recent
	recent *list.List               // of *bucket, the one used last first
}

type bucket struct {
	key    string
	tokens float64
	at     time.Time // when tokens was right
}

// NewBuckets returns Buckets that keep at most most buckets.
func NewBuckets(most int) *Buckets {
	return &Buckets{most: most, byKey: map[string]*list.Element{}, recent: list.New()}
}

// Take takes a token from the bucket of a key, and reports whether there was one. A new bucket is full.
func (b *Buckets) Take(key string, rate Rate, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.byKey[key]
	if e == nil {
		e = b.recent.PushFront(&bucket{key, rate.Size, now})
		b.byKey[key] = e
		if b.recent.Len() > b.most {
			oldest := b.recent.Remove(b.recent.Back()).(*bucket)
			delete(b.byKey, oldest.key)
		}
	}
	b.recent.MoveToFront(e)
	k := e.Value.(*bucket)
	if since := now.Sub(k.at); since > 0 { // the clock may be set back
		k.tokens += since.Seconds() * rate.PerSecond
	}
	k.tokens, k.at = min(k.tokens, rate.Size), now
	if k.tokens < 1 {
		return false
	}
	k.tokens--
	return true
}

// A Gate lets a bounded number of calls pass at the same time. No caller has more than its share, so that
// one place is always left for another; callers that wait get their turns in a circle.
type Gate struct {
	share int

	mu      sync.Mutex
	free    int
	inside  map[string]int
	waiting map[string][]chan struct{} // of each caller, the first first
	circle  []string                   // callers that wait, the next first
}

// NewGate returns a Gate with places for all callers together, at least two. One caller gets at most share
// of them, and never the last.
func NewGate(places, share int) *Gate {
	places = max(places, 2)
	return &Gate{share: min(share, places-1), free: places, inside: map[string]int{}, waiting: map[string][]chan struct{}{}}
}

// Enter waits for a place. It returns ctx's error if ctx ends before. After nil the caller must call Leave.
func (g *Gate) Enter(ctx context.Context, who string) error {
	g.mu.Lock()
	if g.free > 0 && g.inside[who] < g.share { // nobody who could use the place waits
		g.free--
		g.inside[who]++
		g.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	if len(g.waiting[who]) == 0 {
		g.circle = append(g.circle, who)
	}
	g.waiting[who] = append(g.waiting[who], turn)
	g.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, w := range g.waiting[who] {
		if w == turn {
			g.setWaitingLocked(who, append(g.waiting[who][:i:i], g.waiting[who][i+1:]...))
			return ctx.Err()
		}
	}
	g.leaveLocked(who) // its turn came at the same moment
	return ctx.Err()
}

// Leave gives a place back.
func (g *Gate) Leave(who string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leaveLocked(who)
}

func (g *Gate) leaveLocked(who string) {
	g.free++
	if g.inside[who]--; g.inside[who] == 0 {
		delete(g.inside, who)
	}
	for i := 0; i < len(g.circle) && g.free > 0; {
		next := g.circle[i]
		if g.inside[next] >= g.share {
			i++
			continue
		}
		g.free--
		g.inside[next]++
		close(g.waiting[next][0])
		g.circle = append(g.circle[:i], g.circle[i+1:]...)
		rest := g.waiting[next][1:]
		if g.waiting[next] = rest; len(rest) > 0 {
			g.circle = append(g.circle, next)
		} else {
			delete(g.waiting, next)
		}
	}
}

// setWaitingLocked replaces the calls of a caller that wait, without changing its place in the circle.
func (g *Gate) setWaitingLocked(who string, calls []chan struct{}) {
	if g.waiting[who] = calls; len(calls) > 0 {
		return
	}
	delete(g.waiting, who)
	for i, c := range g.circle {
		if c == who {
			g.circle = append(g.circle[:i], g.circle[i+1:]...)
			return
		}
	}
}
