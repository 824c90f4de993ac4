package ec2tools

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// commonOptions are options of every tool: the address of the service and the credentials.
type commonOptions struct {
	accessKey, secretKey string
	endpoint, region     string
}

// newFlags returns the options of the tool name with the common ones declared.
func newFlags(name string) (*pflag.FlagSet, *commonOptions) {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	fs.SortFlags = false
	var o commonOptions
	fs.StringVarP(&o.accessKey, "aws-access-key", "O", "", "access `KEY` id (AWS_ACCESS_KEY_ID)")
	fs.StringVarP(&o.secretKey, "aws-secret-key", "W", "", "secret access `KEY` (AWS_SECRET_ACCESS_KEY)")
	fs.StringVarP(&o.endpoint, "url", "U", "", "the service's `URL` (EC2_URL)")
	fs.StringVar(&o.region, "region", "", "`REGION` (AWS_DEFAULT_REGION)")
	return fs, &o
}

// client makes a client from the options and the environment. A missing value is an error;
// in particular there is no default service.
func (o *commonOptions) client(getenv func(string) string) (*client, error) {
	first := func(values ...string) string {
		i := slices.IndexFunc(values, func(v string) bool { return v != "" })
		if i < 0 {
			return ""
		}
		return values[i]
	}
	const fix = `run: eval "$(palisade lab env)"`

	endpoint := first(o.endpoint, getenv("EC2_URL"), getenv("AWS_ENDPOINT_URL"))
	if endpoint == "" {
		return nil, usagef("the address of the service is missing: set EC2_URL or AWS_ENDPOINT_URL; %s", fix)
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, usagef("%q is not the URL of a service, such as http://127.0.0.1:8773; %s", endpoint, fix)
	}
	access := first(o.accessKey, getenv("AWS_ACCESS_KEY_ID"), getenv("AWS_ACCESS_KEY"))
	secret := first(o.secretKey, getenv("AWS_SECRET_ACCESS_KEY"), getenv("AWS_SECRET_KEY"))
	if access == "" || secret == "" {
		return nil, usagef("the access key is missing: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give -O and -W; %s", fix)
	}
	region := first(o.region, getenv("AWS_REGION"), getenv("AWS_DEFAULT_REGION"))
	if region == "" {
		return nil, usagef("the region is missing: set AWS_DEFAULT_REGION or give --region; %s", fix)
	}
	if u.Path == "" {
		u.Path = "/"
	}
	roots, err := rootsOf(getenv("AWS_CA_BUNDLE"))
	if err != nil {
		return nil, err
	}
	return newClient(u, access, secret, region, roots), nil
}

// rootsOf reads the certificates in the file that AWS_CA_BUNDLE names, as the AWS CLI does.
// A cluster's own authority signs the certificate of its API.
func rootsOf(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read AWS_CA_BUNDLE: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(data) {
		return nil, usagef("AWS_CA_BUNDLE: no certificate in %s", file)
	}
	return roots, nil
}

// hints has, by option, the text that says what to write if the option's value is missing.
var hints = map[string]string{
	"protocol":                    "give tcp, udp or icmp; in a VPC also a number, or all",
	"port-range":                  "give a port or a range, as in -p 22 or -p 8000-8010",
	"icmp-type-code":              "give TYPE:CODE, as in -t 8:0, or -t -1:-1 for all",
	"source-group":                "give the name or id of a group, as in -o Apache",
	"source-group-id":             "give the account that owns the source group, as in -u 495219933132",
	"filter":                      "give NAME=VALUE, as in -F vpc-id=vpc-1a2b3c4d",
	"wait":                        "give enforced, or enforced:10s to wait at most 10 seconds",
	"associate-public-ip-address": "give true or false",
	"description":                 `give it in quotes, as in -d "Apache web server"`,
}

// cidrHint says what to write if a CIDR block is missing after option.
func cidrHint(option string) string {
	return fmt.Sprintf("give a CIDR block, as in %s 203.0.113.25/32; %s 0.0.0.0/0 is everybody", option, option)
}

// parse reads args. Options may be anywhere, and a value may follow its option directly, as
// in -p22. Unlike pflag, it does not take the next option as the value of an option: a
// command such as "-s -p 22" comes from "-s $ADDRESS -p 22" with an empty variable.
func parse(fs *pflag.FlagSet, args []string) error {
	for i, arg := range args {
		if arg == "--" {
			break
		}
		f := bareOption(fs, arg)
		if f == nil || i+1 < len(args) && !looksLikeOption(fs, args[i+1]) {
			continue
		}
		hint, ok := hints[f.Name]
		switch {
		case f.Name == "cidr":
			hint = cidrHint("-" + f.Shorthand)
		case !ok:
			hint = "give it " + strings.ToUpper(f.Name)
		}
		return usagef("%s has no value: %s", arg, hint)
	}
	if err := fs.Parse(args); err != nil {
		return usageError{err.Error()}
	}
	return nil
}

// bareOption returns the option that arg names if its value must be the next argument.
func bareOption(fs *pflag.FlagSet, arg string) *pflag.Flag {
	var f *pflag.Flag
	switch {
	case strings.HasPrefix(arg, "--") && !strings.Contains(arg, "="):
		f = fs.Lookup(arg[2:])
	case len(arg) == 2 && arg[0] == '-':
		f = fs.ShorthandLookup(arg[1:])
	}
	if f == nil || f.NoOptDefVal != "" {
		return nil
	}
	return f
}

// looksLikeOption reports whether arg is an option of fs rather than a value such as -1.
func looksLikeOption(fs *pflag.FlagSet, arg string) bool {
	if strings.HasPrefix(arg, "--") {
		return true
	}
	return len(arg) >= 2 && arg[0] == '-' && fs.ShorthandLookup(arg[1:2]) != nil
}

// wantsHelp reports whether an argument before "--" asks for the usage.
func wantsHelp(args []string) bool {
	for _, arg := range args {
		switch arg {
		case "--":
			return false
		case "-h", "--help", "-?":
			return true
		}
	}
	return false
}

// usage returns the help text, which fits on one screen.
func (t tool) usage(name string, fs *pflag.FlagSet) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\nUsage:\n", name, t.summary)
	for _, s := range t.synopsis {
		fmt.Fprintf(&b, "  %s %s\n", name, s)
	}
	fmt.Fprintf(&b, "\nOptions:\n%s\nExample:\n", fs.FlagUsages())
	for line := range strings.Lines(t.example) {
		fmt.Fprintf(&b, "  %s", line)
	}
	b.WriteString("\nWith EC2_TOOLS=2006 the output is that of the tools of 2006; the default is 2012.\n")
	return b.String()
}
