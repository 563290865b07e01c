// Command breakwater is the gateway between Stripe and your own backends.
package main

import (
	"context"
	"os"

	"github.com/breakwater-gateway/breakwater/internal/cli"
)

func main() { os.Exit(cli.Main(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
