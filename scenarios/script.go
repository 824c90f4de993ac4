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

// A player is one run of one script. It is used by the goroutine the script runs on, and
// by the held connections, which share only their own buffers with it.
type player struct {
	ctx      context.Context
	config   Config
	narrator narrator
	account  string              // who `run` is
	env      map[string][]string // an account's environment, by its name
	held     map[string]*heldConn
	tiers    map[string]tier
}

// command is the shape of a script's command.
type command = func(ts *testscript.TestScript, neg bool, args []string)

// commands are what a script may use beside testscript's own:
//
//	account NAME               the account that run, shell and fresh act for
//	fresh                      clear what the account has in the lab
//	on WHO CMD...              run CMD in the namespace of an instance, a node, laptop or stranger
//	run CMD...                 run CMD as the account, with its keys in the environment
//	shell TEXT                 the same for a line of shell
//	palisade CMD...            run the lab's own binary, as its operator
//	until TIME RE on|run ...   repeat until it succeeds and prints RE
//	capture VAR RE             set VAR to RE's first group in the last output
//	tier NAME                  the instances of the last output are @NAME; wait until all run
//	pick VAR... @TIER...       set each VAR to one of them
//	all on @TIER... CMD...     run CMD in each of them at once, without itself in its tiers
//	scanned N open PORT,...    nmap -oG - told of N hosts: these ports open, all else filtered
//	hold NAME on|run ...       start CMD and keep it: the far end of a connection
//	alive NAME                 what is typed into it comes back
//	talks NAME                 it says something by itself
//	dead NAME                  nothing comes any more, typed into or not
//	ends NAME                  wait until it ends well, and show what it printed
//
// What takes on or run takes shell and palisade too. With ! before any of the four or
// before all, the command must fail. Where a command may name instances, @TIER names
// several (tier.go).
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
	p.held = make(map[string]*heldConn)
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

// cmdRun runs a command and shows its output as it comes. The stdout and stderr matchers
// of the lines below see it.
func (p *player) cmdRun(verb string) command {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		run := p.prepare(ts, append([]string{verb}, args...))
		p.narrator.command(run.who, run.text)
		shown := p.narrator.shower()
		err := p.exec(run, io.MultiWriter(shown, ts.Stdout()), io.MultiWriter(shown, ts.Stderr()))
		shown.end()
		switch {
		case err != nil && !neg:
			ts.Fatalf("%s: %v", run.text, err)
		case err == nil && neg:
			ts.Fatalf("%s: succeeded, and was to fail", run.text)
		}
	}
}

// cmdUntil repeats a command until it succeeds and its output has a match. Only the last
// try is shown.
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

	shown := p.narrator.shower()
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
			ts.Fatalf("%s: after %v still no %#q (%v)", run.text, limit, args[1], err)
		}
		return
	}
}

// retryEvery is the pause between two tries of until.
const retryEvery = 200 * time.Millisecond

// wait lets d pass, or fails the script when the play is called off.
func (p *player) wait(ts *testscript.TestScript, d time.Duration) {
	select {
	case <-time.After(d):
	case <-p.ctx.Done():
		ts.Fatalf("called off")
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
		ts.Fatalf("no match with a group for %#q in stdout", args[1])
	}
	ts.Setenv(args[0], m[1])
}

// A prepared command is what to execute and how it looks when a person types it.
type prepared struct {
	who, text string
	argv      []string
	env       []string
	dir       string
}

// prepare turns the words of on, run, shell or palisade into a command.
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
		ts.Fatalf("%s: for which account? say first: account NAME", verb)
	}
	r.who = p.account
	env, err := p.accountEnv(p.account)
	ts.Check(err)
	r.env = env
	return r
}

// exec runs r to its end, at most the configured limit, and with it what it started.
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

// start makes the process of r, which is killed with its children when ctx ends.
func (p *player) start(ctx context.Context, r prepared) *exec.Cmd {
	cmd := exec.CommandContext(ctx, r.argv[0], r.argv[1:]...)
	cmd.Dir, cmd.Env = r.dir, r.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	return cmd
}

// accountEnv returns the environment in which name's commands run: what a person gets
// from eval "$(palisade lab env --account NAME)". It is asked for once.
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
	env = append(env, "EC2_TOOLS=2012", "LAB="+p.config.Lab) // whatever the caller likes to read
	p.env[name] = env
	return env, nil
}
