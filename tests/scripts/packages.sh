#!/bin/sh
# Installs the Debian packages named, and starts none of the services that are in them. Does nothing, not even ask apt,
# where all are there.
set -eu
missing=
for package; do
    status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2> /dev/null || true)
    [ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ]; then
    echo "packages.sh: needs root to install:$missing" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
policy=/usr/sbin/policy-rc.d
[ ! -e "$policy" ] || policy=
trap 'rm -f "$log" $policy' EXIT
if [ -n "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod +x "$policy"
fi
# shellcheck disable=SC2086
if ! { apt-get -qq update && apt-get -qq install --yes --no-install-recommends $missing; } > "$log" 2>&1; then
    cat "$log" >&2
    echo "packages.sh: apt could not install:$missing" >&2
    exit 1
fi
echo "installed:$missing"
