package node

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"palisade/internal/node/control"
)

// The bounds of a report, in lines. With its headings it stays under 100.
const (
	maxSection = 10
	maxLog     = 20
)

// A logBuffer keeps the last lines of a node's log.
type logBuffer struct {
	mu    sync.Mutex
	lines []string
}

func (b *logBuffer) Write(text []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines = append(b.lines, strings.TrimSpace(string(bytes.ToValidUTF8(text, nil))))
	b.lines = b.lines[max(0, len(b.lines)-maxLog):]
	return len(text), nil
}

func (b *logBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

func (b *logBuffer) last() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.lines)
}

// A sentPacket is what a failed check sent. from and to are addresses or ids; "" if they are unknown.
type sentPacket struct{ from, to, what string }

// ends counts how many of the packet's hosts a text names.
func (p sentPacket) ends(text string) (n int) {
	for _, host := range []string{p.from, p.to} {
		if host != "" && strings.Contains(text, host) {
			n++
		}
	}
	return n
}

// report asks a node what an operator would ask after a failure: why the packet was dropped, the
// verdicts by port, the connections, the rules in force, which interfaces are up, and the last lines
// of the log.
func (n testNode) report(t *testing.T, p sentPacket) string {
	t.Helper()
	var b strings.Builder
	section := func(title string, lines []string) {
		fmt.Fprintf(&b, "%s\n", title)
		for _, line := range lines[:min(len(lines), maxSection)] {
			fmt.Fprintf(&b, "  %.200s\n", line)
		}
		if more := len(lines) - maxSection; more > 0 {
			fmt.Fprintf(&b, "  and %d more\n", more)
		}
	}
	if p.from != "" {
		section(fmt.Sprintf("packet: %s from %s to %s", p.what, p.from, p.to), n.traceLines(t, p))
	}
	section("verdicts, by port", lines(t, n, "/v1/drops", func(d control.PortDrops) (all []string) {
		if d.QueueDrops > 0 {
			all = append(all, fmt.Sprintf("%s: %d queue-full", d.Port, d.QueueDrops))
		}
		for _, v := range d.Verdicts {
			if v.Drops {
				all = append(all, fmt.Sprintf("%s: %d %s, %s", d.Port, v.Packets, v.Verdict, v.Meaning))
			}
		}
		return all
	}))
	flows := lines(t, n, "/v1/flows", func(f control.FlowStatus) []string {
		return []string{fmt.Sprintf("%s %s %s %s %s:%d > %s:%d %s tracked=%t blocked=%t, rule %s of %q, packets %v", f.Instance, f.Interface,
			f.Direction, f.Protocol, f.Source, f.SourcePort, f.Destination, f.DestPort, f.State, f.Tracked, f.Blocked, f.Rule, f.Group, f.Packets)}
	})
	slices.SortStableFunc(flows, func(a, b string) int { return p.ends(b) - p.ends(a) })
	section("connections, those of the packet's hosts first", flows)
	section("rules in force", lines(t, n, "/v1/rules", func(g control.GroupRules) []string {
		return []string{fmt.Sprintf("%s %q, members %v, index %d: %s", g.Group, g.Name, g.Interfaces, g.Enforced, strings.Join(g.Rules, "; "))}
	}))
	section("presence", lines(t, n, "/v1/presence", func(p control.InterfacePresence) []string {
		return []string{fmt.Sprintf("%s of %q on %s, %s %s, up=%t", p.Interface, p.Instance, p.At, p.Private, p.Public, p.Up)}
	}))
	fmt.Fprintf(&b, "log\n  %s\n", strings.Join(n.log.last(), "\n  "))
	return b.String()
}

// traceLines traces a packet and returns the verdict and each step as lines of text.
func (n testNode) traceLines(t *testing.T, p sentPacket) []string {
	t.Helper()
	query := url.Values{"from": {p.from}, "to": {p.to}, "packet": {p.what}}
	trace, err := request[control.Trace](t, n, "GET", "/v1/trace?"+query.Encode(), nil)
	if err != nil {
		return []string{"trace: " + err.Error()}
	}
	all := []string{fmt.Sprintf("verdict %s at port %s: %s %s", trace.Verdict, trace.At, trace.Meaning, trace.Reason)}
	for _, s := range trace.Steps {
		all = append(all, fmt.Sprintf("%s of %s %s: connection %s; admitted=%t by %s %s", s.Direction, s.Interface, s.Flow, s.Connection, s.Admitted, s.Rule, s.RuleText))
		for _, refusal := range s.Refusals {
			all = append(all, "  not admitted by "+refusal)
		}
	}
	return all
}

// lines gets a list from the control socket and returns the lines that the function text makes of its
// items.
func lines[T any](t *testing.T, n testNode, path string, text func(T) []string) (all []string) {
	t.Helper()
	items, err := request[[]T](t, n, "GET", path, nil)
	if err != nil {
		return []string{err.Error()}
	}
	for _, item := range items {
		all = append(all, text(item)...)
	}
	return all
}
