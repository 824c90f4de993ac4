package cluster

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"palisade/ec2"
)

// The leader gives addresses back after their rest and forgets terminated instances
// after their hour, both while the other is still to come.
func TestLeaderSweepsWhatIsDue(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c, err := New(Config{Node: "node1", Dir: dir, Bootstrap: bootstrap()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		stopped := make(chan error, 1)
		go func() { stopped <- c.Run(ctx) }()
		<-c.Ready()
		apply := func(r ec2.Request) ec2.Result {
			t.Helper()
			result, _, err := c.Apply(ctx, ec2.Command{Request: r})
			if err != nil {
				t.Fatal(err)
			}
			return result
		}
		end := func() *ec2.Interface {
			t.Helper()
			run := apply(&ec2.RunInstances{Account: albert, Region: region, Image: "ami-eca54085", MinCount: 1, MaxCount: 1})
			id := run.Instances[0].After.ID
			eni, _ := c.View().Interface(run.Instances[0].After.Interface)
			apply(&ec2.TerminateInstances{Account: albert, Region: region, Instances: []ec2.InstanceID{id}})
			apply(&ec2.ReportInstance{Instance: id, InterfaceEpoch: eni.Epoch, State: ec2.Terminated})
			return eni
		}

		first := end()
		time.Sleep(10 * time.Minute)
		second := end()
		if second.Private != first.Private {
			t.Errorf("after ten minutes %s is leased, want %s again", second.Private, first.Private)
		}
		third := end()
		if third.Private == second.Private {
			t.Errorf("%s is leased again at once", third.Private)
		}
		time.Sleep(2 * time.Minute)
		if fourth := end(); fourth.Private != second.Private {
			t.Errorf("two minutes on %s is leased, want %s again", fourth.Private, second.Private)
		}
		time.Sleep(50 * time.Minute)
		if _, ok := c.View().Instance(first.Instance); ok {
			t.Error("the first instance is still described after an hour")
		}
		if _, ok := c.View().Instance(second.Instance); !ok {
			t.Error("the second instance is forgotten before its hour is over")
		}
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}
