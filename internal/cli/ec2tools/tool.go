package ec2tools

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/pflag"
)

// A singleCall is a tool that takes at most one argument and performs one action. A is the
// type of the answer.
type singleCall[A any] struct {
	summary, synopsis, example string

	call    string
	param   string // the parameter for the argument; "": the tool takes no argument
	need    string // the error if the argument is missing; "": it is optional
	options []option

	// show returns the lines to print, from the parameters and the answer.
	show func(asked url.Values, answer A) [][]string
}

// An option is an option of a tool that sets a parameter of the action.
type option struct {
	long, short string
	param       string
	usage       string
	need        string // the error if the option is missing; "": it is optional
	list        bool   // may be given several times, for PARAM.1, PARAM.2 and so on
}

func (o singleCall[A]) tool() tool {
	return tool{
		changes:  true,
		summary:  o.summary,
		synopsis: []string{o.synopsis},
		example:  o.example,
		flags: func(fs *pflag.FlagSet) action {
			fill := declare(fs, o.options)
			return func(ctx context.Context, s *invocation, args []string) error {
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

// argument sets param to the only argument. A missing or a further argument is an error.
func argument(params url.Values, param, need string, args []string) error {
	switch {
	case len(args) == 0 && need != "":
		return usageError{need}
	case len(args) > 1 || len(args) == 1 && param == "":
		return usagef("unexpected argument %s; text with blanks needs quotes", strings.Join(args[min(len(args)-1, 1):], " "))
	case len(args) == 1:
		params.Set(param, args[0])
	}
	return nil
}

// declare declares options, and returns a function that sets the parameters from them.
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

// A listing is a tool that describes the resources that its arguments name, or all
// resources.
type listing[A any] struct {
	summary, synopsis, example string

	call  string
	param string // the list parameter for the arguments
	show  func(A) [][]string
}

func (l listing[A]) tool() tool {
	return tool{
		summary:  l.summary,
		synopsis: []string{l.synopsis + " [-F NAME=VALUE]..."},
		example:  l.example,
		flags: func(fs *pflag.FlagSet) action {
			filter := filterFlag(fs)
			return func(ctx context.Context, s *invocation, args []string) error {
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

// filterFlag declares -F. Values of the same name are alternatives; all names must match.
func filterFlag(fs *pflag.FlagSet) func(url.Values) error {
	filters := fs.StringArrayP("filter", "F", nil, "only resources that match `NAME=VALUE`, such as vpc-id=vpc-1a2b3c4d")
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

// returned is the answer of an action that only confirms its success.
type returned struct{}

func showReturn(url.Values, returned) [][]string { return [][]string{{"RETURN", "true"}} }

// showParameter prints a parameter of the request, as the tools that delete do.
func showParameter(title, param string) func(url.Values, returned) [][]string {
	return func(asked url.Values, _ returned) [][]string { return [][]string{{title, asked.Get(param)}} }
}

// tags has the tags of a resource in the answer of a Describe.
type tags struct {
	Tags []struct {
		Key   string `xml:"key"`
		Value string `xml:"value"`
	} `xml:"tagSet>item"`
}

// rows returns a line for each tag: TAG, kind, id, key, value.
func (t tags) rows(kind, id string) [][]string {
	var rows [][]string
	for _, tag := range t.Tags {
		rows = append(rows, []string{"TAG", kind, id, tag.Key, tag.Value})
	}
	return rows
}
