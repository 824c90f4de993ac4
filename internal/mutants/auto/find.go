package main

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"strings"
)

// find finds the mutants in the functions of a file.
func (s *source) find(f *file) {
	for _, decl := range f.tree.Decls {
		if d, ok := decl.(*ast.FuncDecl); ok && d.Body != nil && !isText(d) {
			w := &walker{source: s, file: f, function: functionName(d)}
			w.results = d.Type.Results
			w.statements(d.Body)
		}
	}
}

// isText reports whether a function only describes its receiver to people. What people read is not
// mutated.
func isText(d *ast.FuncDecl) bool {
	switch name := d.Name.Name; {
	case name == "String", name == "GoString", name == "Error", name == "LogValue", strings.HasPrefix(name, "Describe"), strings.HasPrefix(name, "describe"):
		return true
	}
	return false
}

// A walker finds the mutants of one function.
type walker struct {
	*source
	file     *file
	function string
	results  *ast.FieldList // of the innermost function
}

// add adds a mutant that replaces the text of a node by the text new.
func (w *walker) add(kind string, n ast.Node, to string, render func(id int, inner inner) string) *edit {
	return w.addRange(kind, n.Pos(), n.End(), w.text(n), to, render)
}

func (w *walker) addRange(kind string, pos, end token.Pos, old, to string, render func(id int, inner inner) string) *edit {
	m := &mutant{id: len(w.mutants) + 1, kind: kind, file: w.file, function: w.function, position: w.set.Position(pos), old: old, new: to}
	e := &edit{mutant: m, from: w.offset(pos), to: w.offset(end), render: render}
	w.mutants = append(w.mutants, m)
	w.file.edits = append(w.file.edits, e)
	return e
}

func (w *walker) offset(p token.Pos) int { return w.set.Position(p).Offset }

func (w *walker) text(n ast.Node) string {
	return string(w.file.text[w.offset(n.Pos()):w.offset(n.End())])
}

// either is the mutant of a condition: the text to instead of it.
func (w *walker) either(kind string, n ast.Expr, to string) {
	from, end := w.offset(n.Pos()), w.offset(n.End())
	w.add(kind, n, to, func(id int, inner inner) string {
		return fmt.Sprintf("(mutantOn(%d) && (%s) || !mutantOn(%d) && (%s))", id, to, id, inner(from, end))
	})
}

// without is the mutant that leaves out a statement.
func (w *walker) without(n ast.Stmt) {
	from, end := w.offset(n.Pos()), w.offset(n.End())
	w.add("remove", n, "", func(id int, inner inner) string {
		return fmt.Sprintf("if !mutantOn(%d) { %s }", id, inner(from, end))
	}).statement = true
}

// instead is the mutant that executes another statement.
func (w *walker) instead(kind string, n ast.Stmt, to string) {
	from, end := w.offset(n.Pos()), w.offset(n.End())
	w.add(kind, n, to, func(id int, inner inner) string {
		return fmt.Sprintf("if mutantOn(%d) { %s }; %s", id, to, inner(from, end))
	}).statement = true
}

// statements finds the mutants in a node and in all nodes below it.
func (w *walker) statements(n ast.Node) {
	ast.Inspect(n, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			results := w.results
			w.results = n.Type.Results
			w.statements(n.Body)
			w.results = results
			return false
		case *ast.BlockStmt:
			w.list(n.List)
		case *ast.CaseClause:
			w.list(n.Body)
			w.clause(n)
		case *ast.CommClause:
			w.list(n.Body)
		case *ast.IfStmt:
			switch n.Cond.(type) {
			case *ast.Ident, *ast.SelectorExpr, *ast.IndexExpr:
				w.either("negate", n.Cond, "!"+w.text(n.Cond))
			}
		case *ast.ExprStmt:
			w.called(n.X)
			return false
		case *ast.DeferStmt:
			w.called(n.Call)
			return false
		case *ast.GoStmt:
			w.called(n.Call)
			return false
		case *ast.KeyValueExpr:
			if w.info.Types[n.Key].Value == nil { // a constant key of an array must stay one
				w.statements(n.Key)
			}
			w.statements(n.Value)
			return false
		case *ast.GenDecl:
			return n.Tok != token.CONST && n.Tok != token.TYPE
		case *ast.ArrayType:
			return false
		case *ast.ReturnStmt:
			for _, x := range n.Results {
				if _, literal := x.(*ast.BasicLit); !literal || !fails(n) {
					w.statements(x)
				}
			}
			return false
		case ast.Expr:
			return w.expression(n)
		}
		return true
	})
}

// called finds the mutants in a call that is a statement. The result of the call is not one.
func (w *walker) called(x ast.Expr) {
	call, ok := x.(*ast.CallExpr)
	if !ok {
		w.statements(x)
		return
	}
	if w.unwatched(call) {
		return
	}
	w.statements(call.Fun)
	for _, argument := range call.Args {
		w.statements(argument)
	}
}

