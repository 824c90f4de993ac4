// Package pointtest finds the functions that a frame passes through, in the source.
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

// dataPath are the packages of the data path, below the module's root.
var dataPath = []string{"switch", "switch/responder", "switch/overlay", "conntrack", "firewall", "internal/packet"}

// roots are where a frame's way begins, and what is called by way of a variable.
var roots = []string{"drain", "emitSegment", "emitFragment", "emitPlain"}

// small is how many statements a function may have without a point: what has fewer computes
// or compares, and a panic in it is one in its caller.
const small = 3

// exempt are functions without a point, and why: by their name, or by the beginning of their
// full name. Calls are followed by name alone, so functions that no frame passes through are
// found too.
var exempt = map[string]string{
	"Open":         "files and tables are opened before frames come; what opens a seal is openPacket",
	"Close":        "it ends a device",
	"close":        "it ends a device",
	"abandon":      "it ends a port",
	"init":         "it makes a table",
	"change":       "it is of ports that come and go",
	"remove":       "it is of ports that come and go",
	"Peek":         "it is of a trace, which no poller runs",
	"frameDone":    "the frame has met its fate",
	"lostInDevice": "the switch never had the frame",
	"charge":       "it counts what went wrong, or how long it took",
	"report":       "it tells what went wrong",
	"recordWrite":  "it counts how long a write took",
	"sum16":        "it computes",
	"hashFlow":     "it computes",
	"wayOf":        "it compares",
	"addrPort":     "it reads what the kernel wrote",
	"segmentSize":  "it reads what the kernel wrote",

	"palisade/firewall.(*Compiler)":      "rules are compiled before they are in force",
	"palisade/firewall.(*compilation)":   "rules are compiled before they are in force",
	"palisade/firewall.(*activeSet)":     "rules are compiled before they are in force",
	"palisade/firewall.Compile":          "rules are compiled before they are in force",
	"palisade/firewall.newSelectorIndex": "rules are compiled before they are in force",
	"palisade/switch.(*Switch).add":      "it is of ports that come and go",
	"palisade/switch.(*poller).add":      "it is of ports that come and go",
}

// isExempt reports whether a function needs no point.
func isExempt(f *function) bool {
	for name := range exempt {
		if name == f.decl.Name.Name || strings.Contains(name, "/") && strings.HasPrefix(f.name, name) {
			return true
		}
	}
	return false
}

// A function of the data path.
type function struct {
	name   string // "palisade/switch.(*frame).write"
	points bool   // it calls failpoint.Reach
	decl   *ast.FuncDecl
}

// Functions are the full names of the functions of the data path that have a point, as the
// runtime names them. root is the module's folder.
func Functions(t testing.TB, root string) (names []string) {
	t.Helper()
	for _, f := range parse(t, root) {
		if f.points {
			names = append(names, f.name)
		}
	}
	slices.Sort(names)
	return names
}

// Missing are those that a frame passes through and that have none.
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

// called is the name of the function or method that a node calls; "" if it calls none.
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

// fullName is how the runtime names a function.
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

// hasPoint reports whether a function reaches a point itself, as one of its statements.
func hasPoint(d *ast.FuncDecl) bool {
	return slices.ContainsFunc(d.Body.List, func(s ast.Stmt) bool {
		e, ok := s.(*ast.ExprStmt)
		return ok && called(e.X) == "Reach"
	})
}
