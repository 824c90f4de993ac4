// Package query is the EC2 Query API over HTTP: it checks a request's signature, reads
// its parameters, asks the Backend, and writes XML. It holds no state and decides
// nothing that the state machine's Apply decides.
//
// Each theme of Actions has its files: groups.go, groups_filter.go, rules.go and so on.
// actions.go lists all Actions. enforcement.go has an Action that EC2 does not have;
// service_sts.go answers for AWS STS, service_ssm.go for AWS SSM. Read one theme first, then Server. listing.go,
// listing_filter.go and listing_page.go are what the Describe actions share; parameters.go
// says which unknown parameters are ignored. Package wire is the codec between parameters,
// Go structs and XML; package sigv4 verifies signatures, which auth.go turns into accounts.
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
	// Apply carries out a command. It returns the command's log index when the command is
	// durable and View shows its result.
	Apply(context.Context, state.Command) (state.Result, uint64, error)
	// ReadView returns a state that includes every change acknowledged before the call.
	ReadView(context.Context) (*state.View, error)
	// View returns this node's state. It may lack changes acknowledged by other nodes.
	View() *state.View
}

// Unavailable is the error of a Backend that has no leader, or that lost it while a change
// was pending and does not know whether it took effect. Its method Unavailable returns the
// text for the caller, which must contain nothing secret. The answer is 503 Unavailable,
// which every SDK retries.
type Unavailable interface {
	error
	Unavailable() string
}

// Config is what a Server needs.
type Config struct {
	// Backend holds the state. Required; New refuses nil.
	Backend Backend
	// Secret returns the secret of an access key, which the state may hold encrypted.
	// Default: only plain secrets work; a request with another key is an InternalError.
	Secret func(*ec2.AccessKey) (string, error)
	// Forward answers a request: by here if this node may, else by Answer of another node's
	// Server. If here returns ErrElsewhere, Forward finds the other node. Default: here.
	Forward func(ctx context.Context, q *Received, here func(context.Context) (*Reply, error)) (*Reply, error)
	// Refused gets each call for a change that was refused: with its caller, or with a nil
	// Audit if it is only to be counted, for account. Default: refused calls are forgotten.
	Refused func(account ec2.AccountID, call *ec2.Audit, refusal *ec2.Error)
	// Rate is how many times as often as at EC2 an account may call each action. Default 0: as
	// often as it likes.
	Rate float64
	// Logger gets the errors that are not the caller's. Default: these errors are not
	// logged, and the cause of an InternalError is lost.
	Logger *slog.Logger
	// Now is the clock that signatures are checked against. Default time.Now. A clock
	// more than five minutes off refuses all requests with RequestExpired.
	Now func() time.Time
}

const (
	// IndexHeader carries the log index of a change, for DescribeEnforcement, or the index
	// of the state that a stale read shows.
	IndexHeader = "x-palisade-index"
	// ReadHeader is a request header. Its value "stale" lets a Describe answer from the
	// state of the node that checks the signature, which works without a leader.
	ReadHeader = "x-palisade-read"
)

// Server answers the Query API. It is an http.Handler that is safe for concurrent use: it
// has no state but its Config, and what it counts to bound the requests.
type Server struct {
	cfg    Config
	limits limits
}

// New checks cfg and fills its defaults.
func New(cfg Config) (*Server, error) {
	if cfg.Backend == nil {
		return nil, errors.New("new query server: no backend")
	}
	if cfg.Secret == nil {
		cfg.Secret = plainSecret
	}
	if cfg.Forward == nil {
		cfg.Forward = func(ctx context.Context, _ *Received, here func(context.Context) (*Reply, error)) (*Reply, error) {
			return here(ctx)
		}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Server{cfg, newLimits(cfg.Rate)}, nil
}

// ServeHTTP answers one request. Every answer has the request's id in its document and in
// a header, because the JavaScript SDK v3 reads only the header.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q, err := s.receive(w, r)
	var reply *Reply
	if err == nil {
		reply, err = s.cfg.Forward(r.Context(), q, func(ctx context.Context) (*Reply, error) { return s.Answer(ctx, q, "") })
	}
	if err != nil {
		c := s.newCall(r.Context())
		c.use(serviceOf(q))
		reply = s.refusal(c, err)
	}
	heldBack(r.Context(), reply.Wait)
	reply.write(w)
}

func (s *Server) newCall(ctx context.Context) *call {
	c := &call{id: requestID(), ctx: ctx, server: s, header: make(http.Header)}
	c.header.Set("x-amzn-RequestId", c.id)
	c.use(ec2Service)
	return c
}

// use sets the service that the call is for.
func (c *call) use(s *service) {
	c.service = s
	c.header.Set("Content-Type", s.contentType)
}

// refusal returns the reply to a call that failed.
func (s *Server) refusal(c *call, err error) *Reply {
	e, ok := errors.AsType[*ec2.Error](err)
	if !ok {
		e = s.serverError(c, c.id, err)
	} else {
		s.refused(c, e)
	}
	if e.Code == "Unavailable" {
		c.header.Set("Retry-After", "1") // an election takes about as long
	}
	reply := &Reply{Header: c.header}
	if isThrottled(e) {
		reply.Wait = throttledWait
	}
	reply.Status, reply.Body = c.service.encodeError(e, c.id)
	return reply
}

