# What can be asked for: `make help`. Only Go is needed to build and run; `make test` installs or names what else it needs.

.DEFAULT_GOAL := help
SHELL := /bin/sh

BIN := bin/breakwater
TOOL := go tool -modfile=internal/tools/go.mod

# The race detector needs cgo, which Go turns off by itself where there is no C compiler.
RACE = $$([ "$$(go env CGO_ENABLED)" = 0 ] || echo -race)

# With CI=true, a test that is skipped because one of these is missing is a failure.
ifeq ($(CI),true)
export BREAKWATER_REQUIRE ?= axe,chromium,node,php,race
endif

# Of `make run`.
CONFIG ?= routes.yaml
# Of `make crash`: how often the gateway is killed. `make test` has a short form.
ROUNDS ?= 200
# Of `make crash` and `make bench`: more flags. ARGS=-control is the negative control, which must lose events.
ARGS ?=

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/breakwater, static
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o $(BIN) ./cmd/breakwater

.PHONY: run
run: ## Build and run the gateway; needs STRIPE_SIGNING_SECRET, takes BACKEND_URL and CONFIG
	@if [ -z "$$STRIPE_SIGNING_SECRET" ]; then \
		echo 'make run: STRIPE_SIGNING_SECRET is not set. It is the signing secret of your webhook endpoint, from the'; \
		echo 'Stripe dashboard (Developers, Webhooks, your endpoint). To try without Stripe, choose one yourself:'; \
		echo '  STRIPE_SIGNING_SECRET=whsec_test make run'; \
		exit 2; \
	fi >&2
	@$(MAKE) --no-print-directory build
	exec $(BIN) serve --config $(CONFIG)

.PHONY: setup
setup: ## Install what the tests need (as root on Debian), or say what is missing
	internal/tools/setup.sh

.PHONY: test
test: setup ## Run everything: in-process tests with the race detector, then the release binary, end to end and killed
	go test -count=1 -timeout 20m $(RACE) $$(go list ./... | grep -vE '/internal/(e2e|crash)$$')
	@$(MAKE) --no-print-directory build
	BREAKWATER_BIN=$(CURDIR)/$(BIN) go test -count=1 ./internal/e2e ./internal/crash

.PHONY: crash
crash: ## Kill the gateway ROUNDS times under load and see that nothing acknowledged is lost
	go run ./internal/crash -rounds $(ROUNDS) $(ARGS)

.PHONY: bench
bench: ## Measure the gateway against bare handlers and nginx
	go run ./internal/bench $(ARGS)

.PHONY: million
million: ## Test the journal with a million events; takes minutes
	BREAKWATER_MILLION=1 go test -count=1 -v -run Million -timeout 30m ./internal/sqlite

# A test of modernc.org/sqlite asks for a version of google/pprof that not every module proxy has: so -e, and its sums do not
# count, which tidy adds where it is had.
.PHONY: lint
lint: ## Check vet, staticcheck, gofumpt, import floors and go.mod
	go vet ./...
	$(TOOL) staticcheck ./...
	@bad=$$($(TOOL) gofumpt -l .); if [ -n "$$bad" ]; then echo "not formatted (make fmt):"; echo "$$bad"; exit 1; fi >&2
	go test -count=1 ./internal
	@diff=$$(go mod tidy -e -diff 2>&1 | grep '^[-+][^-+]' | grep -v '^.github.com/google/pprof '); \
		if [ -n "$$diff" ]; then echo "go.mod or go.sum is not tidy (go mod tidy):"; echo "$$diff"; exit 1; fi >&2

.PHONY: fmt
fmt: ## Format the code
	$(TOOL) gofumpt -w .
