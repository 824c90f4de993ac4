package query

import (
	"errors"
	"fmt"
	"net/http"

	"palisade/ec2"
	"palisade/ec2/state"
)

const notValid = "AWS was not able to validate the provided access credentials"

// authenticate finds the account and the region of a request with this node's state, c.view. If this
// fails, the key may have been made at another node a moment ago: then the leader's state is asked for,
// once, and only as often as the client's address may fail.
func (s *Server) authenticate(c *call, q *Received, r *http.Request, stale bool) error {
	err := s.check(c, q, r)
	refusal, refused := errors.AsType[*ec2.Error](err)
	if err == nil || !refused || refusal.Code != "AuthFailure" {
		return err
	}
	if !s.mayFail(q.from()) {
		return errThrottled()
	}
	if stale {
		return err
	}
	if c.view, err = s.cfg.Backend.ReadView(c.ctx); err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	c.fresh = true
	return s.check(c, q, r)
}

// check finds the account and the region of a request in c.view. Neither the text nor the
// time of an answer tells which part of the credentials is wrong: the signature is
// computed even for an unknown key.
func (s *Server) check(c *call, q *Received, r *http.Request) error {
	g := c.signed
	key, known := c.view.AccessKey(g.AccessKey)
	if !known {
		key = &unknownKey
	}
	secret, err := s.cfg.Secret(key)
	if err != nil {
		return err
	}
	if err := s.limits.checks.Enter(c.ctx, q.from()); err != nil {
		return err
	}
	valid, err := g.Verify(r, q.Body, secret)
	s.limits.checks.Leave(q.from())
	if err != nil {
		return err
	}
	if !valid || !known || key.Inactive {
		return ec2.Errorf("AuthFailure", notValid)
	}
	if err := c.view.ServesRegion(ec2.Region(g.Region)); err != nil && c.service != stsService { // STS is global
		return err
	}
	c.account, c.region, c.accessKey = key.Account, ec2.Region(g.Region), key.ID
	c.signature = &state.Signature{Account: key.Account, ID: g.ID(), Until: g.Until()}
	return nil
}

var unknownKey = ec2.AccessKey{Secret: "secret of no key"}

func plainSecret(k *ec2.AccessKey) (string, error) {
	if k.Secret == "" {
		return "", fmt.Errorf("the secret of access key %s is encrypted, and this server has no key to decrypt it", k.ID)
	}
	return k.Secret, nil
}
