package labtest

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"palisade/internal/controlclient"
	"palisade/internal/lab"
)

// The bounds of a report. With the messages of the failed test, the output stays under 100 lines.
const (
	maxReport  = 75  // lines
	maxLog     = 20  // lines of the log of each node
	maxColumns = 200 // bytes of a line
)

// ReportFailure makes t print the state of the lab when it ends, if t has failed. Several tests may use the
// lab, but only the first that fails prints its state.
func (l *Lab) ReportFailure(t testing.TB) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() && l.reported.CompareAndSwap(false, true) {
			t.Logf("the lab when the test failed:\n%s", l.report())
		}
	})
}

// NoteCommand keeps the first packet of a command that runs in the namespace of who, for the report to trace.
// The method On calls NoteCommand.
func (l *Lab) NoteCommand(who string, argv ...string) {
	if p, ok := packetOf(who, argv); ok {
		l.packet.Store(&p)
	}
}

// NotePacket keeps a packet for the report to trace: from an instance, laptop or stranger to an IPv4
// address. what is tcp/22, udp/53 or icmp, as for `palisade trace`.
func (l *Lab) NotePacket(from, to, what string) { l.packet.Store(&packet{from, to, what}) }

// NoteFailure changes the kept packet to the port in the message of a failure, such as "no match for
// 22/tcp open".
func (l *Lab) NoteFailure(text string) {
	if p := l.packet.Load(); p != nil {
		named := p.expecting(text)
		l.packet.Store(&named)
	}
}

// A section is a part of a report.
type section struct {
	title string
	lines []string
	last  bool // a section that is too long keeps its last lines, not its first
	most  int
}

// report returns what an operator would ask for: the trace of the kept packet, the drops at each port with
// their reasons, the flows of both ends, the rules in force, the present interfaces, and the nodes' logs.
func (l *Lab) report() string {
	var all []section
	add := func(title string, lines []string) { all = append(all, section{title: title, lines: lines}) }
	p := l.packet.Load()
	if p != nil {
		add("packet: palisade trace", l.ask("trace", "--from", p.from, "--to", p.to, p.what))
	}
	add("drops: palisade drops", l.ask("drops"))
	add("flows: palisade flows", flowsOf(p, l.ask("flows")))
	made, err := lab.Open(l.Name)
	if err != nil {
		add("error when opening the lab", []string{err.Error()})
		return layOut(all, maxReport)
	}
	add("rules in force", inForce(askNodes[groupRules](made, "/v1/rules")))
	add("presence", presence(askNodes[interfacePresence](made, "/v1/presence")))
	for _, name := range made.Nodes {
		all = append(all, section{title: "log of " + name, lines: logOf(l.Name, name), last: true})
	}
	return layOut(all, maxReport)
}

// ask runs a command of the binary that only reads, and returns the lines of its output and its error.
func (l *Lab) ask(command string, args ...string) []string {
	out, err := l.run(append([]string{command, "--name", l.Name}, args...)...)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if err != nil && !strings.Contains(out, "\n=> dropped") { // a trace of a packet that would be dropped
		lines = append(lines, err.Error())
	}
	return lines
}

// flowsOf returns the heading and those flows that have an end in common with p. If there are none, it
// returns all flows.
func flowsOf(p *packet, flows []string) []string {
	if p == nil || len(flows) == 0 {
		return flows
	}
	kept := flows[:1:1] // the heading
	for _, line := range flows[1:] {
		if strings.Contains(line, p.from) || strings.Contains(line, p.to) {
			kept = append(kept, line)
		}
	}
	if len(kept) == 1 {
		return flows
	}
	return kept
}

// An answer is the list that a node answered, or the error of the request.
type answer[T any] struct {
	node string
	list []T
	err  error
}

// askNodes gets path from the control socket of each node and returns the answers.
func askNodes[T any](l *lab.Lab, path string) []answer[T] {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var all []answer[T]
	for _, name := range l.Nodes {
		a := answer[T]{node: name}
		a.err = controlclient.Get(ctx, l.Control(name), path, &a.list)
		all = append(all, a)
	}
	return all
}

