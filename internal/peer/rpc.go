package peer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MaxMessage is the largest body of a call and of its answer, in bytes.
const MaxMessage = 8 << 20

const (
	rpcPath       = "/rpc/"
	timeoutHeader = "Palisade-Timeout" // milliseconds until the caller's deadline; a time of day would need equal clocks
	maxCalls      = 64                 // concurrent calls to one node; more wait
	bodyTimeout   = 30 * time.Second
)

// Handler answers calls of one method. from is the calling node's name in its certificate. ctx
// ends at the caller's deadline, when the caller cancels the call, and when Run ends.
type Handler = func(ctx context.Context, from string, body []byte) ([]byte, error)

// RemoteError is an error that the remote node answered. Code is the code of the handler's error,
// if that error is a *RemoteError or has a method Code() string, else "".
type RemoteError struct {
	Code string `json:"code,omitempty"`
	Text string `json:"text"`
}

func (e *RemoteError) Error() string { return e.Text }

// ErrNotConnected is wrapped by an error of Call when the remote node has not begun the call:
// no connection could be opened, or the remote node is stopping.
var ErrNotConnected = errors.New("no connection")

// Codes of a RemoteError that Peer made, not a handler.
const (
	CodeUnknownMethod = "UnknownMethod"
	CodeTooLarge      = "TooLarge"
	CodeBadRequest    = "BadRequest"
	codeEnding        = "Ending" // for this code, Call returns ErrNotConnected
)

