#!/bin/sh
# Installs the servers and the browser that the tests run against, where they are missing:
#
#   internal/testserver/install.sh              all of them
#   internal/testserver/install.sh redis-server those that are named
#
# On Debian and what comes from it, with apt-get, as root or through sudo. Elsewhere it
# says what to install and fails. Nothing is done where nothing is missing. The tests start
# servers of their own from the binaries: the services that the packages bring are kept
# from starting, and never used.
set -eu

# present says whether a program is there, in the PATH or where Debian puts it.
present() {
	case $1 in
	postgresql) command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 ;;
	chromium) command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null ;;
	*) command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] ;;
	esac
}

[ $# -gt 0 ] || set -- postgresql pgbouncer redis-server chromium

missing=
for program; do
	present "$program" || missing="$missing $program"
done
[ -n "$missing" ] || exit 0

refuse() {
	echo "missing:$missing." >&2
	echo "$1" >&2
	exit 1
}

command -v apt-get >/dev/null || refuse "This is no Debian: install them with the system's own package manager, and run this again."
as_root=
if [ "$(id -u)" -ne 0 ]; then
	command -v sudo >/dev/null || refuse "Only root installs packages. As root: apt-get install --no-install-recommends$missing"
	as_root="sudo"
fi

# While this file answers 101, packages start no services. See policy-rc.d in
# https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	trap '$as_root rm -f $policy' EXIT
	trap 'exit 1' INT TERM
	printf '#!/bin/sh\nexit 101\n' | $as_root tee $policy >/dev/null
	$as_root chmod 755 $policy
fi

packages=$missing
case " $missing " in
*" chromium "*) packages="$packages fonts-liberation" ;; # without any font, pages are blank
esac

echo "installing$packages"
export DEBIAN_FRONTEND=noninteractive
# Lists may be missing, as in a fresh container, or too old to be of use.
# shellcheck disable=SC2086
install() { $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $packages; }
install || { $as_root apt-get update -q && install; } ||
	refuse "apt-get could not install them; its reason stands above. By hand, as root: apt-get install --no-install-recommends$missing"

for program in $missing; do
	present "$program" || refuse "apt-get installed $program, but its program is not where it is looked for."
done
