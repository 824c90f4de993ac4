// Package scenarios is the stories of the EC2 guides as scripts, and what plays them
// against a lab: Albert, who opens one port to one machine, and those who come after him.
//
// A script is a testscript (github.com/rogpeppe/go-internal/testscript) in numbered steps:
// a comment says what a step shows, commands do it with real programs in the lab's
// namespaces, and stdout and stderr matchers check what those printed. The same script is
// a test (go test ./scenarios) and a demonstration (palisade scenario run albert), which
// shows every command and its output as it happens.
//
// In reading order: Scenario, a script; Play, the stage it runs on; the commands it may
// use, in script.go, hold.go, tier.go and all.go; and the accounts it starts from, in fresh.go.
package scenarios

import (
	"embed"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/txtar"
)

//go:embed *.txtar
var files embed.FS

// A Scenario is one script.
type Scenario struct {
	Name       string   // "albert"
	Title      string   // its first line
	LabOptions []string // what `palisade lab up` needs for it beyond the defaults
	script     []byte
}

// List returns every scenario in order of name.
func List() ([]Scenario, error) {
	entries, err := files.ReadDir(".")
	if err != nil {
		return nil, fmt.Errorf("list scenarios: %w", err)
	}
	var list []Scenario
	for _, e := range entries {
		data, err := files.ReadFile(e.Name())
		if err != nil {
			return nil, fmt.Errorf("read scenario: %w", err)
		}
		list = append(list, parse(strings.TrimSuffix(e.Name(), path.Ext(e.Name())), data))
	}
	return list, nil
}

// Find returns the scenario name.
func Find(name string) (Scenario, error) {
	list, err := List()
	if err != nil {
		return Scenario{}, err
	}
	i := slices.IndexFunc(list, func(s Scenario) bool { return s.Name == name })
	if i < 0 {
		var names []string
		for _, s := range list {
			names = append(names, s.Name)
		}
		return Scenario{}, fmt.Errorf("no scenario %q; there are: %s", name, strings.Join(names, ", "))
	}
	return list[i], nil
}

// labOptions begins the comment that says which lab a scenario needs.
const labOptions = "# lab: "

// parse reads the title and the lab's options from the comment that opens a script.
func parse(name string, data []byte) Scenario {
	s := Scenario{Name: name, script: data}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if options, ok := strings.CutPrefix(line, labOptions); ok {
			s.LabOptions = strings.Fields(options)
		} else if s.Title == "" {
			s.Title = strings.TrimPrefix(line, "# ")
		}
		if line == "" {
			break
		}
	}
	return s
}

// narrated returns the script with its comments turned into commands, line for line:
// "step" for the first line of each, "say" for the others. The comment that opens the
// file is the title and no step.
func (s Scenario) narrated() []byte {
	archive := txtar.Parse(s.script)
	lines := strings.Split(string(archive.Comment), "\n")
	inComment, opening := false, true
	for i, line := range lines {
		text, isComment := strings.CutPrefix(line, "#")
		switch {
		case !isComment:
			opening = opening && strings.TrimSpace(line) == "" && !inComment
			inComment = false
			continue
		case strings.HasPrefix(line, labOptions):
			lines[i] = ""
			continue
		}
		verb := "say"
		if !inComment && !opening {
			verb = "step"
		}
		lines[i] = verb + " " + quote(strings.TrimSpace(text))
		inComment = true
	}
	archive.Comment = []byte(strings.Join(lines, "\n"))
	return txtar.Format(archive)
}

// quote makes text one argument of a testscript command.
func quote(text string) string {
	return "'" + strings.ReplaceAll(text, "'", "''") + "'"
}
