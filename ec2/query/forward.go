package query

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"palisade/ec2"
	"palisade/ec2/query/sigv4"
	"palisade/ec2/query/wire"
)

// ErrElsewhere is wrapped by an error of Backend.Apply if this node may not decide the change, and
// nothing was proposed. Server.Answer returns it, so that the request goes to another node.
var ErrElsewhere = errors.New("another node decides about changes")

// A Received is a request as its client sent it. It can be passed on to another node unread: its
// signature proves there who sent it. Only Source is what the receiving node says.
type Received struct {
	Method string      `json:"method"`
	Query  string      `json:"query,omitempty"`
	Host   string      `json:"host"`
	Header http.Header `json:"header"`
	Source string      `json:"source,omitempty"` // address and port of the client; other text if it came through a unix socket
	Body   []byte      `json:"-"`
}

// A Reply is the answer to a Received.
type Reply struct {
	Status int           `json:"status"`
	Header http.Header   `json:"header"`
	Wait   time.Duration `json:"wait,omitempty"` // before the client gets it
	Body   []byte        `json:"-"`
}

// receive reads a request.
func (s *Server) receive(w http.ResponseWriter, r *http.Request) (*Received, error) {
	body, err := s.readBody(w, r)
	return &Received{r.Method, r.URL.RawQuery, r.Host, r.Header, r.RemoteAddr, body}, err
}

// request returns the request in the form in which it arrived.
func (q *Received) request(ctx context.Context) *http.Request {
	r := &http.Request{
		Method: q.Method, URL: &url.URL{Path: "/", RawQuery: q.Query}, Host: q.Host, Header: q.Header, RemoteAddr: q.Source,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body: io.NopCloser(bytes.NewReader(q.Body)), ContentLength: int64(len(q.Body)),
	}
	return r.WithContext(ctx)
}

// from returns the client's address for an audit record.
func (q *Received) from() string { return addressOf(q.Source) }

func addressOf(source string) string {
	if a, err := netip.ParseAddrPort(source); err == nil {
		return a.Addr().Unmap().String()
	}
	return localSource
}

// OnlyReads reports whether the action that a request names changes nothing. The signature is not
// checked yet. A request without an action that can be read counts as a change.
func (q *Received) OnlyReads() bool {
	if g, err := sigv4.Parse(q.request(context.Background()), nil); err == nil && g.Service == ssmService.name {
		return true // every action of SSM that is served
	}
	params, err := wire.Parse(q.Query, string(q.Body))
	return err == nil && onlyReads(params.Take("Action"))
}

// Stale reports whether a request asks for a stale read.
func (q *Received) Stale() bool { return q.Header.Get(ReadHeader) == "stale" }

// Index returns the log index that the reply names, or 0.
func (a *Reply) Index() uint64 {
	index, _ := strconv.ParseUint(a.Header.Get(IndexHeader), 10, 64)
	return index
}

func (a *Reply) write(w http.ResponseWriter) {
	for name, values := range a.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(a.Status)
	_, _ = w.Write(a.Body)
}

// Answer checks a request and carries it out. via is the node that passed it on, "" if this node
// received it. The error is ErrElsewhere: this node may not carry it out, and has changed nothing.
func (s *Server) Answer(ctx context.Context, q *Received, via ec2.NodeID) (*Reply, error) {
	c := s.newCall(ctx)
	c.via = via
	defer c.endWork()
	answer, err := s.serve(c, q)
	if errors.Is(err, ErrElsewhere) && c.applied <= 1 {
		return nil, ErrElsewhere
	}
	if err != nil {
		return s.refusal(c, err), nil
	}
	return &Reply{Status: http.StatusOK, Header: c.header, Body: c.service.encodeAnswer(c.action, c.version, c.id, answer)}, nil
}
