package ec2

import "fmt"

// An Error is a mistake of the caller, with AWS's code. It changes nothing: a command
// that returns one has left the State as it was.
type Error struct {
	Code    string // "InvalidGroup.NotFound"
	Message string
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Errorf makes an Error.
func Errorf(code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Missing is the Error of a request that does not say what it must.
func Missing(parameter string) *Error {
	return Errorf("MissingParameter", "The request must contain the parameter %s", parameter)
}
