// Command caddy is Caddy with the keygate module in it, and nothing else:
// what `xcaddy build --with …/caddymodule` makes, without xcaddy.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/keygate-dev/keygate/caddymodule"
)

func main() { caddycmd.Main() }
