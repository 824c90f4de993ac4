package verdict

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// dataPath are the directories in which frames get their verdicts.
var dataPath = []string{"switch", "conntrack", "firewall", "internal/packet"}

// A search for a verdict's name must find the one function that drops frames with it.
func TestEachDroppingVerdictIsMadeInOneFunction(t *testing.T) {
	made := map[string]map[string]bool{}
	for _, dir := range dataPath {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, _ os.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			source, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return makers(path, string(source), made)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range droppingNames(t) {
		if functions := slices.Sorted(maps.Keys(made[name])); len(functions) != 1 {
			t.Errorf("verdict %s is made in %d functions, want one: %q", name, len(functions), functions)
		}
	}
}

func TestMakersFindsVerdictsThatAreMade(t *testing.T) {
	made := map[string]map[string]bool{}
	err := makers("x.go", `package x
		func first() { return verdict.Runt }
		func second(v verdict.Verdict) {
			if v == verdict.Runt || counters[verdict.Runt] > 0 { return }
			switch v { case verdict.Runt: }
		}
		func (t *T) third() { count(verdict.Runt) }`, made)
	if got := slices.Sorted(maps.Keys(made["Runt"])); err != nil || !slices.Equal(got, []string{"x.go first", "x.go third"}) {
		t.Errorf("Runt is made in %q, %v; want first and third", got, err)
	}
}

// makers adds to made the functions of a file that make a verdict: that use its constant
// elsewhere than in a comparison, a case or an index.
func makers(path, source string, made map[string]map[string]bool) error {
	file, err := parser.ParseFile(token.NewFileSet(), path, source, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	for _, decl := range file.Decls {
		function, ok := decl.(*ast.FuncDecl)
		if !ok {
			continue
		}
		compared := map[ast.Expr]bool{}
		ast.Inspect(function, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.BinaryExpr:
				compared[n.X], compared[n.Y] = true, true
			case *ast.CaseClause:
				for _, e := range n.List {
					compared[e] = true
				}
			case *ast.IndexExpr:
				compared[n.Index] = true
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "verdict" && !compared[n] {
					if made[n.Sel.Name] == nil {
						made[n.Sel.Name] = map[string]bool{}
					}
					made[n.Sel.Name][strings.TrimPrefix(path, root+"/")+" "+function.Name.Name] = true
				}
			}
			return true
		})
	}
	return nil
}

// droppingNames are the names of the constants of dropping verdicts, apart from Unset.
func droppingNames(t *testing.T) (names []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "verdict.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	for _, decl := range file.Decls {
		if constants, ok := decl.(*ast.GenDecl); ok && constants.Tok == token.CONST {
			for _, spec := range constants.Specs {
				for _, name := range spec.(*ast.ValueSpec).Names {
					names = append(names, name.Name)
				}
			}
		}
	}
	if len(names) != int(Count)+1 {
		t.Fatalf("%d constants, want one for each of %d verdicts, and Count", len(names), Count)
	}
	return slices.DeleteFunc(names, func(name string) bool {
		return name == "Count" || name == "Unset" || name == "Forward" || name == "Answered"
	})
}
