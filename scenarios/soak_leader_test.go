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

// TestSoakLeaderKilled kills the leader's daemon half-way through 100,000 probes, while workers change
// groups of mary's. The probes alternate between pairs that a rule admits and pairs that no rule
// admits, between the other two nodes, both ways. Every probe is a new connection. One worker changes
// rules of the targets' own group, so that their table is compiled again all the time.
func TestSoakLeaderKilled(t *testing.T) {
	l, api := newLeaderSoak(t, "soakleader", "mary")
	l.groups(api, "target", "friend", "foe")
	if _, err := api.authorize("target", soakRule{protocol: "udp", port: volleyPort, group: "friend"}); err != nil {
		t.Fatal(err)
	}
	l.killLeader(api)
}

// TestSoakLeaderKilledVPC is the same in a VPC: the targets admit friend and foe, and the foe has no
// egress rule. The workers change egress rules too.
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

// volleyPort is the targets' port for probes.
const volleyPort = 9000

func newLeaderSoak(t *testing.T, name, account string) (*soakLab, *soakAPI) {
	t.Helper()
	if soakNodes(t) < 3 {
		t.Fatalf("PALISADE_SOAK_NODES=%d: the loss of a leader needs three nodes or more", soakNodes(t))
	}
	l := newSoakLab(t, name)
	return l, l.api(account)
}

// killLeader is the test. The groups target, friend and foe exist.
func (l *soakLab) killLeader(api *soakAPI) {
	const (
		probes   = 100_000
		workers  = 5
		every    = 25 * time.Millisecond // between two changes of a worker; 200 changes a second by all
		minimum  = 50.0                  // acknowledged changes a second before the kill; with fewer the run is void
		writable = 3 * time.Second
	)
	t := l.t
	killed := l.leader()
	nodes := l.others(killed)[:2]
	placed := l.launchIn(api, nodes, "target", "friend", "foe")

	volley := newVolley(t, placed, nodes, volleyPort)
	// First the rule must be enforced and all paths known.
	labtest.Eventually(l.t, "allowed probes arrive", func() bool { return volley.try() })

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var traffic sync.WaitGroup
	crew := newCrew(t, api, workers)
	begin := time.Now()
	for _, w := range crew {
		traffic.Go(func() { w.runChanges(ctx, every) })
	}

	var shooting sync.WaitGroup
	shooting.Go(func() { volley.runProbes(t.Context(), probes, 800*time.Microsecond) })
	volley.waitFor(probes / 2)
	before := acknowledged(crew)
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
		api.where(), len(l.nodes), rate, acknowledged(crew), refused, unknown, ms(first.Sub(kill)),
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

// newCrew makes workers. The first one works on the group target.
func newCrew(t *testing.T, api *soakAPI, size int) []*worker {
	crew := make([]*worker, size)
	for i := range crew {
		crew[i] = &worker{api: api.again(t, nil), name: fmt.Sprintf("traffic%d", i)}
	}
	crew[0].group = "target"
	return crew
}

// acknowledged returns the number of acknowledged changes.
func acknowledged(crew []*worker) (n int) {
	for _, w := range crew {
		n += int(w.acknowledged.Load())
	}
	return n
}

// A fact is the expected final state of a rule, by the answer to its last change.
type fact uint8

const (
	present fact = iota + 1
	absent
	either // there was no answer, or the answer said that the result is unknown
)

// A worker changes rules and records the results. No other worker changes the same rules: each has its
// own groups, or its own TCP ports of a group. After a change without a clear answer, the worker does
// not change that rule again.
type worker struct {
	api   *soakAPI
	name  string
	group string // that it works on; "": none yet

	acknowledged atomic.Int64
	refused      int // as expected
	unknown      int
	odd          []string // unexpected answers

	facts map[string]map[string]fact // by group and ruleText
	acks  []acknowledgement
}

// An acknowledgement has the times at which a change was sent and acknowledged.
type acknowledgement struct{ sent, at time.Time }

const (
	window   = 30  // rules of a group at a time
	perGroup = 120 // rules after which a worker makes a new group
)

// runChanges makes a change every interval, or after the answer to the last, if that is later.
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
			// Must be refused as a whole: one of the two ingress rules exists already.
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

// rule returns the n-th rule. In a VPC every second one is an egress rule.
func (w *worker) rule(n int) soakRule {
	return soakRule{egress: w.api.network != nil && n%2 == 1, protocol: "tcp", port: 10000 + n%30000, cidr: fmt.Sprintf("203.0.113.%d/32", n%90)}
}

func (w *worker) fact(r soakRule) fact { return w.facts[w.group][ruleText(r)] }

func (w *worker) makeGroup(ctx context.Context, tick *time.Ticker, name string) bool {
	for i := 0; ; i++ {
		if !w.wait(ctx, tick) {
			return false
		}
		group := fmt.Sprintf("%s.%d", name, i) // a new name if the last result is unknown
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
	} else if f == absent { // refused: unchanged
		f = absent + present - to
	}
	w.note(r, f)
}

// mustRefuse requests a new rule together with an existing one.
func (w *worker) mustRefuse(fresh, known soakRule) {
	_, err := w.api.authorize(w.group, fresh, known)
	r, answered := errors.AsType[*refusal](err)
	switch {
	case answered && r.Code == "InvalidPermission.Duplicate":
		w.refused++
		w.note(fresh, absent)
	case err == nil:
		w.odd = append(w.odd, "acknowledged a duplicate rule: "+ruleText(known))
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

// judge counts an answer. It returns present if the change was made, absent if it was refused, and
// either if that is unknown.
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

// firstSentAfter returns the time of the first acknowledgement of a change that was sent after moment.
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

// compare reads the final state from a node and reports rules that differ from the answers.
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
				differs = append(differs, "acknowledged group is missing: "+group)
				continue
			}
			for rule, f := range facts {
				checked++
				switch {
				case f == present && !have[rule]:
					differs = append(differs, "lost, "+group+": "+rule)
				case f == absent && have[rule]:
					differs = append(differs, "revoked or refused, but present, "+group+": "+rule)
				}
			}
			for rule := range have {
				if facts[rule] == 0 && strings.HasPrefix(rule, "tcp") {
					differs = append(differs, "never requested, "+group+": "+rule)
				}
			}
		}
	}
	l.t.Logf("at %s, %d rules were compared", node, checked)
	slices.Sort(differs)
	if len(differs) > 0 {
		l.t.Errorf("at %s, %d differ from the answers:\n%s", node, len(differs), strings.Join(differs[:min(20, len(differs))], "\n"))
	}
}
