package catalogue

import (
	"slices"
	"strings"
	"time"
)

// A Parameter is a public parameter of SSM. Its value is the id of an image.
type Parameter struct {
	Name     string
	Value    string
	Version  int
	Modified time.Time
	DataType string
}

// Parameters returns the parameters of a region, by name. The caller must not change them.
func Parameters(region string) []Parameter { return of(region).parameters }

// FindParameter returns the parameter of a region with a name.
func FindParameter(region, name string) (Parameter, bool) {
	all := Parameters(region)
	n, ok := slices.BinarySearchFunc(all, name, func(p Parameter, name string) int { return strings.Compare(p.Name, name) })
	if !ok {
		return Parameter{}, false
	}
	return all[n], true
}

// parametersOf returns the parameters of a series for an architecture.
func (s *series) parametersOf(region, arch string) []Parameter {
	var list []Parameter
	add := func(template string, n int) {
		release := s.releases[n]
		image := s.image(region, release, arch)
		list = append(list, Parameter{
			Name: s.fill(template, release, arch), Value: image.ID, Modified: image.Created, DataType: s.data, Version: 1,
		})
	}
	last := len(s.releases) - 1
	for _, template := range s.newest {
		add(template, last)
		list[len(list)-1].Version = last + 1 // it was changed with each release
	}
	if s.each != "" {
		for n := range s.releases {
			add(s.each, n)
		}
	}
	return list
}
