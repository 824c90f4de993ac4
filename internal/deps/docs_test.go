package deps

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	testDeclared = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)[A-Z]\w*)\(`)
	testNamed    = regexp.MustCompile("(?:`([a-z][a-z0-9/]*)` `?)?\\b((?:Test|Fuzz|Benchmark)[A-Z]\\w*)")
	goExample    = regexp.MustCompile("(?s)```go\n.*?```") // its tests are for the reader to write
	storyNamed   = regexp.MustCompile(`\b[a-z0-9-]+\.txtar\b`)
)

// Each test that a document names exists. If the document also names a package, the test is
// in that package.
func TestDocumentsNameExistingTests(t *testing.T) {
	const root = "../.."
	where := testsBelow(t, root)
	named := 0
	for document, text := range documents(t, root) {
		text = goExample.ReplaceAllString(text, "")
		for _, m := range testNamed.FindAllStringSubmatch(text, -1) {
			named++
			if in := where[m[2]]; len(in) == 0 || m[1] != "" && !slices.Contains(in, m[1]) {
				t.Errorf("%s names the test %s in package %q, but packages with such a test are %q", document, m[2], m[1], in)
			}
		}
		for _, story := range storyNamed.FindAllString(text, -1) {
			if _, err := os.Stat(filepath.Join(root, "scenarios", story)); err != nil {
				t.Errorf("%s names the scenario %s, which does not exist: %v", document, story, err)
			}
		}
	}
	if named < 200 {
		t.Errorf("found only %d names of tests in the documents, want at least 200: the search does not work", named)
	}
}

var (
	fileNamed     = regexp.MustCompile("`((?:[a-z0-9_]+/)+[a-z0-9_]+\\.go)(?::(\\w+))?`")
	packageInList = regexp.MustCompile("(?m)^\\| `([a-z0-9/]+)` \\|")
)

// Where a document says "path/file.go:Name", the file exists and declares the function or
// type Name.
func TestDocumentsNameExistingFiles(t *testing.T) {
	const root = "../.."
	named := 0
	for document, text := range documents(t, root) {
		for _, m := range fileNamed.FindAllStringSubmatch(text, -1) {
			named++
			code, err := os.ReadFile(filepath.Join(root, m[1]))
			switch {
			case err != nil:
				t.Errorf("%s names the file %s, which cannot be read: %v", document, m[1], err)
			case m[2] != "" && !regexp.MustCompile(`(?m)^(?:func (?:\([^)]*\) )?|type )`+m[2]+`\b`).Match(code):
				t.Errorf("%s names %s of %s, which declares no such function or type", document, m[2], m[1])
			}
		}
	}
	if named < 40 {
		t.Errorf("found only %d names of files in the documents, want at least 40: the search does not work", named)
	}
}

// documents returns the texts of the documents of the module, by file name.
func documents(t *testing.T, root string) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(root + "/docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{}
	for _, path := range append(paths, root+"/README.md", root+"/ARCHITECTURE.md") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts[filepath.Base(path)] = string(text)
	}
	return texts
}

// The list of packages in ARCHITECTURE.md has exactly one line for each package of its
// picture.
func TestArchitectureHasALineForEachPackage(t *testing.T) {
	text, err := os.ReadFile("../../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	described := map[string]int{}
	for _, m := range packageInList.FindAllStringSubmatch(string(text), -1) {
		described[m[1]]++
	}
	for _, layer := range picture(t).rows {
		for _, name := range layer {
			if described[name] != 1 {
				t.Errorf("package %s has %d lines in the list of packages, want 1", name, described[name])
			}
			delete(described, name)
		}
	}
	for name := range described {
		t.Errorf("the list of packages has a line for %s, which is not in the picture", name)
	}
}

// The table of goroutines in ARCHITECTURE.md lists each goroutine of a node by its method
// run…, and says who ends it.
func TestArchitectureListsEveryGoroutine(t *testing.T) {
	text, err := os.ReadFile("../../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	started := regexp.MustCompile(`(?m)^func \(\w+ \*(?:Switch|poller|Cluster|Gossip|transport|Node|Fleet|machine)\) (run[A-Z]\w*)\(`)
	inside := []string{"runGrace"} // it ends before the call that started it returns
	found := 0
	for _, pattern := range []string{"../../switch/*.go", "../../cluster/*.go", "../../cluster/gossip/*.go", "../node/*.go", "../node/fleet/*.go", "../node/plane/*.go", "../node/control/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range files {
			code, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range started.FindAllStringSubmatch(string(code), -1) {
				found++
				if !slices.Contains(inside, m[1]) && !strings.Contains(string(text), "`"+m[1]+"`") {
					t.Errorf("the goroutine %s of %s is not in the table of ARCHITECTURE.md", m[1], path)
				}
			}
		}
	}
	if found < 10 {
		t.Errorf("found only %d goroutines in the code, want at least 10: the search does not work", found)
	}
}

// testsBelow returns, for the name of each test, the directories below root that have it,
// relative to root.
func testsBelow(t *testing.T, root string) map[string][]string {
	where := map[string][]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		for _, m := range testDeclared.FindAllSubmatch(text, -1) {
			where[string(m[1])] = append(where[string(m[1])], filepath.ToSlash(dir))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return where
}
