// Command palisade is the one binary of the product: the node daemon, the lab and the
// command line. Called by the name of an EC2 command line tool, such as ec2-authorize,
// it is that tool.
package main

import (
	"os"

	"palisade/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args))
}
