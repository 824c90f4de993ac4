package query

import (
	"time"

	"palisade/ec2"
	"palisade/ec2/query/wire"
)

// instanceConsoleActions show what instances do not write here: their console's output and an
// encrypted password.
var instanceConsoleActions = map[string]handler{
	"GetConsoleOutput": action(getConsoleOutput),
	"GetPasswordData":  action(getPasswordData),
}

type consoleRequest struct {
	Instance ec2.InstanceID `wire:"InstanceId"`
	Latest   bool           `wire:"Latest"`
}

type consoleOutputAnswer struct {
	Instance  ec2.InstanceID `wire:"instanceId"`
	Timestamp time.Time      `wire:"timestamp"`
}

// getConsoleOutput answers as EC2 does before an instance has written anything.
func getConsoleOutput(c *call, r *consoleRequest) (*consoleOutputAnswer, error) {
	i, err := c.findNamed(r.Instance)
	if err != nil {
		return nil, err
	}
	return &consoleOutputAnswer{i.ID, i.LaunchTime}, nil
}

type passwordAnswer struct {
	Instance  ec2.InstanceID `wire:"instanceId"`
	Timestamp time.Time      `wire:"timestamp"`
	Password  wire.Present   `wire:"passwordData"`
}

// getPasswordData answers as EC2 does for an instance of Linux.
func getPasswordData(c *call, r *consoleRequest) (*passwordAnswer, error) {
	i, err := c.findNamed(r.Instance)
	if err != nil {
		return nil, err
	}
	return &passwordAnswer{Instance: i.ID, Timestamp: i.LaunchTime}, nil
}

func (c *call) findNamed(id ec2.InstanceID) (*ec2.Instance, error) {
	if id == "" {
		return nil, ec2.Missing("InstanceId")
	}
	return c.view.FindInstance(c.account, c.region, id)
}
