# Keygate: `make help` lists the targets.

GO       ?= go
TIMEOUT  ?= 25m
FUZZTIME ?= 30s
CONFIGS  ?= .

GOLANGCI    := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0

# SQLite is C code translated to Go. The race detector makes it ten times slower and finds nothing there.
RACE := -race -gcflags=modernc.org/sqlite/lib=-race=false

.PHONY: help build run test test-packages test-e2e unit check lint fmt tools soak screenshots bench replay upgrade fuzz clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

build: ## build the binary, ./caddy
	$(GO) build -trimpath -ldflags '-s -w' -o caddy ./cmd/caddy

run: build ## start the gateway with a demo API, create a demo key, print a curl command to try
	$(GO) run ./cmd/demo -caddy ./caddy -config Caddyfile.example

test: tools check ## run every test; install missing servers first
	@$(MAKE) --no-print-directory -j2 test-e2e test-packages

# -vet=off, since check has vetted the packages with the same flags. Without GORACE, a process under the race
# detector sleeps for a second before it ends. The tests of the CLI start a process for each command, which the
# race detector makes several times slower.
test-packages: ## run the packages' tests, nearly all under the race detector
	GORACE=atexit_sleep_ms=10 $(GO) test $(RACE) -vet=off -timeout $(TIMEOUT) $$($(GO) list ./... | grep -v '/caddymodule/cli$$')
	$(GO) test -vet=off -timeout $(TIMEOUT) ./caddymodule/cli

# Most of these tests start a gateway without the race detector, so the tests are built without it too. -count=1, since
# the go command does not know that the tests depend on the gateway's sources. -parallel 4, since they mostly wait.
test-e2e: ## run the end-to-end tests
	cd e2e && GORACE=atexit_sleep_ms=10 $(GO) test -vet=off -count=1 -parallel 4 -timeout $(TIMEOUT) ./...

# Tests that need a server import internal/testserver.
unit: ## run the tests that need no server
	$(GO) test $$($(GO) list -test -f '{{if .ForTest}}{{.ForTest}}{{range .Imports}} {{.}}{{end}}{{end}}' ./... | \
		awk '{all[$$1]; for (i = 2; i <= NF; i++) if ($$i ~ /\/internal\/testserver/) server[$$1]} \
			END {for (p in all) if (!(p in server)) print p}')

check: ## check the format, vet, and whether go.mod is tidy
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "run make fmt: $$unformatted"; exit 1; }
	$(GO) mod tidy -diff
	cd e2e && $(GO) mod tidy -diff
	$(GO) vet $(RACE) ./...
	cd e2e && $(GO) vet ./...

lint: check ## check, golangci-lint and govulncheck
	$(GO) run $(GOLANGCI) run ./...
	cd e2e && $(GO) run $(GOLANGCI) run -c ../.golangci.yml ./...
	$(GO) run $(GOVULNCHECK) ./...

fmt: ## format the sources
	gofmt -w .

# The servers come from Debian's packages.
tools: ## install the servers and the browser that the tests start
	@./internal/testserver/install.sh

soak: tools ## run the long tests: a million keys, reloads and kills in a loop, paths against real upstreams
	@./internal/testserver/install.sh upstreams
	cd e2e && $(GO) test -tags soak -timeout 60m -count 1 -v .
	$(GO) test -tags soak -timeout 60m -count 1 -v ./plugin/engine/ ./plugin/ratelimit/redis/ ./plugin/store/...

screenshots: tools ## take the screenshots of the console in docs/
	cd e2e && $(GO) test -tags screenshots -run TestScreenshots -count 1 -timeout 10m .

bench: ## run the benchmarks, and compare with other installed servers
	./bench/run.sh

replay: ## compare two versions on the same requests: OLD=the older binary, CONFIGS=its Caddyfiles
	$(GO) run ./bench -replay $(OLD) -configs $(CONFIGS)

upgrade: tools ## test a rolling upgrade: OLD=the binary of the last release
	cd e2e && OLD=$(abspath $(OLD)) $(GO) test -tags upgrade -run TestRollingUpgrade -count 1 -v .

fuzz: ## run every fuzz test for FUZZTIME
	./bench/fuzz.sh $(FUZZTIME)

clean: ## remove the built files
	rm -rf caddy build
