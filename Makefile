# Keygate: what can be made.
#
#   make run     build, start the gateway with a demo API, make a demo key, print the curl to try
#   make test    every test; installs what is missing, fails where it cannot
#   make bench   benchmarks side by side with the peers present on this machine
#   make soak    the long tests: a million keys, reloads and kills in a loop, paths against real upstreams
#   make replay  requests through the version before and this one: OLD=its binary CONFIGS=its Caddyfiles
#   make upgrade a rolling upgrade: OLD=the binary of the version before
#   make build   the binary, ./caddy
#   make screenshots  the manual's pictures of the console, in docs

GO          ?= go
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
TIMEOUT     ?= 25m

.PHONY: build run test test-packages test-e2e tools lint soak bench replay upgrade fuzz fmt clean screenshots

build:
	$(GO) build -trimpath -ldflags '-s -w' -o caddy ./cmd/caddy

run: build
	$(GO) run ./cmd/demo -caddy ./caddy -config Caddyfile.example

# SQLite is translated C, which the race detector makes ten times as slow and has nothing to find in.
RACE := -race -gcflags=modernc.org/...=-race=false

# The packages under the race detector and, at the same time, the tests of the gateway's process, most of which
# start one without it. lint has compiled and vetted the former. A process under the race detector
# sleeps for a second at its end unless told otherwise.
test: tools lint
	$(MAKE) --no-print-directory -j2 test-e2e test-packages

test-packages:
	GORACE=atexit_sleep_ms=10 $(GO) test $(RACE) -vet=off -timeout $(TIMEOUT) $$($(GO) list ./... | grep -v /e2e)

test-e2e:
	GORACE=atexit_sleep_ms=10 $(GO) test -vet=off -timeout $(TIMEOUT) ./e2e/

# The servers that the tests start, from Debian's packages where they are missing.
tools:
	@./internal/testserver/install.sh

lint:
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "not gofmt-ed: $$unformatted"; exit 1; }
	$(GO) vet $(RACE) ./...
	GOFLAGS="$(RACE)" $(GO) run -race=false $(STATICCHECK) ./...

soak: tools
	@./internal/testserver/install.sh upstreams
	$(GO) test -tags soak -timeout 60m -count 1 -v ./e2e/ ./plugin/ratelimit/redis/ ./plugin/store/sqlite/

screenshots: tools
	$(GO) test -tags screenshots -run TestScreenshots -count 1 -timeout 10m ./e2e/

upgrade: tools
	OLD=$(abspath $(OLD)) $(GO) test -tags upgrade -run TestRollingUpgrade -count 1 -v ./e2e/

bench:
	./bench/run.sh

CONFIGS ?= .
replay:
	$(GO) run ./bench -replay $(OLD) -configs $(CONFIGS)

FUZZTIME ?= 30s
fuzz:
	./bench/fuzz.sh $(FUZZTIME)

clean:
	rm -rf caddy build
