// Package wire is the codec of the EC2 Query protocol: parameters of a query string or a
// form on one side, XML on the other, Go structs between. It knows nothing of EC2's
// resources and actions; a struct's `wire` tags name its parameters or elements.
//
// Parse reads parameters into a tree of Params, Decode fills a struct from it, Unread
// lists what no field read. Encode writes a struct as XML. A request that cannot be read
// is an *ec2.Error, which is the caller's mistake.
package wire

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"palisade/ec2"
)

// A Param is a node in the tree of a request's parameters. Each part of a parameter's
// name is a level of the tree: "Filter.1.Name" is the child "Name" of the child "1" of
// the child "Filter". It belongs to one request and is not safe for concurrent use.
type Param struct {
	Value    string
	Children map[string]*Param

	given bool // the request has a parameter of exactly this name
	read  bool // a field took the value, or is a struct or list of the children
}

// maxDepth bounds the parts of a name. EC2's longest names have five.
const maxDepth = 8

// Set adds a parameter. It returns false if the tree already has the name or if the name
// has too many parts.
func (p *Param) Set(name, value string) bool {
	parts := strings.SplitN(name, ".", maxDepth+1)
	if len(parts) > maxDepth {
		return false
	}
	for _, part := range parts {
		child := p.Children[part]
		if child == nil {
			child = new(Param)
			if p.Children == nil {
				p.Children = make(map[string]*Param)
			}
			p.Children[part] = child
		}
		p = child
	}
	if p.given {
		return false
	}
	p.Value, p.given = value, true
	return true
}

// Take returns a parameter's value, "" if it is absent, and marks it as read.
func (p *Param) Take(name string) string {
	c := p.Children[name]
	if c == nil {
		return ""
	}
	c.read = true
	return c.Value
}

// Each calls visit for every parameter below p that the request has, sorted part by part
// of the names.
func (p *Param) Each(visit func(name, value string)) { p.each("", visit) }

func (p *Param) each(path string, visit func(name, value string)) {
	if p.given {
		visit(path, p.Value)
	}
	if path != "" {
		path += "."
	}
	for _, part := range slices.Sorted(maps.Keys(p.Children)) {
		p.Children[part].each(path+part, visit)
	}
}

// An Unread is a parameter that no field read. Part is the first part of its name that no
// field has, or the list's name if that part is the number of a list's element.
type Unread struct {
	Name, Part, Value string
}

// Unread lists the parameters that no field read, in the order of Each.
func (p *Param) Unread() []Unread { return p.unread("", "", nil) }

// unread appends to list the unread parameters below p. The name of p is path, with a dot
// at its end. The last part of that name that is not a number is last.
func (p *Param) unread(path, last string, list []Unread) []Unread {
	for _, part := range slices.Sorted(maps.Keys(p.Children)) {
		c, named := p.Children[part], part
		if strings.Trim(part, "0123456789") == "" {
			named = last // "GroupName.1" is a GroupName
		}
		if c.read {
			list = c.unread(path+part+".", named, list)
			continue
		}
		c.each(path+part, func(name, value string) { list = append(list, Unread{name, named, value}) })
	}
	return list
}

func (p *Param) readAll() {
	p.read = true
	for _, c := range p.Children {
		c.readAll()
	}
}

// Unknown returns the error for a parameter that no field has.
func Unknown(name string) error {
	return ec2.Errorf("UnknownParameter", "The parameter %s is not recognized", Quote(name))
}

// Quote returns a caller's text in a form that a message can carry: printable ASCII, about
// 100 bytes.
func Quote(text string) string {
	if len(text) > 100 {
		text = text[:100] + "..."
	}
	q := strconv.QuoteToASCII(text)
	return q[1 : len(q)-1]
}
