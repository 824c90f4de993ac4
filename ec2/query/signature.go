package query

import (
	"crypto/sha256"
	"encoding/hex"
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
	algorithm = "AWS4-HMAC-SHA256"
	stampForm = "20060102T150405Z"
)

// A signature is what a request says about who signed it, by Signature Version 4 (IAM
// User Guide, "AWS Signature Version 4 for API requests"): in its Authorization header,
// or in its query string.
type signature struct {
	accessKey, date, region, service string
	signedHeaders                    []string
	hex                              string
	stamp                            time.Time

	inQuery bool
	expires time.Duration // behind the stamp, if it is in the query string
}

// signatureOf reads a request's signature; it checks nothing but the form.
func signatureOf(r *http.Request, body []byte) (*signature, error) {
	query := r.URL.Query()
	headers := r.Header.Values("Authorization")
	switch inQuery := query.Has("X-Amz-Signature") || query.Has("X-Amz-Credential"); {
	case inQuery && len(headers) == 0:
		if g, ok := parseQueryForm(query); ok {
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
func parseAuthorization(header, date string) (*signature, bool) {
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
	g := &signature{hex: fields["Signature"]}
	// Without its date a request could be replayed for ever.
	return g, g.parse(fields["Credential"], date, fields["SignedHeaders"]) && slices.Contains(g.signedHeaders, "x-amz-date")
}

// The parameters of a signature in the query string.
var queryForm = []string{"X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature"}

// parseQueryForm reads the parameters of a signature.
func parseQueryForm(query url.Values) (*signature, bool) {
	for _, name := range queryForm {
		if len(query[name]) != 1 {
			return nil, false
		}
	}
	seconds, err := strconv.ParseUint(query.Get("X-Amz-Expires"), 10, 31)
	g := &signature{hex: query.Get("X-Amz-Signature"), inQuery: true, expires: time.Duration(seconds) * time.Second}
	if err != nil || seconds == 0 || g.expires > maxExpires || query.Get("X-Amz-Algorithm") != algorithm {
		return nil, false
	}
	return g, g.parse(query.Get("X-Amz-Credential"), query.Get("X-Amz-Date"), query.Get("X-Amz-SignedHeaders"))
}

// parse reads what both forms have.
func (g *signature) parse(credential, date, signedHeaders string) bool {
	scope := strings.Split(credential, "/")
	if len(scope) != 5 || scope[4] != "aws4_request" || len(scope[1]) != len("20060102") || scope[2] == "" || g.hex == "" {
		return false
	}
	g.accessKey, g.date, g.region, g.service = scope[0], scope[1], scope[2], scope[3]
	stamp, err := time.Parse(stampForm, date)
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
	return seen["host"] // without it a request could be replayed to another endpoint
}

// again computes the signature that the request should carry, with the headers that the
// client says it signed: so whatever the client covered is covered. The body always is,
// by its own hash, never by a header's word for it.
//
// Header names go in as the client wrote them, in small letters: the signer leaves
// "User-Agent" and some others out by their usual spelling, and a client that covered
// them is to be held to it.
func (g *signature) again(r *http.Request, body []byte, secret string) (string, error) {
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
	credentials := aws.Credentials{AccessKeyID: g.accessKey, SecretAccessKey: secret}
	if !g.inQuery {
		err := v4.NewSigner().SignHTTP(r.Context(), credentials, copied, hash, g.service, g.region, g.stamp)
		_, signed, _ := strings.Cut(copied.Header.Get("Authorization"), "Signature=")
		return signed, err
	}
	query := r.URL.Query()
	for _, name := range queryForm {
		if name != "X-Amz-Expires" { // the others the signer adds
			query.Del(name)
		}
	}
	copied.URL.RawQuery = query.Encode()
	asIs := func(o *v4.SignerOptions) { o.DisableHeaderHoisting = true }
	signed, _, err := v4.NewSigner(asIs).PresignHTTP(r.Context(), credentials, copied, hash, g.service, g.region, g.stamp)
	if err != nil {
		return "", err
	}
	_, signed, _ = strings.Cut(signed, "&X-Amz-Signature=")
	return signed, nil
}
