package scenarios

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
)

// atOnce bounds how many commands of one `all` run at the same time.
const atOnce = 10

// cmdAll runs a command in each of several namespaces at once. Whoever runs it is left out
// of the tiers in its own command, so that "each scans all" is each scans the others. The
// stdout matchers of the lines below see what all of them printed, one after the other;
// shown is how often each line came.
func (p *player) cmdAll(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 || args[0] != "on" {
		ts.Fatalf("usage: all on WHO CMD...")
	}
	who := p.expand(ts, args[1:2], nil)
	p.narrator.command(args[1], typed(args[2:]))

	type result struct {
		stdout, stderr bytes.Buffer
		err            error
	}
	results := make([]result, len(who))
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i, one := range who {
		run := p.prepare(ts, append([]string{"on", one}, p.expand(ts, args[2:], p.namesOf(one))...))
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			results[i].err = p.exec(run, &results[i].stdout, &results[i].stderr)
		})
	}
	shown := p.narrator.shower()
	wg.Wait()

	var stdout, stderr bytes.Buffer
	var differ []string
	for i := range results {
		r := &results[i]
		if (r.err != nil) != neg {
			differ = append(differ, fmt.Sprintf("%s: %v", who[i], r.err))
		}
		stdout.Write(r.stdout.Bytes())
		stderr.Write(r.stderr.Bytes())
	}
	io.WriteString(shown, tally(stdout.String()))
	io.WriteString(shown, tally(stderr.String()))
	shown.end()
	ts.Stdout().Write(stdout.Bytes())
	ts.Stderr().Write(stderr.Bytes())
	switch {
	case p.ctx.Err() != nil:
		ts.Fatalf("called off")
	case len(differ) > 0 && neg:
		ts.Fatalf("%s: succeeded, and was to fail, on %d of %d: %s", typed(args[2:]), len(differ), len(who), strings.Join(differ, "; "))
	case len(differ) > 0:
		ts.Fatalf("%s: on %d of %d: %s", typed(args[2:]), len(differ), len(who), strings.Join(differ, "; "))
	}
	if len(who) > 1 {
		p.narrator.note("the same in %d machines", len(who))
	}
}

// namesOf returns all that a word of a command may mean an instance by.
func (p *player) namesOf(id string) []string {
	for _, t := range p.tiers {
		for _, m := range t {
			if m.ID == id {
				return m.names()
			}
		}
	}
	return nil
}

// varying is what makes like lines differ: addresses, ids, times.
var varying = regexp.MustCompile(`[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+(:[0-9]{4,5})?|ip(-[0-9]+){4}|\bi-[0-9a-f]{8,}|[0-9]+ ms`)

// tally lists the distinct lines of text, with how often each came. Lines that differ only
// in what varies count as one. Of nmap, that hosts are up goes without saying.
func tally(text string) string {
	var order []string
	count, first := map[string]int{}, map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \t\r\n")
		if line == "" || strings.HasPrefix(line, "# Nmap") || strings.HasSuffix(line, "\tStatus: Up") {
			continue
		}
		key := varying.ReplaceAllString(line, "*")
		if count[key]++; count[key] == 1 {
			order = append(order, key)
			first[key] = line
		}
	}
	var b strings.Builder
	for _, key := range order {
		if count[key] == 1 {
			fmt.Fprintf(&b, "       %s\n", first[key])
			continue
		}
		fmt.Fprintf(&b, "%4d × %s\n", count[key], key)
	}
	return b.String()
}
