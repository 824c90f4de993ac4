package clients

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"palisade/internal/lab/labtest"
)

// A program is a person's program that stops now and then, says so in a line, and waits
// until the test has sent its packets.
type program struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Scanner
	errors *strings.Builder
}

func start(t *testing.T, environ []string, dir string, argv ...string) *program {
	t.Helper()
	p := &program{cmd: exec.CommandContext(t.Context(), argv[0], argv[1:]...), errors: new(strings.Builder)}
	p.cmd.Env, p.cmd.Dir, p.cmd.Stderr = environ, dir, p.errors
	in, err := p.cmd.StdinPipe()
	check(t, err)
	out, err := p.cmd.StdoutPipe()
	check(t, err)
	p.in, p.out = in, bufio.NewScanner(out)
	check(t, p.cmd.Start())
	return p
}

// says is the groups of the next line's match.
func (p *program) says(t *testing.T, want string) []string {
	t.Helper()
	if !p.out.Scan() {
		p.cmd.Wait()
		t.Fatalf("the program ended before it said %s:\n%s", want, p.errors)
	}
	m := regexp.MustCompile(want).FindStringSubmatch(p.out.Text())
	if m == nil {
		p.cmd.Process.Kill()
		p.cmd.Wait()
		t.Fatalf("the program says %q, want %s\n%s", p.out.Text(), want, p.errors)
	}
	return m[1:]
}

func (p *program) goOn() { fmt.Fprintln(p.in) }

// ends waits for the end and returns all that was not read yet.
func (p *program) ends(t *testing.T) string {
	t.Helper()
	p.in.Close()
	var rest []string
	for p.out.Scan() {
		rest = append(rest, p.out.Text())
	}
	if err := p.cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, strings.Join(rest, "\n"), p.errors)
	}
	return strings.Join(rest, "\n")
}

// said is the instance of a line "ID PRIVATE PUBLIC".
const said = `^(i-[0-9a-f]{17}) ([0-9.]+) ([0-9.]+)$`

func (p *program) instance(t *testing.T, l *labtest.Lab) instance {
	t.Helper()
	m := p.says(t, said)
	return instance{host: host{m[0], l.Namespace(m[0])}, id: m[0], private: netip.MustParseAddr(m[1]), public: netip.MustParseAddr(m[2])}
}

func testBoto3(t *testing.T, l *labtest.Lab) {
	a := newAccount(t, l, "boto")
	script, err := filepath.Abs("testdata/boto3_program.py")
	check(t, err)
	home := t.TempDir()
	p := start(t, l.Environ(a, home), home, "/usr/bin/python3", script, l.Endpoint)
	in := p.instance(t, l)
	laptop, stranger := host{"laptop", l.Namespace("laptop")}, host{"stranger", l.Namespace("stranger")}
	answers(t, laptop, in.public, "open/22")
	silent(t, laptop, in.public, "open/80")
	silent(t, stranger, in.public, "open/22")
	p.goOn()
	p.says(t, "^the port is changed$")
	answers(t, laptop, in.public, "open/80")
	silent(t, laptop, in.public, "open/22")
	p.goOn()
	p.says(t, "^gone$")
	p.ends(t)
	silent(t, laptop, in.public, "open/80")
}

// inNode makes a directory with the programs of testdata/js and the packages that `make
// setup` installs.
func inNode(t *testing.T) string {
	t.Helper()
	modules, err := filepath.Abs("../../bin/clients/node_modules")
	check(t, err)
	if _, err := os.Stat(modules); err != nil {
		t.Fatalf("the SDKs for JavaScript are not there: %v; make setup-clients installs them", err)
	}
	dir := t.TempDir()
	check(t, os.CopyFS(dir, os.DirFS("testdata/js")))
	check(t, os.Symlink(modules, filepath.Join(dir, "node_modules")))
	return dir
}

func testJavaScript2(t *testing.T, l *labtest.Lab) {
	a := newAccount(t, l, "jstwo")
	dir := inNode(t)
	environ := append(l.Environ(a, dir), "AWS_SDK_JS_SUPPRESS_MAINTENANCE_MODE_MESSAGE=1")
	p := start(t, environ, dir, "node", "guide2023.js")
	id := p.says(t, `^Security Group created with ID:  (sg-[0-9a-f]{17})$`)[0]
	if out := p.ends(t); !strings.Contains(out, "Inbound rules added to the security group successfully!") || !strings.Contains(out, "Return: true") {
		t.Errorf("the program says %s", out)
	}
	c := newClient(l, a)
	s := &stage{lab: l, c: c, hosts: newHosts(t), laptop: host{"laptop", l.Namespace("laptop")}}
	in := s.launchDefault(t, "ssh-http", id)
	answers(t, s.laptop, in.public, "open/22")
	s.passes(t, "the guide's group", toAddress(s.laptop, in.public, in, "tcp/80"))
	s.stops(t, "the guide's group", toAddress(s.laptop, in.public, in, "tcp/81"))
}

func testJavaScript3(t *testing.T, l *labtest.Lab) {
	a := newAccount(t, l, "jsthree")
	dir := inNode(t)
	p := start(t, l.Environ(a, dir), dir, "node", "v3.mjs")
	in := p.instance(t, l)
	laptop := host{"laptop", l.Namespace("laptop")}
	answers(t, laptop, in.public, "open/80")
	answers(t, laptop, in.public, "open/22")
	p.goOn()
	p.says(t, "^port 80 is closed$")
	p.ends(t)
	silent(t, laptop, in.public, "open/80")
	answers(t, laptop, in.public, "open/22")
}
