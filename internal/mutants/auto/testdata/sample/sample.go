// Package sample has a mutant of each kind, for the test of the tool.
package sample

import "errors"

var errLong = errors.New("too long")

type box struct {
	used, room int
	names      []string
}

// put adds a name.
func (b *box) put(name string) error {
	if len(name) > 8 {
		return errLong
	}
	if b.used >= b.room || b.has(name) {
		return errors.New("no room")
	}
	b.names = append(b.names, name)
	b.used++
	return nil
}

// has is watched by no test of its own: only put uses it.
func (b *box) has(name string) bool {
	for _, n := range b.names {
		if n == name {
			return true
		}
	}
	return false
}

func (b *box) left() int { return b.room - b.used }

// vowels counts the vowels before the first blank.
func vowels(text string) (n int) {
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case ' ':
			return n
		case 'a', 'e', 'i', 'o', 'u':
			n += 1
		default:
			continue
		}
	}
	return n
}

func halve(n uint16) int {
	steps := 0
	for n > 1 {
		n /= 2
		steps++
	}
	return steps
}

func unused(on bool) bool { return !on }
