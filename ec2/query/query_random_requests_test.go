package query_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"palisade/cluster"
	"palisade/ec2"
	"palisade/ec2/query"
)

// newGeneratorWorld makes a world with few audit records, because each comparison of the state
// reads all records.
func newGeneratorWorld(t *testing.T) *world {
	return newWorldWith(t, ec2.Settings{AuditRecords: 5}, func(c *cluster.Cluster) query.Backend { return c })
}

// A requestGenerator makes random requests that are nearly valid.
type requestGenerator struct {
	r   *rand.Rand
	w   *world
	t   *testing.T
	ids []string // of resources that are or were in the state

	valid bool // the current request should be valid
}

var accounts = []string{"ALBERT", "MARY", "DEV"}

// settle creates resources in each account, which requests can refer to.
func (m *requestGenerator) settle() {
	for range 5 {
		for _, account := range accounts {
			m.must(account, "RunInstances&ImageId=ami-eca54085&MinCount=1&MaxCount=1")
		}
	}
	for _, account := range accounts {
		m.must(account, "CreateInternetGateway")
		m.must(account, "AllocateAddress&Domain=vpc")
		m.must(account, "CreateVpc&CidrBlock=10.0.0.0/16")
	}
}

func (m *requestGenerator) must(account, form string) {
	m.t.Helper()
	r := m.sign(account, http.MethodPost, "Version=2016-11-15&Action="+form, time.Now())
	if status, code := answer(m.t, do(m.t, r)); status != 200 && code != "AuthFailure" { // the generator may have chosen an invalid expiry
		m.t.Fatalf("%s: got %d %s, want 200 or AuthFailure", form, status, code)
	}
}

var anID = regexp.MustCompile(`"((?:sg|sgr|i|vpc|subnet|igw|rtb|rtbassoc|eipalloc|eipassoc|eni|acl|nat)-[0-9a-f]+)"`)

// learn adds the ids in the state to m.ids.
func (m *requestGenerator) learn() {
	seen := make(map[string]bool)
	for _, found := range anID.FindAllStringSubmatch(rowsOf(m.t, m.w.cluster.View()), -1) {
		seen[found[1]] = true
	}
	m.ids = m.ids[:0]
	for id := range seen {
		m.ids = append(m.ids, id)
	}
	slices.Sort(m.ids)
}

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

func (m *requestGenerator) chance(percent int) bool { return m.r.IntN(100) < percent }

// request makes a random request, and a text that shows it.
func (m *requestGenerator) request() (*http.Request, string) {
	action := pick(m.r, query.ActionNames())
	if action == "CreateKeyPair" && !m.chance(5) {
		action = "CreateSecurityGroup" // making keys is slow
	}
	m.valid = m.chance(40)
	form := m.form(action)
	if m.chance(10) && !m.valid {
		form = m.spoil(form)
	}
	method := http.MethodPost
	if m.chance(20) {
		method = http.MethodGet
	}
	if m.chance(2) {
		method = pick(m.r, []string{http.MethodPut, http.MethodDelete, http.MethodHead, http.MethodOptions, "PROPFIND"})
	}
	stamp := time.Now()
	if m.chance(2) {
		stamp = stamp.Add(time.Duration(m.r.IntN(1200)-600) * time.Second)
	}
	r := m.sign(pick(m.r, accounts), method, form, stamp)
	if m.chance(8) && !m.valid {
		m.forge(r)
	}
	return r, fmt.Sprintf("%s %s %v\n%s", r.Method, r.URL, r.Header, form)
}

// form makes a form of an Action with some of its parameters, whose values may be valid.
func (m *requestGenerator) form(action string) string {
	names := query.ParameterNames(pick(m.r, []string{action, action, action, pick(m.r, query.ActionNames())}))
	if m.chance(2) {
		action = pick(m.r, []string{strings.ToLower(action), action + "s", "", "CreateNatGateway", "GetCallerIdentity", "\x00"})
	}
	values := []string{"Action=" + url.QueryEscape(action)}
	version := "2016-11-15"
	if m.chance(4) {
		version = pick(m.r, []string{"2006-06-26", "2012-05-01", "2016-11-16", "", "2011-06-15", "9999-99-99", "now"})
	}
	values = append(values, "Version="+version)
	likely := 50
	switch {
	case len(names) > 12:
		likely = 15
	case m.valid:
		likely = 10
	}
	for _, name := range names {
		if !m.chance(likely) && !m.required(name) {
			continue
		}
		wire := name
		for strings.Contains(wire, ".n") {
			wire = strings.Replace(wire, ".n", "."+m.index(), 1)
		}
		if m.chance(2) {
			wire = m.misname(wire)
		}
		values = append(values, url.QueryEscape(wire)+"="+url.QueryEscape(m.value(name)))
	}
	if m.chance(3) {
		values = append(values, pick(m.r, []string{"DryRun=true", "DryRun=1", "DryRun=perhaps", "NewThing.1.Name=x", "Ipv6CidrBlock=2001:db8::/56", "UserId=1"}))
	}
	if m.chance(2) {
		values = append(values, pick(m.r, values)) // twice
	}
	m.r.Shuffle(len(values), func(i, j int) { values[i], values[j] = values[j], values[i] })
	return strings.Join(values, "&")
}

