// Package refusal keeps the calls that one node refused: the newest of each account, and how many
// there were of each error code. They are not in the replicated state, so that nobody fills it with
// calls that change nothing.
package refusal

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"palisade/ec2"
	"palisade/internal/atomicfile"
)

// The most refusals that are kept. One takes up to 5 kB of memory and of the file.
const (
	PerAccount = 1000
	InAll      = 4000
)

// Unknown is the account of calls whose caller is not known, because the signature is not valid.
// They are only counted.
const Unknown ec2.AccountID = "unknown"

// A Refusal is a call that was refused.
type Refusal struct {
	Number uint64 // counts from 1 on this node
	Time   time.Time
	ec2.Audit
	Error   string
	Message string
}

// Counts is the number of refused calls, by account and error code.
type Counts map[ec2.AccountID]map[string]uint64

// A Log has the refusals of one node. Its methods may be called by many goroutines. The file
// has a line for each refusal, and one with the counts at its beginning. It is written without fsync: a
// power cut may cost the last refusals, an end of the process costs none of those that are kept.
type Log struct {
	path   string
	logger *slog.Logger

	mu     sync.Mutex
	file   *os.File
	lines  int // in the file
	last   uint64
	kept   int
	rings  map[ec2.AccountID][]*Refusal // oldest first
	counts Counts
}

// Open reads the file at path, if there is one. What cannot be read is left out, and the reason is
// logged: the node must start, and refusals decide nothing. logger may be nil.
func Open(path string, logger *slog.Logger) (*Log, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	l := &Log{path: path, logger: logger, rings: map[ec2.AccountID][]*Refusal{}, counts: Counts{}}
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open the log of refused calls: %w", err)
	}
	if lost := l.replay(data); lost > 0 {
		logger.Warn("lines of the log of refused calls cannot be read", "path", path, "lines", lost)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.rewriteLocked(); err != nil {
		return nil, fmt.Errorf("open the log of refused calls: %w", err)
	}
	return l, nil
}

// A line of the file has the counts, or a refusal.
type line struct {
	Last    uint64   `json:"last,omitempty"`
	Counts  Counts   `json:"counts,omitempty"`
	Refusal *Refusal `json:"refusal,omitempty"`
	Counted bool     `json:"counted,omitempty"` // the refusal is in the counts already
}

// replay reads the content of the file and returns the number of lines that it could not read.
func (l *Log) replay(data []byte) (lost int) {
	in := bufio.NewScanner(bytes.NewReader(data))
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var at line
		if err := json.Unmarshal(in.Bytes(), &at); err != nil {
			lost++
			continue
		}
		for account, codes := range at.Counts {
			l.counts[account] = codes
		}
		l.last = max(l.last, at.Last)
		if at.Refusal == nil {
			continue
		}
		l.last = max(l.last, at.Refusal.Number)
		if !at.Counted {
			l.countLocked(at.Refusal.Account, at.Refusal.Error)
		}
		l.keepLocked(at.Refusal)
	}
	if in.Err() != nil {
		lost++
	}
	return lost
}

// Add keeps a refused call.
func (l *Log) Add(at time.Time, call ec2.Audit, refusal *ec2.Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	r := &Refusal{Number: l.last, Time: at.UTC().Round(0), Audit: call, Error: refusal.Code, Message: refusal.Message}
	l.countLocked(call.Account, refusal.Code)
	l.keepLocked(r)
	if err := l.appendLocked(r); err != nil {
		l.logger.Warn("a refused call is kept in memory only", "path", l.path, "err", err)
	}
}

// Count counts a refused call without keeping it.
func (l *Log) Count(account ec2.AccountID, code string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.countLocked(account, code)
}

func (l *Log) countLocked(account ec2.AccountID, code string) {
	if l.counts[account] == nil {
		l.counts[account] = map[string]uint64{}
	}
	l.counts[account][code]++
}

// keepLocked adds a refusal to the ring of its account. If there are too many, the account loses its oldest; or,
// if all together have too many, the account that has the most.
func (l *Log) keepLocked(r *Refusal) {
	l.rings[r.Account] = append(l.rings[r.Account], r)
	l.kept++
	if len(l.rings[r.Account]) > PerAccount {
		l.dropLocked(r.Account)
	}
	if l.kept > InAll {
		longest := r.Account
		for _, account := range slices.Sorted(maps.Keys(l.rings)) {
			if len(l.rings[account]) > len(l.rings[longest]) {
				longest = account
			}
		}
		l.dropLocked(longest)
	}
}

func (l *Log) dropLocked(account ec2.AccountID) {
	l.rings[account][0] = nil // so that it is freed
	l.rings[account] = l.rings[account][1:]
	l.kept--
}

// appendLocked writes a refusal to the file. A file with twice as many lines as refusals is written anew,
// so that it stays bounded and each refusal is written about twice.
func (l *Log) appendLocked(r *Refusal) error {
	if l.lines > 2*max(l.kept, 100) {
		return l.rewriteLocked()
	}
	data, err := json.Marshal(line{Refusal: r})
	if err != nil {
		return err
	}
	l.lines++
	_, err = l.file.Write(append(data, '\n'))
	return err
}

func (l *Log) rewriteLocked() error {
	var b bytes.Buffer
	out := json.NewEncoder(&b)
	err := out.Encode(line{Last: l.last, Counts: l.counts})
	for _, r := range l.recordsLocked() {
		err = errors.Join(err, out.Encode(line{Refusal: &r, Counted: true}))
	}
	if err = errors.Join(err, atomicfile.Write(l.path, b.Bytes(), 0o600)); err != nil {
		return err
	}
	if l.file != nil {
		_ = l.file.Close() // its content is replaced
	}
	l.lines = l.kept + 1
	l.file, err = os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND, 0)
	return err
}

// Refusals returns the refusals that are kept, oldest first, and the counts of all.
func (l *Log) Refusals() ([]Refusal, Counts) {
	l.mu.Lock()
	defer l.mu.Unlock()
	counts := Counts{}
	for account, codes := range l.counts {
		counts[account] = maps.Clone(codes)
	}
	return l.recordsLocked(), counts
}

func (l *Log) recordsLocked() []Refusal {
	all := make([]Refusal, 0, l.kept)
	for _, ring := range l.rings {
		for _, r := range ring {
			all = append(all, *r)
		}
	}
	slices.SortFunc(all, func(a, b Refusal) int { return cmp.Compare(a.Number, b.Number) })
	return all
}

// Close writes the counts to the file and closes it.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.rewriteLocked(), l.file.Close())
}
