package query

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"palisade/ec2"
)

// maxSkew is how far a request's stamp may be off.
const maxSkew = 5 * time.Minute

const (
	algorithm  = "AWS4-HMAC-SHA256"
	stampForm  = "20060102T150405Z"
	notValid   = "AWS was not able to validate the provided access credentials"
	notParsed  = "Authorization header or parameters are not formatted correctly."
	notPresent = "AWS was not able to authenticate the request: access credentials are missing"
)

// An authorization is the Authorization header of Signature Version 4.
type authorization struct {
	accessKey, date, region, service string
	signedHeaders                    []string
	signature                        string
}

// authenticate finds who signed the request and for which region. It signs the request
// again, with the header names the client says it signed, and compares: so whatever the
// client covered is covered (AWS General Reference, "Signature Version 4"). The body is
// always covered, by its own hash, never by a header's word for it.
func (s *Server) authenticate(c *call, r *http.Request, body []byte) error {
	header := r.Header.Get("Authorization")
	if header == "" {
		return ec2.Errorf("MissingAuthenticationToken", "%s", notPresent)
	}
	a, ok := parseAuthorization(header)
	if !ok {
		return ec2.Errorf("AuthFailure", "%s", notParsed)
	}
	stamp, err := time.Parse(stampForm, r.Header.Get("X-Amz-Date"))
	if err != nil || !strings.HasPrefix(r.Header.Get("X-Amz-Date"), a.date) {
		return ec2.Errorf("AuthFailure", "%s", notParsed)
	}
	if skew := s.cfg.Now().Sub(stamp).Abs(); skew > maxSkew {
		return ec2.Errorf("RequestExpired", "Request has expired.")
	}
	if a.service != "ec2" {
		return ec2.Errorf("AuthFailure", "Credential should be scoped to correct service: 'ec2'.")
	}
	key, ok := c.view.AccessKey(a.accessKey)
	if !ok {
		return ec2.Errorf("AuthFailure", "%s", notValid)
	}
	want, err := a.sign(r, body, key.Secret, stamp)
	if err != nil {
		return fmt.Errorf("sign again: %w", err)
	}
	if subtle.ConstantTimeCompare([]byte(want), []byte(a.signature)) != 1 {
		return ec2.Errorf("AuthFailure", "%s", notValid)
	}
	if _, ok := c.view.ClassicNetwork(ec2.Region(a.region)); !ok {
		return ec2.Errorf("AuthFailure", "Credential should be scoped to a valid region, not '%s'.", quote(a.region))
	}
	c.account, c.region = key.Account, ec2.Region(a.region)
	return nil
}

// parseAuthorization reads "AWS4-HMAC-SHA256 Credential=key/date/region/service/
// aws4_request, SignedHeaders=a;b, Signature=hex".
func parseAuthorization(header string) (a authorization, ok bool) {
	rest, ok := strings.CutPrefix(header, algorithm+" ")
	if !ok {
		return a, false
	}
	fields := make(map[string]string)
	for part := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		if _, twice := fields[name]; twice {
			return a, false
		}
		fields[name] = value
	}
	scope := strings.Split(fields["Credential"], "/")
	if len(scope) != 5 || scope[4] != "aws4_request" || len(scope[1]) != len("20060102") || scope[2] == "" {
		return a, false
	}
	a = authorization{
		accessKey:     scope[0],
		date:          scope[1],
		region:        scope[2],
		service:       scope[3],
		signedHeaders: strings.Split(fields["SignedHeaders"], ";"),
		signature:     fields["Signature"],
	}
	signed := make(map[string]bool)
	for _, name := range a.signedHeaders {
		if name == "" || signed[name] || name != strings.ToLower(name) {
			return a, false
		}
		signed[name] = true
	}
	// Without the host a request could be replayed to another endpoint, without the
	// date for ever.
	return a, signed["host"] && signed["x-amz-date"] && a.signature != ""
}

// sign computes the signature that the request should carry. Header names go in as the
// client wrote them, in small letters: the signer leaves "User-Agent" and some others
// out by their usual spelling, and a client that covered them is to be held to it.
func (a authorization) sign(r *http.Request, body []byte, secret string, stamp time.Time) (string, error) {
	again := &http.Request{
		Method: r.Method,
		URL:    &url.URL{Path: "/", RawQuery: r.URL.RawQuery},
		Host:   r.Host,
		Header: make(http.Header),
	}
	for _, name := range a.signedHeaders {
		switch name {
		case "host", "x-amz-date": // the signer adds them
		case "content-length":
			again.ContentLength = int64(len(body))
		default:
			again.Header[name] = r.Header.Values(name)
		}
	}
	hash := sha256.Sum256(body)
	credentials := aws.Credentials{AccessKeyID: a.accessKey, SecretAccessKey: secret}
	err := v4.NewSigner().SignHTTP(r.Context(), credentials, again, hex.EncodeToString(hash[:]), a.service, a.region, stamp)
	if err != nil {
		return "", err
	}
	_, signature, _ := strings.Cut(again.Header.Get("Authorization"), "Signature=")
	return signature, nil
}
