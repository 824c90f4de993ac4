package query

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"reflect"
	"strconv"
	"sync"
	"time"

	"palisade/ec2"
)

// encodeAnswer writes an answer's document. A field's `wire` tag is its element. An
// empty list is an empty element, for boto3 drops a missing one and its users index it;
// an empty string, a zero time and a nil pointer are no element at all.
func encodeAnswer(action, version, id string, answer any) []byte {
	b := documents.Get().(*bytes.Buffer)
	b.Reset()
	fmt.Fprintf(b, "%s<%sResponse xmlns=\"http://ec2.amazonaws.com/doc/%s/\">", xml.Header, action, version)
	element(b, "requestId", id)
	encodeStruct(b, reflect.Indirect(reflect.ValueOf(answer)))
	fmt.Fprintf(b, "</%sResponse>\n", action)
	document := bytes.Clone(b.Bytes())
	if b.Cap() <= 4<<20 {
		documents.Put(b)
	}
	return document
}

// documents are buffers that have grown to the size of a page, up to 4 MiB each.
var documents = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// encodeError writes an error's document. Here, and only here, the id's element is
// RequestID: the SDKs' parsers want exactly that.
func encodeError(e *ec2.Error, id string) []byte {
	var b bytes.Buffer
	b.WriteString(xml.Header + "<Response><Errors><Error>")
	element(&b, "Code", e.Code)
	element(&b, "Message", e.Message)
	b.WriteString("</Error></Errors>")
	element(&b, "RequestID", id)
	b.WriteString("</Response>\n")
	return b.Bytes()
}

// wireFields are, by type, the elements of a struct's fields; "" is an embedded struct.
// An answer can have a million fields, and reflection would look up their tags anew.
var wireFields sync.Map // reflect.Type -> []string

func elementsOf(t reflect.Type) []string {
	if known, ok := wireFields.Load(t); ok {
		return known.([]string)
	}
	names := make([]string, t.NumField())
	for i := range names {
		if field := t.Field(i); !field.Anonymous {
			names[i] = field.Tag.Get("wire")
		}
	}
	wireFields.Store(t, names)
	return names
}

var timeType = reflect.TypeFor[time.Time]()

func encodeStruct(b *bytes.Buffer, v reflect.Value) {
	for i, name := range elementsOf(v.Type()) {
		if name == "" {
			if inner := reflect.Indirect(v.Field(i)); inner.IsValid() {
				encodeStruct(b, inner)
			}
			continue
		}
		encodeValue(b, name, v.Field(i))
	}
}

func encodeValue(b *bytes.Buffer, name string, v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			encodeValue(b, name, v.Elem())
		}
	case reflect.Struct:
		if v.Type() == timeType {
			if t := v.Interface().(time.Time); !t.IsZero() {
				element(b, name, t.UTC().Format("2006-01-02T15:04:05.000Z"))
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
			encodeValue(b, "item", v.Index(i))
		}
		end(b, name)
	case reflect.String:
		if v.Len() > 0 {
			element(b, name, v.String())
		}
	case reflect.Int:
		element(b, name, strconv.FormatInt(v.Int(), 10))
	case reflect.Bool:
		element(b, name, strconv.FormatBool(v.Bool()))
	default:
		panic(fmt.Sprintf("query: element %s has type %s", name, v.Type()))
	}
}

func element(b *bytes.Buffer, name, text string) {
	open(b, name)
	if isPlain(text) {
		b.WriteString(text)
	} else {
		_ = xml.EscapeText(b, []byte(text)) // a bytes.Buffer takes everything
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

// isPlain reports whether text needs no escapes; ids, numbers and addresses do not.
func isPlain(text string) bool {
	for i := range len(text) {
		switch c := text[i]; {
		case c < ' ', c > '~', c == '&', c == '<', c == '>', c == '"', c == '\'':
			return false
		}
	}
	return true
}
