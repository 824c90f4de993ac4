package query

import (
	"fmt"
	"strings"

	"palisade/ec2"
	"palisade/ec2/query/wire"
)

const (
	// The maximum sizes of a record, in bytes, because each node keeps tens of thousands of
	// records in memory. The Raft log has the whole command.
	maxAuditValue      = 512
	maxAuditParameters = 4 << 10
	maxAuditUserAgent  = 256

	// removed replaces a secret in a record, as in CloudTrail.
	removed = "<sensitiveDataRemoved>"
	// localSource is the Source of a request that came through a unix socket.
	localSource = "unix socket"
)

// newAudit returns the Audit of a request: who sent it, from where, with which parameters.
func newAudit(c *call, q *Received, p *wire.Param) *ec2.Audit {
	a := &ec2.Audit{
		Account:   c.account,
		AccessKey: c.accessKey,
		Region:    c.region,
		Source:    q.from(),
		Via:       c.via,
		UserAgent: clip(strings.ToValidUTF8(q.Header.Get("User-Agent"), "?"), maxAuditUserAgent),
		RequestID: c.id,
		Action:    c.action,
	}
	a.Parameters = make(map[string]string)
	size, omitted := 0, 0
	p.Each(func(name, value string) {
		switch {
		case name == "Action" || name == "Version":
			return
		case isSecret(p, name):
			value = removed
		}
		value = clip(value, maxAuditValue)
		if size += len(name) + len(value); size > maxAuditParameters {
			omitted++
			return
		}
		a.Parameters[name] = value
	})
	if omitted > 0 {
		a.Parameters["..."] = fmt.Sprintf("%d more parameters", omitted)
	}
	return a
}

// isSecret reports whether a parameter is user data, which often contains passwords.
func isSecret(p *wire.Param, name string) bool {
	attribute := p.Children["Attribute"]
	name = strings.TrimPrefix(name, "LaunchTemplateData.")
	return name == "UserData" || strings.HasPrefix(name, "UserData.") || name == "Value" && attribute != nil && attribute.Value == "userData"
}

// clip returns text. A text of more bytes than most is cut, and gets "..." at its end.
func clip(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "..."
}
