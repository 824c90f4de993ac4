// Command palisade is the whole product in one binary: the node daemon, the lab, the
// command line, and, called as ec2-authorize or a sibling, the EC2 command line tools.
package main

import (
	"os"

	"palisade/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args))
}
