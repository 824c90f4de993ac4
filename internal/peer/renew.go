package peer

import (
	"context"
	"fmt"
	"net/http"
)

// methodRenew is the only method of ProtocolRenew.
const methodRenew = "peer.renew"

// HandleRenew sets the handler of AskRenewal. Call it before Run.
func (p *Peer) HandleRenew(h Handler) { p.Handle(methodRenew, h) }

// AskRenewal calls the handler of HandleRenew at node. Both ends check the other's key in the Directory,
// but not who signed its certificate: a node whose certificate is of an authority that was replaced while
// it was away can still ask for a new one.
func (p *Peer) AskRenewal(ctx context.Context, node string, body []byte) ([]byte, error) {
	answer, err := p.call(ctx, p.renewals, node, methodRenew, body)
	if err != nil {
		return nil, fmt.Errorf("ask %s for a certificate: %w", node, err)
	}
	return answer, nil
}

func (p *Peer) renewServer() *http.Server {
	s := p.rpcServer()
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != rpcPath+methodRenew {
			answerError(w, http.StatusNotFound, &RemoteError{CodeUnknownMethod, "this protocol only renews certificates"})
			return
		}
		p.serveRPC(w, r)
	})
	return s
}
