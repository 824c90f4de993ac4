package ec2

import "strings"

// Printable reports whether text has at most limit characters, all printable ASCII. XML cannot
// carry control characters.
func Printable(text string, limit int) bool {
	if len(text) > limit {
		return false
	}
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}

// Clip returns text in a form that an error message can carry: at most 300 bytes, without
// control characters and invalid UTF-8.
func Clip(text string) string {
	text = strings.ToValidUTF8(text, "?")
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0xfffe || r == 0xffff {
			return '?'
		}
		return r
	}, text)
	if len(text) > 300 {
		text = strings.ToValidUTF8(text[:300], "") + "..."
	}
	return text
}
