package main

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// A source is one package, with all mutants in it.
type source struct {
	dir   string // below the module's root
	name  string
	set   *token.FileSet
	files []*file

	info    *types.Info
	pkg     *types.Package
	mutants []*mutant

	config types.Config
}

type file struct {
	path  string // absolute
	text  []byte
	tree  *ast.File
	edits []*edit
}

// A mutant is one change of the source. Its id is its number in the source, from 1.
type mutant struct {
	id       int
	kind     string
	file     *file
	function string
	position token.Position
	old, new string
}

// An edit replaces the text from one offset to another in a file by the result of render, which
// behaves as the original text does unless the mutant is on.
type edit struct {
	mutant    *mutant
	from, to  int
	statement bool
	render    func(id int, inner inner) string
}

// inner returns the text between two offsets with the mutants within it.
type inner func(from, to int) string

// load parses and type-checks the package in a directory below root.
func load(root, dir string) (*source, error) {
	s := &source{dir: dir, set: token.NewFileSet()}
	list := exec.Command("go", "list", "-export", "-deps", "-f", "{{.Dir}}\t{{.ImportPath}}\t{{.Export}}\t{{join .GoFiles \" \"}}", "./"+dir, "os", "strconv", "syscall")
	list.Dir, list.Stderr = root, os.Stderr
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("go list %s: %w", dir, err)
	}
	abs, err := filepath.Abs(filepath.Join(root, dir))
	if err != nil {
		return nil, err
	}
	exports := map[string]string{}
	var path string
	var names []string
	for line := range strings.Lines(string(out)) {
		fields := strings.Split(strings.TrimSpace(line), "\t")
		if fields[0] == abs {
			path, names = fields[1], strings.Fields(fields[3])
		} else if len(fields) > 2 {
			exports[fields[1]] = fields[2]
		}
	}
	for _, name := range names {
		f := &file{path: filepath.Join(abs, name)}
		if f.text, err = os.ReadFile(f.path); err != nil {
			return nil, err
		}
		if f.tree, err = parser.ParseFile(s.set, f.path, f.text, parser.ParseComments|parser.SkipObjectResolution); err != nil {
			return nil, err
		}
		s.name = f.tree.Name.Name
		s.files = append(s.files, f)
	}
	s.config = types.Config{Sizes: types.SizesFor("gc", runtime.GOARCH)}
	s.config.Importer = importer.ForCompiler(s.set, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	s.info = &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Uses: map[*ast.Ident]types.Object{}}
	trees := make([]*ast.File, len(s.files))
	for i, f := range s.files {
		trees[i] = f.tree
	}
	if s.pkg, err = s.config.Check(path, s.set, trees, s.info); err != nil {
		return nil, err
	}
	for _, f := range s.files {
		s.find(f)
	}
	return s, s.dropInvalid()
}

// helpers is a file that is added to the mutated package. MUTANT names the mutant that is
// on. MUTANT_REACHED names a file of one byte for each mutant, in which the byte of each
// mutant that was reached is set. The file is mapped, so that it is also right when the
// process is killed.
const helpers = `package %s

import (
	"os"
	"strconv"
	"syscall"
)

var (
	mutantOfRun   = mutantFromEnvironment()
	mutantReached = mutantMap(%d)
)

func mutantFromEnvironment() int {
	id, _ := strconv.Atoi(os.Getenv("MUTANT"))
	return id
}

func mutantMap(n int) []byte {
	f, err := os.OpenFile(os.Getenv("MUTANT_REACHED"), os.O_RDWR, 0)
	if err != nil {
		return make([]byte, n)
	}
	defer f.Close()
	b, err := syscall.Mmap(int(f.Fd()), 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		panic(err)
	}
	return b
}

func mutantOn(id int) bool {
	mutantReached[id] = 1
	return mutantOfRun == id
}

type mutantNumber interface {
	~int | ~int8 | ~int16 | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~uintptr | ~float32 | ~float64
}

type mutantInteger interface {
	~int | ~int8 | ~int16 | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~uintptr
}

func mutantAdd[T mutantNumber](id int, a, b T) T { if mutantOn(id) { return a - b }; return a + b }
func mutantSub[T mutantNumber](id int, a, b T) T { if mutantOn(id) { return a + b }; return a - b }
func mutantMul[T mutantNumber](id int, a, b T) T { if mutantOn(id) { return a / b }; return a * b }
func mutantQuo[T mutantNumber](id int, a, b T) T { if mutantOn(id) { return a * b }; return a / b }
func mutantRem[T mutantInteger](id int, a, b T) T { if mutantOn(id) { return a * b }; return a %% b }
func mutantAnd[T mutantInteger](id int, a, b T) T { if mutantOn(id) { return a | b }; return a & b }
func mutantOr[T mutantInteger](id int, a, b T) T { if mutantOn(id) { return a & b }; return a | b }
func mutantXor[T mutantInteger](id int, a, b T) T { if mutantOn(id) { return a & b }; return a ^ b }
func mutantPlusOne[T mutantNumber](id int, a T) T { if mutantOn(id) { return a + 1 }; return a }
`

