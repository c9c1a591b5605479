#!/usr/bin/env bash
# Builds a Caddy with the keygate module through xcaddy.
#
#   ./xcaddy.sh [output]        default output: ./caddy
#
# The binary and the tests use the same Caddy: the version go.mod names.
set -euo pipefail
output=${1:-./caddy}
case $output in /*) ;; *) output=$PWD/$output ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")"

module=github.com/keygate-dev/keygate
version=$(go list -m -f '{{.Version}}' github.com/caddyserver/caddy/v2)

# The module is built from this checkout and published nowhere: without this, go would
# ask the module proxy about it and take its "no" for a failure.
export GOPRIVATE="${GOPRIVATE:+$GOPRIVATE,}$module"

go run github.com/caddyserver/xcaddy/cmd/xcaddy@v0.4.7 build "$version" \
	--output "$output" \
	--with "$module/caddymodule" \
	--replace "$module=$PWD"
"$output" version
