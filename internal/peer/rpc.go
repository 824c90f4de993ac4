package peer

import "context"

// Handler answers one method. from is the calling node, by its certificate.
type Handler = func(ctx context.Context, from string, body []byte) ([]byte, error)

// RemoteError is what the far end's handler answered. A handler may return one, or any
// error with a method Code() string; another's Code is "".
type RemoteError struct {
	Code string `json:"code,omitempty"`
	Text string `json:"text"`
}

func (e *RemoteError) Error() string { return e.Text }

// Handle sets the handler of a method. Call it before Run.
func (p *Peer) Handle(method string, h Handler) {}

// Call asks node.
func (p *Peer) Call(ctx context.Context, node, method string, body []byte) ([]byte, error) {
	return nil, errSkeleton
}
