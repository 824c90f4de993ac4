package query

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"net/http"

	"palisade/ec2"
	"palisade/ec2/query/wire"
)

// stsActions are the actions of AWS STS that are served, on the same port as EC2. `aws sts
// get-caller-identity` tells a caller its account. Terraform makes this call before all
// others.
var stsActions = map[string]handler{
	"GetCallerIdentity": action(getCallerIdentity),
}

type callerIdentity struct {
	ARN     string        `wire:"Arn"`
	UserID  ec2.AccountID `wire:"UserId"`
	Account ec2.AccountID `wire:"Account"`
}

// getCallerIdentity shows the account's root user, because a key belongs to an account.
func getCallerIdentity(c *call, _ *struct{}) (*callerIdentity, error) {
	return &callerIdentity{rootARN(c.account), c.account, c.account}, nil
}

func rootARN(account ec2.AccountID) string { return fmt.Sprintf("arn:aws:iam::%s:root", account) }

const stsVersion = "2011-06-15"

// stsService has its own form of documents and its own error codes (AWS STS API Reference,
// "Common Errors").
var stsService = &service{
	name:        "sts",
	contentType: xmlType,
	read:        readForm,
	actions:     stsActions,
	checkVersion: func(v string) error {
		if v != stsVersion {
			return ec2.Errorf("InvalidAction", "Could not find the operations of version %s", wire.Quote(v))
		}
		return nil
	},
	other: func(name string) (handler, error) {
		return handler{}, ec2.Errorf("InvalidAction", "Could not find operation %s for version %s", wire.Quote(name), stsVersion)
	},
	encodeAnswer: func(action, version, id string, answer any) []byte {
		var b bytes.Buffer
		fmt.Fprintf(&b, "%s<%sResponse xmlns=\"https://sts.amazonaws.com/doc/%s/\"><%sResult>", xml.Header, action, version, action)
		wire.Encode(&b, answer)
		fmt.Fprintf(&b, "</%sResult><ResponseMetadata>", action)
		wire.Element(&b, "RequestId", id)
		fmt.Fprintf(&b, "</ResponseMetadata></%sResponse>\n", action)
		return b.Bytes()
	},
	encodeError: encodeSTSError,
}

func encodeSTSError(e *ec2.Error, id string) (int, []byte) {
	code, message, at := e.Code, e.Message, status(e.Code)
	switch {
	case message == notValid:
		code, message, at = "InvalidClientTokenId", "The security token included in the request is invalid.", http.StatusForbidden
	case code == "AuthFailure" || code == "RequestExpired":
		code, at = "SignatureDoesNotMatch", http.StatusForbidden
	case code == "MissingAuthenticationToken":
		message, at = "Request is missing Authentication Token", http.StatusForbidden
	case code == "RequestLimitExceeded":
		code, message, at = "Throttling", "Rate exceeded", http.StatusBadRequest
	case code == "Unavailable":
		code = "ServiceUnavailable"
	case code == "InternalError":
		code = "InternalFailure"
	}
	side := "Sender"
	if at >= http.StatusInternalServerError {
		side = "Receiver"
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/%s/\"><Error>", xml.Header, stsVersion)
	wire.Element(&b, "Type", side)
	wire.Element(&b, "Code", code)
	wire.Element(&b, "Message", message)
	b.WriteString("</Error>")
	wire.Element(&b, "RequestId", id)
	b.WriteString("</ErrorResponse>\n")
	return at, b.Bytes()
}
