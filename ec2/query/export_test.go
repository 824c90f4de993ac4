package query

import (
	"maps"
	"reflect"
	"slices"
)

// ActionNames returns the names of all Actions of EC2 that are served.
func ActionNames() []string { return slices.Sorted(maps.Keys(actions)) }

// ParameterNames returns the parameters of an Action. In the names of a list's
// parameters, n stands for the number.
func ParameterNames(action string) []string {
	return slices.Sorted(maps.Keys(parametersOf(actions[action].request, "")))
}

// parametersOf returns the names of the parameters of a request's type. A parameter with an
// empty struct as type is always refused; its name ends in a star.
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
