#!/bin/sh
# Sets up what the tests need besides Go: a C compiler (race detector), PHP and Node with Stripe's library (end to end),
# Chromium and axe-core (the web page).
# As root on Debian it installs them; elsewhere it names what is missing, and the tests that need it are skipped by
# name. What BREAKWATER_REQUIRE lists (axe, chromium, node, php, race) must be there in the end.
set -eu
cd "$(dirname "$0")/../.."

have() { command -v "$1" >/dev/null 2>&1; }
# cgo looks for the headers too: a compiler without them cannot build the race detector's runtime.
have_cc() { echo '#include <stdlib.h>' | ${CC:-gcc} -fsyntax-only -x c - >/dev/null 2>&1; }

packages=
have_cc || packages="$packages gcc libc6-dev"
have php || packages="$packages php-cli"
have node || packages="$packages nodejs"
have npm || packages="$packages npm"
have chromium || packages="$packages chromium fonts-liberation"

if [ -n "$packages" ] && have apt-get && [ "$(id -u)" = 0 ]; then
	echo "setup: installing$packages"
	export DEBIAN_FRONTEND=noninteractive
	# Each must be able to fail alone: what is then missing is named below.
	apt-get update -qq || true
	# shellcheck disable=SC2086 # several words on purpose
	apt-get install -qq -y --no-install-recommends $packages >/dev/null || true
fi

example=deploy/examples/node
if have npm && ! cmp -s $example/package-lock.json $example/node_modules/.installed; then
	echo "setup: installing Stripe's library for $example"
	(cd $example && npm ci --silent && cp package-lock.json node_modules/.installed) || true
fi

axe=internal/e2e/axe
if have npm && ! cmp -s $axe/package-lock.json $axe/node_modules/.installed; then
	echo "setup: installing axe-core"
	(cd $axe && npm ci --silent && cp package-lock.json node_modules/.installed) || true
fi

failed=0
missing() { # name, what, which tests
	echo "setup: $2 is missing: $3" >&2
	case ",${BREAKWATER_REQUIRE:-}," in *",$1,"*)
		echo "setup: $1 is required (BREAKWATER_REQUIRE)" >&2
		failed=1 ;;
	esac
}
have_cc || missing race "a C compiler with libc headers (gcc, libc6-dev)" "tests run without the race detector"
have php || missing php "php (php-cli)" "the end-to-end tests against PHP are skipped"
{ have node && [ -d $example/node_modules/stripe ]; } ||
	missing node "node, or npm ci in $example" "the end-to-end tests against Node are skipped"
have chromium || missing chromium "chromium" "the tests of the web page are skipped"
[ -d $axe/node_modules/axe-core ] || missing axe "axe-core (npm ci in $axe)" "the web page's accessibility is not tested"
exit $failed
