// Package scenarios holds the stories of the EC2 guides as scripts, and plays them in a lab:
// Albert, who opens one port to one machine, Mary with her three tiers, and more.
//
// A script is a testscript (github.com/rogpeppe/go-internal/testscript) in numbered steps.
// The comment of a step says what it shows, its commands run real programs in the lab's
// namespaces, and stdout and stderr matchers check their output. The same script is a test
// (go test ./scenarios) and a demonstration (palisade scenario run albert), which prints every
// command and its output as it happens.
//
// In reading order: Scenario, a script; Play, which runs it; the commands of scripts, in script.go, hold.go,
// tier.go, all.go and scanned.go; and the command that deletes the resources of an account, in fresh.go.
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
	Title      string   // first line of the script
	LabOptions []string // options of `palisade lab up` that it needs
	script     []byte
}

// List returns all scenarios, sorted by name.
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

// Find returns the scenario with this name.
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
		return Scenario{}, fmt.Errorf("no scenario %q; the scenarios are: %s", name, strings.Join(names, ", "))
	}
	return list[i], nil
}

// labOptions is the start of the comment that lists the lab options a scenario needs.
const labOptions = "# lab: "

// parse returns the scenario of a script. It reads the title and the lab options from the first comment.
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

// narrated returns the script with each comment replaced by commands, line for line: "step" for the first
// line of a comment, "say" for its other lines. The first comment of the file is the title, so it
// becomes "say" lines only.
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

// quote quotes text as one argument of a testscript command.
func quote(text string) string {
	return "'" + strings.ReplaceAll(text, "'", "''") + "'"
}
