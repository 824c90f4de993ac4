// Package deps checks the structure of the module: its layers, which packages may import
// which library, and that the tests, files and goroutines that documents name exist.
//
// It reads the layers from the picture in ARCHITECTURE.md, so the picture cannot differ from
// what is checked.
package deps

import (
	"fmt"
	"slices"
	"strings"
)

// A Column is a column of the picture. It says to which plane a package belongs.
type Column int

const (
	Data    Column = iota // the data plane: frames
	Both                  // used by both planes, or puts them together
	Control               // the control plane: groups, nodes, the API
)

// Layers has the layer and the plane of each package in the picture.
type Layers struct {
	rows [][]string        // packages of each layer, from the top
	row  map[string]int    // by package: its index in rows
	side map[string]Column // by package
}

// ParseLayers returns the layers of the picture in text, the content of ARCHITECTURE.md. The
// picture is the first indented block whose lines have three columns between "|". Its first
// line is a heading, and each line of dashes begins a layer. Packages have their paths in
// the module as names.
func ParseLayers(text string) (*Layers, error) {
	l := &Layers{row: map[string]int{}, side: map[string]Column{}}
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		switch {
		case !strings.HasPrefix(line, "    ") || len(cells) != 5:
			if len(l.rows) > 0 {
				return l, nil
			}
		case strings.HasPrefix(cells[1], "--"):
			l.rows = append(l.rows, nil)
		case len(l.rows) > 0: // the lines before are the heading
			for column, cell := range cells[1:4] {
				for name := range strings.FieldsSeq(cell) {
					if _, twice := l.row[name]; twice {
						return nil, fmt.Errorf("the picture has %s twice", name)
					}
					last := len(l.rows) - 1
					l.row[name], l.side[name] = last, Column(column)
					l.rows[last] = append(l.rows[last], name)
				}
			}
		}
	}
	if len(l.rows) == 0 {
		return nil, fmt.Errorf("there is no picture: no indented line has three columns between |")
	}
	return l, nil
}

// Check returns sentences, sorted: one for each import that the layers do not allow, and one
// for each package that is only in the picture of the layers or only in the module. imports has, for each package, the
// packages of the module that it imports. Names are paths in the module.
func (l *Layers) Check(imports map[string][]string) []string {
	var wrong []string
	for name := range l.row {
		if _, ok := imports[name]; !ok {
			wrong = append(wrong, name+" is in the picture of ARCHITECTURE.md but not in the module")
		}
	}
	for name, list := range imports {
		row, ok := l.row[name]
		if !ok {
			wrong = append(wrong, name+" is not in the picture of ARCHITECTURE.md: give it a layer")
			continue
		}
		for _, imported := range list {
			if to, ok := l.row[imported]; ok && to <= row {
				wrong = append(wrong, fmt.Sprintf("%s (layer %d) imports %s (layer %d): a package may import only packages on lower lines of the picture", name, row+1, imported, to+1))
			}
		}
		if opposite, ok := map[Column]Column{Data: Control, Control: Data}[l.side[name]]; ok {
			for _, reached := range closure(imports, name) {
				if l.side[reached] == opposite {
					wrong = append(wrong, fmt.Sprintf("%s depends on %s: the data plane and the control plane must not depend on each other; only internal/node uses both", name, reached))
				}
			}
		}
	}
	slices.Sort(wrong)
	return wrong
}

// closure returns all packages that the package name imports, directly or through others.
func closure(imports map[string][]string, name string) []string {
	seen := map[string]bool{name: true}
	var all []string
	for next := []string{name}; len(next) > 0; next = next[1:] {
		for _, imported := range imports[next[0]] {
			if !seen[imported] {
				seen[imported] = true
				all = append(all, imported)
				next = append(next, imported)
			}
		}
	}
	return all
}
