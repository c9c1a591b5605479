#!/usr/bin/env bash
# Builds a Caddy with the keygate module through xcaddy.
#
#   ./xcaddy.sh [output]        default output: ./caddy
#
# The binary gets the version of Caddy that go.mod names, which the tests use too.
set -euo pipefail
output=${1:-./caddy}
case $output in /*) ;; *) output=$PWD/$output ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")"

module=github.com/keygate-dev/keygate
version=$(go list -m -f '{{.Version}}' github.com/caddyserver/caddy/v2)

# xcaddy is built at an exact version, in a module of its own: `go run …@version` would also
# ask the module proxy for a list of all versions, which some proxies reject.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
printf 'module build\n\ngo 1.26\n\nrequire github.com/caddyserver/xcaddy v0.4.7\n' >"$work/go.mod"
(cd "$work" && GOFLAGS=-mod=mod go build -o xcaddy github.com/caddyserver/xcaddy/cmd/xcaddy)

# The module is built from this checkout and may not be published. xcaddy replaces the module by the
# checkout, but `go get` still searches the network for the module of the package. So this
# wrapper of the go command adds the requirement as soon as xcaddy has created a go.mod.
cat >"$work/go" <<EOF
#!/bin/sh
$(command -v go) "\$@" || exit
if [ "\$1 \$2" = "mod init" ]; then
	$(command -v go) mod edit -require=$module@v0.0.0-00010101000000-000000000000
fi
EOF
chmod +x "$work/go"

XCADDY_WHICH_GO="$work/go" "$work/xcaddy" build "$version" \
	--output "$output" \
	--with "$module/caddymodule" \
	--replace "$module=$PWD"
"$output" version
"$output" keygate version
