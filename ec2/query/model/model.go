// Package model is AWS's service model of EC2 as far as it is needed here: the name of each
// action, its parameters, the elements of its answer, and its filters. The text in
// actions.txt is made from the Go SDK by TestActionsMatchSDK.
package model

import (
	_ "embed"
	"maps"
	"slices"
	"strings"
	"sync"
)

// An Action is an action of EC2 as AWS describes it, served here or not.
type Action struct {
	Name       string
	Parameters []Member // by name; of a name with several parts only the first one
	// Answer has the elements of the answer and Filters the names of the filters. Both are
	// empty for an action that changes something.
	Answer  []Member
	Filters []string // "tag" stands for tag:KEY; empty also if the reference names none
}

// A Member is a parameter of a request or an element of an answer.
type Member struct {
	Name     string
	List     bool
	Required bool
}

// actionsText has a line for each action: its name, its parameters, ">" and the elements of
// the answer, "|" and the filters. A list ends with [], a required parameter with !.
//
//go:embed actions.txt
var actionsText string

var all = sync.OnceValue(func() map[string]*Action {
	m := make(map[string]*Action)
	for line := range strings.Lines(actionsText) {
		rest, filters, _ := strings.Cut(line, " |")
		rest, answer, _ := strings.Cut(rest, " >")
		words := strings.Fields(rest)
		a := &Action{Name: words[0], Parameters: members(words[1:]), Answer: members(strings.Fields(answer)), Filters: strings.Fields(filters)}
		m[a.Name] = a
	}
	return m
})

func members(words []string) (list []Member) {
	for _, word := range words {
		name, required := strings.CutSuffix(word, "!")
		name, isList := strings.CutSuffix(name, "[]")
		list = append(list, Member{name, isList, required})
	}
	return list
}

// Lookup returns the action of AWS with a name.
func Lookup(name string) (*Action, bool) {
	a, ok := all()[name]
	return a, ok
}

// Names returns the names of all actions, sorted.
func Names() []string {
	return slices.Sorted(maps.Keys(all()))
}

// Filters returns the names of the filters of all actions, in any order.
func Filters() []string {
	names := make(map[string]bool)
	for _, a := range all() {
		for _, name := range a.Filters {
			names[name] = true
		}
	}
	return slices.Collect(maps.Keys(names))
}

// HasParameter reports whether AWS has a parameter. A nil Action has none.
func (a *Action) HasParameter(name string) bool {
	return a != nil && slices.ContainsFunc(a.Parameters, func(p Member) bool { return p.Name == name })
}

// OnlyReads reports whether an action changes nothing.
func OnlyReads(action string) bool {
	for _, verb := range []string{"Describe", "Get", "List", "Search"} {
		if strings.HasPrefix(action, verb) {
			return true
		}
	}
	return false
}
