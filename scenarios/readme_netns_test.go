package scenarios

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"palisade/internal/lab"
	"palisade/internal/lab/labtest"
	"palisade/internal/netns/netnstest"
)

// TestReadmeCommandsPrintWhatReadmeShows runs the commands of README.md in their order, in one shell, and
// compares their output with README.md. It leaves out `make`, because labtest builds the binary; `make
// demo`, which plays two stories that TestEveryScenarioPasses plays; and Mary's story, whose output
// TestEveryScenarioPasses compares. The lab, its port and the namespace cache differ from README.md, so
// that the test does not touch a lab or namespace that the machine may have.
func TestReadmeCommandsPrintWhatReadmeShows(t *testing.T) {
	netnstest.NeedRoot(t)
	l := labtest.New(t, labtest.Build(t), fmt.Sprintf("readme%d", os.Getpid()))
	port := labtest.FreePort(t)
	shell := newShell(t, l, port)
	names := strings.NewReplacer(" cache", " "+l.Name+"cache", "--lab lab ", "--lab "+l.Name+" ", "Lab lab ", "Lab "+l.Name+" ", ":8773", fmt.Sprintf(":%d", port))
	all, _ := readTranscripts(t)
	if len(all) < 25 {
		t.Fatalf("README.md has %d commands, want 25 or more", len(all))
	}
	r := &reader{bound: map[string]string{}}
	for _, s := range all {
		if s.command == "make" || s.command == maryCommand {
			continue
		}
		command := names.Replace(r.command(s.command))
		for i, line := range s.lines {
			s.lines[i] = names.Replace(line)
		}
		output, status := shell.run(t, command)
		dropped := strings.Contains(command, " trace ") && strings.Contains(output, "=> dropped")
		if status != "0" && !strings.HasSuffix(command, " --step") && !dropped {
			t.Fatalf("$ %s\nexit status %s:\n%s", command, status, output)
		}
		if r.compare(t, s, output); t.Failed() {
			return
		}
		if strings.HasPrefix(command, "ec2-run-instances") { // a reader takes longer than an instance to start
			labtest.Eventually(t, "the instances run", func() bool {
				return !slices.ContainsFunc(l.Status(t).Instances, func(in lab.InstanceStatus) bool { return in.State != "running" })
			})
		}
	}
}

// maryCommand is the command of README.md that plays Mary's story.
const maryCommand = "bin/palisade scenario run mary"

// compareMary fails t if the output of Mary's story is not as README.md shows it.
func compareMary(t testing.TB, output string) {
	t.Helper()
	all, _ := readTranscripts(t)
	for _, s := range all {
		if s.command == maryCommand {
			(&reader{bound: map[string]string{}}).compare(t, s, output)
			return
		}
	}
	t.Errorf("README.md does not show the command %s", maryCommand)
}

// A shell is a bash process that runs the commands of README.md. Its directory has bin/palisade.
type shell struct {
	in  io.Writer
	out *bufio.Scanner
}

// wrapper is the script bin/palisade, which runs the real binary. It appends --name with the lab's name to
// most commands, and --port to `lab up`. For `lab exec` it inserts --name before --, because the words
// behind -- are the command that it runs.
const wrapper = `#!/bin/sh
case "$1 $2" in
"lab up") exec '%[1]s' "$@" --name %[2]s --port %[3]d ;;
"lab exec") shift 2; exec '%[1]s' lab exec --name %[2]s "$@" ;;
"bench "*) exec '%[1]s' "$@" ;;
"account "*) exec '%[1]s' "$@" --lab %[2]s ;;
"scenario list") exec '%[1]s' "$@" ;;
esac
case "$*" in
*" --step") exec timeout 5 '%[1]s' "$@" --name %[2]s ;;
*) exec '%[1]s' "$@" --name %[2]s ;;
esac
`

func newShell(t *testing.T, l *labtest.Lab, port int) *shell {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf(wrapper, l.Palisade, l.Name, port)
	if err := os.WriteFile(filepath.Join(dir, "bin", "palisade"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { exec.Command("ip", "netns", "del", l.Name+"cache").Run() })
	cmd := exec.Command("bash", "--noprofile", "--norc")
	cmd.Dir = dir
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	return &shell{in, bufio.NewScanner(out)}
}

// run runs one line in the shell and returns its output and its exit status, such as "0".
func (s *shell) run(t *testing.T, line string) (output, status string) {
	t.Helper()
	const end = "exit status of the command: "
	fmt.Fprintf(s.in, "{ %s\n} </dev/null 2>&1; status=$?; echo; echo '%s'$status\n", line, end)
	var b strings.Builder
	for s.out.Scan() {
		if status, ok := strings.CutPrefix(s.out.Text(), end); ok {
			return b.String(), status
		}
		b.WriteString(s.out.Text() + "\n")
	}
	t.Fatalf("the shell ended while it ran the line %s: %v", line, s.out.Err())
	return "", ""
}
