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

// A program is a process that runs a program as users write it. At some points it prints a line
// and waits; then the test sends its probes and calls proceed.
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

// wantLine fails the test unless the program's next line matches the regular expression want. It
// returns the texts of the groups.
func (p *program) wantLine(t *testing.T, want string) []string {
	t.Helper()
	if !p.out.Scan() {
		p.cmd.Wait()
		t.Fatalf("the program ended before it printed a line that matches %s; its standard error:\n%s", want, p.errors)
	}
	m := regexp.MustCompile(want).FindStringSubmatch(p.out.Text())
	if m == nil {
		p.cmd.Process.Kill()
		p.cmd.Wait()
		t.Fatalf("the program printed the line %q, want %s; its standard error:\n%s", p.out.Text(), want, p.errors)
	}
	return m[1:]
}

func (p *program) proceed() { fmt.Fprintln(p.in) }

// wait waits until the program ends, and returns its output after the last line that wantLine has
// read.
func (p *program) wait(t *testing.T) string {
	t.Helper()
	p.in.Close()
	var rest []string
	for p.out.Scan() {
		rest = append(rest, p.out.Text())
	}
	if err := p.cmd.Wait(); err != nil {
		t.Fatalf("the program failed: %v\noutput:\n%s\nstandard error:\n%s", err, strings.Join(rest, "\n"), p.errors)
	}
	return strings.Join(rest, "\n")
}

// instanceLine matches a line "ID PRIVATE PUBLIC": the id and the two addresses of an instance.
const instanceLine = `^(i-[0-9a-f]{17}) ([0-9.]+) ([0-9.]+)$`

func (p *program) instance(t *testing.T, l *labtest.Lab) instance {
	t.Helper()
	m := p.wantLine(t, instanceLine)
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
	wantOpen(t, laptop, in.public, "open/22")
	wantClosed(t, laptop, in.public, "open/80")
	wantClosed(t, stranger, in.public, "open/22")
	p.proceed()
	p.wantLine(t, "^the port is changed$")
	wantOpen(t, laptop, in.public, "open/80")
	wantClosed(t, laptop, in.public, "open/22")
	p.proceed()
	p.wantLine(t, "^gone$")
	p.wait(t)
	wantClosed(t, laptop, in.public, "open/80")
}

// testBoto3Network runs boto3_network.py, with probes at each point where it waits.
func testBoto3Network(t *testing.T, l *labtest.Lab) {
	a := newAccount(t, l, "botonet")
	script, err := filepath.Abs("testdata/boto3_network.py")
	check(t, err)
	home := t.TempDir()
	p := start(t, l.Environ(a, home), home, "/usr/bin/python3", script, l.Endpoint)
	web, app, reports := p.instance(t, l), p.instance(t, l), p.instance(t, l)
	s := &testbed{lab: l, hosts: newHosts(t), laptop: host{"laptop", l.Namespace("laptop")}, stranger: host{"stranger", l.Namespace("stranger")}}
	visit := func(from host, port string) probe { return toAddress(from, web.public, web, "tcp/"+port) }
	between, out, across := to(app.host, web, "tcp/7010"), probe{from: app.host, to: laptopAddress, kind: "tcp/7030", at: s.laptop}, to(reports.host, app, "tcp/7021")
	for _, step := range []struct {
		line            string
		passing, silent []probe
	}{
		{"launched", probes(visit(s.laptop, "7000"), visit(s.laptop, "7001"), between), probes(visit(s.stranger, "7000"), out, across)},
		{"the list is changed", probes(visit(s.stranger, "7000")), probes(visit(s.laptop, "7000"))},
		{"the ACL lets port 7000 in", probes(visit(s.laptop, "7000")), probes(visit(s.laptop, "7001"), between, visit(s.stranger, "7000"))},
		{"the ACL denies port 7000", probes(visit(s.laptop, "7001"), between), probes(visit(s.laptop, "7000"))},
		{"the private subnet has a NAT gateway", probes(out, visit(s.laptop, "7000")), probes(across)},
		{"the VPCs are peers", probes(across), probes(out, to(reports.host, app, "tcp/7022"), to(reports.host, web, "tcp/7010"))},
		{"the peering is deleted", probes(between), probes(across)},
	} {
		p.wantLine(t, "^"+step.line+"$")
		s.send(t, step.line, step.passing, step.silent)
		p.proceed()
	}
	p.wantLine(t, "^gone$")
	p.wait(t)
}

// nodeDir makes a directory for node with the programs of testdata/js and the packages that `make
// setup-clients` installs, and returns its path.
func nodeDir(t *testing.T) string {
	t.Helper()
	modules, err := filepath.Abs("../../bin/clients/node_modules")
	check(t, err)
	if _, err := os.Stat(modules); err != nil {
		t.Fatalf("the SDKs for JavaScript are missing (%v); install them with: make setup-clients", err)
	}
	dir := t.TempDir()
	check(t, os.CopyFS(dir, os.DirFS("testdata/js")))
	check(t, os.Symlink(modules, filepath.Join(dir, "node_modules")))
	return dir
}

func testJavaScript2(t *testing.T, l *labtest.Lab) {
	a := newAccount(t, l, "jstwo")
	dir := nodeDir(t)
	environ := append(l.Environ(a, dir), "AWS_SDK_JS_SUPPRESS_MAINTENANCE_MODE_MESSAGE=1")
	p := start(t, environ, dir, "node", "guide2023.js")
	id := p.wantLine(t, `^Security Group created with ID:  (sg-[0-9a-f]{17})$`)[0]
	if out := p.wait(t); !strings.Contains(out, "Inbound rules added to the security group successfully!") || !strings.Contains(out, "Return: true") {
		t.Errorf("the program printed no success, want the rules added and \"Return: true\"; its output:\n%s", out)
	}
	c := newClient(l, a)
	s := &testbed{lab: l, c: c, hosts: newHosts(t), laptop: host{"laptop", l.Namespace("laptop")}}
	in := s.launchDefault(t, "ssh-http", id)
	wantOpen(t, s.laptop, in.public, "open/22")
	s.wantAnswers(t, "the guide's group", toAddress(s.laptop, in.public, in, "tcp/80"))
	s.wantSilence(t, "the guide's group", toAddress(s.laptop, in.public, in, "tcp/81"))
}

func testJavaScript3(t *testing.T, l *labtest.Lab) {
	a := newAccount(t, l, "jsthree")
	dir := nodeDir(t)
	p := start(t, l.Environ(a, dir), dir, "node", "v3.mjs")
	in := p.instance(t, l)
	laptop := host{"laptop", l.Namespace("laptop")}
	wantOpen(t, laptop, in.public, "open/80")
	wantOpen(t, laptop, in.public, "open/22")
	p.proceed()
	p.wantLine(t, "^port 80 is closed$")
	p.wait(t)
	wantClosed(t, laptop, in.public, "open/80")
	wantOpen(t, laptop, in.public, "open/22")
}
