// Command configdoc writes docs/CONFIG.md from the comments of the configuration structs:
// the configuration file of a node, the limits of a cluster, and the exported Config of
// every package. `make config-docs` runs it; a test fails when the document is out of date.
package main

import (
	"fmt"
	"os"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: configdoc FILE, in the root of the repository")
		os.Exit(2)
	}
	text, err := document(".")
	if err == nil {
		err = os.WriteFile(os.Args[1], text, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "configdoc:", err)
		os.Exit(1)
	}
}
