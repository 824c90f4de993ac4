package deps

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"palisade/internal/verdict"
)

// Each dropping verdict is returned by one function only, so a search for its name finds the
// code that drops the frame.
func TestEachDropIsMadeInOneFunction(t *testing.T) {
	made := map[string][]string{}
	for _, dir := range []string{"../../switch", "../../conntrack", "../../nat", "../../internal/packet"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			for _, decl := range file.Decls {
				if fn, ok := decl.(*ast.FuncDecl); ok && fn.Body != nil {
					collect(fn, filepath.ToSlash(path), made)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(made["NoRule"]) != 1 {
		t.Fatalf("NoRule is made in the functions %q, want exactly one: the search does not work", made["NoRule"])
	}
	for name, where := range made {
		if name != "Forward" && name != "Answered" && name != "Unset" && len(where) > 1 {
			t.Errorf("verdict %s is made in %d functions, want 1: %s", name, len(where), strings.Join(where, ", "))
		}
	}
	if unused := int(verdict.Count) - len(made); unused > 0 {
		t.Errorf("%d of %d verdicts are made by no function, want 0", unused, verdict.Count)
	}
}

// collect adds fn to made, under each verdict that the body of fn names.
func collect(fn *ast.FuncDecl, path string, made map[string][]string) {
	where := path + " " + fn.Name.Name
	ast.Inspect(fn.Body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BinaryExpr:
			return false // a comparison does not make a verdict
		case *ast.SelectorExpr:
			if pkg, ok := n.X.(*ast.Ident); ok && pkg.Name == "verdict" && n.Sel.Name != "Verdict" && n.Sel.Name != "Lost" && n.Sel.Name != "Count" {
				if !slices.Contains(made[n.Sel.Name], where) {
					made[n.Sel.Name] = append(made[n.Sel.Name], where)
				}
			}
		}
		return true
	})
}