// mutated returns the text of a file with those of its mutants that keep admits.
func (f *file) mutated(keep func(*mutant) bool) []byte {
	edits := slices.DeleteFunc(slices.Clone(f.edits), func(e *edit) bool { return !keep(e.mutant) })
	// Outer edits come before inner ones, and of one expression later edits are the outer ones.
	slices.SortStableFunc(edits, func(a, b *edit) int {
		return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(b.to, a.to), cmp.Compare(b.rank(), a.rank()), cmp.Compare(b.mutant.id, a.mutant.id))
	})
	return []byte(f.render(0, len(f.text), edits))
}

// rank orders the edits of a statement that consists of one expression.
func (e *edit) rank() int {
	if e.statement {
		return 1
	}
	return 0
}

// render returns the text between two offsets with the edits that lie within it.
func (f *file) render(from, to int, edits []*edit) string {
	var out strings.Builder
	for len(edits) > 0 {
		e := edits[0]
		within := edits[1:]
		for n, other := range within {
			if other.from >= e.to {
				within = within[:n]
				break
			}
		}
		out.Write(f.text[from:e.from])
		out.WriteString(e.render(e.mutant.id, func(from, to int) string {
			return f.render(from, to, slices.DeleteFunc(slices.Clone(within), func(e *edit) bool { return e.from < from || e.to > to }))
		}))
		from, edits = e.to, edits[1+len(within):]
	}
	out.Write(f.text[from:to])
	return out.String()
}

// dropInvalid drops the mutants that do not compile, such as a removed statement that ends a
// function.
func (s *source) dropInvalid() error {
	if s.compiles(func(*mutant) bool { return true }) == nil {
		return nil
	}
	bad := map[*mutant]bool{}
	for _, f := range s.files {
		if s.compiles(func(m *mutant) bool { return m.file == f }) == nil {
			continue
		}
		for _, m := range s.mutants {
			if m.file == f && s.compiles(func(n *mutant) bool { return n == m }) != nil {
				bad[m] = true
			}
		}
		f.edits = slices.DeleteFunc(f.edits, func(e *edit) bool { return bad[e.mutant] })
	}
	s.mutants = slices.DeleteFunc(s.mutants, func(m *mutant) bool { return bad[m] })
	for i, m := range s.mutants {
		m.id = i + 1
	}
	return s.compiles(func(*mutant) bool { return true })
}

func (s *source) compiles(keep func(*mutant) bool) error {
	trees := []*ast.File{}
	for _, f := range s.files {
		tree, err := parser.ParseFile(s.set, f.path, f.mutated(keep), parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		trees = append(trees, tree)
	}
	tree, err := parser.ParseFile(s.set, "mutant.go", s.helpers(), parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	_, err = s.config.Check(s.pkg.Path(), s.set, append(trees, tree), nil)
	return err
}

func (s *source) helpers() string { return fmt.Sprintf(helpers, s.name, len(s.mutants)+1) }
