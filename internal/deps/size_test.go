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

// Files and functions are short enough to be read at once. Tests have more room, for their
// tables.
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
			t.Errorf("%s has %d lines, more than %d", path, lines, fileLimit)
		}
		for _, declared := range file.Decls {
			function, ok := declared.(*ast.FuncDecl)
			if !ok {
				continue
			}
			lines := positions.Position(function.End()).Line - positions.Position(function.Pos()).Line + 1
			if lines > functionLimit {
				t.Errorf("%s: %s has %d lines, more than %d", path, function.Name.Name, lines, functionLimit)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 500 {
		t.Errorf("only %d files were read", files)
	}
}

// A fuzz target without seeds would test nothing in `make test`.
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
				t.Errorf("%s: %s has no seed: neither f.Add nor testdata/fuzz/%s", path, function.Name.Name, function.Name.Name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if targets < 10 {
		t.Errorf("only %d fuzz targets were found", targets)
	}
}

// adds reports whether a function calls Add of something, as a fuzz target adds its seeds.
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
