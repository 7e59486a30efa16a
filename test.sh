#!/usr/bin/env bash
# Runs every test there is. It installs what the tests need besides Go, where it can (Debian packages as root, npm packages),
# says in red what it had to leave out, and then exits with 3: nothing is skipped in silence.
set -uo pipefail
cd "$(dirname "$0")"

red() { printf '\033[31m%s\033[0m\n' "$*" >&2; }
failed=0
skipped=0
step() {
	printf '\n== %s\n' "$1"
	shift
	"$@" || { red "failed: $*"; failed=1; }
}

race='./broker/... ./session/... ./store/... ./internal/... ./transport/... ./auth/... ./client/... ./api/... ./cmd/...'

step 'unit, conformance and attack tests' go test -timeout 25m ./...
if command -v gcc >/dev/null 2>&1; then
	# shellcheck disable=SC2086 # a list of packages
	step 'the same under the race detector, where there are goroutines' env CGO_ENABLED=1 go test -race -timeout 25m $race
else
	red 'skipped: the race detector, which needs a C compiler (apt-get install gcc)'
	skipped=1
fi

printf '\n== other people'"'"'s clients\n'
if interop/setup.sh; then
	step 'third-party clients against the real binary' go -C interop test -count=1 -timeout 25m .
	step 'the same, with a goroutine for each connection' env MAGPIE_IO=goroutine go -C interop test -count=1 -timeout 25m \
		-run '^Test(Delivery|Order|Large|Shared|Retained|Will|Session|Redelivery|Reconnect)$' .
else
	red 'skipped: some of the tests with third-party clients; see above for what is missing'
	skipped=1
fi

if [ $failed -ne 0 ]; then
	red 'some tests failed'
	exit 1
fi
if [ $skipped -ne 0 ]; then
	red 'what ran has passed, but not everything ran'
	exit 3
fi
printf '\neverything passed\n'
