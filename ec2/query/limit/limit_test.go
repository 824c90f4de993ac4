package limit

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var start = time.Unix(1_700_000_000, 0)

func taken(b *Buckets, key string, rate Rate, now time.Time, times int) (n int) {
	for range times {
		if b.Take(key, rate, now) {
			n++
		}
	}
	return n
}

func TestBucketLimitsBurstAndRate(t *testing.T) {
	b := NewBuckets(10)
	rate := Rate{Size: 5, PerSecond: 2}
	if n := taken(b, "a", rate, start, 20); n != 5 {
		t.Errorf("%d calls at once passed, want 5", n)
	}
	if n := taken(b, "b", rate, start, 20); n != 5 {
		t.Errorf("%d calls of another key passed, want 5", n)
	}
	passed := 0
	for i := range 100 { // ten calls in a second, for ten seconds
		passed += taken(b, "a", rate, start.Add(time.Duration(i+1)*100*time.Millisecond), 1)
	}
	if passed != 20 {
		t.Errorf("%d of 100 calls in ten seconds passed, want 20", passed)
	}
	if n := taken(b, "a", rate, start.Add(time.Hour), 20); n != 5 {
		t.Errorf("%d calls at once passed after an hour, want 5", n)
	}
	if n := taken(b, "a", rate, start, 20); n != 0 {
		t.Errorf("%d calls passed with a clock that was set back, want none", n)
	}
	if n := taken(b, "c", rate.Times(3), start, 100); n != 15 {
		t.Errorf("%d calls at three times the rate passed, want 15", n)
	}
}

// However many keys there are, few buckets are kept; the one that is in use is not forgotten.
func TestBucketsAreBounded(t *testing.T) {
	b := NewBuckets(10)
	rate := Rate{Size: 1, PerSecond: 0.001}
	b.Take("flood", rate, start)
	for i := range 1000 {
		b.Take(fmt.Sprint(i), rate, start)
		if b.Take("flood", rate, start) {
			t.Fatalf("the bucket in use was forgotten after %d others", i+1)
		}
	}
	if len(b.byKey) > 10 || b.recent.Len() > 10 {
		t.Errorf("%d buckets are kept, want at most 10", len(b.byKey))
	}
}

// A caller that makes many calls never has the last place, and one that comes later gets the next turn.
func TestGateLeavesPlaceForOthers(t *testing.T) {
	g := NewGate(3, 3)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for range 2 {
		if err := g.Enter(ctx, "flood"); err != nil {
			t.Fatal(err)
		}
	}
	var inside atomic.Int32
	var flood sync.WaitGroup
	for range 50 {
		flood.Go(func() {
			if err := g.Enter(ctx, "flood"); err != nil {
				t.Error(err)
				return
			}
			if n := inside.Add(1); n > 2 {
				t.Errorf("%d calls of one caller are inside, want at most 2", n)
			}
			time.Sleep(time.Millisecond)
			inside.Add(-1)
			g.Leave("flood")
		})
	}
	g.wait(t, "flood", 50)
	late, end := context.WithCancel(ctx)
	end()
	if err := g.Enter(late, "other"); err != nil { // without waiting
		t.Fatalf("the place for others was taken: %v", err)
	}
	g.Leave("other")
	g.Leave("flood")
	g.Leave("flood")
	flood.Wait()
	if g.free != 3 || len(g.inside)+len(g.waiting)+len(g.circle) != 0 {
		t.Errorf("after all have left, %d places are free, inside %v, waiting %v and %v; want 3 and none", g.free, g.inside, g.waiting, g.circle)
	}
}

// wait returns when a number of calls of a caller wait.
func (g *Gate) wait(t *testing.T, who string, length int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		g.mu.Lock()
		n := len(g.waiting[who])
		g.mu.Unlock()
		if n == length {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d calls of %s wait, want %d", n, who, length)
		}
	}
}

// Callers that wait get their turns in a circle, not in the order in which they came.
func TestGateGivesTurnsInCircle(t *testing.T) {
	g := NewGate(2, 1)
	ctx := t.Context()
	for _, who := range []string{"x", "y"} {
		if err := g.Enter(ctx, who); err != nil {
			t.Fatal(err)
		}
	}
	order := make(chan string, 9)
	queue := func(who string, length int) {
		go func() {
			if g.Enter(ctx, who) == nil {
				order <- who
			}
		}()
		g.wait(t, who, length)
	}
	for i := range 3 {
		queue("a", i+1)
	}
	queue("b", 1)
	queue("c", 1)
	var got []string
	last := "x"
	for range 5 {
		g.Leave(last)
		last = <-order
		got = append(got, last)
	}
	if fmt.Sprint(got) != "[a b c a a]" {
		t.Errorf("the turns were %v, want a b c a a", got)
	}
}

// A call that gives up leaves no trace, and takes no place with it.
func TestGateForgetsCallsThatGiveUp(t *testing.T) {
	g := NewGate(4, 2)
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			who := fmt.Sprint("caller ", i%3)
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(3000))*time.Microsecond)
			defer cancel()
			if g.Enter(ctx, who) == nil {
				time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond)
				g.Leave(who)
			}
		})
	}
	all.Wait()
	if g.free != 4 || len(g.inside)+len(g.waiting)+len(g.circle) != 0 {
		t.Errorf("%d places are free, inside %v, waiting %v and %v; want 4 and none", g.free, g.inside, g.waiting, g.circle)
	}
}

// A call whose turn comes at the moment when it gives up gives its place back.
func TestGateGetsPlaceBackOfCallThatGivesUpInItsTurn(t *testing.T) {
	for range 50 {
		g := NewGate(2, 1)
		if err := g.Enter(t.Context(), "caller"); err != nil {
			t.Fatal(err)
		}
		ctx, giveUp := context.WithCancel(t.Context())
		entered := make(chan error)
		go func() { entered <- g.Enter(ctx, "caller") }()
		g.wait(t, "caller", 1)
		giveUp()
		g.Leave("caller")
		if <-entered == nil {
			g.Leave("caller")
		}
		if g.free != 2 {
			t.Fatalf("%d places are free, want 2", g.free)
		}
	}
}
