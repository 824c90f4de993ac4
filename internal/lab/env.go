package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// awsLauncher is a script aws that comes before the real aws on PATH and passes it the lab's endpoint:
// aws before 2.13 knows no variable for the endpoint and would call Amazon.
const awsLauncher = `#!/bin/sh
# Runs the next aws on PATH against the lab.
here=$(dirname "$(readlink -f "$0")")
IFS=:
for dir in $PATH; do
	if [ "$(readlink -f "$dir")" != "$here" ] && [ -x "$dir/aws" ]; then
		unset IFS
		exec "$dir/aws" --endpoint-url "$AWS_ENDPOINT_URL" "$@"
	fi
done
echo "aws: the AWS command line interface is not installed" >&2
exit 127
`

// Env returns shell commands with which aws, the SDKs and the ec2-* tools call the lab as the account
// with this name.
func (l *Lab) Env(name string) (string, error) {
	account, err := l.account(name)
	if err != nil {
		return "", err
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		return "", err
	}
	var b strings.Builder
	for _, v := range []struct{ name, value string }{
		{"AWS_ENDPOINT_URL", l.Endpoint()},
		{"AWS_ACCESS_KEY_ID", account.AccessKey},
		{"AWS_SECRET_ACCESS_KEY", account.SecretKey},
		{"AWS_DEFAULT_REGION", Region},
		{"AWS_PAGER", ""},
		{"AWS_EC2_METADATA_DISABLED", "true"},
		{"EC2_URL", l.Endpoint()},
	} {
		fmt.Fprintf(&b, "export %s=%s\n", v.name, quote(v.value))
	}
	// These would override the variables above.
	b.WriteString("unset AWS_PROFILE AWS_DEFAULT_PROFILE AWS_SESSION_TOKEN AWS_REGION AWS_ENDPOINT_URL_EC2\n")
	fmt.Fprintf(&b, "export PATH=%s:\"$PATH\"\n", quote(l.path("bin")+":"+filepath.Dir(self)))
	return b.String(), nil
}

// quote quotes s as one word for a POSIX shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
