package query

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"palisade/ec2"
	"palisade/ec2/catalogue"
	"palisade/ec2/query/wire"
)

// ssmActions are the actions of AWS Systems Manager that are served, on the same port as EC2: those that
// read the public parameters with which Amazon, Canonical and Debian name their newest images.
var ssmActions = map[string]handler{
	"GetParameter":        action(getParameter),
	"GetParameters":       action(getParameters),
	"GetParametersByPath": action(getParametersByPath),
}

const (
	ssmVersion = "2014-11-06"
	ssmTarget  = "AmazonSSM." // begins the header X-Amz-Target, which names the action
)

// ssmService speaks AWS JSON 1.1: parameters and answers are JSON, and the code of an error is in the
// member __type (Smithy, "AWS JSON 1.1 protocol").
var ssmService = &service{
	name:         "ssm",
	contentType:  "application/x-amz-json-1.1",
	actions:      ssmActions,
	read:         readJSON,
	checkVersion: func(string) error { return nil },
	other: func(name string) (handler, error) {
		return handler{}, ec2.Errorf("UnknownOperationException", "The action %s of SSM is not served here: only public image parameters can be read", wire.Quote(name))
	},
	encodeAnswer: func(_, _, _ string, answer any) []byte {
		document, err := json.Marshal(answer)
		if err != nil {
			panic(fmt.Sprintf("query: answer of SSM: %v", err)) // the types of answers are our own
		}
		return document
	},
	encodeError: encodeSSMError,
}

func encodeSSMError(e *ec2.Error, _ string) (int, []byte) {
	code, message, at := e.Code, e.Message, http.StatusBadRequest
	switch {
	case message == notValid:
		code, message = "UnrecognizedClientException", "The security token included in the request is invalid."
	case code == "AuthFailure" || code == "RequestExpired":
		code = "InvalidSignatureException"
	case code == "MissingAuthenticationToken":
		code, message = "MissingAuthenticationTokenException", "Missing Authentication Token"
	case code == "RequestLimitExceeded":
		code, message = "ThrottlingException", "Rate exceeded"
	case code == "MissingParameter" || code == "InvalidParameterValue" || code == "UnknownParameter":
		code = "ValidationException"
	case code == "MissingAction":
		code = "UnknownOperationException"
	case code == "Unavailable":
		code, at = "ServiceUnavailableException", http.StatusServiceUnavailable
	case code == "InternalError":
		code, at = "InternalServerError", http.StatusInternalServerError
	}
	document, _ := json.Marshal(map[string]string{"__type": code, "message": message}) // two strings cannot fail
	return at, document
}

// readJSON reads the body as the parameters that a form would have: the member Names with a list is Names.1
// and so on.
func readJSON(q *Received) (*wire.Param, error) {
	root := new(wire.Param)
	name, ok := strings.CutPrefix(q.Header.Get("X-Amz-Target"), ssmTarget)
	if !ok {
		return nil, ec2.Errorf("MissingAction", "The header X-Amz-Target must be %s and an action", ssmTarget)
	}
	root.Set("Action", name)
	d := json.NewDecoder(bytes.NewReader(q.Body))
	d.UseNumber()
	var members map[string]any
	if err := d.Decode(&members); err != nil || d.More() {
		return nil, ec2.Errorf("SerializationException", "The body must be one JSON object")
	}
	count := 0
	for name, value := range members {
		if !flatten(root, name, value, &count) {
			return nil, ec2.Errorf("SerializationException", "The member %s is nested too deeply, or the request has more than %d members", wire.Quote(name), wire.MaxParams)
		}
	}
	return root, nil
}

func flatten(root *wire.Param, name string, value any, count *int) bool {
	if *count++; *count > wire.MaxParams {
		return false
	}
	switch x := value.(type) {
	case map[string]any:
		for member, value := range x {
			if strings.Contains(member, ".") || !flatten(root, name+"."+member, value, count) {
				return false
			}
		}
	case []any:
		for n, value := range x {
			if !flatten(root, name+"."+strconv.Itoa(n+1), value, count) {
				return false
			}
		}
	case nil:
	default:
		return root.Set(name, fmt.Sprint(x))
	}
	return true
}

type parameterItem struct {
	Name     string  `json:"Name"`
	Type     string  `json:"Type"`
	Value    string  `json:"Value"`
	Version  int     `json:"Version"`
	Selector string  `json:"Selector,omitempty"`
	Modified float64 `json:"LastModifiedDate"` // seconds since 1970
	ARN      string  `json:"ARN"`
	DataType string  `json:"DataType"`
}

func (c *call) newParameterItem(p catalogue.Parameter, selector string) parameterItem {
	return parameterItem{
		Name: p.Name, Type: "String", Value: p.Value, Version: p.Version, Selector: selector, Modified: float64(p.Modified.UnixMilli()) / 1000,
		ARN: "arn:aws:ssm:" + string(c.region) + "::parameter" + p.Name, DataType: p.DataType,
	}
}

// parameter finds a parameter by its name or ARN, with or without a version (SSM API Reference,
// "GetParameter"). Only the newest version is kept. Public parameters have no labels.
func (c *call) parameter(text string) (parameterItem, error) {
	name := text
	if rest, ok := strings.CutPrefix(name, "arn:aws:ssm:"+string(c.region)+"::parameter"); ok {
		name = rest
	}
	name, selector, selected := strings.Cut(name, ":")
	p, ok := catalogue.FindParameter(string(c.region), name)
	if !ok {
		return parameterItem{}, ec2.Errorf("ParameterNotFound", "Parameter %s not found.", wire.Quote(text))
	}
	if !selected {
		return c.newParameterItem(p, ""), nil
	}
	if selector != strconv.Itoa(p.Version) {
		return parameterItem{}, ec2.Errorf("ParameterVersionNotFound", "Systems Manager could not find version %s of %s. Verify the version and try again.", wire.Quote(selector), p.Name)
	}
	return c.newParameterItem(p, ":"+selector), nil
}

