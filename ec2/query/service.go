package query

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"palisade/ec2"
	"palisade/ec2/query/wire"
)

// A service is EC2, STS or SSM; clients of EC2 ask STS for their identity, and SSM for the newest image. A
// signature's scope names the service. All share the port and the form of signatures.
type service struct {
	name         string
	contentType  string // of answers
	read         func(q *Received) (*wire.Param, error)
	actions      map[string]handler
	checkVersion func(string) error
	other        func(string) (handler, error) // for an action that actions lacks
	encodeAnswer func(action, version, id string, answer any) []byte
	encodeError  func(e *ec2.Error, id string) (status int, document []byte)
}

// xmlType is the Content-Type of the answers of EC2 and STS.
const xmlType = "text/xml;charset=UTF-8"

var ec2Service = &service{
	name:         "ec2",
	contentType:  xmlType,
	read:         readForm,
	actions:      actions,
	checkVersion: checkVersion,
	other:        otherAction,
	encodeAnswer: encodeAnswer,
	encodeError: func(e *ec2.Error, id string) (int, []byte) {
		return status(e.Code), encodeError(e, id)
	},
}

// handler returns what carries out an action. An action that is served has precedence over
// the answer for what no account has.
func (s *service) handler(action string) (handler, error) {
	if h, ok := s.actions[action]; ok {
		return h, nil
	}
	return s.other(action)
}

func serviceNamed(name string) (*service, bool) {
	switch name {
	case "ec2":
		return ec2Service, true
	case "sts":
		return stsService, true
	case "ssm":
		return ssmService, true
	}
	return ec2Service, false
}

// readForm reads the parameters of a request of EC2 or STS.
func readForm(q *Received) (*wire.Param, error) {
	if err := wire.CheckForm(q.Header); err != nil {
		return nil, err
	}
	return wire.Parse(q.Query, string(q.Body))
}

// serviceOf returns the service that an unsigned request is for, by its version or target, or EC2. The
// request is refused with a document of that service.
func serviceOf(q *Received) *service {
	if strings.HasPrefix(q.Header.Get("X-Amz-Target"), ssmTarget) {
		return ssmService
	}
	for _, part := range []string{q.Query, string(q.Body)} {
		if strings.Contains("&"+part+"&", "&Version="+stsVersion+"&") {
			return stsService
		}
	}
	return ec2Service
}

// The first and the last version of EC2's API.
const firstVersion, lastVersion = "2006-06-26", "2016-11-15"

// checkVersion accepts every date from the first version to the last. Answers differ only
// in their namespace, because clients skip elements that they do not know.
func checkVersion(v string) error {
	if v == "" {
		return ec2.Missing("Version")
	}
	if _, err := time.Parse(time.DateOnly, v); err != nil || v < firstVersion || v > lastVersion {
		return ec2.Errorf("NoSuchVersion", "The requested version (%s) of service AmazonEC2 does not exist", wire.Quote(v))
	}
	return nil
}

// encodeAnswer returns the document of an answer of EC2.
func encodeAnswer(action, version, id string, answer any) []byte {
	b := documents.Get().(*bytes.Buffer)
	b.Reset()
	fmt.Fprintf(b, "%s<%sResponse xmlns=\"http://ec2.amazonaws.com/doc/%s/\">", xml.Header, action, version)
	wire.Element(b, "requestId", id)
	wire.Encode(b, answer)
	fmt.Fprintf(b, "</%sResponse>\n", action)
	document := bytes.Clone(b.Bytes())
	if b.Cap() <= 4<<20 {
		documents.Put(b)
	}
	return document
}

// documents holds buffers that encodeAnswer reuses, because they have grown to the size of
// an answer already. A buffer above 4 MiB is not kept.
var documents = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// encodeError returns the document of an error of EC2. In errors the id's element is
// RequestID, in answers requestId: the SDKs' parsers require this.
func encodeError(e *ec2.Error, id string) []byte {
	var b bytes.Buffer
	b.WriteString(xml.Header + "<Response><Errors><Error>")
	wire.Element(&b, "Code", e.Code)
	wire.Element(&b, "Message", e.Message)
	b.WriteString("</Error></Errors>")
	wire.Element(&b, "RequestID", id)
	b.WriteString("</Response>\n")
	return b.Bytes()
}

// status returns the HTTP status of an error code: 400 for a caller's mistake, unless
// clients expect another status for the code.
func status(code string) int {
	switch code {
	case "AuthFailure", "MissingAuthenticationToken":
		return http.StatusUnauthorized
	case "UnauthorizedOperation", "OptInRequired":
		return http.StatusForbidden
	case "MethodNotAllowed":
		return http.StatusMethodNotAllowed
	case "DryRunOperation":
		return http.StatusPreconditionFailed
	case "RequestEntityTooLarge":
		return http.StatusRequestEntityTooLarge
	case "UnsupportedMediaType":
		return http.StatusUnsupportedMediaType
	case "Unavailable", "RequestLimitExceeded":
		return http.StatusServiceUnavailable
	case "InternalError":
		return http.StatusInternalServerError
	}
	return http.StatusBadRequest
}
