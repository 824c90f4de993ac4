package scenarios

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// A player is one run of one script. Only the goroutine of the script uses it. Held commands write
// on other goroutines, but only to their own buffers.
type player struct {
	ctx      context.Context
	config   Config
	narrator narrator
	account  string              // the account for run, shell and fresh
	env      map[string][]string // environments of accounts, by the account's name
	held     map[string]*heldCommand
	tiers    map[string]tier
}

// A command implements a command of scripts.
type command = func(ts *testscript.TestScript, neg bool, args []string)

// commands are the commands of scripts, in addition to those of testscript:
//
//	account NAME               the account for run, shell and fresh from here on
//	fresh                      delete all resources of the account
//	on WHO CMD...              run CMD in the namespace of an instance, a node, laptop or stranger
//	run CMD...                 run CMD as the account, with its keys in the environment
//	shell TEXT                 run a line of shell as the account
//	palisade CMD...            run the lab's binary, as its operator
//	until TIME RE on|run ...   repeat until the command succeeds and its output matches RE
//	capture VAR RE             set VAR to the first group of RE in the last output
//	tier NAME                  name the instances of the last output @NAME, and wait until all run
//	pick VAR... @TIER...       set each VAR to one instance of the tier
//	all on @TIER... CMD...     run CMD in all of them at once; in CMD, a tier excludes the instance that runs it
//	scanned N open PORT,...    the output of nmap -oG - lists N hosts, with these ports open and all others filtered
//	hold NAME on|run ...       start a command in the background: the remote end of a connection
//	alive NAME                 the held command echoes a line
//	talks NAME                 the held command prints something unasked
//	dead NAME                  the held command prints nothing more, neither asked nor unasked
//	ends NAME                  wait until the held command succeeds, and show its output
//
// Where on or run is accepted, shell and palisade are as well. With ! before any of these four or
// before all, the command must fail. @TIER stands for several instances (tier.go).
func (p *player) commands() map[string]command {
	return map[string]command{
		"step":     p.cmdStep,
		"say":      p.cmdSay,
		"account":  p.cmdAccount,
		"fresh":    p.cmdFresh,
		"on":       p.cmdRun("on"),
		"run":      p.cmdRun("run"),
		"shell":    p.cmdRun("shell"),
		"palisade": p.cmdRun("palisade"),
		"until":    p.cmdUntil,
		"capture":  p.cmdCapture,
		"tier":     p.cmdTier,
		"pick":     p.cmdPick,
		"all":      p.cmdAll,
		"scanned":  p.cmdScanned,
		"hold":     p.cmdHold,
		"alive":    p.cmdAlive,
		"talks":    p.cmdTalks,
		"dead":     p.cmdDead,
		"ends":     p.cmdEnds,
	}
}

func (p *player) setup(env *testscript.Env) error {
	p.env = make(map[string][]string)
	p.held = make(map[string]*heldCommand)
	p.tiers = make(map[string]tier)
	env.Defer(p.release)
	return nil
}

func (p *player) cmdStep(ts *testscript.TestScript, _ bool, args []string) {
	if p.config.Pause != nil && len(p.narrator.steps) > 0 {
		ts.Check(p.config.Pause())
	}
	ts.Check(p.ctx.Err())
	p.narrator.step(args[0])
}

func (p *player) cmdSay(_ *testscript.TestScript, _ bool, args []string) {
	p.narrator.say(args[0])
}

func (p *player) cmdAccount(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: account NAME")
	}
	p.account = args[0]
}

// cmdRun returns the script command verb, one of on, run, shell and palisade. It runs a program and shows the
// output while the program runs. The stdout and stderr matchers of the next lines check that output.
func (p *player) cmdRun(verb string) command {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		run := p.prepare(ts, append([]string{verb}, args...))
		p.narrator.command(run.who, run.text)
		shown := p.narrator.outputWriter()
		err := p.exec(run, io.MultiWriter(shown, ts.Stdout()), io.MultiWriter(shown, ts.Stderr()))
		shown.end()
		switch {
		case err != nil && !neg:
			ts.Fatalf("%s: %v", run.text, err)
		case err == nil && neg:
			ts.Fatalf("%s: succeeded, but must fail", run.text)
		}
	}
}

