package wire

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Encode writes the elements of a struct's fields, or of the struct that answer points to.
// A field's `wire` tag is its element's name. The elements of a list are named item, or, if the
// tag is "groupSet,groupId", groupId. An empty list is an empty element, because boto3 leaves
// out a missing list and its users index the result; an empty string that is no Present, a
// zero time and a nil pointer have no element.
func Encode(b *bytes.Buffer, answer any) {
	encodeStruct(b, reflect.Indirect(reflect.ValueOf(answer)))
}

// FormatTime returns a time in the form of answers, in UTC with milliseconds.
func FormatTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// A fieldName has the name of a field's element, and of the elements of its list. An embedded
// struct has none.
type fieldName struct{ own, item string }

// fieldNames caches, by struct type, the names of each field. Without the cache, an answer with a million fields would parse a million tags.
var fieldNames sync.Map // reflect.Type -> []fieldName

func namesOf(t reflect.Type) []fieldName {
	if known, ok := fieldNames.Load(t); ok {
		return known.([]fieldName)
	}
	names := make([]fieldName, t.NumField())
	for i := range names {
		if field := t.Field(i); !field.Anonymous {
			own, item, ok := strings.Cut(field.Tag.Get("wire"), ",")
			if !ok {
				item = "item"
			}
			names[i] = fieldName{own, item}
		}
	}
	fieldNames.Store(t, names)
	return names
}

// A Present is a text whose element is in the answer also if it is empty.
type Present string

var (
	timeType    = reflect.TypeFor[time.Time]()
	presentType = reflect.TypeFor[Present]()
)

func encodeStruct(b *bytes.Buffer, v reflect.Value) {
	for i, name := range namesOf(v.Type()) {
		if name.own == "" {
			if inner := reflect.Indirect(v.Field(i)); inner.IsValid() {
				encodeStruct(b, inner)
			}
			continue
		}
		encodeValue(b, name, v.Field(i))
	}
}

func encodeValue(b *bytes.Buffer, names fieldName, v reflect.Value) {
	name := names.own
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			encodeValue(b, names, v.Elem())
		}
	case reflect.Struct:
		if v.Type() == timeType {
			if t := v.Interface().(time.Time); !t.IsZero() {
				Element(b, name, FormatTime(t))
			}
			return
		}
		open(b, name)
		encodeStruct(b, v)
		end(b, name)
	case reflect.Slice:
		if v.Len() == 0 {
			b.WriteString("<" + name + "/>")
			return
		}
		open(b, name)
		for i := range v.Len() {
			encodeValue(b, fieldName{names.item, "item"}, v.Index(i))
		}
		end(b, name)
	case reflect.String:
		switch {
		case v.Len() > 0:
			Element(b, name, v.String())
		case v.Type() == presentType:
			b.WriteString("<" + name + "/>")
		}
	case reflect.Int:
		Element(b, name, strconv.FormatInt(v.Int(), 10))
	case reflect.Bool:
		Element(b, name, strconv.FormatBool(v.Bool()))
	default:
		panic(fmt.Sprintf("wire: element %s has type %s", name, v.Type()))
	}
}

// Element writes one element with its text, escaped.
func Element(b *bytes.Buffer, name, text string) {
	open(b, name)
	if isPlain(text) {
		b.WriteString(text)
	} else {
		_ = xml.EscapeText(b, []byte(text)) // writing to a bytes.Buffer never fails
	}
	end(b, name)
}

func open(b *bytes.Buffer, name string) {
	b.WriteByte('<')
	b.WriteString(name)
	b.WriteByte('>')
}

func end(b *bytes.Buffer, name string) {
	b.WriteString("</")
	b.WriteString(name)
	b.WriteByte('>')
}

// isPlain reports whether text needs no escapes. Ids, numbers and addresses need none.
func isPlain(text string) bool {
	for i := range len(text) {
		switch c := text[i]; {
		case c < ' ', c > '~', c == '&', c == '<', c == '>', c == '"', c == '\'':
			return false
		}
	}
	return true
}