// required reports whether a form must include a parameter, because without it most requests
// get the same error.
func (m *requestGenerator) required(name string) bool {
	switch name {
	case "GroupDescription", "MinCount", "MaxCount", "ImageId", "CidrBlock", "IpPermissions.n.IpProtocol", "IpPermissions.n.FromPort", "IpPermissions.n.ToPort":
		return m.chance(95)
	case "InstanceId.n", "ResourceId.n", "Tag.n.Key", "KeyName", "GroupName", "DestinationCidrBlock", "IpPermissions.n.IpRanges.n.CidrIp", "Domain":
		return m.valid
	}
	return m.valid && strings.HasSuffix(name, "Id") && !strings.Contains(name, ".") && m.chance(75)
}

func (m *requestGenerator) index() string {
	if m.chance(3) {
		return pick(m.r, []string{"0", "-1", "01", "4294967296", "99999999999999999999", "n", "", "1.1", "1e3", "+1", " 1"})
	}
	return strconv.Itoa(1 + m.r.IntN(3)*m.r.IntN(50))
}

func (m *requestGenerator) misname(name string) string {
	switch m.r.IntN(6) {
	case 0:
		return strings.ToLower(name)
	case 1:
		return name + ".1"
	case 2:
		return strings.ReplaceAll(name, ".", "")
	case 3:
		return "." + name
	case 4:
		return name + strings.Repeat(".a", m.r.IntN(12))
	}
	return name[:m.r.IntN(len(name)+1)]
}

// value makes a value for a parameter, mostly one that fits the parameter's name.
func (m *requestGenerator) value(name string) string {
	last := name[strings.LastIndex("."+name, "."):]
	if last == "n" {
		last = strings.TrimSuffix(name, ".n")
	}
	switch {
	case m.chance(6) && !m.valid:
		return pick(m.r, nasty)
	case strings.Contains(last, "Cidr"):
		return pick(m.r, []string{"0.0.0.0/0", "203.0.113.25/32", "10.0.0.1/8", "172.31.0.0/20", "172.31.240.0/20", "10.1.0.0/16", "10.1.2.0/24", "::/0", "10.0.0.0/33"})
	case strings.HasSuffix(last, "Port"):
		return pick(m.r, []string{"22", "80", "-1", "0", "443", "65535", "8", "70000"})
	case strings.Contains(last, "Protocol"):
		return pick(m.r, []string{"tcp", "udp", "icmp", "-1", "6", "47", "TCP", "all", "icmpv6"})
	case last == "MinCount", last == "MaxCount":
		return pick(m.r, []string{"1", "1", "1", "2", "0", "-1", "6000"})
	case last == "ImageId":
		return pick(m.r, []string{"ami-eca54085", "ami-0123456789abcdef0", "ami-x"})
	case strings.HasSuffix(last, "GroupName"), last == "SecurityGroup":
		return pick(m.r, []string{"default", "web", "app", "x" + strconv.Itoa(m.r.IntN(1000))})
	case strings.HasSuffix(last, "Id") && len(m.ids) > 0, strings.HasSuffix(last, "Ids"):
		return m.id(last)
	case last == "KeyType":
		return "ed25519"
	case last == "Name" && strings.HasPrefix(name, "Filter"):
		return pick(m.r, []string{"group-name", "vpc-id", "tag:Name", "tag-key", "ip-permission.cidr", "instance-state-name", "state", "group-id", "resource-id", "colour"})
	case last == "DryRun", strings.HasSuffix(last, "Value") && m.chance(50):
		return pick(m.r, []string{"true", "false", "1", "maybe"})
	case last == "MaxResults":
		return pick(m.r, []string{"5", "1000", "4", "1001"})
	case last == "UserId", strings.HasSuffix(last, "OwnerId"):
		return pick(m.r, []string{albert, mary, dev, "0"})
	case last == "ResourceType":
		return pick(m.r, []string{"security-group", "instance", "vpc", "subnet", "security-group-rule", "x"})
	case last == "Domain":
		return pick(m.r, []string{"vpc", "standard", ""})
	case last == "AvailabilityZone", last == "ZoneName":
		return pick(m.r, []string{"us-east-1a", "us-east-1b"})
	}
	return pick(m.r, []string{"a", "web servers", "true", "1", "*", "Name", "a & b <c>", "x" + strconv.Itoa(m.r.IntN(1000))})
}

// id picks an id, mostly of the kind that the parameter needs.
func (m *requestGenerator) id(parameter string) string {
	kinds := map[string]string{
		"GroupId": "sg-", "SecurityGroupId": "sg-", "ReferencedGroupId": "sg-", "InstanceId": "i-", "VpcId": "vpc-", "SubnetId": "subnet-", "InternetGatewayId": "igw-",
		"GatewayId": "igw-", "NatGatewayId": "nat-", "RouteTableId": "rtb-", "AllocationId": "eipalloc-", "NetworkInterfaceId": "eni-", "SecurityGroupRuleId": "sgr-",
	}
	for range 30 {
		id := pick(m.r, m.ids)
		if prefix := kinds[parameter]; prefix == "" || strings.HasPrefix(id, prefix) {
			return id
		}
	}
	return pick(m.r, m.ids)
}