// The parameter WithDecryption changes nothing, because no public parameter is encrypted.

type getParameterRequest struct {
	Name       string `wire:"Name"`
	Decryption bool   `wire:"WithDecryption"`
}

type getParameterAnswer struct {
	Parameter parameterItem `json:"Parameter"`
}

func getParameter(c *call, r *getParameterRequest) (*getParameterAnswer, error) {
	if r.Name == "" {
		return nil, missingMember("name")
	}
	item, err := c.parameter(r.Name)
	if err != nil {
		return nil, err
	}
	return &getParameterAnswer{item}, nil
}

func missingMember(name string) error {
	return ec2.Errorf("ValidationException", "1 validation error detected: Value null at '%s' failed to satisfy constraint: Member must not be null", name)
}

type getParametersRequest struct {
	Names      []string `wire:"Names"`
	Decryption bool     `wire:"WithDecryption"`
}

type getParametersAnswer struct {
	Parameters []parameterItem `json:"Parameters"`
	Invalid    []string        `json:"InvalidParameters"`
}

// maxParameters is the most parameters of a request or of a page (SSM API Reference, "GetParameters",
// "GetParametersByPath").
const maxParameters = 10

func getParameters(c *call, r *getParametersRequest) (*getParametersAnswer, error) {
	switch {
	case len(r.Names) == 0:
		return nil, missingMember("names")
	case len(r.Names) > maxParameters:
		return nil, ec2.Errorf("ValidationException", "1 validation error detected: Value at 'names' failed to satisfy constraint: Member must have length less than or equal to %d", maxParameters)
	}
	answer := &getParametersAnswer{Parameters: []parameterItem{}, Invalid: []string{}}
	seen := make(map[string]bool)
	for _, name := range r.Names {
		if seen[name] {
			return nil, ec2.Errorf("ValidationException", "Duplicate parameters are not allowed: %s", wire.Quote(name))
		}
		seen[name] = true
		if item, err := c.parameter(name); err == nil {
			answer.Parameters = append(answer.Parameters, item)
		} else {
			answer.Invalid = append(answer.Invalid, name)
		}
	}
	return answer, nil
}

type getParametersByPathRequest struct {
	Path       string     `wire:"Path"`
	Recursive  bool       `wire:"Recursive"`
	Filters    []struct{} `wire:"ParameterFilters"`
	Decryption bool       `wire:"WithDecryption"`
	MaxResults *int       `wire:"MaxResults"`
	NextToken  string     `wire:"NextToken"`
}

type getParametersByPathAnswer struct {
	Parameters []parameterItem `json:"Parameters"`
	NextToken  string          `json:"NextToken,omitempty"`
}

// getParametersByPath shows the parameters whose names are a path and one part more, or any number of parts.
func getParametersByPath(c *call, r *getParametersByPathRequest) (*getParametersByPathAnswer, error) {
	limit := maxParameters
	if r.MaxResults != nil {
		limit = *r.MaxResults
	}
	after, err := paged{NextToken: r.NextToken}.after(func(key string) bool { return strings.HasPrefix(key, "/") })
	switch {
	case r.Path == "":
		return nil, missingMember("path")
	case !strings.HasPrefix(r.Path, "/"):
		return nil, ec2.Errorf("ValidationException", "The parameter doesn't meet the parameter name requirements. The parameter name must begin with a forward slash \"/\".")
	case limit < 1 || limit > maxParameters:
		return nil, ec2.Errorf("ValidationException", "1 validation error detected: Value '%d' at 'maxResults' failed to satisfy constraint: Member must have value between 1 and %d", limit, maxParameters)
	case len(r.Filters) > 0:
		return nil, ec2.Errorf("InvalidFilterKey", "Filters are not served here: every public image parameter is a String without key and labels")
	case err != nil:
		return nil, err
	}
	path := strings.TrimSuffix(r.Path, "/") + "/"
	answer := &getParametersByPathAnswer{Parameters: []parameterItem{}}
	for _, p := range catalogue.Parameters(string(c.region)) {
		rest, below := strings.CutPrefix(p.Name, path)
		switch {
		case !below || p.Name <= after || !r.Recursive && strings.Contains(rest, "/"):
		case len(answer.Parameters) == limit:
			answer.NextToken = tokenAfter(answer.Parameters[limit-1].Name)
			return answer, nil
		default:
			answer.Parameters = append(answer.Parameters, c.newParameterItem(p, ""))
		}
	}
	return answer, nil
}

// launchedImage returns the image id that a launch asks for. It may name a parameter of SSM instead:
// resolve:ssm:NAME (EC2 User Guide, "Reference AMIs using Systems Manager parameters").
func (c *call) launchedImage(text string) (string, error) {
	name, ok := strings.CutPrefix(text, "resolve:ssm:")
	if !ok {
		return text, nil
	}
	p, err := c.parameter(name)
	if err != nil {
		return "", ec2.Errorf("InvalidParameterValue", "The parameter %s of SSM is not there: only public image parameters are", wire.Quote(name))
	}
	return p.Value, nil
}
