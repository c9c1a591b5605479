#!/bin/sh
# Installs the servers and the browser that the tests need, where they are missing:
#
#   internal/testserver/install.sh              all of them
#   internal/testserver/install.sh redis-server only the named ones
#   internal/testserver/install.sh upstreams    the web servers for the long tests of paths
#
# On Debian and its derivatives the script uses apt-get, as root or through sudo. On other
# systems it names the missing programs and fails. The tests run the programs themselves, so
# the script keeps the packages' own services from starting.
#
# valkey-server is optional, since not every system has a package of it. Where it can't be
# installed, the script says so and succeeds, and tests of Redis and Valkey use redis-server.
set -eu

# present reports whether a program is installed, in the PATH or where Debian puts it.
present() {
	case $1 in
	postgresql) command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 ;;
	chromium-headless-shell) command -v chromium-headless-shell >/dev/null || command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null ;;
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

[ $# -gt 0 ] || set -- postgresql pgbouncer redis-server chromium-headless-shell valkey-server
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

# alone prints why Valkey is missing, and ends the script with success.
alone() {
	echo "valkey-server is not installed: $1. Tests of Redis and Valkey run with redis-server only."
	exit 0
}

# A system where nothing can be installed is an error, unless only Valkey is missing.
if ! command -v apt-get >/dev/null; then
	[ -n "$missing" ] || alone "this system is not Debian"
	refuse "This system is not Debian: install them with its package manager, and run this script again."
fi
as_root=
if [ "$(id -u)" -ne 0 ]; then
	if ! command -v sudo >/dev/null; then
		[ -n "$missing" ] || alone "only root can install packages"
		refuse "Only root can install packages. Run as root: apt-get install --no-install-recommends$missing"
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

# hold keeps packages from starting their services: they start none while the policy file exits with 101. See
# policy-rc.d in https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt
hold() {
	[ ! -e $policy ] || return 0
	held=yes
	printf '#!/bin/sh\nexit 101\n' | $as_root tee $policy >/dev/null
	$as_root chmod 755 $policy
}

# apt calls apt-get without questions. apt-get reads config in addition to the machine's configuration.
config=${APT_CONFIG-}
apt() { $as_root env DEBIAN_FRONTEND=noninteractive APT_CONFIG="$config" apt-get -y -q --no-install-recommends "$@"; }

if [ -n "$missing" ]; then
	packages=$missing
	case " $missing " in
	*" chromium-headless-shell "*) packages="$packages fonts-liberation" ;; # without a font, pages are blank
	esac
	echo "installing$packages"
	hold
	# The package lists may be missing, as in a new container, or outdated: then they are updated first.
	# shellcheck disable=SC2086
	apt install $packages || { apt update && apt install $packages; } ||
		refuse "apt-get could not install them, for the reason above. Run as root: apt-get install --no-install-recommends$missing"
	for program in $missing; do
		present "$program" || refuse "apt-get installed $program, but the program was not found in its usual place."
	done
fi
[ -n "$valkey" ] || exit 0

# From here on, only Valkey is missing, so the script always succeeds.

# fetch calls apt-get for downloads, with a timeout: without a network, a run should not take long.
fetch() {
	$as_root env DEBIAN_FRONTEND=noninteractive APT_CONFIG="$config" timeout --foreground 120 apt-get -y -q --no-install-recommends \
		-o Acquire::Retries=0 -o Acquire::http::Timeout=10 -o Acquire::https::Timeout=10 "$@"
}

offered() { APT_CONFIG="$config" apt-cache policy valkey-server 2>/dev/null | grep -q 'Candidate: [0-9]'; }

# backports lets apt-get read the backports of Debian 12, which have Valkey. The list of sources and the downloaded
# lists are in a temporary directory, so the machine's package configuration does not change.
backports() {
	key=/usr/share/keyrings/debian-archive-keyring.gpg
	grep -q '^VERSION_CODENAME=bookworm' /etc/os-release && [ -r $key ] || return 1
	own=$(mktemp -d) && chmod 755 "$own" && mkdir -p "$own/lists/partial" "$own/cache/archives/partial" || return 1
	for suite in bookworm bookworm-backports; do
		echo "deb [signed-by=$key] http://deb.debian.org/debian $suite main"
	done >"$own/sources.list"
	# apt-get verifies signatures and checksums as usual.
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
offered || alone "no package was found (this is no error: the system has none, or the network is down)"
hold || alone "its service could not be kept from starting"
# The download has a timeout, the installation has none: it must not be interrupted.
fetch --download-only install valkey-server ||
	{ fetch update && fetch --download-only install valkey-server; } || alone "it could not be downloaded, for the reason above"
apt -o DPkg::Lock::Timeout=30 install valkey-server || alone "apt-get could not install it, for the reason above"
present valkey-server || alone "its package was installed, but the program was not found in its usual place"
