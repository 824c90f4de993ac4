package ec2tools

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/pflag"
)

// An order is a tool that names at most one thing and performs one action: most tools of
// VPCs are. A is the action's answer.
type order[A any] struct {
	summary, synopsis, example string

	call    string
	param   string // of the action: what the argument is given as; "": there is no argument
	need    string // what to say when the argument is missing; "": it may be left out
	options []option

	// show returns the lines to print, of what was asked for and what was answered.
	show func(asked url.Values, answer A) [][]string
}

// An option is a parameter of the action under the name that the tool had for it.
type option struct {
	long, short string
	param       string
	usage       string
	need        string // what to say when it is left out; "": it may be
	list        bool   // it may be given more than once: PARAM.1, PARAM.2 and so on
}

func (o order[A]) tool() tool {
	return tool{
		changes:  true,
		summary:  o.summary,
		synopsis: []string{o.synopsis},
		example:  o.example,
		flags: func(fs *pflag.FlagSet) action {
			fill := declare(fs, o.options)
			return func(ctx context.Context, s *session, args []string) error {
				params := url.Values{}
				if err := argument(params, o.param, o.need, args); err != nil {
					return err
				}
				if err := fill(params); err != nil {
					return err
				}
				var answer A
				if err := s.call(ctx, o.call, params, &answer); err != nil {
					return err
				}
				for _, columns := range o.show(params, answer) {
					line(s.out, columns...)
				}
				return nil
			}
		},
	}
}

// argument sets param to the one argument.
func argument(params url.Values, param, need string, args []string) error {
	switch {
	case len(args) == 0 && need != "":
		return usageError{need}
	case len(args) > 1 || len(args) == 1 && param == "":
		return usagef("%s is too much; what has blanks needs quotes", strings.Join(args[min(len(args)-1, 1):], " "))
	case len(args) == 1:
		params.Set(param, args[0])
	}
	return nil
}

// declare declares the options and returns what reads them into the parameters of a call.
func declare(fs *pflag.FlagSet, options []option) func(url.Values) error {
	values := make([]*[]string, len(options))
	for i, o := range options {
		values[i] = fs.StringArrayP(o.long, o.short, nil, o.usage)
	}
	return func(params url.Values) error {
		for i, o := range options {
			switch given := *values[i]; {
			case len(given) == 0 && o.need != "":
				return usageError{o.need}
			case o.list:
				numbered(params, o.param, given)
			case len(given) > 1:
				return usagef("--%s is given %d times", o.long, len(given))
			case len(given) == 1:
				params.Set(o.param, given[0])
			}
		}
		return nil
	}
}

// A listing is a tool that describes resources: those that are named, or all of them.
type listing[A any] struct {
	summary, synopsis, example string

	call  string
	param string // of the action: the list of what is named
	show  func(A) [][]string
}

func (l listing[A]) tool() tool {
	return tool{
		summary:  l.summary,
		synopsis: []string{l.synopsis + " [-F NAME=VALUE]..."},
		example:  l.example,
		flags: func(fs *pflag.FlagSet) action {
			filter := filterFlag(fs)
			return func(ctx context.Context, s *session, args []string) error {
				params := url.Values{}
				numbered(params, l.param, args)
				if err := filter(params); err != nil {
					return err
				}
				var answer A
				if err := s.call(ctx, l.call, params, &answer); err != nil {
					return err
				}
				for _, columns := range l.show(answer) {
					line(s.out, columns...)
				}
				return nil
			}
		},
	}
}

// filterFlag declares -F. Values of one name are alternatives, names must all match.
func filterFlag(fs *pflag.FlagSet) func(url.Values) error {
	filters := fs.StringArrayP("filter", "F", nil, "only what matches `NAME=VALUE`, such as vpc-id=vpc-1a2b3c4d")
	return func(params url.Values) error {
		var names []string
		values := make(map[string][]string)
		for _, f := range *filters {
			name, value, ok := strings.Cut(f, "=")
			if !ok || name == "" {
				return usagef("-F %q is not a filter; %s", f, hints["filter"])
			}
			if values[name] == nil {
				names = append(names, name)
			}
			values[name] = append(values[name], value)
		}
		for i, name := range names {
			prefix := fmt.Sprintf("Filter.%d.", i+1)
			params.Set(prefix+"Name", name)
			numbered(params, prefix+"Value", values[name])
		}
		return nil
	}
}

// returned is the answer of an action that says nothing but that it was done.
type returned struct{}

func showReturn(url.Values, returned) [][]string { return [][]string{{"RETURN", "true"}} }

// showAsked prints what was asked for by its parameter, as the tools that delete do.
func showAsked(title, param string) func(url.Values, returned) [][]string {
	return func(asked url.Values, _ returned) [][]string { return [][]string{{title, asked.Get(param)}} }
}

// tags are the tags of a resource, as every Describe has them.
type tags struct {
	Tags []struct {
		Key   string `xml:"key"`
		Value string `xml:"value"`
	} `xml:"tagSet>item"`
}

// rows has a line for each tag of the resource id: TAG, kind, id, key, value.
func (t tags) rows(kind, id string) [][]string {
	var rows [][]string
	for _, tag := range t.Tags {
		rows = append(rows, []string{"TAG", kind, id, tag.Key, tag.Value})
	}
	return rows
}
