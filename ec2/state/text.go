package state

import "strings"

// describing are the characters of names and descriptions in a VPC, as AWS's messages
// list them.
const describing = "a-zA-Z0-9. _-:/()#,@[]+=&;{}!$*"

const described = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789. _-:/()#,@[]+=&;{}!$*"

// describes reports whether text can be a name or a description in a VPC.
func describes(text string) bool {
	return len(text) <= 255 && strings.Trim(text, described) == ""
}
