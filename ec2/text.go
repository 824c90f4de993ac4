package ec2

import "strings"

// describing are the characters of names and descriptions in a VPC, as AWS's messages
// list them.
const describing = "a-zA-Z0-9. _-:/()#,@[]+=&;{}!$*"

const described = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789. _-:/()#,@[]+=&;{}!$*"

// describes reports whether text can be a name or a description in a VPC.
func describes(text string) bool {
	return len(text) <= 255 && strings.Trim(text, described) == ""
}

// Printable reports whether text is at most limit characters of ASCII without controls,
// which no XML answer could carry.
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

// Clip makes text of any size and content fit for an error message.
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
