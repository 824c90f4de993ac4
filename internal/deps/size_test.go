package deps

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// Limits of files and functions, in lines. Tests may be longer, because they have tables.
const (
	maxFile         = 450
	maxTestFile     = 500
	maxFunction     = 61
	maxTestFunction = 80
)

func TestFilesAndFunctionsAreShort(t *testing.T) {
	files := 0
	err := filepath.WalkDir("../..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		files++
		fileLimit, functionLimit := maxFile, maxFunction
		if strings.HasSuffix(path, "_test.go") {
			fileLimit, functionLimit = maxTestFile, maxTestFunction
		}
		positions := token.NewFileSet()
		file, err := parser.ParseFile(positions, path, nil, 0)
		if err != nil {
			return err
		}
		if lines := positions.Position(file.FileEnd).Line - 1; lines > fileLimit {
			t.Errorf("file %s has %d lines, want at most %d", path, lines, fileLimit)
		}
		for _, declared := range file.Decls {
			function, ok := declared.(*ast.FuncDecl)
			if !ok {
				continue
			}
			lines := positions.Position(function.End()).Line - positions.Position(function.Pos()).Line + 1
			if lines > functionLimit {
				t.Errorf("%s: function %s has %d lines, want at most %d", path, function.Name.Name, lines, functionLimit)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 500 {
		t.Errorf("read only %d files, want at least 500: the search does not work", files)
	}
}

// `make test` runs a fuzz target only with its seeds, so a target without seeds would test
// nothing.
func TestFuzzTargetsHaveACorpus(t *testing.T) {
	targets := 0
	err := filepath.WalkDir("../..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		positions := token.NewFileSet()
		file, err := parser.ParseFile(positions, path, nil, 0)
		if err != nil {
			return err
		}
		for _, declared := range file.Decls {
			function, ok := declared.(*ast.FuncDecl)
			if !ok || !strings.HasPrefix(function.Name.Name, "Fuzz") {
				continue
			}
			targets++
			stored, err := filepath.Glob(filepath.Join(filepath.Dir(path), "testdata", "fuzz", function.Name.Name, "*"))
			if err != nil {
				return err
			}
			if len(stored) == 0 && !adds(function) {
				t.Errorf("%s: fuzz target %s has no seed, neither by f.Add nor in testdata/fuzz/%s", path, function.Name.Name, function.Name.Name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if targets < 10 {
		t.Errorf("found only %d fuzz targets, want at least 10: the search does not work", targets)
	}
}

// adds reports whether a function calls a method Add, by which a fuzz target adds its seeds.
func adds(function *ast.FuncDecl) bool {
	found := false
	ast.Inspect(function, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			if method, ok := call.Fun.(*ast.SelectorExpr); ok && method.Sel.Name == "Add" {
				found = true
			}
		}
		return !found
	})
	return found
}
