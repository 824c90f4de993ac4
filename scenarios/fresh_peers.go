package scenarios

import (
	"fmt"
	"regexp"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// NAT gateways and peerings are younger than the ec2-* tools, so they are deleted with aws. Few accounts have
// any, and aws takes a second, so it is called only where one is found by other means.

// clearNATGateways deletes all NAT gateways, which hold their addresses, and waits until their interfaces are gone.
func (p *player) clearNATGateways(ts *testscript.TestScript) error {
	deadline := time.Now().Add(p.config.Limit)
	for asked := map[string]bool{}; ; {
		rows, err := p.rows(ts, "ec2-describe-network-interfaces")
		if err != nil {
			return err
		}
		left := 0
		for _, r := range rows { // NETWORKINTERFACE ID SUBNET VPC ZONE DESCRIPTION …
			m := natGateway.FindStringSubmatch(r[min(5, len(r)-1)])
			if r[0] != "NETWORKINTERFACE" || m == nil {
				continue
			}
			left++
			if asked[m[1]] {
				continue
			}
			if _, err := p.rows(ts, "aws", "ec2", "delete-nat-gateway", "--nat-gateway-id", m[1]); err != nil {
				return err
			}
			asked[m[1]] = true
		}
		switch {
		case left == 0:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("%d NAT gateways not deleted in time", left)
		}
		p.wait(ts, retryEvery)
	}
}

// natGateway matches the description of the interface of a NAT gateway.
var natGateway = regexp.MustCompile(`^Interface for NAT Gateway (nat-[0-9a-f]+)$`)

// deleteVPC deletes a VPC. It deletes the peerings first that the refusal names.
func (p *player) deleteVPC(ts *testscript.TestScript, vpc string) error {
	_, err := p.rows(ts, "ec2-delete-vpc", vpc)
	if err == nil {
		return nil
	}
	peerings := peering.FindAllString(err.Error(), -1)
	if peerings == nil {
		return err
	}
	for _, id := range peerings {
		if _, err := p.rows(ts, "aws", "ec2", "delete-vpc-peering-connection", "--vpc-peering-connection-id", id); err != nil {
			return err
		}
	}
	_, err = p.rows(ts, "ec2-delete-vpc", vpc)
	return err
}

var peering = regexp.MustCompile(`\bpcx-[0-9a-f]+\b`)