// refused reports a refused call for a change. A call whose caller is not known is only counted.
func (s *Server) refused(c *call, e *ec2.Error) {
	switch {
	case s.cfg.Refused == nil || c.dryRun:
	case c.account == "":
		s.cfg.Refused("", nil, e)
	case isThrottled(e):
		s.cfg.Refused(c.account, nil, e) // a record of each would push out the others
	case c.audit != nil:
		s.cfg.Refused(c.account, c.audit, e)
	}
}

// serverError logs an error that is not the caller's mistake, and returns the error for
// the answer: Unavailable without a leader, else InternalError.
func (s *Server) serverError(c *call, id string, err error) *ec2.Error {
	if u, ok := errors.AsType[Unavailable](err); ok {
		s.cfg.Logger.Warn("request not served: no leader", "action", c.action, "request", id, "err", err)
		return ec2.Errorf("Unavailable", "%s", u.Unavailable())
	}
	if c.ctx.Err() == nil {
		s.cfg.Logger.Error("request failed", "action", c.action, "request", id, "err", err)
	}
	return ec2.Errorf("InternalError", "An internal error has occurred")
}

func (s *Server) serve(c *call, q *Received) (any, error) {
	stale, err := s.admit(c, q, q.request(c.ctx))
	if err != nil {
		return nil, err
	}
	params, err := c.service.read(q)
	if err != nil {
		return nil, err
	}
	action := params.Take("Action")
	c.version = params.Take("Version")
	if err := s.throttle(c, action, params); err != nil {
		return nil, err
	}
	if action == "" {
		return nil, ec2.Errorf("MissingAction", "The request must contain the parameter Action")
	}
	if err := c.service.checkVersion(c.version); err != nil {
		return nil, err
	}
	h, err := c.service.handler(action)
	if err != nil {
		return nil, err
	}
	c.action = action
	if err := s.read(c, q, stale); err != nil {
		return nil, err
	}
	if stale {
		if !onlyReads(action) {
			return nil, ec2.Errorf("InvalidParameterCombination", "The header %s is only for actions that read, not for %s", ReadHeader, action)
		}
		c.header.Set(IndexHeader, strconv.FormatUint(c.view.Index(), 10))
	}
	if !onlyReads(action) {
		c.audit = newAudit(c, q, params)
		if err := c.view.CheckSignature(c.signature); err != nil {
			return nil, err
		}
	}
	if err := c.beginWork(); err != nil { // Answer ends it
		return nil, err
	}
	if !stale && c.service == ec2Service {
		if err := c.openRegion(); err != nil {
			return nil, err
		}
	}
	return h.do(c, params)
}

func (s *Server) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		return nil, ec2.Errorf("MethodNotAllowed", "The Query API is served to GET and POST")
	}
	if r.URL.Path != "/" && r.URL.Path != "" {
		return nil, ec2.Errorf("InvalidAction", "The Query API is served at /, not at this path")
	}
	tooLarge := ec2.Errorf("RequestEntityTooLarge", "The request is larger than %d bytes", wire.MaxBody)
	if r.ContentLength > wire.MaxBody {
		return nil, tooLarge
	}
	in := http.MaxBytesReader(w, r.Body, wire.MaxBody)
	body, err := io.ReadAll(io.LimitReader(in, smallBody))
	if err == nil && len(body) == smallBody {
		if err := s.mayBeLarge(r); err != nil {
			return nil, err
		}
		from := addressOf(r.RemoteAddr)
		if err := s.limits.bodies.Enter(r.Context(), from); err != nil {
			return nil, err
		}
		defer s.limits.bodies.Leave(from)
		var rest []byte
		rest, err = io.ReadAll(in)
		body = append(body, rest...)
	}
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return nil, tooLarge
	}
	if err != nil {
		return nil, ec2.Errorf("RequestAborted", "The request's body did not arrive")
	}
	return body, nil
}

// admit checks who sent a request and for which service. It reports whether the request asks for a stale
// read. It makes the checks that need no state first. The signature is checked with this node's state,
// so that a caller who is not known causes no call to the leader.
func (s *Server) admit(c *call, q *Received, r *http.Request) (stale bool, err error) {
	c.use(serviceOf(q))
	signature, err := sigv4.Parse(r, q.Body)
	if err != nil {
		return false, err
	}
	service, ok := serviceNamed(signature.Service)
	c.use(service)
	if !ok {
		return false, ec2.Errorf("AuthFailure", "Credential should be scoped to correct service: 'ec2'.")
	}
	if err := signature.CheckTime(s.cfg.Now()); err != nil {
		return false, err
	}
	switch how := r.Header.Get(ReadHeader); how {
	case "", "stale":
		stale = how != ""
	default:
		return false, ec2.Errorf("InvalidParameterValue", "The header %s is %s; it can be stale, or missing", ReadHeader, wire.Quote(how))
	}
	c.signed, c.view = signature, s.cfg.Backend.View()
	if err := s.authenticate(c, q, r, stale); err != nil {
		return false, err
	}
	return stale, nil
}

// read sets c.view, the state that the request sees. It has every acknowledged change, unless stale is
// true: then it stays this node's own state. If the access key has changed since the signature was
// checked, it is checked again.
func (s *Server) read(c *call, q *Received, stale bool) (err error) {
	if stale || c.fresh {
		return nil
	}
	before, _ := c.view.AccessKey(c.accessKey)
	if c.view, err = s.cfg.Backend.ReadView(c.ctx); err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	if now, ok := c.view.AccessKey(c.accessKey); ok && now == before {
		return nil
	}
	return s.check(c, q, q.request(c.ctx))
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
