package ec2tools

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

const (
	// apiVersion is the version of the API that the tools use.
	apiVersion = "2016-11-15"

	// indexHeader is the header of an answer with the index of the change, or of the
	// state that a stale answer shows.
	indexHeader = "x-palisade-index"

	// readHeader is set to "stale" for a stale answer.
	readHeader = "x-palisade-read"

	// callTimeout bounds one call, from the connection to the end of the answer.
	callTimeout = 60 * time.Second

	// maxAnswer bounds the size of an answer, in bytes.
	maxAnswer = 64 << 20
)

// A client calls the EC2 Query API: one signed POST for each action.
type client struct {
	endpoint    *url.URL
	credentials aws.Credentials
	region      string
	signer      *v4.Signer
	http        *http.Client
	stale       io.Writer // gets the index of a stale answer; nil: answers are not stale
}

// newClient makes a client. roots are the authorities that may sign the service's
// certificate; nil means the system's.
func newClient(endpoint *url.URL, access, secret, region string, roots *x509.CertPool) *client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	return &client{
		endpoint:    endpoint,
		credentials: aws.Credentials{AccessKeyID: access, SecretAccessKey: secret},
		region:      region,
		signer:      v4.NewSigner(),
		http:        &http.Client{Timeout: callTimeout, Transport: transport},
	}
}

// A serviceError is an error answer of the service.
type serviceError struct {
	Status  int
	Code    string
	Message string
}

// Error has the form of the old tools. The first word tells whether the client or the
// server is at fault.
func (e *serviceError) Error() string {
	side := "Client"
	if e.Status >= 500 {
		side = "Server"
	}
	return side + "." + e.Code + ": " + e.Message
}

// call performs an action and decodes its answer into answer. It returns the index of the
// change, "" if the action changes nothing.
func (c *client) call(ctx context.Context, action string, params url.Values, answer any) (string, error) {
	form := url.Values{"Action": {action}, "Version": {apiVersion}}
	for name, values := range params {
		form[name] = values
	}
	body := []byte(form.Encode())

	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.endpoint.String(), bytes.NewReader(body))
	if err != nil {
		return "", fmt.Errorf("make %s request: %w", action, err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	req.Header.Set("amz-sdk-invocation-id", rand.Text()) // so that two equal calls in one second have two signatures
	if c.stale != nil {
		req.Header.Set(readHeader, "stale")
	}
	sum := sha256.Sum256(body)
	if err := c.signer.SignHTTP(ctx, c.credentials, req, hex.EncodeToString(sum[:]), "ec2", c.region, time.Now()); err != nil {
		return "", fmt.Errorf("sign %s request: %w", action, err)
	}
	resp, err := c.http.Do(req)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return "", fmt.Errorf("connection to %s refused; to start a lab: palisade lab up", c.endpoint)
	}
	if err != nil {
		return "", fmt.Errorf("call %s: %w", action, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return "", fmt.Errorf("read answer to %s: %w", action, err)
	}
	if resp.StatusCode != http.StatusOK {
		return "", refusal(resp.StatusCode, data)
	}
	if err := xml.Unmarshal(data, answer); err != nil {
		return "", fmt.Errorf("read answer to %s: %w", action, err)
	}
	index := resp.Header.Get(indexHeader)
	if c.stale != nil {
		fmt.Fprintf(c.stale, "as of index %s\n", index)
	}
	return index, nil
}

// refusal returns the error in an error answer. If it is not an error document of EC2,
// the HTTP status becomes the code.
func refusal(status int, data []byte) error {
	var doc struct {
		Code    string `xml:"Errors>Error>Code"`
		Message string `xml:"Errors>Error>Message"`
	}
	if err := xml.Unmarshal(data, &doc); err != nil || doc.Code == "" {
		text := strings.Join(strings.Fields(string(data)), " ")
		if len(text) > 200 {
			text = text[:200] + "…"
		}
		return &serviceError{status, strings.ReplaceAll(http.StatusText(status), " ", ""), text}
	}
	return &serviceError{status, doc.Code, doc.Message}
}

// numbered adds values as a list of the Query API: prefix.1, prefix.2 and so on.
func numbered(params url.Values, prefix string, values []string) {
	for i, v := range values {
		params.Set(fmt.Sprintf("%s.%d", prefix, i+1), v)
	}
}

// isGroupID reports whether ref is the id of a group. No name may begin like one.
func isGroupID(ref string) bool { return strings.HasPrefix(ref, "sg-") }

// groupRef sets the parameter that names one group, by id or by name.
func groupRef(params url.Values, prefix, ref string) {
	if isGroupID(ref) {
		params.Set(prefix+"GroupId", ref)
		return
	}
	params.Set(prefix+"GroupName", ref)
}
