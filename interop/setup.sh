#!/bin/sh
# Installs the peers that are not Go: Debian's mosquitto-clients as root, MQTT.js with npm. Quick when all is there.
# Exit status 3: something is missing that this script could not install, named in red.
cd "$(dirname "$0")" || exit 1
missing=0

lack() {
	printf '\033[31minterop: %s\033[0m\n' "$1" >&2
	missing=3
}

has() {
	for program; do
		command -v "$program" >/dev/null || return 1
	done
}

# packages PROGRAMS PACKAGES: installs the packages unless the programs are there.
packages() {
	# shellcheck disable=SC2086 # both are lists
	has $1 && return
	if has apt-get && [ "$(id -u)" = 0 ]; then
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $2
	fi >&2
	has $1 || lack "no $1: as root, apt-get install $2"
}

packages 'mosquitto_pub mosquitto_sub mosquitto_rr' mosquitto-clients
packages mosquitto mosquitto
packages 'node npm' 'nodejs npm'

# The lock file of what is installed lies beside it.
installed=js/node_modules/.installed
if ! cmp -s js/package-lock.json "$installed"; then
	if has npm && (cd js && npm ci --no-audit --no-fund) >&2; then
		cp js/package-lock.json "$installed"
	else
		lack 'no MQTT.js: npm ci in interop/js'
	fi
fi
exit $missing
