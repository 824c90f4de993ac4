// Package sigv4 reads and verifies AWS Signature Version 4 (IAM User Guide, "AWS Signature
// Version 4 for API requests"), in a request's Authorization header or in its query
// string. It signs the request again with the secret and compares. It knows no accounts:
// the caller finds the secret of Signature.AccessKey. Signature Version 2 is refused.
package sigv4

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"palisade/ec2"
)

const (
	algorithm  = "AWS4-HMAC-SHA256"
	timeFormat = "20060102T150405Z"

	// maxSkew is how far a request's time may differ from ours, either way.
	maxSkew = 5 * time.Minute
	// maxExpires is the longest validity of a signature in the query string (IAM User
	// Guide, "Create a signed AWS API request").
	maxExpires = 7 * 24 * time.Hour
)

const (
	notParsed  = "Authorization header or parameters are not formatted correctly."
	notPresent = "AWS was not able to authenticate the request: access credentials are missing"
	notServed  = "Only Signature Version 4 is served here: this request is signed in an older way"
)

// A Signature is what a request says about its signer. Do not trust it before Verify has
// returned true.
type Signature struct {
	AccessKey, Region, Service string

	date          string // of the scope, "20060102"
	signedHeaders []string
	hex           string
	stamp         time.Time

	inQuery bool
	expires time.Duration // after stamp; only for a signature in the query string
}

// Parse reads a request's signature. It checks only the form.
func Parse(r *http.Request, body []byte) (*Signature, error) {
	query := r.URL.Query()
	headers := r.Header.Values("Authorization")
	switch inQuery := query.Has("X-Amz-Signature") || query.Has("X-Amz-Credential"); {
	case inQuery && len(headers) == 0:
		if g, ok := parseQuery(query); ok {
			return g, nil
		}
	case len(headers) == 1 && !inQuery:
		if g, ok := parseAuthorization(headers[0], r.Header.Get("X-Amz-Date")); ok {
			return g, nil
		}
	case len(headers) == 0 && (query.Has("SignatureVersion") || strings.Contains("&"+string(body), "&SignatureVersion=")):
		return nil, ec2.Errorf("AuthFailure", notServed)
	case len(headers) == 0:
		return nil, ec2.Errorf("MissingAuthenticationToken", notPresent)
	}
	return nil, ec2.Errorf("AuthFailure", notParsed)
}

// parseAuthorization reads "AWS4-HMAC-SHA256 Credential=key/date/region/service/
// aws4_request, SignedHeaders=a;b, Signature=hex" and the header X-Amz-Date.
func parseAuthorization(header, date string) (*Signature, bool) {
	rest, ok := strings.CutPrefix(header, algorithm+" ")
	if !ok {
		return nil, false
	}
	fields := make(map[string]string)
	for part := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		if _, twice := fields[name]; twice {
			return nil, false
		}
		fields[name] = value
	}
	g := &Signature{hex: fields["Signature"]}
	// An unsigned date could be changed, and the request replayed forever.
	return g, g.parse(fields["Credential"], date, fields["SignedHeaders"]) && slices.Contains(g.signedHeaders, "x-amz-date")
}

// queryParameters are the parameters of a signature in the query string.
var queryParameters = []string{"X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature"}

// parseQuery reads a signature in the query string. It reports whether the signature is
// well-formed.
func parseQuery(query url.Values) (*Signature, bool) {
	for _, name := range queryParameters {
		if len(query[name]) != 1 {
			return nil, false
		}
	}
	seconds, err := strconv.ParseUint(query.Get("X-Amz-Expires"), 10, 31)
	g := &Signature{hex: query.Get("X-Amz-Signature"), inQuery: true, expires: time.Duration(seconds) * time.Second}
	if err != nil || seconds == 0 || g.expires > maxExpires || query.Get("X-Amz-Algorithm") != algorithm {
		return nil, false
	}
	return g, g.parse(query.Get("X-Amz-Credential"), query.Get("X-Amz-Date"), query.Get("X-Amz-SignedHeaders"))
}

