// Command caddy is Caddy with the keygate module and no other additions. `xcaddy build --with
// …/caddymodule` builds the same program.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/keygate-dev/keygate/caddymodule"
)

func main() { caddycmd.Main() }
