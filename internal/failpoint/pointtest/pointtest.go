// Package pointtest finds the functions of the data path in the source, and says which of
// them call failpoint.Reach.
package pointtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// dataPath are the directories of the data path's packages, below the module's root.
var dataPath = []string{"switch", "switch/responder", "switch/overlay", "conntrack", "nat", "firewall", "internal/packet"}

// roots are the names of the functions where the data path begins, and of functions that
// are called through a variable, which the search cannot follow.
var roots = []string{"drain", "emitSegment", "emitFragment", "emitPlain"}

// small is the largest number of statements of a function that needs no failpoint. A panic
// in so small a function has the same effect as a panic in its caller.
const small = 3

// exempt maps functions that need no failpoint to the reason. A key is a name, or the
// beginning of a full name. The search follows calls by name alone, so it also finds
// functions outside the data path.
var exempt = map[string]string{
	"Open":            "opens files and tables; seals are opened by openPacket",
	"Close":           "closes a device",
	"close":           "closes a device",
	"abandon":         "closes a port",
	"init":            "allocates a table",
	"change":          "adds and removes ports",
	"remove":          "adds and removes ports",
	"Peek":            "part of a trace, which no poller runs",
	"frameDone":       "the frame already has its verdict",
	"lostInDevice":    "the switch did not receive the frame",
	"charge":          "counts faults and time",
	"report":          "logs faults",
	"recordWrite":     "counts the time of a write",
	"sum16":           "only computes",
	"hashFlow":        "only computes",
	"wayOf":           "only compares",
	"acks":            "only compares",
	"answersNotedSYN": "only compares",
	"fits":            "only compares",
	"resets":          "only compares",
	"segmentOf":       "only computes",
	"follow":          "only computes",
	"continues":       "only computes",
	"restart":         "only computes",
	"addrPort":        "only decodes data from the kernel",
	"segmentSize":     "only decodes data from the kernel",

	"palisade/conntrack.(*arena)":              "opens a file, outside the data path",
	"palisade/conntrack.openOld":               "opens a file, outside the data path",
	"palisade/conntrack.readHeader":            "opens a file, outside the data path",
	"palisade/conntrack.(*entry).begin":        "only computes",
	"palisade/switch/overlay.(*Overlay).Renew": "changes keys, outside the data path",

	"palisade/firewall.(*Compiler)":      "compiles rules, outside the data path",
	"palisade/firewall.(*compilation)":   "compiles rules, outside the data path",
	"palisade/firewall.(*activeSet)":     "compiles rules, outside the data path",
	"palisade/firewall.Compile":          "compiles rules, outside the data path",
	"palisade/firewall.newSelectorIndex": "compiles rules, outside the data path",
	"palisade/switch.(*Switch).add":      "adds and removes ports",
	"palisade/switch.(*poller).add":      "adds and removes ports",
}

// isExempt reports whether a function needs no failpoint.
func isExempt(f *function) bool {
	for name := range exempt {
		if name == f.decl.Name.Name || strings.Contains(name, "/") && strings.HasPrefix(f.name, name) {
			return true
		}
	}
	return false
}

// A function is a function of the data path.
type function struct {
	name   string // "palisade/switch.(*frame).write"
	points bool   // whether it calls failpoint.Reach
	decl   *ast.FuncDecl
}

// atGateways and inVPCs have the functions, without the prefix "palisade/", that only frames through a NAT gateway
// reach, or only frames of VPCs with routes, peers, network ACLs and prefix lists. Those of package nat are at
// gateways too.
var (
	atGateways = []string{
		"switch.(*frame).translate", "switch.(*frame).exit", "switch.(*frame).enter", "switch.(*frame).translateSource",
		"switch.(*frame).untranslate", "switch.(*frame).answerReset", "switch/responder.Reset", "internal/packet.Reset",
		"internal/packet.RewriteSourcePort", "internal/packet.RewriteDestinationPort", "internal/packet.rewritePort", "internal/packet.updatePort",
		"internal/packet.RewriteQuotedSourcePort", "internal/packet.RewriteQuotedDestinationPort", "internal/packet.rewriteQuotedPort",
	}
	inVPCs = []string{
		"switch.(*frame).routeVia", "switch.(*frame).routeToPeer", "switch.(*frame).exitToPeer", "switch.(*frame).isFromPeer", "switch.(*Port).countDenial",
		"firewall.(*ACL).Decide", "firewall.(*aclTable).decides", "firewall.(*Lists).find", "firewall.(*Table).matchLists",
	}
)

