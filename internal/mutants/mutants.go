// Package mutants proves that the tests notice a missing check: it removes one check at a
// time from the code, and runs the test that must then fail.
//
// A file in testdata lists the mutants of one package. A Mutant names a declaration and the
// text of a check in it. It names no file and no line, so that code can move. Apply finds
// the text in the package's source and returns the file without the check. It returns an
// error unless the declaration has the text exactly once, so that mutants are updated with
// the code.
//
// The tests of this package check that every mutant can be applied and compiles. `make
// mutants` also runs the mutants' tests, which takes minutes.
package mutants

import (
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A Mutant is a small change that removes a check, and the test that must fail with this
// change.
type Mutant struct {
	Name    string // FILE/NAME; FILE is the file of testdata that lists it
	Package string // directory of the check, below the module's root
	In      string // the declaration: F, (*T).M, (T).M, or the name of a const, var or type
	Old     string // the text that is replaced, without indentation
	New     string // the text that replaces Old
	Why     string // what could happen without the check
	Tests   string // directory of the test's package
	Test    string // TestName, or TestName/sub for one subtest
}

// Read returns the mutants in a file of testdata. The file begins with
//
//	package: DIRECTORY
//
// and each mutant is a paragraph; lines that begin with # are comments:
//
//	mutant: NAME
//	why: one sentence
//	in: (*Type).Method
//	- text that is replaced
//	+ text that replaces it
//	test: [DIRECTORY] TestName[/sub]
func Read(path string) ([]*Mutant, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	file := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	var directory string
	var all []*Mutant
	for i, line := range strings.Split(string(text), "\n") {
		bad := func(what string) error { return fmt.Errorf("%s:%d: %s: %q", path, i+1, what, line) }
		key, value, _ := strings.Cut(line, " ")
		if key == "" || strings.HasPrefix(key, "#") {
			continue
		}
		if key == "package:" && all == nil {
			directory = value
			continue
		}
		if key == "mutant:" && directory != "" {
			all = append(all, &Mutant{Name: file + "/" + value, Package: directory, Tests: directory})
			continue
		}
		if all == nil {
			return nil, bad(`want "package: DIRECTORY" first, then "mutant: NAME"`)
		}
		m := all[len(all)-1]
		switch key {
		case "why:":
			m.Why = value
		case "in:":
			m.In = value
		case "-":
			m.Old = joined(m.Old, value)
		case "+":
			m.New = joined(m.New, value)
		case "test:":
			m.Test = value
			if tests, name, ok := strings.Cut(value, " "); ok {
				m.Tests, m.Test = tests, name
			}
		default:
			return nil, bad("want mutant:, why:, in:, -, + or test:")
		}
	}
	for _, m := range all {
		if m.Why == "" || m.In == "" || m.Old == "" || m.Test == "" {
			return nil, fmt.Errorf("%s: mutant %s needs a why, an in, a - and a test", path, m.Name)
		}
	}
	return all, nil
}

func joined(text, line string) string {
	if text == "" {
		return line
	}
	return text + "\n" + line
}

// ReadAll returns the mutants in all files *.txt of a directory.
func ReadAll(dir string) ([]*Mutant, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil {
		return nil, err
	}
	var all []*Mutant
	known := map[string]bool{}
	for _, path := range paths {
		mutants, err := Read(path)
		if err != nil {
			return nil, err
		}
		all = append(all, mutants...)
		for _, m := range mutants {
			if known[m.Name] {
				return nil, fmt.Errorf("%s: there are two mutants %s", path, m.Name)
			}
			known[m.Name] = true
		}
	}
	return all, nil
}

// Apply applies the mutant to the source below the module's root. It returns the path of the
// file and its mutated text, and changes no file.
func (m *Mutant) Apply(root string) (path string, mutated []byte, err error) {
	pkg, err := buildPackage(filepath.Join(root, m.Package))
	if err != nil {
		return "", nil, fmt.Errorf("mutant %s: %w", m.Name, err)
	}
	found := 0
	for _, name := range pkg.GoFiles {
		file := filepath.Join(pkg.Dir, name)
		source, err := os.ReadFile(file)
		if err != nil {
			return "", nil, err
		}
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, file, source, parser.SkipObjectResolution)
		if err != nil {
			return "", nil, err
		}
		for _, node := range declared(parsed, m.In) {
			found++
			from, to := set.Position(node.Pos()).Offset, set.Position(node.End()).Offset
			text := unindented(string(source[from:to]))
			if n := strings.Count(text, m.Old); n != 1 {
				return "", nil, fmt.Errorf("mutant %s: %s in %s has this text %d times, must have it once:\n%s", m.Name, m.In, file, n, m.Old)
			}
			text = strings.Replace(text, m.Old, m.New, 1)
			path, mutated = file, slices.Concat(source[:from], []byte(text), source[to:])
		}
	}
	switch {
	case found != 1:
		return "", nil, fmt.Errorf("mutant %s: %s declares %s %d times, must declare it once", m.Name, m.Package, m.In, found)
	case m.Old == m.New:
		return "", nil, fmt.Errorf("mutant %s changes nothing", m.Name)
	}
	return path, mutated, nil
}

// buildPackage returns the package in dir, with the files that are built on this system.
func buildPackage(dir string) (*build.Package, error) { return build.ImportDir(dir, 0) }

// unindented returns text without the tabs at the beginning of its lines.
func unindented(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = strings.TrimLeft(lines[i], "\t")
	}
	return strings.Join(lines, "\n")
}

// declared returns the declarations in file that declare name, in the notation of Mutant.In.
func declared(file *ast.File, name string) (all []ast.Node) {
	for _, decl := range file.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if functionName(d) == name {
				all = append(all, d)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch s := spec.(type) {
				case *ast.TypeSpec:
					if s.Name.Name == name {
						all = append(all, s)
					}
				case *ast.ValueSpec:
					if slices.ContainsFunc(s.Names, func(i *ast.Ident) bool { return i.Name == name }) {
						all = append(all, s)
					}
				}
			}
		}
	}
	return all
}

// functionName returns the name of a declared function as F, (T).M or (*T).M.
func functionName(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return d.Name.Name
	}
	star, t := "", d.Recv.List[0].Type
	if pointer, ok := t.(*ast.StarExpr); ok {
		star, t = "*", pointer.X
	}
	if ident, ok := t.(*ast.Ident); ok {
		return fmt.Sprintf("(%s%s).%s", star, ident.Name, d.Name.Name)
	}
	return ""
}
