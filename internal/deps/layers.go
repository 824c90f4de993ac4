// Package deps checks the structure of the module: its layers, who may import which
// library, and that documents name tests, files and goroutines that exist.
//
// The layers are read from the picture in ARCHITECTURE.md, so the picture is what is
// checked.
package deps

import (
	"fmt"
	"slices"
	"strings"
)

// A Column says which plane a package belongs to.
type Column int

const (
	Data    Column = iota // the data plane: frames
	Both                  // used by both planes, or puts them together
	Control               // the control plane: groups, nodes, the API
)

// Layers are the places of packages in the picture.
type Layers struct {
	rows [][]string        // from the top; each row is a layer
	row  map[string]int    // of a package, in rows
	side map[string]Column // of a package
}

// ParseLayers reads the picture in the text of ARCHITECTURE.md: the first indented block
// whose lines have three columns between "|". Its first line is a heading. A line of
// dashes begins the next layer. A package is named by its path in the module.
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
		case len(l.rows) > 0: // not the heading
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

// Check returns what is wrong with the imports of the module, sorted. imports has, for each
// package, the packages of the module that it imports. Names are paths in the module.
func (l *Layers) Check(imports map[string][]string) []string {
	var wrong []string
	for name := range l.row {
		if _, ok := imports[name]; !ok {
			wrong = append(wrong, name+" is in the picture and not in the module")
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
				wrong = append(wrong, fmt.Sprintf("%s (layer %d) imports %s (layer %d): an import points to a lower line of the picture", name, row+1, imported, to+1))
			}
		}
		if opposite, ok := map[Column]Column{Data: Control, Control: Data}[l.side[name]]; ok {
			for _, reached := range closure(imports, name) {
				if l.side[reached] == opposite {
					wrong = append(wrong, fmt.Sprintf("%s depends on %s: the data plane and the control plane do not know each other, internal/node puts them together", name, reached))
				}
			}
		}
	}
	slices.Sort(wrong)
	return wrong
}

// closure returns all packages that a package imports, directly or through others.
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
