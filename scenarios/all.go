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

// atOnce bounds the commands of one `all` that run at the same time.
const atOnce = 10

// cmdAll runs a command in each of several namespaces at once. If the command names a tier, each instance
// gets the tier without itself, so that each scans the others. The stdout matchers of the next lines
// check the joined outputs. The story shows each distinct line with its count.
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
	shown := p.narrator.outputWriter()
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
		ts.Fatalf("the play was cancelled")
	case len(differ) > 0 && neg:
		ts.Fatalf("%s: succeeded on %d of %d, but must fail: %s", typed(args[2:]), len(differ), len(who), strings.Join(differ, "; "))
	case len(differ) > 0:
		ts.Fatalf("%s: failed on %d of %d: %s", typed(args[2:]), len(differ), len(who), strings.Join(differ, "; "))
	}
	if len(who) > 1 {
		p.narrator.note("on %d instances", len(who))
	}
}

// namesOf returns the words by which a command may name an instance: its id and its addresses.
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

// varying matches the parts of a line that differ from instance to instance: addresses, ids, times.
var varying = regexp.MustCompile(`[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+(:[0-9]{4,5})?|ip(-[0-9]+){4}|\bi-[0-9a-f]{8,}|[0-9]+ ms`)

// tally returns the distinct lines of text with their counts. Lines that differ only in parts that varying
// matches count as equal. tally omits nmap's headings and its lines that say that a host is up.
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