// parse reads the parts that a signature has in the header and in the query string. It
// reports whether they are well-formed.
func (g *Signature) parse(credential, date, signedHeaders string) bool {
	scope := strings.Split(credential, "/")
	if len(scope) != 5 || scope[4] != "aws4_request" || len(scope[1]) != len("20060102") || scope[2] == "" || g.hex == "" {
		return false
	}
	g.AccessKey, g.date, g.Region, g.Service = scope[0], scope[1], scope[2], scope[3]
	stamp, err := time.Parse(timeFormat, date)
	if err != nil || !strings.HasPrefix(date, g.date) {
		return false
	}
	g.stamp = stamp
	seen := make(map[string]bool)
	for name := range strings.SplitSeq(signedHeaders, ";") {
		if name == "" || seen[name] || name != strings.ToLower(name) {
			return false
		}
		seen[name] = true
		g.signedHeaders = append(g.signedHeaders, name)
	}
	return seen["host"] // without host, a request could be replayed to another endpoint
}

// Until returns the time at which a signature expires.
func (g *Signature) Until() time.Time {
	if g.inQuery {
		return g.stamp.Add(g.expires)
	}
	return g.stamp.Add(maxSkew)
}

// ID returns a hash of a signature. Two requests have the same one only if one is a copy of the
// other, or if both were signed with the same key in the same second and are equal in everything
// that is signed.
func (g *Signature) ID() []byte {
	sum := sha256.Sum256([]byte(g.AccessKey + "/" + g.hex))
	return sum[:16]
}

// CheckTime returns an error for a signature that has expired or whose time is in the
// future.
func (g *Signature) CheckTime(now time.Time) error {
	if now.Before(g.stamp.Add(-maxSkew)) || now.After(g.Until()) {
		return ec2.Errorf("RequestExpired", "Request has expired.")
	}
	return nil
}

// Verify reports whether the request was signed with secret. It takes the same time for a
// right and a wrong signature.
func (g *Signature) Verify(r *http.Request, body []byte, secret string) (bool, error) {
	want, err := g.compute(r, body, secret)
	if err != nil {
		return false, fmt.Errorf("compute signature: %w", err)
	}
	return subtle.ConstantTimeCompare([]byte(want), []byte(g.hex)) == 1, nil
}

// compute returns the signature that the request should have, over the headers that the
// client says it signed. It always hashes the body itself, and does not trust a header
// with the body's hash.
//
// Header names are passed in lower case, as the client listed them. The SDK's signer skips
// some headers, such as "User-Agent", by their canonical spelling; in lower case they are
// covered like the others.
func (g *Signature) compute(r *http.Request, body []byte, secret string) (string, error) {
	copied := &http.Request{
		Method: r.Method,
		URL:    &url.URL{Path: "/", RawQuery: r.URL.RawQuery},
		Host:   r.Host,
		Header: make(http.Header),
	}
	for _, name := range g.signedHeaders {
		switch name {
		case "host": // the signer adds it
		case "x-amz-date":
			if g.inQuery {
				copied.Header[name] = r.Header.Values(name)
			}
		case "content-length":
			copied.ContentLength = int64(len(body))
		default:
			copied.Header[name] = r.Header.Values(name)
		}
	}
	sum := sha256.Sum256(body)
	hash := hex.EncodeToString(sum[:])
	credentials := aws.Credentials{AccessKeyID: g.AccessKey, SecretAccessKey: secret}
	if !g.inQuery {
		err := v4.NewSigner().SignHTTP(r.Context(), credentials, copied, hash, g.Service, g.Region, g.stamp)
		_, signed, _ := strings.Cut(copied.Header.Get("Authorization"), "Signature=")
		return signed, err
	}
	query := r.URL.Query()
	for _, name := range queryParameters {
		if name != "X-Amz-Expires" { // the signer adds the others
			query.Del(name)
		}
	}
	copied.URL.RawQuery = query.Encode()
	asIs := func(o *v4.SignerOptions) { o.DisableHeaderHoisting = true }
	signed, _, err := v4.NewSigner(asIs).PresignHTTP(r.Context(), credentials, copied, hash, g.Service, g.Region, g.stamp)
	if err != nil {
		return "", err
	}
	_, signed, _ = strings.Cut(signed, "&X-Amz-Signature=")
	return signed, nil
}
