#!/usr/bin/env bash
# Runs the benchmarks: first Go benchmarks of single packages, then comparisons with other
# servers, such as nginx and HAProxy, where they are installed. Arguments go to ./bench.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if ! command -v wrk >/dev/null; then
	apt-get install -y wrk >/dev/null || { echo "wrk is needed: apt-get install wrk" >&2; exit 1; }
fi
go test -run '^$' -bench 'Check' -benchtime 1s ./plugin/gateway
go test -run '^$' -bench 'Handler' -benchtime 1s ./caddymodule
go test -run '^$' -bench 'Charge' -benchtime 1s ./plugin/ratelimit/redis
mkdir -p build
go build -o build/bench ./bench
exec build/bench "$@"
