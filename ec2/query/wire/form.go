package wire

import (
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"palisade/ec2"
)

const (
	// MaxBody bounds a request's body, in bytes.
	MaxBody = 1 << 20
	// MaxParams bounds the number of a request's parameters. A request that authorizes as
	// many rules as a group can have needs a tenth of this.
	MaxParams = 8192
)

// CheckForm returns an error if the headers say that the body is not a form. A body
// without a Content-Type counts as a form.
func CheckForm(h http.Header) error {
	kind, parameters, err := mime.ParseMediaType(h.Get("Content-Type"))
	charset := strings.ToLower(parameters["charset"])
	switch {
	case h.Get("Content-Encoding") != "" && h.Get("Content-Encoding") != "identity":
		return ec2.Errorf("UnsupportedMediaType", "The body of a request may not be compressed")
	case h.Get("Content-Type") == "":
		return nil
	case err != nil || kind != "application/x-www-form-urlencoded" || charset != "" && charset != "utf-8" && charset != "us-ascii":
		return ec2.Errorf("UnsupportedMediaType", "The body of a request must be application/x-www-form-urlencoded; charset=utf-8")
	}
	return nil
}

// Parse reads the query string and the form in the body as one set of parameters. It
// leaves out the signature's parameters in the query string, X-Amz-*.
func Parse(query, body string) (*Param, error) {
	if strings.Count(query, "&")+strings.Count(body, "&") >= MaxParams {
		return nil, ec2.Errorf("RequestEntityTooLarge", "The request has more than %d parameters", MaxParams)
	}
	root := new(Param)
	for i, part := range []string{query, body} {
		values, err := url.ParseQuery(part)
		if err != nil {
			return nil, ec2.Errorf("MalformedQueryString", "The query string contains a syntax error")
		}
		for _, name := range slices.Sorted(maps.Keys(values)) { // so that equal requests get equal errors
			list := values[name]
			if i == 0 && strings.HasPrefix(name, "X-Amz-") {
				continue
			}
			if !printable(name) || !printable(list[0]) {
				return nil, ec2.Errorf("InvalidCharacter", "The parameter %s has a character that is not UTF-8, or that XML cannot carry", Quote(name))
			}
			if len(list) > 1 || !root.Set(name, list[0]) {
				return nil, ec2.Errorf("InvalidParameterValue", "The parameter %s appears more than once, or its name has too many parts", Quote(name))
			}
		}
	}
	return root, nil
}

// printable reports whether text is valid in XML (1.0 §2.2) and JSON, because answers
// quote parameters, and the audit log stores them as JSON.
func printable(text string) bool {
	for _, r := range text {
		if r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0xfffe || r == 0xffff {
			return false
		}
	}
	return utf8.ValidString(text)
}
