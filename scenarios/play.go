package scenarios

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// Config says in which lab a scenario is played, and where its output goes.
type Config struct {
	Palisade string        // path of the binary that runs the lab; default: the running binary. A binary of another version may lack commands of the script
	Lab      string        // name of the lab, which must be up; default "lab". Scripts delete the resources of its accounts
	Out      io.Writer     // receives the story as it happens; required
	Colour   bool          // Out is a terminal that shows colours; default false. Other outputs would contain escape sequences
	Pause    func() error  // called before each step except the first; nil: no pause
	Limit    time.Duration // bounds the run time of one command; default 1 min. With a lower limit commands fail on a slow machine

	// OnCommand is called with each command before it runs in the namespace of who; nil: not called.
	OnCommand func(who string, argv ...string)
}

// ErrDiffers is in Play's error if the result of a step differs from the script.
var ErrDiffers = errors.New("the result differs from the script")

// Play plays s in a lab that is up. It returns after the last step, or after the first step whose result
// differs from the script. When it returns, all background commands of the script have ended. Instances
// stay in the lab unless the script terminates them.
func Play(ctx context.Context, s Scenario, c Config) error {
	if c.Palisade == "" {
		exe, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find own binary: %w", err)
		}
		c.Palisade = exe
	}
	if c.Lab == "" {
		c.Lab = "lab"
	}
	if c.Limit == 0 {
		c.Limit = time.Minute
	}
	dir, err := os.MkdirTemp("", "palisade-scenario-")
	if err != nil {
		return fmt.Errorf("play %s: %w", s.Name, err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, s.Name+".txtar")
	if err := os.WriteFile(file, s.narrated(), 0o600); err != nil {
		return fmt.Errorf("play %s: %w", s.Name, err)
	}

	p := &player{ctx: ctx, config: c, narrator: narrator{out: c.Out, colour: c.Colour}}
	begin := time.Now()
	st := new(stage)
	st.Run(s.Name, func(t testscript.T) {
		testscript.RunT(t, testscript.Params{
			Files:              []string{file},
			Cmds:               p.commands(),
			Setup:              p.setup,
			RequireUniqueNames: true,
		})
	})
	return p.conclude(s, st, time.Since(begin))
}

// PlayAll plays stories one after the other until one fails, and prints a summary.
func PlayAll(ctx context.Context, stories []Scenario, c Config) error {
	begin := time.Now()
	for i, s := range stories {
		if i > 0 {
			fmt.Fprintf(c.Out, "\n\n")
		}
		if err := Play(ctx, s, c); err != nil {
			return err
		}
	}
	if len(stories) > 1 {
		n := narrator{out: c.Out, colour: c.Colour}
		n.sumUp(stories, time.Since(begin))
	}
	return nil
}

// conclude prints the summary of a story that passed, or the step that failed and the reason. It returns the
// error of Play.
func (p *player) conclude(s Scenario, st *stage, took time.Duration) error {
	if p.ctx.Err() != nil {
		return fmt.Errorf("play %s: %w", s.Name, context.Cause(p.ctx))
	}
	n := &p.narrator
	if reason := st.reason(); reason != "" {
		n.failed(reason)
		return fmt.Errorf("%s: %w: %s", s.Name, ErrDiffers, reason)
	}
	n.stepDone()
	n.summary(s.Title, took)
	return nil
}

// A stage is a testscript.T that keeps the log and the result. Play needs it, because no *testing.T exists
// outside tests.
type stage struct {
	log    strings.Builder
	failed bool
}

// Run calls f on a new goroutine, because FailNow ends its goroutine, and waits for it.
func (s *stage) Run(_ string, f func(testscript.T)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(s)
	}()
	<-done
}

func (s *stage) FailNow() {
	s.failed = true
	runtime.Goexit()
}

func (s *stage) Fatal(args ...any) {
	s.Log("FAIL: " + fmt.Sprint(args...))
	s.FailNow()
}

// Skip fails the story, because a story that was not played proves nothing.
func (s *stage) Skip(args ...any) { s.Fatal(args...) }

func (s *stage) Log(args ...any) { fmt.Fprintln(&s.log, args...) }

func (s *stage) Parallel() {}

func (s *stage) Verbose() bool { return false }

// reason returns the line of the log that says what failed, or "" if nothing failed.
func (s *stage) reason() string {
	if !s.failed {
		return ""
	}
	lines := strings.Split(s.log.String(), "\n")
	for _, l := range slices.Backward(lines) {
		text, ok := strings.CutPrefix(strings.TrimSpace(l), "FAIL: ")
		if !ok {
			continue
		}
		// Leave out the temporary directory before the script's name.
		if at, rest, ok := strings.Cut(text, ".txtar:"); ok {
			text = filepath.Base(at) + ".txtar:" + rest
		}
		return text
	}
	return "unknown: the log has no FAIL line; this is a bug"
}
