#!/usr/bin/env bash
# Installs what the end-to-end tests need besides Go: the node packages of package-lock.json (a current Node is one of
# them), npm to install them with, Chromium, ip, nginx, PHP-FPM, Python and curl. As root on Debian what is missing comes from apt-get; elsewhere
# it is named, and this fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# need names a command, those that do as well, and the Debian package that has it.
need() {
	local package=$1 command
	shift
	for command in "$@"; do
		if command -v "$command" >/dev/null; then return; fi
	done
	if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
		printf 'installing %s\n' "$package"
		apt-get update -qq
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >/dev/null
		return
	fi
	printf 'The end-to-end tests need %s, and this is not root on Debian, to install it.\n' "$1" >&2
	exit 1
}

if [[ ! ${CHROMIUM:-} ]]; then
	need chromium chromium chromium-browser google-chrome
fi
need iproute2 ip
need nginx nginx /usr/sbin/nginx
need php-fpm php-fpm php-fpm8.2 php-fpm8.3 php-fpm8.4 /usr/sbin/php-fpm8.2 /usr/sbin/php-fpm8.4
need python3 python3
need curl curl
# Only when the lock file has changed since.
if ! cmp -s package-lock.json node_modules/.installed; then
	need npm npm
	npm ci --no-progress
	cp package-lock.json node_modules/.installed
fi
