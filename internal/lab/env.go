package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// awsLauncher is a script aws that comes before the real aws on PATH and passes it the lab's endpoint:
// aws before 2.13 knows no variable for the endpoint and would call Amazon.
//
// PATH can have the launchers of several labs, and copies of them. Each launcher skips all of them, which it
// recognizes by their second line: two launchers that take each other for the real aws never end.
const awsLauncher = `#!/bin/sh
# Runs the next aws on PATH against the lab.
mark='# Runs the next aws on PATH against the lab.'
if [ -z "$AWS_ENDPOINT_URL" ]; then
	echo "aws: AWS_ENDPOINT_URL is not set, so this aws, which calls a lab, would call Amazon; run: eval \"\$(palisade lab env)\"" >&2
	exit 1
fi
set -f
IFS=:
path=$PATH: # with the last colon, the loop also sees an empty entry at the end
for dir in $path; do
	aws=${dir:-.}/aws # an empty entry is the working directory
	[ -f "$aws" ] && [ -x "$aws" ] || continue
	second=
	{ IFS= read -r first; IFS= read -r second; } 2>/dev/null <"$aws"
	if [ "$second" != "$mark" ]; then
		unset IFS
		exec "$aws" --endpoint-url "$AWS_ENDPOINT_URL" "$@"
	fi
done
echo "aws: the AWS command line interface is not installed: no directory on PATH has it" >&2
exit 127
`

// leaveLabs removes the directories of all labs from PATH, so that none is left of a lab that the shell used
// before. It uses what sh, bash and zsh have in common.
const leaveLabs = `PATH=":$PATH:"
while :; do case $PATH in
*:` + labsDir + `/*) palisade_rest=${PATH#*:` + labsDir + `/}; PATH=${PATH%%:` + labsDir + `/*}:${palisade_rest#*:} ;;
*) break ;;
esac; done
PATH=${PATH#:}; PATH=${PATH%:}; unset palisade_rest
`

// NameVariable is the environment variable with the name of the lab that a shell uses. It is the default of the
// flag that names the lab, in every command.
const NameVariable = "PALISADE_LAB"

// Env returns shell commands with which aws, the SDKs and the ec2-* tools call the lab as the account
// with this name, and palisade's commands use the lab.
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
		{NameVariable, l.Name},
	} {
		fmt.Fprintf(&b, "export %s=%s\n", v.name, quote(v.value))
	}
	// These would override the variables above.
	b.WriteString("unset AWS_PROFILE AWS_DEFAULT_PROFILE AWS_SESSION_TOKEN AWS_REGION AWS_ENDPOINT_URL_EC2 AWS_ENDPOINT_URL_STS AWS_ENDPOINT_URL_SSM AWS_IGNORE_CONFIGURED_ENDPOINT_URLS\n")
	b.WriteString(leaveLabs)
	own := filepath.Dir(self)
	fmt.Fprintf(&b, "PATH=${PATH#%s:}\nexport PATH=%s:\"$PATH\"\n", quote(own), quote(l.path("bin")+":"+own))
	return b.String(), nil
}

// quote quotes s as one word for a POSIX shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
