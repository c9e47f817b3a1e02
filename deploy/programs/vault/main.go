// SPDX-License-Identifier: Apache-2.0

// HashiCorp Vault's own command, built from its published Go module.
package main

import (
	"os"

	"github.com/hashicorp/vault/command"
)

func main() {
	os.Exit(command.Run(os.Args[1:]))
}
