package query

import (
	"fmt"
	"net/http"

	"palisade/ec2"
	"palisade/ec2/query/sigv4"
	"palisade/ec2/query/wire"
)

const notValid = "AWS was not able to validate the provided access credentials"

// authenticate finds who signed the request and for which region. Which of its parts is
// wrong is nobody's business, nor how long it took to find out: a key that does not
// exist, or signs nothing any more, costs as much as one that does.
func (s *Server) authenticate(c *call, r *http.Request, body []byte, g *sigv4.Signature) error {
	key, known := c.view.AccessKey(g.AccessKey)
	if !known {
		key = &nobodysKey
	}
	secret, err := s.cfg.Secret(key)
	if err != nil {
		return err
	}
	valid, err := g.Verify(r, body, secret)
	if err != nil {
		return err
	}
	if !valid || !known || key.Inactive {
		return ec2.Errorf("AuthFailure", notValid)
	}
	if _, ok := c.view.ClassicNetwork(ec2.Region(g.Region)); !ok && c.service == ec2Service { // STS is global
		return ec2.Errorf("AuthFailure", "Credential should be scoped to a valid region, not '%s'.", wire.Quote(g.Region))
	}
	c.account, c.region, c.accessKey = key.Account, ec2.Region(g.Region), key.ID
	return nil
}

var nobodysKey = ec2.AccessKey{Secret: "nobody's secret"}

func plainSecret(k *ec2.AccessKey) (string, error) {
	if k.Secret == "" {
		return "", fmt.Errorf("the secret of %s is sealed, and there is no key for it here", k.ID)
	}
	return k.Secret, nil
}
