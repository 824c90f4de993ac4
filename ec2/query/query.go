// Package query is the EC2 Query API over HTTP: it checks a request's signature, reads
// its parameters, asks the Backend, and writes XML. It holds no state and decides
// nothing that state.State.Apply decides.
//
// A theme of Actions is a file: groups.go, rules.go, instances.go, keypairs.go,
// regions.go and so on; enforcement.go is no part of EC2, sts.go of another service;
// actions.go lists them all. Read one of them first, then Server. Package wire
// is the codec between parameters, Go structs and XML; parameters.go says which
// parameters may be ignored. sigv4 verifies signatures, for auth.go.
package query

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"palisade/ec2"
	"palisade/ec2/query/sigv4"
	"palisade/ec2/query/wire"
	"palisade/ec2/state"
)

// A Backend is the replicated state: palisade/cluster.
type Backend interface {
	// Apply carries out a command and returns its log index once it is durable and View
	// has it.
	Apply(context.Context, state.Command) (state.Result, uint64, error)
	// ReadView returns a state that has every change acknowledged before the call.
	ReadView(context.Context) (*state.View, error)
	// View returns the state that this node has, which may be older than what was
	// acknowledged through others.
	View() *state.View
}

// Unavailable is an error of a Backend that cannot decide or read now, for want of a
// leader; or that lost the leader and does not know what became of a change. Its text
// says which, and reaches the caller: nothing in it may be secret. The answer is 503
// Unavailable, which every SDK tries again.
type Unavailable interface {
	error
	Unavailable() string
}

// Config says what a Server stands on.
type Config struct {
	Backend Backend // required
	// Secret opens the secret of an access key. Default: those in plain text alone.
	Secret func(*ec2.AccessKey) (string, error)
	// Logger gets what is not the caller's mistake. Default: nothing is logged.
	Logger *slog.Logger
	// Now is the clock that signatures are checked against. Default time.Now.
	Now func() time.Time
}

const (
	// IndexHeader carries the log index of a mutation, to wait for its enforcement by, or
	// that of the state a stale read is of.
	IndexHeader = "x-palisade-index"
	// ReadHeader is what a Describe may ask with: "stale" answers by what this node has,
	// without a leader too.
	ReadHeader = "x-palisade-read"
)

// Server answers the Query API. It is an http.Handler, safe for any number of requests.
type Server struct {
	cfg Config
}

// New checks cfg and fills its defaults.
func New(cfg Config) (*Server, error) {
	if cfg.Backend == nil {
		return nil, errors.New("new query server: no backend")
	}
	if cfg.Secret == nil {
		cfg.Secret = plainSecret
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Server{cfg: cfg}, nil
}

// ServeHTTP answers one request. Every answer carries its id, also as a header: the
// JavaScript SDK v3 finds it only there.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := requestID()
	w.Header().Set("x-amzn-RequestId", id)
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	c := &call{id: id, ctx: r.Context(), server: s, service: ec2Service, header: w.Header()}
	answer, err := s.serve(c, w, r)
	if err == nil {
		_, _ = w.Write(c.service.encodeAnswer(c.action, c.version, id, answer))
		return
	}

	e, ok := errors.AsType[*ec2.Error](err)
	if !ok {
		e = s.ownFault(c, id, err)
	}
	if e.Code == "Unavailable" {
		w.Header().Set("Retry-After", "1") // an election takes about as long
	}
	status, document := c.service.encodeError(e, id)
	w.WriteHeader(status)
	_, _ = w.Write(document)
}

// ownFault makes an answer of what is not the caller's mistake.
func (s *Server) ownFault(c *call, id string, err error) *ec2.Error {
	if u, ok := errors.AsType[Unavailable](err); ok {
		s.cfg.Logger.Warn("request", "action", c.action, "request", id, "err", err)
		return ec2.Errorf("Unavailable", "%s", u.Unavailable())
	}
	if c.ctx.Err() == nil {
		s.cfg.Logger.Error("request", "action", c.action, "request", id, "err", err)
	}
	return ec2.Errorf("InternalError", "An internal error has occurred")
}

func (s *Server) serve(c *call, w http.ResponseWriter, r *http.Request) (any, error) {
	body, err := readBody(w, r)
	if err != nil {
		return nil, err
	}
	stale, err := s.admit(c, r, body)
	if err != nil {
		return nil, err
	}
	params, err := wire.Parse(r.URL.RawQuery, string(body))
	if err != nil {
		return nil, err
	}
	action := params.Take("Action")
	c.version = params.Take("Version")
	if action == "" {
		return nil, ec2.Errorf("MissingAction", "The request must contain the parameter Action")
	}
	if err := c.service.checkVersion(c.version); err != nil {
		return nil, err
	}
	h, ok := c.service.actions[action]
	if !ok {
		return nil, c.service.noSuchAction(action)
	}
	c.action = action
	if stale {
		if !onlyReads(action) {
			return nil, ec2.Errorf("InvalidParameterCombination", "The header %s is for Describe actions; %s has none", ReadHeader, action)
		}
		c.header.Set(IndexHeader, strconv.FormatUint(c.view.Index(), 10))
	}
	if !onlyReads(action) {
		c.audit = newAudit(c, r, params)
	}
	return h.do(c, params)
}

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		return nil, ec2.Errorf("MethodNotAllowed", "The Query API is served to GET and POST")
	}
	if r.URL.Path != "/" && r.URL.Path != "" {
		return nil, ec2.Errorf("InvalidAction", "The Query API is served at /, not at this path")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, wire.MaxBody))
	if err != nil {
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			return nil, ec2.Errorf("RequestEntityTooLarge", "The request is larger than %d bytes", wire.MaxBody)
		}
		return nil, ec2.Errorf("RequestAborted", "The request's body did not arrive")
	}
	return body, nil
}

// admit lets in what is signed for a service and says what it is. What can be refused
// without the state is: asking for it may cost a round to the leader.
func (s *Server) admit(c *call, r *http.Request, body []byte) (stale bool, err error) {
	c.service = serviceOf(r.URL.RawQuery, string(body))
	signature, err := sigv4.Parse(r, body)
	if err != nil {
		return false, err
	}
	service, ok := serviceNamed(signature.Service)
	c.service = service
	if !ok {
		return false, ec2.Errorf("AuthFailure", "Credential should be scoped to correct service: 'ec2'.")
	}
	if err := signature.CheckTime(s.cfg.Now()); err != nil {
		return false, err
	}
	if stale, err = s.read(c, r.Header.Get(ReadHeader)); err != nil {
		return false, err
	}
	if err := s.authenticate(c, r, body, signature); err != nil {
		return false, err
	}
	return stale, wire.CheckForm(r.Header)
}

// read takes the state that the request is judged by: one that has every change which was
// acknowledged, unless it asks for less.
func (s *Server) read(c *call, how string) (stale bool, err error) {
	switch how {
	case "":
		if c.view, err = s.cfg.Backend.ReadView(c.ctx); err != nil {
			return false, fmt.Errorf("read state: %w", err)
		}
		return false, nil
	case "stale":
		c.view = s.cfg.Backend.View()
		return true, nil
	}
	return false, ec2.Errorf("InvalidParameterValue", "The header %s is %s; it can be stale, or missing", ReadHeader, wire.Quote(how))
}

// requestID makes a random UUID (RFC 9562 §5.4).
func requestID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return formatUUID(b[:], 4)
}

// formatUUID writes 16 bytes as a UUID of a version (RFC 9562 §4).
func formatUUID(b []byte, version byte) string {
	b[6] = b[6]&0x0f | version<<4
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
