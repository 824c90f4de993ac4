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

// Config is where and for whom a scenario is played.
type Config struct {
	Palisade string        // the binary that runs the lab; default the running one
	Lab      string        // the lab's name; default "lab"
	Out      io.Writer     // gets the story as it happens; required
	Colour   bool          // Out is a terminal that shows colours
	Pause    func() error  // called before each step but the first; nil goes straight on
	Limit    time.Duration // for one command; default one minute

	// OnCommand is called with each command before it runs in the namespace of who. It may be nil.
	OnCommand func(who string, argv ...string)
}

// ErrDiffers is wrapped by Play's error when a step did not go as the script says.
var ErrDiffers = errors.New("the story went otherwise")

// Play plays s against a lab that is up, and returns when every step is proven or one
// differs. What the script starts in the background has ended by then; what it launched
// in the lab stays if the script does not end it.
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

// PlayAll plays stories one after the other, until one differs, and sums up.
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

// conclude prints what was proven, or where and how the story differed.
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

// A stage is the testscript.T of a play that is no test: it remembers how it ended.
type stage struct {
	log    strings.Builder
	failed bool
}

// Run calls f on a goroutine of its own, which FailNow may end, and waits for it.
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

// Skip fails: a story that was not played proves nothing.
func (s *stage) Skip(args ...any) { s.Fatal(args...) }

func (s *stage) Log(args ...any) { fmt.Fprintln(&s.log, args...) }

func (s *stage) Parallel() {}

func (s *stage) Verbose() bool { return false }

// reason returns the line that says what failed, "" if nothing did.
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
		// Keep the script's name and line, not the directory it was copied to.
		if at, rest, ok := strings.Cut(text, ".txtar:"); ok {
			text = filepath.Base(at) + ".txtar:" + rest
		}
		return text
	}
	return "unknown; this is a bug"
}
