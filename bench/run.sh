#!/usr/bin/env bash
# The benchmarks: of the packages, beside their code, and side by side with the peers
# that are installed on this machine (nginx and haproxy are Debian packages).
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
