package scenarios

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// A tier is a list of instances with the same role. In a command, the word @NAME becomes one word for each
// instance of tier NAME, and so does a word that contains {@NAME}. Selectors may follow the name, each
// behind a colon:
//
//	@web                  their ids
//	@web:public           their public addresses; :private, their private ones
//	@web:node2            those on node2; :but-node2, those on other nodes
//	@web:with-i-12345678  those on the node of this instance; :apart-i-12345678, those on other nodes
//	@web:each             the first instance on each node
type tier []machine

// A machine is an instance in the output of `palisade lab status --json`.
type machine struct {
	ID      string `json:"id"`
	Node    string `json:"node"`
	State   string `json:"state"`
	Private string `json:"private_address"`
	Public  string `json:"public_address"`
}

// names returns the words by which a command may name m.
func (m machine) names() []string { return []string{m.ID, m.Private, m.Public} }

// runWithin bounds the wait until all instances of a tier run.
const runWithin = 45 * time.Second

var launched = regexp.MustCompile(`(?m)^INSTANCE\t(i-[0-9a-f]+)`)

// cmdTier makes the instances in the last output a tier with a name, and waits until all of them run.
func (p *player) cmdTier(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: tier NAME")
	}
	var ids []string
	for _, m := range launched.FindAllStringSubmatch(ts.ReadFile("stdout"), -1) {
		ids = append(ids, m[1])
	}
	if len(ids) == 0 {
		ts.Fatalf("tier %s: no INSTANCE in the last output", args[0])
	}
	begin := time.Now()
	for {
		machines, err := p.machines(ts)
		ts.Check(err)
		var t tier
		for _, id := range ids {
			i := slices.IndexFunc(machines, func(m machine) bool { return m.ID == id && m.State == "running" })
			if i >= 0 {
				t = append(t, machines[i])
			}
		}
		if len(t) == len(ids) {
			p.tiers[args[0]] = t
			p.narrator.note("@%s: %d instances run after %.1f s, %s", args[0], len(t), time.Since(begin).Seconds(), t.spread())
			return
		}
		if time.Since(begin) > runWithin {
			ts.Fatalf("tier %s: %d of %d instances run after %v", args[0], len(t), len(ids), runWithin)
		}
		p.wait(ts, retryEvery)
	}
}

// machines returns the instances of the lab.
func (p *player) machines(ts *testscript.TestScript) ([]machine, error) {
	run := p.prepare(ts, []string{"palisade", "lab", "status", "--json"})
	var stdout, stderr strings.Builder
	if err := p.exec(run, &stdout, &stderr); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", run.text, err, stderr.String())
	}
	var status struct {
		Instances []machine `json:"instances"`
	}
	if err := json.Unmarshal([]byte(stdout.String()), &status); err != nil {
		return nil, fmt.Errorf("%s: %w", run.text, err)
	}
	return status.Instances, nil
}

// spread returns the number of instances on each node: "node1 3, node2 2".
func (t tier) spread() string {
	count := map[string]int{}
	var nodes []string
	for _, m := range t {
		if count[m.Node]++; count[m.Node] == 1 {
			nodes = append(nodes, m.Node)
		}
	}
	slices.Sort(nodes)
	for i, node := range nodes {
		nodes[i] = fmt.Sprintf("%s %d", node, count[node])
	}
	return strings.Join(nodes, ", ")
}

// cmdPick sets the variables to the first values of a tier, one value each.
func (p *player) cmdPick(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || !strings.HasPrefix(args[len(args)-1], "@") {
		ts.Fatalf("usage: pick VAR... @TIER[:SELECTOR]...")
	}
	vars, word := args[:len(args)-1], args[len(args)-1]
	values := p.expand(ts, []string{word}, nil)
	if len(values) < len(vars) {
		ts.Fatalf("%s has %d values, too few for %s", word, len(values), strings.Join(vars, ", "))
	}
	for i, v := range vars {
		ts.Setenv(v, values[i])
		p.narrator.note("%s: %s", v, values[i])
	}
}

var meansTier = regexp.MustCompile(`^@[a-z0-9]+(:[a-z0-9-]+)*$|\{@[a-z0-9]+(:[a-z0-9-]+)*\}`)

// expand returns words with each word that names a tier replaced by the tier's values. It leaves out values that
// are in without.
func (p *player) expand(ts *testscript.TestScript, words, without []string) []string {
	var all []string
	for _, word := range words {
		meant := meansTier.FindString(word)
		name, selectors, _ := strings.Cut(strings.Trim(meant, "{@}"), ":")
		t, known := p.tiers[name]
		if !known {
			all = append(all, word)
			continue
		}
		values, err := t.choose(selectors, p.tiers)
		if err == nil && len(values) == 0 {
			err = fmt.Errorf("no instance is selected; the tier has %s", t.spread())
		}
		if err != nil {
			ts.Fatalf("%s: %v", word, err)
		}
		for _, v := range values {
			if !slices.Contains(without, v) {
				all = append(all, strings.Replace(word, meant, v, 1))
			}
		}
	}
	return all
}

// choose returns the values that selectors, which are separated by colons, select from the tier.
func (t tier) choose(selectors string, all map[string]tier) ([]string, error) {
	value := func(m machine) string { return m.ID }
	for s := range strings.SplitSeq(selectors, ":") {
		t = slices.Clone(t)
		switch kind, id, _ := strings.Cut(s, "-"); {
		case s == "":
		case s == "public":
			value = func(m machine) string { return m.Public }
		case s == "private":
			value = func(m machine) string { return m.Private }
		case s == "each":
			seen := map[string]bool{}
			t = slices.DeleteFunc(t, func(m machine) bool {
				again := seen[m.Node]
				seen[m.Node] = true
				return again
			})
		case kind == "with" || kind == "apart":
			node, ok := nodeOf(id, all)
			if !ok {
				return nil, fmt.Errorf("no tier has the instance %q", id)
			}
			t = slices.DeleteFunc(t, func(m machine) bool { return (m.Node == node) != (kind == "with") })
		case kind == "but":
			t = slices.DeleteFunc(t, func(m machine) bool { return m.Node == id })
		case strings.HasPrefix(s, "node"):
			t = slices.DeleteFunc(t, func(m machine) bool { return m.Node != s })
		default:
			return nil, fmt.Errorf("unknown selector %q", s)
		}
	}
	var values []string
	for _, m := range t {
		values = append(values, value(m))
	}
	return values, nil
}

func nodeOf(id string, all map[string]tier) (string, bool) {
	for _, t := range all {
		for _, m := range t {
			if m.ID == id {
				return m.Node, true
			}
		}
	}
	return "", false
}
