package query

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	"palisade/ec2"
	"palisade/ec2/query/wire"
)

const (
	// What a record keeps at most, in bytes: ten thousand of them are in the memory of
	// every node. The whole command is in the log.
	maxAuditValue      = 512
	maxAuditParameters = 4 << 10
	maxAuditUserAgent  = 256

	// removed is what CloudTrail writes for a secret.
	removed = "<sensitiveDataRemoved>"
	// localSource is where a caller on a unix socket is.
	localSource = "unix socket"
)

// newAudit is what the log and the State shall know of a request.
func newAudit(c *call, r *http.Request, p *wire.Param) *ec2.Audit {
	a := &ec2.Audit{
		Account:   c.account,
		AccessKey: c.accessKey,
		Region:    c.region,
		Source:    localSource,
		UserAgent: clip(strings.ToValidUTF8(r.UserAgent(), "?"), maxAuditUserAgent),
		RequestID: c.id,
		Action:    c.action,
	}
	if from, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		a.Source = from.Addr().Unmap().String()
	}
	a.Parameters = make(map[string]string)
	size, left := 0, 0
	p.Each(func(name, value string) {
		switch {
		case name == "Action" || name == "Version":
			return
		case isSecret(p, name):
			value = removed
		}
		value = clip(value, maxAuditValue)
		if size += len(name) + len(value); size > maxAuditParameters {
			left++
			return
		}
		a.Parameters[name] = value
	})
	if left > 0 {
		a.Parameters["..."] = fmt.Sprintf("%d more parameters", left)
	}
	return a
}

// isSecret: scripts that an instance runs at its start have passwords in them.
func isSecret(p *wire.Param, name string) bool {
	attribute := p.Children["Attribute"]
	return name == "UserData" || strings.HasPrefix(name, "UserData.") || name == "Value" && attribute != nil && attribute.Value == "userData"
}

// clip keeps a text's beginning.
func clip(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "..."
}