// merge returns each text once, with the nodes that gave it, in the order in which the texts first appear.
func merge[T any](answers []answer[T], text func(T) string) []string {
	nodes := map[string][]string{}
	var order []string
	for _, a := range answers {
		texts := []string{}
		for _, item := range a.list {
			texts = append(texts, text(item))
		}
		if a.err != nil {
			texts = []string{a.err.Error()}
		}
		for _, text := range texts {
			if nodes[text] == nil {
				order = append(order, text)
			}
			nodes[text] = append(nodes[text], a.node)
		}
	}
	var lines []string
	for _, text := range order {
		first, more, _ := strings.Cut(text, "\n")
		lines = append(lines, first+"  ("+strings.Join(nodes[text], ", ")+")")
		if more != "" {
			lines = append(lines, strings.Split(more, "\n")...)
		}
	}
	return lines
}

// A groupRules is a group in GET /v1/rules of a node's control socket.
type groupRules struct {
	Enforced   uint64   `json:"enforced"`
	Group      string   `json:"group"`
	Name       string   `json:"name"`
	Account    string   `json:"account"`
	Interfaces []string `json:"interfaces"`
	Rules      []string `json:"rules"`
}

func inForce(answers []answer[groupRules]) []string {
	return merge(answers, func(g groupRules) string {
		text := fmt.Sprintf("%s %q of %s, members %v, at index %d", g.Group, g.Name, g.Account, g.Interfaces, g.Enforced)
		for _, r := range g.Rules {
			text += "\n  " + r
		}
		return text
	})
}

// An interfacePresence is an entry in GET /v1/presence of a node's control socket: an interface and where
// it is.
type interfacePresence struct {
	Interface string `json:"interface"`
	Instance  string `json:"instance"`
	At        string `json:"at"`
	Private   string `json:"private_address"`
	Public    string `json:"public_address"`
	Up        bool   `json:"up"`
}

func presence(answers []answer[interfacePresence]) []string {
	return merge(answers, func(p interfacePresence) string {
		state := "down"
		if p.Up {
			state = "up"
		}
		words := []string{p.Instance, p.Interface, state, "at", p.At, p.Private, p.Public}
		return strings.Join(slices.DeleteFunc(words, func(w string) bool { return w == "" }), " ")
	})
}

// logOf returns the last lines of the log of a node's daemon.
func logOf(lab, node string) []string {
	data, err := os.ReadFile("/var/lib/palisade/labs/" + lab + "/" + node + ".log")
	if err != nil {
		return []string{err.Error()}
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return lines[max(0, len(lines)-maxLog):]
}

// layOut returns the text of sections, in at most most lines. It cuts the longest sections first, all to the
// same length.
func layOut(sections []section, most int) string {
	lengths := map[int]int{} // number of lines of each section, without its title, by index
	total := 0
	for i := range sections {
		sections[i].most = len(sections[i].lines)
		lengths[i] = sections[i].most
		total += 1 + sections[i].most
	}
	for ; total > most; total-- {
		longest := slices.MaxFunc(slices.Sorted(maps.Keys(lengths)), func(a, b int) int { return lengths[a] - lengths[b] })
		if lengths[longest] <= 1 {
			break
		}
		lengths[longest]--
		sections[longest].most--
	}
	var b strings.Builder
	for _, s := range sections {
		fmt.Fprintf(&b, "%s:\n", s.title)
		for _, line := range s.cut() {
			if len(line) > maxColumns {
				line = strings.ToValidUTF8(line[:maxColumns], "") + "…"
			}
			fmt.Fprintf(&b, "  %s\n", line)
		}
	}
	return b.String()
}

// cut returns at most s.most lines. If it leaves some out, one line says how many.
func (s section) cut() []string {
	left := len(s.lines) - s.most
	if left <= 0 {
		return s.lines
	}
	note := fmt.Sprintf("… %d more lines", left+1)
	if s.last {
		return append([]string{note}, s.lines[left+1:]...)
	}
	return append(slices.Clone(s.lines[:s.most-1]), note)
}
