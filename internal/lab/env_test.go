package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// program writes an executable named aws into dir, which it makes.
func program(t *testing.T, dir, text string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "aws"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// launched runs the first aws on path, in the directory dir. If it does not end, timeout ends it.
func launched(dir, path string, environ ...string) (string, error) {
	cmd := exec.Command("/usr/bin/timeout", "5", "/bin/sh", "-c", "PATH=$1; shift; aws ec2 'describe vpcs'", "sh", path)
	cmd.Dir, cmd.Env = dir, append(environ, "PATH=/usr/bin:/bin")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestLauncherSkipsLaunchersOfAllLabs(t *testing.T) {
	top := t.TempDir()
	one, two := program(t, top+"/one/bin", awsLauncher), program(t, top+"/two/bin", awsLauncher)
	other := program(t, top+"/of another release", "#!/bin/sh\n# Runs the next aws on PATH against the lab.\nexec sleep 60\n")
	program(t, top, awsLauncher) // in the working directory
	real := program(t, top+"/a real one", "#!/bin/sh\necho real \"$#\" \"$@\"\n")
	program(t, top+"/relative", "#!/bin/sh\necho relative\n")
	if err := os.Symlink(one, top+"/linked"); err != nil {
		t.Fatal(err)
	}
	os.Mkdir(top+"/link", 0o755)
	os.Symlink(two+"/aws", top+"/link/aws")
	os.MkdirAll(top+"/directory/aws", 0o755)
	os.Mkdir(top+"/plain", 0o755)
	os.WriteFile(top+"/plain/aws", []byte("not executable"), 0o644)

	const ran = "real 4 --endpoint-url http://127.0.0.1:1 ec2 describe vpcs\n"
	const none = "aws: the AWS command line interface is not installed: no directory on PATH has it\n"
	for name, tc := range map[string]struct{ path, want string }{
		"one lab":                        {one + ":" + real, ran},
		"two labs":                       {two + ":" + one + ":" + real, ran},
		"the same lab twice":             {one + ":" + one + ":" + two + ":" + one + ":" + real, ran},
		"a launcher of another release":  {one + ":" + other + ":" + real, ran},
		"a link to a lab's directory":    {one + ":" + top + "/linked:" + real, ran},
		"a link to a launcher":           {one + ":" + top + "/link:" + real, ran},
		"what is no program":             {one + ":" + top + "/directory:" + top + "/plain:" + top + "/missing:" + real, ran},
		"an empty entry":                 {one + "::" + real, ran},
		"an empty entry at the end":      {one + ":", none},
		"a relative entry with launcher": {"one/bin:" + two + ":./two/bin:" + real, ran},
		"a relative entry":               {one + ":relative:" + real, "relative\n"},
		"no aws at all":                  {one + ":" + two, none},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := launched(top, tc.path, "AWS_ENDPOINT_URL=http://127.0.0.1:1"); got != tc.want || (err == nil) != (tc.want != none) {
				t.Errorf("with the PATH %s, aws prints %q, error %v; want %q", tc.path, got, err, tc.want)
			}
		})
	}
	program(t, top, "#!/bin/sh\necho here\n")
	if got, err := launched(top, one+":", "AWS_ENDPOINT_URL=http://127.0.0.1:1"); got != "here\n" || err != nil {
		t.Errorf("with an empty entry at the end of PATH, aws of the working directory prints %q, error %v; want here", got, err)
	}
	if got, err := launched(top, one+":"+real); err == nil || !strings.Contains(got, "AWS_ENDPOINT_URL is not set") {
		t.Errorf("without an endpoint, aws prints %q, error %v; want an error, because it would call Amazon", got, err)
	}
}

func TestEnvOfAnotherLabReplacesTheFirst(t *testing.T) {
	envOf := func(name string, port int) string {
		l := &Lab{Name: name, Port: port, Accounts: []Account{{Name: "dev", AccessKey: "AKIA" + name, SecretKey: "s"}}}
		env, err := l.Env("dev")
		if err != nil {
			t.Fatal(err)
		}
		return env
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Dir(self)
	bin := func(name string) string { return filepath.Join(labsDir, name, "bin") }
	for _, shell := range []string{"sh", "bash", "zsh"} {
		path, err := exec.LookPath(shell)
		if err != nil {
			continue
		}
		for _, before := range []string{"/usr/bin:/bin", "", ":/bin", "/bin:", bin("gone"), bin("gone") + ":/bin:" + bin("a") + ":" + bin("a"), labsDir + "x/bin:/a b:/*"} {
			cmd := exec.Command(path, "-euc", envOf("one", 1)+envOf("two", 2)+envOf("one", 1)+envOf("two", 2)+
				`echo "$PALISADE_LAB $AWS_ENDPOINT_URL $EC2_URL $AWS_ACCESS_KEY_ID|$PATH|${palisade_rest-}"`)
			cmd.Env = []string{"PATH=" + before}
			out, err := cmd.CombinedOutput()
			rest := strings.Trim(strings.NewReplacer(bin("gone")+":", "", bin("gone"), "", bin("a")+":", "", bin("a"), "").Replace(before+":"), "")
			want := fmt.Sprintf("two http://127.0.0.1:2 http://127.0.0.1:2 AKIAtwo|%s:%s:%s|\n", bin("two"), own, strings.TrimSuffix(rest, ":"))
			if got := string(out); err != nil || got != want {
				t.Errorf("%s with the PATH %q prints %q, error %v; want %q", shell, before, got, err, want)
			}
		}
	}
}
