package query

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"reflect"
	"strconv"
	"time"

	"palisade/ec2"
)

// encodeAnswer writes an answer's document. A field's `wire` tag is its element. An
// empty list is an empty element, for boto3 drops a missing one and its users index it;
// an empty string, a zero time and a nil pointer are no element at all.
func encodeAnswer(action, version, id string, answer any) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s<%sResponse xmlns=\"http://ec2.amazonaws.com/doc/%s/\">", xml.Header, action, version)
	element(&b, "requestId", id)
	encodeStruct(&b, reflect.Indirect(reflect.ValueOf(answer)))
	fmt.Fprintf(&b, "</%sResponse>\n", action)
	return b.Bytes()
}

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

func encodeStruct(b *bytes.Buffer, v reflect.Value) {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if field.Anonymous {
			encodeStruct(b, reflect.Indirect(v.Field(i)))
			continue
		}
		encodeValue(b, field.Tag.Get("wire"), v.Field(i))
	}
}

func encodeValue(b *bytes.Buffer, name string, v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			encodeValue(b, name, v.Elem())
		}
	case reflect.Struct:
		if t, ok := v.Interface().(time.Time); ok {
			if !t.IsZero() {
				element(b, name, t.UTC().Format("2006-01-02T15:04:05.000Z"))
			}
			return
		}
		b.WriteString("<" + name + ">")
		encodeStruct(b, v)
		b.WriteString("</" + name + ">")
	case reflect.Slice:
		if v.Len() == 0 {
			b.WriteString("<" + name + "/>")
			return
		}
		b.WriteString("<" + name + ">")
		for i := range v.Len() {
			encodeValue(b, "item", v.Index(i))
		}
		b.WriteString("</" + name + ">")
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
	b.WriteString("<" + name + ">")
	_ = xml.EscapeText(b, []byte(text)) // a bytes.Buffer takes everything
	b.WriteString("</" + name + ">")
}
