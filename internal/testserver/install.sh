#!/bin/sh
# Installs the servers and the browser that the tests run against, where they are missing:
#
#   internal/testserver/install.sh              all of them
#   internal/testserver/install.sh redis-server those that are named
#   internal/testserver/install.sh upstreams    what the long tests of paths run against
#
# On Debian and what comes from it, with apt-get, as root or through sudo. Elsewhere it
# says what to install and fails. Nothing is done where nothing is missing. The tests start
# servers of their own from the binaries: the services that the packages bring are kept
# from starting, and never used.
#
# valkey-server alone may be missing, as not every system has it: then this says so, does not
# fail, and what is tested with Redis and Valkey is tested with redis-server.
set -eu

# present reports whether a program is there, in the PATH or where Debian puts it.
present() {
	case $1 in
	postgresql) command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 ;;
	chromium) command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null ;;
	nodejs) command -v node >/dev/null ;;
	php-cli) command -v php >/dev/null ;;
	php-symfony-http-foundation) [ -e /usr/share/php/Symfony/Component/HttpFoundation/Request.php ] ;;
	ruby-railties) ls /usr/share/rubygems-integration/all/specifications/railties-*.gemspec >/dev/null 2>&1 ;;
	ruby-webrick) ls /usr/share/rubygems-integration/all/specifications/webrick-*.gemspec >/dev/null 2>&1 ;;
	python3-flask) [ -d /usr/lib/python3/dist-packages/flask ] ;;
	nginx-light) command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] ;;
	tomcat10) [ -d /usr/share/tomcat10 ] ;;
	tomcat10-user) command -v tomcat10-instance-create >/dev/null ;;
	*) command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] ;;
	esac
}

[ $# -gt 0 ] || set -- postgresql pgbouncer redis-server chromium valkey-server
[ "$*" != upstreams ] || set -- nodejs npm php-cli php-symfony-http-foundation ruby-railties ruby-webrick puma python3-flask nginx-light tomcat10 tomcat10-user

missing=
valkey=
for program; do
	present "$program" && continue
	case $program in
	valkey-server) valkey=missing ;;
	*) missing="$missing $program" ;;
	esac
done
[ -n "$missing$valkey" ] || exit 0

refuse() {
	echo "missing:$missing." >&2
	echo "$1" >&2
	exit 1
}

# alone says why there is no Valkey.
alone() {
	echo "valkey-server is not installed: $1. What is tested with Redis and Valkey is tested with redis-server alone."
	exit 0
}

# Where there is no way to install anything, that is an error unless only Valkey is missing.
if ! command -v apt-get >/dev/null; then
	[ -n "$missing" ] || alone "this is no Debian"
	refuse "This is no Debian: install them with the system's own package manager, and run this again."
fi
as_root=
if [ "$(id -u)" -ne 0 ]; then
	if ! command -v sudo >/dev/null; then
		[ -n "$missing" ] || alone "only root installs packages"
		refuse "Only root installs packages. As root: apt-get install --no-install-recommends$missing"
	fi
	as_root="sudo"
fi

policy=/usr/sbin/policy-rc.d
held=
own=
tidy() {
	[ -z "$held" ] || $as_root rm -f $policy
	[ -z "$own" ] || $as_root rm -rf "$own"
}
trap tidy EXIT
trap 'exit 1' INT TERM

# hold keeps packages from starting services: while this file answers 101, they start none. See
# policy-rc.d in https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt
hold() {
	[ ! -e $policy ] || return 0
	held=yes
	printf '#!/bin/sh\nexit 101\n' | $as_root tee $policy >/dev/null
	$as_root chmod 755 $policy
}

# apt calls apt-get, which asks nobody anything; config is read beside the machine's own.
config=${APT_CONFIG-}
apt() { $as_root env DEBIAN_FRONTEND=noninteractive APT_CONFIG="$config" apt-get -y -q --no-install-recommends "$@"; }

if [ -n "$missing" ]; then
	packages=$missing
	case " $missing " in
	*" chromium "*) packages="$packages fonts-liberation" ;; # without any font, pages are blank
	esac
	echo "installing$packages"
	hold
	# Lists may be missing, as in a fresh container, or too old to be of use.
	# shellcheck disable=SC2086
	apt install $packages || { apt update && apt install $packages; } ||
		refuse "apt-get could not install them; its reason stands above. By hand, as root: apt-get install --no-install-recommends$missing"
	for program in $missing; do
		present "$program" || refuse "apt-get installed $program, but its program is not where it is looked for."
	done
fi
[ -n "$valkey" ] || exit 0

# From here on nothing fails.

# fetch calls apt-get for what needs the network, and gives it up in time: a machine without it should not
# wait for long at every run.
fetch() {
	$as_root env DEBIAN_FRONTEND=noninteractive APT_CONFIG="$config" timeout --foreground 120 apt-get -y -q --no-install-recommends \
		-o Acquire::Retries=0 -o Acquire::http::Timeout=10 -o Acquire::https::Timeout=10 "$@"
}

offered() { APT_CONFIG="$config" apt-cache policy valkey-server 2>/dev/null | grep -q 'Candidate: [0-9]'; }

# backports has apt-get read Debian 12's backports, which have Valkey, from a list of this script's own into a
# directory of its own: of the machine's sources, and of what is known of them, nothing changes.
backports() {
	key=/usr/share/keyrings/debian-archive-keyring.gpg
	grep -q '^VERSION_CODENAME=bookworm' /etc/os-release && [ -r $key ] || return 1
	own=$(mktemp -d) && chmod 755 "$own" && mkdir -p "$own/lists/partial" "$own/cache/archives/partial" || return 1
	for suite in bookworm bookworm-backports; do
		echo "deb [signed-by=$key] http://deb.debian.org/debian $suite main"
	done >"$own/sources.list"
	# The lists' signatures are looked at, and the packages' sums, as always.
	config="$own/apt.conf"
	cat >"$config" <<-end
		Dir::Etc::SourceList "$own/sources.list";
		Dir::Etc::SourceParts "-";
		Dir::State::Lists "$own/lists";
		Dir::Cache "$own/cache";
		Acquire::Languages "none";
		Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
	end
	fetch update
}

echo "installing valkey-server"
offered || backports || fetch update || true
offered || alone "no package of it was found (where there is none, or no network, that is no fault)"
hold || alone "its service can't be kept from starting"
# What is being fetched may be given up, what is being installed may not.
fetch --download-only install valkey-server ||
	{ fetch update && fetch --download-only install valkey-server; } || alone "it could not be fetched; the reason stands above"
apt -o DPkg::Lock::Timeout=30 install valkey-server || alone "apt-get could not install it; its reason stands above"
present valkey-server || alone "the package was, but its program is not where it is looked for"