// A world is what a frame must meet to reach a function.
type world uint8

const (
	anywhere world = iota
	gateway
	vpc
)

func (f *function) world() world {
	name := strings.TrimPrefix(f.name, "palisade/")
	switch {
	case strings.HasPrefix(name, "nat.") || slices.Contains(atGateways, name):
		return gateway
	case slices.Contains(inVPCs, name):
		return vpc
	}
	return anywhere
}

// AtGateways returns the full names of the functions that have a failpoint and that only frames through a NAT gateway
// reach. root is the module's directory.
func AtGateways(t testing.TB, root string) []string { return functions(t, root, gateway) }

// InVPCs returns those that only frames of VPCs with routes, peers, network ACLs and prefix lists reach.
func InVPCs(t testing.TB, root string) []string { return functions(t, root, vpc) }

// Functions returns the full names of all other functions that have a failpoint, as the runtime writes them.
func Functions(t testing.TB, root string) []string { return functions(t, root, anywhere) }

func functions(t testing.TB, root string, of world) (names []string) {
	t.Helper()
	for _, f := range parse(t, root) {
		if f.points && f.world() == of {
			names = append(names, f.name)
		}
	}
	slices.Sort(names)
	return names
}

// Missing returns the full names of the functions of the data path that lack a failpoint.
func Missing(t testing.TB, root string) (names []string) {
	t.Helper()
	byName := map[string][]*function{}
	for _, f := range parse(t, root) {
		byName[f.decl.Name.Name] = append(byName[f.decl.Name.Name], f)
	}
	seen := map[*function]bool{}
	var visit func(name string)
	visit = func(name string) {
		for _, f := range byName[name] {
			if seen[f] || isExempt(f) {
				continue
			}
			seen[f] = true
			ast.Inspect(f.decl.Body, func(n ast.Node) bool {
				if name := called(n); name != "" && !strings.HasPrefix(name, "New") {
					visit(name)
				}
				return true
			})
		}
	}
	for _, name := range roots {
		visit(name)
	}
	for f := range maps.Keys(seen) {
		if !f.points && len(f.decl.Body.List) > small {
			names = append(names, f.name)
		}
	}
	slices.Sort(names)
	return names
}

// called returns the name of the function or method that a syntax node calls, or "".
func called(n ast.Node) string {
	call, ok := n.(*ast.CallExpr)
	if !ok {
		return ""
	}
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	}
	return ""
}

func parse(t testing.TB, root string) (all []*function) {
	t.Helper()
	for _, dir := range dataPath {
		files, err := filepath.Glob(filepath.Join(root, dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no source in %s: %v", dir, err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range parsed.Decls {
				if d, ok := d.(*ast.FuncDecl); ok && d.Body != nil {
					all = append(all, &function{name: fullName("palisade/"+dir, d), points: hasPoint(d), decl: d})
				}
			}
		}
	}
	return all
}

// fullName returns the runtime's name of a function.
func fullName(pkg string, d *ast.FuncDecl) string {
	if d.Recv == nil {
		return pkg + "." + d.Name.Name
	}
	of := d.Recv.List[0].Type
	if star, ok := of.(*ast.StarExpr); ok {
		return pkg + ".(*" + star.X.(*ast.Ident).Name + ")." + d.Name.Name
	}
	return pkg + "." + of.(*ast.Ident).Name + "." + d.Name.Name
}

// hasPoint reports whether a statement of the function calls failpoint.Reach.
func hasPoint(d *ast.FuncDecl) bool {
	return slices.ContainsFunc(d.Body.List, func(s ast.Stmt) bool {
		e, ok := s.(*ast.ExprStmt)
		return ok && called(e.X) == "Reach"
	})
}