var nasty = []string{
	"", " ", "0", "-1", "-2", "65536", "99999999999999999999", "0x10", "1e3", "NaN", "80.0", "\uff11\uff10", "true\x00", "null", "\x00", "a\x01b",
	"\xff\xfe", "\xc0\xaf", "\u202eevil", strings.Repeat("x", 256), strings.Repeat("\u00e9", 300), strings.Repeat("9", 5000), "sg-00000000", "sg-", "i-zzzzzzzz",
	"vpc-00000000000000000", "eni-0", "' OR 1=1 --", "<!ENTITY x SYSTEM \"file:///etc/passwd\">", "&amp;", "]]>", "*", "?", "\\", "\\*", strings.Repeat("*a", 60),
	"../../etc/passwd", "%00", "%zz", "${jndi:ldap://x}", "010.0.0.0/8", "10.0.0.0/8 ", "10.0.0.0/-1", "0.0.0.0/00", "10.0.0.0%eth0/8", "::ffff:10.0.0.0/104", "256.0.0.0/8",
	"aws:reserved", "default", "Default", "sg-default", "\r\nSet-Cookie: a=b", "\t", "\u2028",
}

// spoil changes some bytes of a form.
func (m *requestGenerator) spoil(form string) string {
	b := []byte(form)
	for range 1 + m.r.IntN(3) {
		if len(b) == 0 {
			return ""
		}
		at := m.r.IntN(len(b))
		switch m.r.IntN(5) {
		case 0:
			b[at] = byte(m.r.IntN(256))
		case 1:
			b = slices.Delete(b, at, at+1)
		case 2:
			b = slices.Insert(b, at, []byte(pick(m.r, []string{"%", "&", "=", ";", ".", "+", "%00", "%zz", "%C3%28", "&&", "\n"}))...)
		case 3:
			b = b[:at]
		case 4:
			b = append(b, b[at:]...)
		}
	}
	// Clients cannot send these characters in a URL.
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r == 0x7f || r == '#' {
			return '.'
		}
		return r
	}, string(b))
}

// sign makes a request signed in its header or, in one case of ten, in its query string.
func (m *requestGenerator) sign(account, method, form string, stamp time.Time) *http.Request {
	target, body := m.w.url+"/", form
	if method == http.MethodGet || method == http.MethodHead {
		target, body = m.w.url+"/?"+form, ""
	}
	r, err := http.NewRequestWithContext(m.t.Context(), method, target, strings.NewReader(body))
	if err != nil { // no client could send such a URL
		return m.sign(account, http.MethodPost, form, stamp)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	}
	if !m.chance(10) {
		sign(m.t, r, body, account, "ec2", stamp)
		return r
	}
	q := r.URL.Query()
	q.Set("X-Amz-Expires", pick(m.r, []string{"60", "604800", "0", "x"}))
	r.URL.RawQuery = q.Encode()
	signed, _, err := v4.NewSigner().PresignHTTP(m.t.Context(), accessKey(account), r, hashOf(body), "ec2", region, stamp)
	if err != nil {
		m.t.Fatal(err)
	}
	if r.URL, err = url.Parse(signed); err != nil {
		m.t.Fatal(err)
	}
	return r
}

// forge changes a signed request or its signature.
func (m *requestGenerator) forge(r *http.Request) {
	authorization := r.Header.Get("Authorization")
	switch m.r.IntN(12) {
	case 0:
		r.Header.Del("Authorization")
	case 1:
		r.Header.Add("Authorization", authorization)
	case 2:
		r.Header.Set("Authorization", authorization[:m.r.IntN(len(authorization)+1)])
	case 3:
		b := []byte(authorization)
		if len(b) > 0 {
			b[m.r.IntN(len(b))] = byte('!' + m.r.IntN(90))
		}
		r.Header.Set("Authorization", string(b))
	case 4:
		r.Header.Set("Authorization", strings.Replace(authorization, "/ec2/", "/sts/", 1))
	case 5:
		r.Header.Set("X-Amz-Date", pick(m.r, []string{"", "now", "20160101T000000Z", "99991231T235959Z", "20160101"}))
	case 6:
		r.Host = pick(m.r, []string{"ec2.amazonaws.com", "x", "127.0.0.1"})
	case 7:
		r.Header.Set("Content-Type", pick(m.r, []string{"application/json", "text/xml", ";", "multipart/form-data"}))
	case 8:
		r.Header.Set("x-palisade-read", pick(m.r, []string{"stale", "fresh", ""}))
	case 9:
		r.URL.Path = pick(m.r, []string{"/x", "//", "/latest/meta-data", "/%2e%2e/"})
	case 10:
		r.URL.RawQuery += pick(m.r, []string{"&DryRun=true", "&%zz", "&X-Amz-Signature=0", "&a=b;c=d", strings.Repeat("&a=b", 9000)})
	case 11:
		r.Header.Set("X-Amz-Security-Token", strings.Repeat("x", 2000))
	}
}
