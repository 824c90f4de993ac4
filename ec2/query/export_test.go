package query

import (
	"maps"
	"reflect"
	"slices"
)

// ActionNames are all Actions that are served.
func ActionNames() []string { return slices.Sorted(maps.Keys(actions)) }

// ParameterNames are the parameters of an Action, lists with n for a number.
func ParameterNames(action string) []string {
	return slices.Sorted(maps.Keys(parametersOf(actions[action].request, "")))
}

// parametersOf walks a request's type. What a request may not have at all, an empty
// struct, ends in a star.
func parametersOf(t reflect.Type, path string) map[string]bool {
	all := make(map[string]bool)
	switch t.Kind() {
	case reflect.Pointer:
		return parametersOf(t.Elem(), path)
	case reflect.Slice:
		return parametersOf(t.Elem(), path+".n")
	case reflect.Struct:
		if t.NumField() == 0 && path != "" {
			all[path+".*"] = true
		}
		for i := range t.NumField() {
			f := t.Field(i)
			name := path
			if !f.Anonymous {
				if name != "" {
					name += "."
				}
				name += f.Tag.Get("wire")
			}
			maps.Copy(all, parametersOf(f.Type, name))
		}
	default:
		all[path] = true
	}
	return all
}
