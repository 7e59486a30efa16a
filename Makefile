# The few commands of this repository. `make check` is what continuous integration runs.

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME    ?= 1m
MAGPIE_TORTURE_KILLS ?= 1000
MAGPIE_SOAK_TIME ?= 10m
TARGETS     := linux/amd64 linux/arm64 linux/arm darwin/arm64 windows/amd64

.PHONY: run test check lint cross fuzz bench bench-durable bench-queue bench-restart torture soak generate

run: ## start a broker on 127.0.0.1:1883
	go run ./cmd/magpie serve

test: ## run every test; installs what is missing where it can
	./test.sh

check: ## what continuous integration runs
	.ci/run

lint: ## go vet and staticcheck, in both modules
	go vet ./...
	go run $(STATICCHECK) ./...
	go -C interop vet ./...

cross: ## build the binary for every system
	@for t in $(TARGETS); do \
		echo "building $$t"; \
		GOOS=$${t%/*} GOARCH=$${t#*/} CGO_ENABLED=0 go build -trimpath -o /dev/null ./cmd/magpie || exit 1; \
	done

fuzz: ## run every fuzz target for FUZZTIME each
	@go list ./... | while read -r pkg; do \
		for target in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "== $$pkg $$target"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
		done; \
	done

bench: ## run the benchmarks of the parts
	go test -run '^$$' -bench . -benchmem ./mqtt ./topic ./session ./store/journal ./broker ./auth

ROUNDS ?= 5

bench-durable: ## measure the binary with and without a journal, beside mosquitto: ROUNDS rounds, about a minute each
	go run ./internal/figures durable -rounds $(ROUNDS)

bench-queue: ## measure a million messages for a client that is away
	go run ./internal/figures queue -rounds $(ROUNDS)

bench-restart: ## measure the start with 100,000 sessions, a million subscriptions and five million places in queues
	MAGPIE_RESTART_SESSIONS=100000 go test -run '^$$' -bench '^BenchmarkRestart$$' -benchtime $(ROUNDS)x -timeout 1h ./broker

torture: ## kill the broker MAGPIE_TORTURE_KILLS times while it works, and audit what is left
	MAGPIE_TORTURE_KILLS=$(MAGPIE_TORTURE_KILLS) go test -count=1 -v -timeout 12h -run '^TestLedger$$' ./torture

soak: ## have clients come and go for MAGPIE_SOAK_TIME, and see that the broker does not grow
	MAGPIE_SOAK_TIME=$(MAGPIE_SOAK_TIME) go test -count=1 -v -timeout 48h -run '^TestSoak$$' ./torture

generate: ## renew the pages in docs that are made from the code
	go generate ./...