// unwatched reports whether a call has an effect that tests of behaviour cannot or need not see: log
// lines, prefetches, points of failure, panics, and locks, which the race detector watches.
func (w *walker) unwatched(x ast.Expr) bool {
	call, ok := x.(*ast.CallExpr)
	if !ok {
		return false
	}
	switch fn := call.Fun.(type) {
	case *ast.Ident:
		return fn.Name == "panic"
	case *ast.SelectorExpr:
		switch fn.Sel.Name {
		case "Lock", "Unlock", "RLock", "RUnlock", "Debug", "Info", "Warn", "Error", "Printf", "Println":
			return true
		}
		if of, ok := fn.X.(*ast.Ident); ok {
			return of.Name == "failpoint" || of.Name == "prefetch" || of.Name == "runtime"
		}
	}
	return false
}

// list finds the mutants of the statements of a block.
func (w *walker) list(all []ast.Stmt) {
	for _, n := range all {
		switch n := n.(type) {
		case *ast.ExprStmt:
			if !w.unwatched(n.X) {
				w.without(n)
			}
		case *ast.DeferStmt:
			if !w.unwatched(n.Call) {
				w.without(n)
			}
		case *ast.AssignStmt:
			if blank, ok := n.Lhs[0].(*ast.Ident); n.Tok != token.DEFINE && (!ok || blank.Name != "_") {
				w.without(n)
			}
		case *ast.IncDecStmt, *ast.SendStmt:
			w.without(n)
		case *ast.BranchStmt:
			w.branch(n)
		case *ast.ReturnStmt:
			w.returned(n)
		}
	}
}

func (w *walker) branch(n *ast.BranchStmt) {
	label := ""
	if n.Label != nil {
		label = " " + n.Label.Name
	}
	switch n.Tok {
	case token.BREAK:
		w.instead("loop", n, "continue"+label)
	case token.CONTINUE:
		w.instead("loop", n, "break"+label)
	}
}

// returned finds the mutants of a return: an error is nil, and other results are zero.
func (w *walker) returned(n *ast.ReturnStmt) {
	if len(n.Results) == 0 {
		return
	}
	var zero []string
	for _, field := range w.results.List {
		for range max(1, len(field.Names)) {
			t := w.text(field.Type)
			if t == "error" {
				zero = append(zero, "nil")
			} else {
				zero = append(zero, "*new("+t+")")
			}
		}
	}
	if len(zero) != len(n.Results) {
		w.instead("return", n, "return "+strings.Join(zero, ", "))
		return
	}
	for i, x := range n.Results {
		v := w.info.Types[x]
		switch basic, _ := v.Type.Underlying().(*types.Basic); {
		case v.IsNil(), isZero(x), v.Value != nil && v.Value.String() == "0":
			continue
		case basic != nil && basic.Kind() == types.Bool, basic != nil && basic.Kind() == types.UntypedBool:
			switch x.(type) {
			case *ast.Ident, *ast.SelectorExpr, *ast.IndexExpr: // others have mutants of their own
				w.either("return", x, "!"+w.text(x))
			}
			continue
		}
		if len(n.Results) > 1 && zero[i] != "nil" {
			continue // the caller looks at the error or the bool first
		}
		w.instead("return", n, "return "+strings.Join(w.replaced(n.Results, i, zero[i]), ", "))
	}
}

// fails reports whether a return says false, or an error: the caller does not look at its other results.
func fails(n *ast.ReturnStmt) bool {
	last := n.Results[len(n.Results)-1]
	ident, ok := last.(*ast.Ident)
	return len(n.Results) > 1 && (!ok || ident.Name != "true" && ident.Name != "nil")
}

// isZero reports whether an expression is an empty composite literal.
func isZero(x ast.Expr) bool {
	literal, ok := x.(*ast.CompositeLit)
	return ok && len(literal.Elts) == 0
}

func (w *walker) replaced(all []ast.Expr, i int, to string) []string {
	texts := make([]string, len(all))
	for j, x := range all {
		texts[j] = w.text(x)
	}
	texts[i] = to
	return texts
}

// clause finds the mutants of a case: it never matches.
func (w *walker) clause(n *ast.CaseClause) {
	if len(n.Body) == 0 {
		return
	}
	first, last := n.Body[0].Pos(), n.Body[len(n.Body)-1].End()
	from, end := w.offset(first), w.offset(last)
	head := strings.TrimSpace(string(w.file.text[w.offset(n.Pos()) : w.offset(n.Colon)+1]))
	w.addRange("case", first, last, head+" "+w.text(n.Body[0]), head, func(id int, inner inner) string {
		return fmt.Sprintf("if !mutantOn(%d) { %s\n}", id, inner(from, end))
	}).statement = true
}

// functionName returns the name of a declared function as F, T.M or (*T).M.
func functionName(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return d.Name.Name
	}
	star, t := "", d.Recv.List[0].Type
	if pointer, ok := t.(*ast.StarExpr); ok {
		star, t = "*", pointer.X
	}
	if index, ok := t.(*ast.IndexExpr); ok {
		t = index.X
	}
	if ident, ok := t.(*ast.Ident); ok {
		return fmt.Sprintf("(%s%s).%s", star, ident.Name, d.Name.Name)
	}
	return d.Name.Name
}
