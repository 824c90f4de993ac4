package query

import (
	"crypto/subtle"
	"fmt"
	"net/http"
	"time"

	"palisade/ec2"
)

const (
	// maxSkew is how far a request's stamp may be off.
	maxSkew = 5 * time.Minute
	// maxExpires is how long a signature in the query string may be good for (IAM User
	// Guide, "Create a signed AWS API request").
	maxExpires = 7 * 24 * time.Hour
)

const (
	notValid   = "AWS was not able to validate the provided access credentials"
	notParsed  = "Authorization header or parameters are not formatted correctly."
	notPresent = "AWS was not able to authenticate the request: access credentials are missing"
	notServed  = "Only Signature Version 4 is served here: this request is signed in an older way"
)

// checkTime refuses a signature that is no longer good, or not yet. There is no memory of
// those that were used: within that time a request can be sent again, as to EC2 itself.
func (g *signature) checkTime(now time.Time) error {
	until := g.stamp.Add(maxSkew)
	if g.inQuery {
		until = g.stamp.Add(g.expires)
	}
	if now.Before(g.stamp.Add(-maxSkew)) || now.After(until) {
		return ec2.Errorf("RequestExpired", "Request has expired.")
	}
	return nil
}

// authenticate finds who signed the request and for which region. Which of its parts is
// wrong is nobody's business, nor how long it took to find out: a key that does not
// exist, or signs nothing any more, costs as much as one that does.
func (s *Server) authenticate(c *call, r *http.Request, body []byte, g *signature) error {
	key, known := c.view.AccessKey(g.accessKey)
	if !known {
		key = &nobodysKey
	}
	secret, err := s.cfg.Secret(key)
	if err != nil {
		return err
	}
	want, err := g.again(r, body, secret)
	if err != nil {
		return fmt.Errorf("sign again: %w", err)
	}
	if subtle.ConstantTimeCompare([]byte(want), []byte(g.hex)) != 1 || !known || key.Inactive {
		return ec2.Errorf("AuthFailure", notValid)
	}
	if _, ok := c.view.ClassicNetwork(ec2.Region(g.region)); !ok && c.service == ec2Service { // STS is global
		return ec2.Errorf("AuthFailure", "Credential should be scoped to a valid region, not '%s'.", quote(g.region))
	}
	c.account, c.region, c.accessKey = key.Account, ec2.Region(g.region), key.ID
	return nil
}

var nobodysKey = ec2.AccessKey{Secret: "nobody's secret"}

func plainSecret(k *ec2.AccessKey) (string, error) {
	if k.Secret == "" {
		return "", fmt.Errorf("the secret of %s is sealed, and there is no key for it here", k.ID)
	}
	return k.Secret, nil
}
