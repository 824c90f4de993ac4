package query

import (
	"mime"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"palisade/ec2"
)

const (
	// maxBody bounds a request's body, in bytes; more is refused unread.
	maxBody = 1 << 20
	// maxParams bounds a request's parameters: a group's limit of rules needs a tenth.
	maxParams = 8192
)

// checkForm refuses a body that is no form. Without a type it is taken for one.
func checkForm(h http.Header) error {
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

// parseParams reads the query string and a form body as one set of parameters. What
// signs the request is none of them.
func parseParams(query, body string) (*param, error) {
	if strings.Count(query, "&")+strings.Count(body, "&") >= maxParams {
		return nil, ec2.Errorf("RequestEntityTooLarge", "The request has more than %d parameters", maxParams)
	}
	root := new(param)
	for i, part := range []string{query, body} {
		values, err := url.ParseQuery(part)
		if err != nil {
			return nil, ec2.Errorf("MalformedQueryString", "The query string contains a syntax error")
		}
		for name, list := range values {
			if i == 0 && strings.HasPrefix(name, "X-Amz-") {
				continue
			}
			if !printable(name) || !printable(list[0]) {
				return nil, ec2.Errorf("InvalidCharacter", "The parameter %s has a character that is not UTF-8, or that XML cannot carry", quote(name))
			}
			if len(list) > 1 || !root.set(name, list[0]) {
				return nil, ec2.Errorf("InvalidParameterValue", "The parameter %s appears more than once, or too deep", quote(name))
			}
		}
	}
	return root, nil
}

// printable: answers must be able to say it (XML 1.0 §2.2), and the log keeps it as JSON.
func printable(text string) bool {
	for _, r := range text {
		if r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0xfffe || r == 0xffff {
			return false
		}
	}
	return utf8.ValidString(text)
}
