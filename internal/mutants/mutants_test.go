package mutants

import (
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
	"strings"
	"testing"
)

const root = "../.."

func readMutants(t *testing.T) []*Mutant {
	t.Helper()
	all, err := ReadAll("testdata")
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Fatal("testdata lists no mutants")
	}
	return all
}

// The source has the text that a mutant replaces exactly once, the mutated package compiles,
// and the mutant's test exists.
func TestEveryMutantAppliesAndCompiles(t *testing.T) {
	all := readMutants(t)
	check := newChecker(t, all)
	tests := map[string]map[string]bool{}
	for _, m := range all {
		if tests[m.Tests] == nil {
			tests[m.Tests] = testsOf(t, filepath.Join(root, m.Tests))
		}
		if name, _, _ := strings.Cut(m.Test, "/"); !tests[m.Tests][name] {
			t.Errorf("mutant %s: package %s has no test %s", m.Name, m.Tests, name)
		}
		path, mutated, err := m.Apply(root)
		if err != nil {
			t.Error(err)
			continue
		}
		if err := check.compiles(path, mutated); err != nil {
			t.Errorf("mutant %s does not compile: %v", m.Name, err)
		}
	}
	t.Logf("%d mutants", len(all))
}

// testsOf returns the names of the tests and fuzz targets in a directory.
func testsOf(t *testing.T, dir string) map[string]bool {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, path := range paths {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil {
				names[fn.Name.Name] = true
			}
		}
	}
	return names
}

// A checker type-checks a package with one file replaced.
type checker struct {
	set      *token.FileSet
	importer types.Importer
}

// newChecker returns a checker. It first compiles the packages that the mutated packages
// import.
func newChecker(t *testing.T, all []*Mutant) *checker {
	t.Helper()
	args := []string{"list", "-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}"}
	listed := map[string]bool{}
	for _, m := range all {
		if !listed[m.Package] {
			listed[m.Package] = true
			args = append(args, "./"+m.Package)
		}
	}
	cmd := exec.Command("go", args...)
	cmd.Dir, cmd.Stderr = root, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	exports := map[string]string{}
	for line := range strings.Lines(string(out)) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), "\t")
		exports[path] = file
	}
	c := &checker{set: token.NewFileSet()}
	c.importer = importer.ForCompiler(c.set, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	return c
}

func (c *checker) compiles(path string, mutated []byte) error {
	pkg, err := buildPackage(filepath.Dir(path))
	if err != nil {
		return err
	}
	var files []*ast.File
	for _, name := range pkg.GoFiles {
		var source any
		if name == filepath.Base(path) {
			source = mutated
		}
		file, err := parser.ParseFile(c.set, filepath.Join(pkg.Dir, name), source, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		files = append(files, file)
	}
	config := types.Config{Importer: c.importer, Sizes: types.SizesFor("gc", runtime.GOARCH)}
	_, err = config.Check(pkg.Name, c.set, files, nil)
	return err
}

// Apply returns an error for a mutant whose text is missing or not unique, or that changes
// nothing. ReadAll returns an error for an incomplete file.
func TestInvalidMutantsAreRefused(t *testing.T) {
	good := Mutant{Name: "x/good", Package: "internal/mutants", In: "joined", Old: `return line`, New: `return text`}
	if _, mutated, err := good.Apply(root); err != nil || !strings.Contains(string(mutated), "if text == \"\" {\nreturn text\n}") {
		t.Fatalf("Apply of a valid mutant: error %v, mutated file:\n%s", err, mutated)
	}
	with := func(change func(m *Mutant)) *Mutant { m := good; change(&m); return &m }
	for want, m := range map[string]*Mutant{
		"declares gone 0 times": with(func(m *Mutant) { m.In = "gone" }),
		"has this text 0 times": with(func(m *Mutant) { m.Old = "return gone" }),
		"has this text 2 times": with(func(m *Mutant) { m.Old = "return" }),
		"changes nothing":       with(func(m *Mutant) { m.New = m.Old }),
	} {
		if _, _, err := m.Apply(root); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Apply of an invalid mutant returned %v, want an error with %q", err, want)
		}
	}
	dir := t.TempDir()
	for text, want := range map[string]string{
		"mutant: a\n": `want "package: DIRECTORY" first`,
		"package: p\nmutant: a\nwhy: w\nin: f\n- x\n":                                  "needs a why, an in, a - and a test",
		"package: p\nmutant: a\nnonsense: w\n":                                         "want mutant:, why:, in:, -, + or test:",
		"package: p\nwhy: w\n":                                                         `then "mutant: NAME"`,
		"package: p\n" + strings.Repeat("mutant: a\nwhy: w\nin: f\n- x\ntest: T\n", 2): "two mutants",
	} {
		if err := os.WriteFile(filepath.Join(dir, "x.txt"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadAll(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ReadAll of %q returned %v, want an error with %q", text, err, want)
		}
	}
}
