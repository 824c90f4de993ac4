package main

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
)

// opposite and neighbour have what a comparison becomes.
var (
	opposite = map[token.Token]token.Token{
		token.EQL: token.NEQ, token.NEQ: token.EQL,
		token.LSS: token.GEQ, token.GEQ: token.LSS, token.GTR: token.LEQ, token.LEQ: token.GTR,
	}
	neighbour = map[token.Token]token.Token{
		token.LSS: token.LEQ, token.LEQ: token.LSS, token.GTR: token.GEQ, token.GEQ: token.GTR,
	}
	arithmetic = map[token.Token][2]string{
		token.ADD: {"mutantAdd", "-"}, token.SUB: {"mutantSub", "+"}, token.MUL: {"mutantMul", "/"}, token.QUO: {"mutantQuo", "*"},
		token.REM: {"mutantRem", "*"}, token.AND: {"mutantAnd", "|"}, token.OR: {"mutantOr", "&"}, token.XOR: {"mutantXor", "&"},
	}
)

// expression finds the mutants of an expression. It returns whether its parts may have more.
func (w *walker) expression(x ast.Expr) bool {
	v := w.info.Types[x]
	if v.IsType() {
		return false
	}
	if v.Value != nil {
		w.constant(x, v.Type)
		return false
	}
	switch x := x.(type) {
	case *ast.BinaryExpr:
		w.binary(x)
	case *ast.UnaryExpr:
		if _, call := x.X.(*ast.CallExpr); x.Op == token.NOT && !call { // of a call the result is negated
			w.either("negate", x, w.text(x.X))
		}
	case *ast.CallExpr:
		if b, ok := v.Type.(*types.Basic); ok && b.Kind() == types.Bool && !w.info.Types[x.Fun].IsType() {
			w.either("negate", x, "!"+w.text(x))
		}
		if fn, ok := x.Fun.(*ast.Ident); ok && fn.Name == "make" {
			return len(x.Args) < 3 // a capacity is a hint
		}
		return !w.unwatched(x)
	}
	return true
}

func (w *walker) binary(x *ast.BinaryExpr) {
	a, b := w.text(x.X), w.text(x.Y)
	if to, ok := neighbour[x.Op]; ok {
		w.either("boundary", x, fmt.Sprintf("%s %s %s", a, to, b))
	}
	if to, ok := opposite[x.Op]; ok {
		w.either("negate", x, fmt.Sprintf("%s %s %s", a, to, b))
	}
	if x.Op == token.LAND || x.Op == token.LOR {
		w.either("operand", x, a)
		w.either("operand", x, b)
	}
	to, ok := arithmetic[x.Op]
	if !ok || !isNumber(w.info.Types[x].Type) {
		return
	}
	from, operator, behind, end := w.offset(x.X.Pos()), w.offset(x.X.End()), w.offset(x.Y.Pos()), w.offset(x.Y.End())
	w.add("arithmetic", x, fmt.Sprintf("%s %s %s", a, to[1], b), func(id int, inner inner) string {
		return fmt.Sprintf("%s(%d, %s, %s)", to[0], id, inner(from, operator), inner(behind, end))
	})
}

// constant finds the mutant of a number: it is one more.
func (w *walker) constant(x ast.Expr, t types.Type) {
	literal, ok := x.(*ast.BasicLit)
	if !ok || literal.Kind != token.INT {
		return
	}
	basic, ok := t.(*types.Basic)
	if !ok || basic.Info()&types.IsUntyped != 0 || basic.Info()&types.IsInteger == 0 {
		return
	}
	w.add("constant", x, w.text(x)+"+1", func(id int, _ inner) string {
		return fmt.Sprintf("mutantPlusOne[%s](%d, %s)", basic.Name(), id, literal.Value)
	})
}

func isNumber(t types.Type) bool {
	basic, ok := t.Underlying().(*types.Basic)
	return ok && basic.Info()&types.IsNumeric != 0 && basic.Info()&types.IsUntyped == 0
}