var methodName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9./_-]{0,127}$`)

// Handle sets the handler of a method. Call it before Run.
func (p *Peer) Handle(method string, h Handler) {
	p.mustNotRun()
	if !methodName.MatchString(method) {
		panic("peer: invalid method name: " + method)
	}
	if p.handlers[method] != nil {
		panic("peer: two handlers for " + method)
	}
	p.handlers[method] = h
}

// Methods returns the names of all methods that have a handler.
func (p *Peer) Methods() []string { return slices.Sorted(maps.Keys(p.handlers)) }

// Call calls a method of node and returns the answer. The handler's context ends at ctx's deadline.
// Calls to one node share connections. A *RemoteError comes from the remote node. After
// ErrNotConnected the handler has not run; after any other error it may have run.
func (p *Peer) Call(ctx context.Context, node, method string, body []byte) ([]byte, error) {
	answer, err := p.call(ctx, p.transport, node, method, body)
	if err != nil {
		return nil, fmt.Errorf("call %s of %s: %w", method, node, err)
	}
	return answer, nil
}

func (p *Peer) call(ctx context.Context, transport *http.Transport, node, method string, body []byte) ([]byte, error) {
	if err := checkName(node); err != nil {
		return nil, err
	}
	if !methodName.MatchString(method) {
		return nil, fmt.Errorf("%q is not a method name", method)
	}
	if len(body) > MaxMessage {
		return nil, &RemoteError{Code: CodeTooLarge, Text: fmt.Sprintf("the body of a call has at most %d bytes, not %d", MaxMessage, len(body))}
	}
	// The scheme is http because the transport's DialContext already does TLS.
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+node+rpcPath+method, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		left := max(time.Until(deadline).Milliseconds(), 1)
		request.Header.Set(timeoutHeader, strconv.FormatInt(left, 10))
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, MaxMessage+1))
	if err != nil {
		return nil, err
	}
	if len(answer) > MaxMessage {
		return nil, &RemoteError{Code: CodeTooLarge, Text: fmt.Sprintf("the answer is longer than %d bytes", MaxMessage)}
	}
	if response.StatusCode == http.StatusOK {
		return answer, nil
	}
	err = decodeError(response.Status, answer)
	if remote, ok := errors.AsType[*RemoteError](err); ok && remote.Code == codeEnding {
		return nil, fmt.Errorf("%w: %w", ErrNotConnected, err)
	}
	return nil, err
}

func (p *Peer) newTransport(protocol string) *http.Transport {
	return &http.Transport{
		// Proxy is nil, so that no environment variable adds a proxy between nodes.
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			node, _, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			c, err := p.Dial(ctx, node, protocol)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", ErrNotConnected, err)
			}
			return c, nil
		},
		DisableCompression:     true,
		MaxConnsPerHost:        maxCalls,
		MaxIdleConnsPerHost:    4,
		IdleConnTimeout:        time.Minute,
		MaxResponseHeaderBytes: 16 << 10,
	}
}

func (p *Peer) rpcServer() *http.Server {
	return &http.Server{
		Handler:           http.HandlerFunc(p.serveRPC),
		ReadHeaderTimeout: handshakeTimeout,
		IdleTimeout:       2 * time.Minute, // longer than the caller's IdleConnTimeout
		MaxHeaderBytes:    16 << 10,
		BaseContext:       func(net.Listener) context.Context { return p.life },
		ConnContext:       withConn,
		ErrorLog:          slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
	}
}

func (p *Peer) serveRPC(w http.ResponseWriter, r *http.Request) {
	if !p.begin() { // without an answer, net/http would send an empty success
		answerError(w, http.StatusServiceUnavailable, &RemoteError{codeEnding, p.id.node + " is stopping"})
		return
	}
	defer p.work.Done()
	method, ok := strings.CutPrefix(r.URL.Path, rpcPath)
	handle := p.handlers[method]
	if !ok || handle == nil || r.Method != http.MethodPost {
		answerError(w, http.StatusNotFound, &RemoteError{CodeUnknownMethod, fmt.Sprintf("%s has no method %q", p.id.node, method)})
		return
	}
	ctx := r.Context()
	if text := r.Header.Get(timeoutHeader); text != "" {
		left, err := strconv.ParseInt(text, 10, 32) // 24 days
		if err != nil || left <= 0 {
			answerError(w, http.StatusBadRequest, &RemoteError{CodeBadRequest, fmt.Sprintf("%s is %q, want milliseconds above 0", timeoutHeader, text)})
			return
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(left)*time.Millisecond)
		defer cancel()
	}
	body, ok := readBody(w, r, MaxMessage, bodyTimeout)
	if !ok {
		return
	}
	answer, err := handle(ctx, connOf(r).Node(), body)
	switch {
	case err != nil:
		answerError(w, http.StatusUnprocessableEntity, remoteError(err))
	case len(answer) > MaxMessage:
		answerError(w, http.StatusUnprocessableEntity, &RemoteError{CodeTooLarge, fmt.Sprintf("the answer is longer than %d bytes", MaxMessage)})
	default:
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
		w.Write(answer)
	}
}

// connKey is the context key of the *Conn that a request arrived on.
type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

func connOf(r *http.Request) *Conn { return r.Context().Value(connKey{}).(*Conn) }

// readBody reads a body of at most limit bytes. If that fails, it answers with an error and returns
// false. It sets a deadline for the body only, because the server's ReadTimeout would also end the
// handler's context.
func readBody(w http.ResponseWriter, r *http.Request, limit int64, timeout time.Duration) ([]byte, bool) {
	control := http.NewResponseController(w)
	control.SetReadDeadline(time.Now().Add(timeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err == nil {
		control.SetReadDeadline(time.Time{})
		return body, true
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		answerError(w, http.StatusRequestEntityTooLarge, &RemoteError{CodeTooLarge, fmt.Sprintf("a request has at most %d bytes", limit)})
	} else {
		answerError(w, http.StatusBadRequest, &RemoteError{CodeBadRequest, err.Error()})
	}
	return nil, false
}

func remoteError(err error) *RemoteError {
	answer := &RemoteError{Text: err.Error()}
	if remote, ok := errors.AsType[*RemoteError](err); ok {
		answer.Code = remote.Code
	} else if coded, ok := errors.AsType[interface {
		error
		Code() string
	}](err); ok {
		answer.Code = coded.Code()
	}
	return answer
}

func answerError(w http.ResponseWriter, status int, e *RemoteError) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(e)
}

func decodeError(status string, answer []byte) error {
	remote := &RemoteError{}
	if err := json.Unmarshal(answer, remote); err != nil || remote.Text == "" {
		return fmt.Errorf("the remote node answered with HTTP status %s", status)
	}
	return remote
}
