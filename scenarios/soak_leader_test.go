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

// TestSoakKilledLeaderLosesNoChange kills the leader's daemon half-way through 100,000 probes, while workers
// change groups of the account mary. Probes go between the other two nodes, in both directions. By turns, a
// rule admits the probe or no rule does. Every probe is a new connection. One worker changes rules of the
// targets' own group, so that the nodes compile that group's table again all the time. Every change that the
// API acknowledged must be in the final state.
func TestSoakKilledLeaderLosesNoChange(t *testing.T) {
	l, api := newLeaderSoak(t, "soakleader", "mary")
	l.groups(api, "target", "friend", "foe")
	if _, err := api.authorize("target", soakRule{protocol: "udp", port: volleyPort, group: "friend"}); err != nil {
		t.Fatal(err)
	}
	l.killLeader(api)
}

// TestSoakKilledLeaderLosesNoChangeInVPC is the same in a VPC. There the targets admit both friend and foe, but
// the foe has no egress rule. The workers change egress rules too.
func TestSoakKilledLeaderLosesNoChangeInVPC(t *testing.T) {
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

// volleyPort is the port of the targets to which probes go.
const volleyPort = 9000

func newLeaderSoak(t *testing.T, name, account string) (*soakLab, *soakAPI) {
	t.Helper()
	if soakNodes(t) < 3 {
		t.Fatalf("PALISADE_SOAK_NODES=%d: without its leader a cluster works only if it has three nodes or more", soakNodes(t))
	}
	l := newSoakLab(t, name)
	return l, l.api(account)
}

// killLeader runs the test in a lab that has the groups target, friend and foe.
func (l *soakLab) killLeader(api *soakAPI) {
	const (
		probes   = 100_000
		workers  = 5
		every    = 25 * time.Millisecond // between two changes of a worker; all workers together make 200 changes a second
		minimum  = 50.0                  // acknowledged changes a second before the kill; with fewer the run is void
		writable = 3 * time.Second
	)
	t := l.t
	killed := l.leader()
	nodes := l.others(killed)[:2]
	placed := l.launchIn(api, nodes, "target", "friend", "foe")

	volley := newVolley(t, placed, nodes, volleyPort)
	// Wait until the nodes enforce the rule and reach each other.
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
		t.Errorf("void: %.0f changes a second were acknowledged before the kill, want %.0f or more", rate, minimum)
	}
	switch {
	case !ok:
		t.Errorf("no change that was sent after the kill of %s was acknowledged", killed)
	case first.Sub(kill) > writable:
		t.Errorf("the first change was acknowledged %v after the kill, want at most %v", first.Sub(kill), writable)
	}
	if n := volley.wrong.Load(); n > 0 {
		t.Errorf("%d forbidden probes arrived, want 0", n)
	}
	if n := len(loss); n > probes/4 {
		t.Errorf("void: %d of %d allowed probes were lost, so the loss of the forbidden ones proves nothing", n, probes/2)
	}
	for _, n := range l.Status(l.t).Nodes {
		l.compare(api.at(t, n.API), n.Name, crew)
	}
}

// newCrew returns size workers. The first one changes the group target, the others make their own groups.
func newCrew(t *testing.T, api *soakAPI, size int) []*worker {
	crew := make([]*worker, size)
	for i := range crew {
		crew[i] = &worker{api: api.again(t, nil), name: fmt.Sprintf("traffic%d", i)}
	}
	crew[0].group = "target"
	return crew
}

// acknowledged returns the number of changes of all workers that the API acknowledged.
func acknowledged(crew []*worker) (n int) {
	for _, w := range crew {
		n += int(w.acknowledged.Load())
	}
	return n
}

// A fact is the final state that a rule must have after the answer to its last change.
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
	group string // the group that it changes; "": none yet

	acknowledged atomic.Int64
	refused      int // refusals that were expected
	unknown      int
	odd          []string // unexpected answers

	facts map[string]map[string]fact // by group and the text of the rule (ruleText)
	acks  []acknowledgement
}

// An acknowledgement has the times at which a change was sent and acknowledged.
type acknowledgement struct{ sent, at time.Time }

const (
	window   = 30  // rules that a group has at a time
	perGroup = 120 // rules after which a worker makes a new group
)

// runChanges makes changes until ctx ends: one every interval, or when the answer to the last one came, if
// that is later.
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
			// The API must refuse both rules, because one of them exists already.
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

// rule returns the worker's n-th rule. In a VPC every second rule is an egress rule.
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

// change makes a rule present or absent, as to says, and records the result.
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
	} else if f == absent { // refused: the rule is as before
		f = absent + present - to
	}
	w.note(r, f)
}

// mustRefuse requests a new rule together with one that exists, and records whether the API refused both.
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

// judge counts the answer to a change. It returns present if the API made the change, absent if it refused
// the change, and either if the result is unknown.
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

// firstSentAfter looks at the changes that were sent after moment. It returns the time of the first
// acknowledgement of one of them, or false if there is none.
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

// compare reads the final rules from a node and fails the test if they differ from the answers that the workers
// got.
func (l *soakLab) compare(api *soakAPI, node string, crew []*worker) {
	l.t.Helper()
	rules, err := api.rules()
	if err != nil {
		l.t.Errorf("read the rules at %s: %v", node, err)
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
		l.t.Errorf("at %s, %d rules or answers are not as expected:\n%s", node, len(differs), strings.Join(differs[:min(20, len(differs))], "\n"))
	}
}
