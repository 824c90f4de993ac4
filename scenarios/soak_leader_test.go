//go:build soak

package scenarios

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"palisade/internal/lab/labtest"
)

// TestSoakLeaderKilled kills the leader's daemon once, half-way through 100,000 probes,
// while workers change groups of mary's. The probes alternate between pairs that a rule
// admits and pairs that none does, across the two nodes that live on, both ways; every
// probe is a connection of its own. One worker changes rules of the targets' own group, so
// that what judges the probes is compiled again all the time.
func TestSoakLeaderKilled(t *testing.T) {
	l, api := newLeaderSoak(t, "soakleader", "mary")
	l.groups(api, "target", "friend", "foe")
	if _, err := api.authorize("target", soakRule{protocol: "udp", port: volleyPort, group: "friend"}); err != nil {
		t.Fatal(err)
	}
	l.killLeader(api)
}

// TestSoakLeaderKilledVPC is the same in a VPC: the targets admit friend and foe, and the
// foe may not send. The workers change what may leave too.
func TestSoakLeaderKilledVPC(t *testing.T) {
	l, api := newLeaderSoak(t, "soakleadervpc", "dev")
	l.vpc(api)
	l.groups(api, "target", "friend", "foe")
	for _, from := range []string{"friend", "foe"} {
		if _, err := api.authorize("target", soakRule{protocol: "udp", port: volleyPort, group: from}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := api.revoke("foe", everythingLeaves); err != nil {
		t.Fatal(err)
	}
	l.killLeader(api)
}

// volleyPort is where the targets hear probes.
const volleyPort = 9000

func newLeaderSoak(t *testing.T, name, account string) (*soakLab, *soakAPI) {
	t.Helper()
	if soakNodes(t) < 3 {
		t.Fatalf("PALISADE_SOAK_NODES=%d: a leader's loss is survived by three nodes or more", soakNodes(t))
	}
	l := newSoakLab(t, name)
	return l, l.api(account)
}

// killLeader is the test, once there are the groups target, friend and foe.
func (l *soakLab) killLeader(api *soakAPI) {
	const (
		probes   = 100_000
		workers  = 5
		every    = 25 * time.Millisecond // a worker begins a change; 200 a second by all
		minimum  = 50.0                  // acknowledged changes a second before the kill, or the run is void
		writable = 3 * time.Second
	)
	t := l.t
	killed := l.leader()
	nodes := l.others(killed)[:2]
	placed := l.launchIn(api, nodes, "target", "friend", "foe")

	volley := newVolley(t, placed, nodes, volleyPort)
	// The rule is enforced and all paths are known before anything counts.
	labtest.Eventually(l.t, "what is allowed arrives", func() bool { return volley.try() })

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var traffic sync.WaitGroup
	crew := make([]*worker, workers)
	begin := time.Now()
	for i := range crew {
		crew[i] = &worker{api: api.again(t, nil), name: fmt.Sprintf("traffic%d", i)}
		if i == 0 {
			crew[i].group = "target"
		}
		traffic.Go(func() { crew[i].runChanges(ctx, every) })
	}
	acknowledged := func() (n int) {
		for _, w := range crew {
			n += int(w.acknowledged.Load())
		}
		return n
	}

	var shooting sync.WaitGroup
	shooting.Go(func() { volley.runProbes(t.Context(), probes, 800*time.Microsecond) })
	volley.waitFor(probes / 2)
	before := acknowledged()
	rate := float64(before) / time.Since(begin).Seconds()
	kill := time.Now()
	l.Do(l.t, "lab", "kill", killed)
	dead := time.Now()
	volley.waitFor(probes * 3 / 4)
	l.Do(l.t, "lab", "start", killed)
	restarted := time.Since(kill)
	shooting.Wait()
	stop()
	traffic.Wait()

	first, ok := firstSentAfter(crew, dead)
	loss := volley.lost()
	refused, unknown := 0, 0
	for _, w := range crew {
		refused += w.refused
		unknown += w.unknown
	}
	t.Logf("leader killed, %s, %d nodes: %.0f changes/s acknowledged before, %d in all, %d refused, %d unknown; writable again after %s ms; "+
		"%d probes, %d of them forbidden, %d admitted wrongly, %d of %d allowed lost, of them %d within 3 s of the kill; started again after %v",
		api.where(), len(l.nodes), rate, acknowledged(), refused, unknown, ms(first.Sub(kill)),
		probes, probes/2, volley.wrong.Load(), len(loss), probes/2, countBetween(loss, kill, kill.Add(3*time.Second)), restarted.Round(100*time.Millisecond))

	if rate < minimum {
		t.Errorf("void: %.0f changes a second were acknowledged before the kill", rate)
	}
	switch {
	case !ok:
		t.Errorf("no change was acknowledged between the kill and the start of %s", killed)
	case first.Sub(kill) > writable:
		t.Errorf("writable %v after the kill, at most %v", first.Sub(kill), writable)
	}
	if n := volley.wrong.Load(); n > 0 {
		t.Errorf("%d forbidden probes arrived", n)
	}
	if n := len(loss); n > probes/4 {
		t.Errorf("void: %d of %d allowed probes were lost; nothing is proven by what did not arrive", n, probes/2)
	}
	for _, n := range l.Status(l.t).Nodes {
		l.compare(api.at(t, n.API), n.Name, crew)
	}
}

// A fact is what a change's answer says of a rule at the end.
type fact uint8

const (
	present fact = iota + 1
	absent
	either // the answer did not come, or said that nobody knows
)

// A worker changes groups and keeps what became of it. Every rule is its own: a group of
// the worker, or TCP ports that no other worker uses there. A rule whose change had no
// clear answer is touched no more.
type worker struct {
	api   *soakAPI
	name  string
	group string // the one it works on; "" until it has made one

	acknowledged atomic.Int64
	refused      int // as was to be expected
	unknown      int
	odd          []string // answers that should not be

	facts map[string]map[string]fact // by group and ruleText
	acks  []acknowledgement
}

// An acknowledgement is when a change was sent that was acknowledged, and when that was.
type acknowledgement struct{ sent, at time.Time }

const (
	window   = 30  // rules of a group that are there at a time
	perGroup = 120 // rules after which a worker makes a new group
)

// runChanges begins a change every interval, or as soon as the last has its answer.
func (w *worker) runChanges(ctx context.Context, interval time.Duration) {
	w.facts = map[string]map[string]fact{}
	fixed := w.group != ""
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for n := 0; ; n++ {
		if !fixed && n%perGroup == 0 {
			if !w.makeGroup(ctx, tick, fmt.Sprintf("%s.%d", w.name, n/perGroup)) {
				return
			}
		}
		rule := w.rule(n)
		if !w.wait(ctx, tick) {
			return
		}
		w.change(present, rule)
		if n%10 == 9 {
			// Refused as a whole: one of the two is there, as far as is known. Both are
			// of ingress.
			if w.fact(w.rule(n-1)) == present {
				if !w.wait(ctx, tick) {
					return
				}
				w.mustRefuse(soakRule{protocol: "tcp", port: 40000 + n%20000, cidr: "203.0.113.99/32"}, w.rule(n-1))
			}
		}
		if old := n - window; old >= 0 && w.fact(w.rule(old)) == present {
			if !w.wait(ctx, tick) {
				return
			}
			w.change(absent, w.rule(old))
		}
	}
}

func (w *worker) wait(ctx context.Context, tick *time.Ticker) bool {
	select {
	case <-ctx.Done():
		return false
	case <-tick.C:
		return ctx.Err() == nil
	}
}

// rule is the n-th. In a VPC every other one is of egress.
func (w *worker) rule(n int) soakRule {
	return soakRule{egress: w.api.network != nil && n%2 == 1, protocol: "tcp", port: 10000 + n%30000, cidr: fmt.Sprintf("203.0.113.%d/32", n%90)}
}

func (w *worker) fact(r soakRule) fact { return w.facts[w.group][ruleText(r)] }

func (w *worker) makeGroup(ctx context.Context, tick *time.Ticker, name string) bool {
	for i := 0; ; i++ {
		if !w.wait(ctx, tick) {
			return false
		}
		group := fmt.Sprintf("%s.%d", name, i) // a new name if nobody knows what became of the last
		sent := time.Now()
		err := w.api.group(group)
		if w.judge(sent, err, "make "+group) == present {
			w.group = group
			w.facts[group] = map[string]fact{}
			return true
		}
	}
}

// change makes a rule present or absent.
func (w *worker) change(to fact, r soakRule) {
	do := w.api.authorize
	if to == absent {
		do = w.api.revoke
	}
	sent := time.Now()
	_, err := do(w.group, r)
	f := w.judge(sent, err, fmt.Sprintf("make %s in %s %d", ruleText(r), w.group, to))
	if f == present {
		f = to
	} else if f == absent { // refused: it is as it was
		f = absent + present - to
	}
	w.note(r, f)
}

// mustRefuse asks for a new rule together with one that is there.
func (w *worker) mustRefuse(fresh, known soakRule) {
	_, err := w.api.authorize(w.group, fresh, known)
	r, answered := errors.AsType[*refusal](err)
	switch {
	case answered && r.Code == "InvalidPermission.Duplicate":
		w.refused++
		w.note(fresh, absent)
	case err == nil:
		w.odd = append(w.odd, "acknowledged a rule that is there already: "+ruleText(known))
	case answered && r.Status < 500:
		w.odd = append(w.odd, err.Error())
	default:
		w.unknown++
		w.note(fresh, either)
	}
}

func (w *worker) note(r soakRule, f fact) {
	if w.facts[w.group] == nil {
		w.facts[w.group] = map[string]fact{}
	}
	w.facts[w.group][ruleText(r)] = f
}

// judge counts an answer: present if the change was made, absent if it was refused, either
// if that is not known.
func (w *worker) judge(sent time.Time, err error, what string) fact {
	r, answered := errors.AsType[*refusal](err)
	switch {
	case err == nil:
		w.acknowledged.Add(1)
		w.acks = append(w.acks, acknowledgement{sent, time.Now()})
		return present
	case answered && r.Status < 500:
		w.odd = append(w.odd, what+": "+err.Error())
		return absent
	}
	w.unknown++
	return either
}

// firstSentAfter is when the first change was acknowledged that was sent after a moment.
func firstSentAfter(crew []*worker, moment time.Time) (time.Time, bool) {
	var first time.Time
	for _, w := range crew {
		for _, a := range w.acks {
			if a.sent.After(moment) && (first.IsZero() || a.at.Before(first)) {
				first = a.at
			}
		}
	}
	return first, !first.IsZero()
}

// compare reads the final state at a node and reports what differs from the answers.
func (l *soakLab) compare(api *soakAPI, node string, crew []*worker) {
	l.t.Helper()
	rules, err := api.rules()
	if err != nil {
		l.t.Errorf("read at %s: %v", node, err)
		return
	}
	var differs []string
	checked := 0
	for _, w := range crew {
		for _, odd := range w.odd {
			differs = append(differs, w.name+": "+odd)
		}
		for group, facts := range w.facts {
			have, ok := rules[group]
			if !ok {
				differs = append(differs, "no group "+group+", and it was acknowledged")
				continue
			}
			for rule, f := range facts {
				checked++
				switch {
				case f == present && !have[rule]:
					differs = append(differs, "lost, "+group+": "+rule)
				case f == absent && have[rule]:
					differs = append(differs, "revoked or refused, and there, "+group+": "+rule)
				}
			}
			for rule := range have {
				if facts[rule] == 0 && strings.HasPrefix(rule, "tcp") {
					differs = append(differs, "never asked for, "+group+": "+rule)
				}
			}
		}
	}
	l.t.Logf("at %s, %d rules are compared", node, checked)
	slices.Sort(differs)
	if len(differs) > 0 {
		l.t.Errorf("at %s, %d differ from the answers:\n%s", node, len(differs), strings.Join(differs[:min(20, len(differs))], "\n"))
	}
}