// cmdUntil repeats a command until it succeeds and its output matches the pattern, or the time is over. It
// shows the last attempt only.
func (p *player) cmdUntil(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 4 {
		ts.Fatalf("usage: until TIME REGEXP on|run CMD...")
	}
	limit, err := time.ParseDuration(args[0])
	ts.Check(err)
	want, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	run := p.prepare(ts, args[2:])
	p.narrator.command(run.who, run.text)

	shown := p.narrator.outputWriter()
	defer shown.end()
	deadline := time.Now().Add(limit)
	for {
		var stdout, stderr bytes.Buffer
		err := p.exec(run, &stdout, &stderr)
		matched := err == nil && want.Match(stdout.Bytes())
		if !matched && time.Now().Before(deadline) {
			p.wait(ts, retryEvery)
			continue
		}
		shown.Write(stderr.Bytes())
		shown.Write(stdout.Bytes())
		ts.Stdout().Write(stdout.Bytes())
		ts.Stderr().Write(stderr.Bytes())
		if !matched {
			ts.Fatalf("%s: no match for %#q after %v; error of the last attempt: %v", run.text, args[1], limit, err)
		}
		return
	}
}

// retryEvery is the pause between two attempts of the script command until.
const retryEvery = 200 * time.Millisecond

// wait waits for d. It fails the script if the play is cancelled meanwhile.
func (p *player) wait(ts *testscript.TestScript, d time.Duration) {
	select {
	case <-time.After(d):
	case <-p.ctx.Done():
		ts.Fatalf("cancelled")
	}
}

func (p *player) cmdCapture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: capture VAR REGEXP")
	}
	re, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	m := re.FindStringSubmatch(ts.ReadFile("stdout"))
	if len(m) < 2 {
		ts.Fatalf("stdout has no match for %#q, or the pattern has no group", args[1])
	}
	ts.Setenv(args[0], m[1])
}

// A prepared is a command that is ready to run, and the text that a person would type for it.
type prepared struct {
	who, text string
	argv      []string
	env       []string
	dir       string
}

// prepare returns the command that words describe. The first word is on, run, shell or palisade.
func (p *player) prepare(ts *testscript.TestScript, words []string) prepared {
	verb, args := words[0], p.expand(ts, words[1:], nil)
	r := prepared{dir: ts.MkAbs(".")}
	switch {
	case verb == "on" && len(args) >= 2:
		r.who, r.text = args[0], typed(args[1:])
		if p.config.OnCommand != nil {
			p.config.OnCommand(args[0], args[1:]...)
		}
		r.argv = append([]string{p.config.Palisade, "lab", "exec", "--name", p.config.Lab, args[0], "--"}, args[1:]...)
		return r
	case verb == "palisade" && len(args) >= 1:
		r.who, r.text = "root", typed(words)
		r.argv = append(append([]string{p.config.Palisade}, args...), "--name", p.config.Lab)
		return r
	case verb == "run" && len(args) >= 1:
		r.text, r.argv = typed(args), append([]string{"env"}, args...)
	case verb == "shell" && len(args) == 1:
		r.text, r.argv = args[0], []string{"sh", "-c", args[0]}
	default:
		ts.Fatalf("usage: on WHO CMD..., run CMD..., shell TEXT or palisade CMD..., not: %s", typed(words))
	}
	if p.account == "" {
		ts.Fatalf("%s: no account is selected; add a line before: account NAME", verb)
	}
	r.who = p.account
	env, err := p.accountEnv(p.account)
	ts.Check(err)
	r.env = env
	return r
}

// exec runs r and returns its error. After Config.Limit it kills r and the children of r.
func (p *player) exec(r prepared, stdout, stderr io.Writer) error {
	ctx, cancel := context.WithTimeout(p.ctx, p.config.Limit)
	defer cancel()
	cmd := p.start(ctx, r)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err := cmd.Run()
	if ctx.Err() != nil && p.ctx.Err() == nil {
		return fmt.Errorf("did not end within %v", p.config.Limit)
	}
	return err
}

// start returns a process for r, which the caller must start. When ctx ends, the process and its children
// are killed.
func (p *player) start(ctx context.Context, r prepared) *exec.Cmd {
	cmd := exec.CommandContext(ctx, r.argv[0], r.argv[1:]...)
	cmd.Dir, cmd.Env = r.dir, r.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	return cmd
}

// accountEnv returns the environment for commands of an account, as eval "$(palisade lab env --account NAME)"
// makes it in a shell. It asks the lab once and keeps the answer.
func (p *player) accountEnv(name string) ([]string, error) {
	if env, ok := p.env[name]; ok {
		return env, nil
	}
	const script = `settings=$("$0" lab env --name "$1" --account "$2") && eval "$settings" && exec env -0`
	out, err := exec.CommandContext(p.ctx, "sh", "-c", script, p.config.Palisade, p.config.Lab, name).Output()
	if err != nil {
		var text string
		if exit, ok := err.(*exec.ExitError); ok {
			text = strings.TrimSpace(string(exit.Stderr))
		}
		return nil, fmt.Errorf("read environment of account %s: %w: %s", name, err, text)
	}
	env := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	env = append(env, "EC2_TOOLS=2012", "LAB="+p.config.Lab) // whichever format the caller's environment selects
	p.env[name] = env
	return env, nil
}
