# shellcheck shell=bash
# test/lib.sh: what ./demo, ./check and test/bench/run share: packages, a private
# build, and a PostgreSQL that has pg_topics without anything being installed.
#
# PostgreSQL's programs look for their share and library directories relative
# to themselves.  So $work/server holds copies of the programs and links to
# the rest, laid out as on the system, and "make install DESTDIR" adds
# pg_topics there.  The system's own directories and servers are not touched.
#
# Servers refuse to run as root.  So root installs packages and makes copies,
# and all else, the build too, runs as $account through as_account.
#
# For bash, after: set -euo pipefail; repo=<this repository>; . test/lib.sh
# Everything made is below $work, which remove_work removes.

oldest_major=15

for variable in "${!PG@}"; do
	case $variable in
		PG_CONFIG | PG_TEST_* | PG_TOPICS_*) ;;
		*) unset "$variable" ;;
	esac
done
unset LANGUAGE MAKEFLAGS MAKELEVEL DESTDIR
export LC_ALL=C.UTF-8

say() { printf '%s\n' "$*"; }
fail() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# ----------------------------------------------------------------------
# The server to use, and packages
# ----------------------------------------------------------------------

major_of() { "$1" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/'; }

# Whether a pg_config belongs to a supported server that extensions can be built for
is_complete() {
	command -v "$1" >/dev/null &&
		[ "$(major_of "$1")" -ge $oldest_major ] &&
		[ -x "$("$1" --bindir)/postgres" ] &&
		[ -f "$("$1" --pgxs)" ] &&
		[ -f "$("$1" --includedir-server)/postgres.h" ]
}

# Majors of Debian's that are installed and supported, newest first
installed_majors() {
	local program
	for program in /usr/lib/postgresql/*/bin/postgres; do
		[ -x "$program" ] || continue
		program=${program#/usr/lib/postgresql/}
		[ "${program%%/*}" -ge $oldest_major ] && say "${program%%/*}"
	done | sort -rn
}

# Sets PG_CONFIG, unless there is no complete server
find_server() {
	local candidate
	if [ -n "${PG_CONFIG:-}" ]; then
		is_complete "$PG_CONFIG" ||
			fail "PG_CONFIG=$PG_CONFIG is not a PostgreSQL $oldest_major or newer with server and server headers"
		PG_CONFIG=$(command -v "$PG_CONFIG")
		return 0
	fi
	for candidate in pg_config $(installed_majors | sed 's|.*|/usr/lib/postgresql/&/bin/pg_config|'); do
		if is_complete "$candidate"; then
			PG_CONFIG=$(command -v "$candidate")
			return 0
		fi
	done
	return 1
}

as_root() { if [ "$EUID" = 0 ]; then "$@"; else sudo "$@"; fi; }

# Run by root.  A new postgresql-NN makes and starts a cluster "main", which
# nobody asked for here: a drop-in says not to, for as long as we install, and
# policy-rc.d says so of services (pgbouncer, rsyslog).
install_script='
	set -eu
	export DEBIAN_FRONTEND=noninteractive
	made=
	policy=/usr/sbin/policy-rc.d
	[ -e $policy ] && policy= || install -m 755 /dev/stdin $policy <<<"#!/bin/sh
exit 101"
	trap "rm -f /etc/postgresql-common/createcluster.d/pg_topics.conf $policy; [ -z \"\$made\" ] || rmdir \$made" EXIT
	case " $* " in *" postgresql-"*)
		for directory in /etc/postgresql-common /etc/postgresql-common/createcluster.d; do
			[ -d $directory ] || { mkdir $directory; made=$directory; }
		done
		echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.d/pg_topics.conf
	esac
	apt-get install -qq -y --no-install-recommends "$@" </dev/null 2>&1'

# Installs what is missing of the server, the compiler, and the commands named
# by "command=package" arguments.  Sets PG_CONFIG.
require() {
	local missing=() major pair output
	command -v make >/dev/null || missing+=(make)
	command -v gcc >/dev/null && [ -f /usr/include/stdlib.h ] || missing+=(gcc libc6-dev)
	for pair in "$@"; do
		eval "${pair%%=*}" >/dev/null 2>&1 || missing+=("${pair#*=}")
	done
	find_server && [ ${#missing[@]} = 0 ] && return 0

	command -v apt-get >/dev/null ||
		fail "please install PostgreSQL $oldest_major or newer with its server headers, gcc and make (missing: ${missing[*]:-PostgreSQL})"
	if [ "$EUID" != 0 ] && ! { command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; }; then
		find_server || missing+=(postgresql postgresql-server-dev-all)
		fail "packages are missing; please have them installed: apt-get install ${missing[*]}"
	fi

	as_root apt-get update -qq
	if ! find_server; then
		major=$(installed_majors | head -n 1)
		if [ -z "$major" ]; then
			major=$(apt-cache depends postgresql | sed -n 's/.*Depends: postgresql-\([0-9][0-9]*\)$/\1/p' | head -n 1)
			[ "${major:-0}" -ge $oldest_major ] ||
				fail "this system has no package of PostgreSQL $oldest_major or newer"
			missing+=("postgresql-$major")
		fi
		missing+=("postgresql-server-dev-$major")
	fi
	say "Installing packages (a minute or so): ${missing[*]}"
	output=$(as_root bash -c "$install_script" install "${missing[@]}") ||
		{ say "$output"; fail "could not install packages"; }
	installed=("${missing[@]}")
	find_server || fail "no complete PostgreSQL after installing packages"
}

# ----------------------------------------------------------------------
# The private build and server tree
# ----------------------------------------------------------------------

# Sets work, a new directory, and account, who owns it, and goes there
make_work() {
	account=$(id -un)
	[ "$EUID" != 0 ] || account=$(id -un postgres 2>/dev/null || id -un nobody)
	work=$(mktemp -d /tmp/pg_topics.XXXXXX)
	cd "$work"
	[ "$EUID" != 0 ] || chown "$account:$(id -g "$account")" "$work"
}

as_account() {
	if [ "$EUID" = 0 ]; then
		setpriv --reuid="$account" --regid="$(id -g "$account")" --init-groups -- \
			env HOME="$work" USER="$account" LOGNAME="$account" "$@"
	else
		env HOME="$work" "$@"
	fi
}

# Copies the repository without build products to $work/source
copy_source() {
	mkdir "$work/source"
	tar -C "$repo" --exclude=./.git --exclude=./tmp_check --exclude='*.o' --exclude='*.so' --exclude='*.bc' -c . |
		tar -C "$work/source" -x --no-same-owner
	[ "$EUID" != 0 ] || chown -R "$account:" "$work/source"
}

# whether bitcode is made, which JIT inlines
with_llvm=no

# Builds $work/source; the compiler's output goes to $work/build.log
build() {
	as_account make -C "$work/source" -j"$(nproc)" PG_CONFIG="$PG_CONFIG" with_llvm="$with_llvm" "$@" >"$work/build.log" 2>&1
}

# Makes $work/server out of the system's server and the build.  Sets bindir.
make_server() {
	local system_bin system_lib system_share file
	system_bin=$("$PG_CONFIG" --bindir)
	system_lib=$("$PG_CONFIG" --pkglibdir)
	system_share=$("$PG_CONFIG" --sharedir)
	bindir=$work/server$system_bin

	mkdir -p "$bindir" "$work/server$system_lib" "$work/server$system_share/extension"
	# postgres.*: what a postgres that is a script runs (test/instrumented)
	for file in "$system_bin"/{postgres,postgres.*,initdb,psql,pgbench,pg_*,createdb,dropdb,createuser,dropuser,clusterdb,reindexdb,vacuumdb}; do
		[ ! -f "$file" ] || cp -L "$file" "$bindir/"
	done
	# the extension's bitcode is put beside the server's own
	if [ "$with_llvm" = yes ] && [ -d "$system_lib/bitcode" ]; then
		mkdir "$work/server$system_lib/bitcode"
		for file in "$system_lib"/bitcode/*; do
			[[ ${file##*/} == pg_topics* ]] || ln -s "$file" "$work/server$file"
		done
	fi
	for file in "$system_lib"/* "$system_share"/* "$system_share"/extension/*; do
		case ${file##*/} in
			pg_topics* | extension) ;;
			bitcode) [ -d "$work/server$file" ] || ln -s "$file" "$work/server$file" ;;
			*) ln -s "$file" "$work/server$file" ;;
		esac
	done
	[ "$EUID" != 0 ] || chown -hR "$account:" "$work/server"
	as_account make -C "$work/source" install DESTDIR="$work/server" PG_CONFIG="$PG_CONFIG" with_llvm="$with_llvm" >>"$work/build.log" 2>&1
}

# Makes $work/points, a second build, and $work/points_server for it, whose processes tests can stop at test points
make_points_server() {
	cp -R "$work/source" "$work/points"
	cp -R -P "$work/server" "$work/points_server"
	[ "$EUID" != 0 ] || chown -hR "$account:" "$work/points" "$work/points_server"
	as_account make -C "$work/points" PG_CONFIG="$PG_CONFIG" clean >>"$work/build.log" 2>&1
	as_account make -C "$work/points" -j"$(nproc)" PG_CONFIG="$PG_CONFIG" TEST_POINTS=1 COPT=-Werror with_llvm=no \
		install DESTDIR="$work/points_server" >>"$work/build.log" 2>&1
}

# Sets tap_environment, what PostgreSQL::Test wants to know: where the programs are, and where files go.
# And PG_CONFIG, for a test that builds.
set_tap_environment() {
	tap_environment=(
		PATH="$bindir:$PATH" PG_CONFIG="$PG_CONFIG" PG_REGRESS="$(dirname "$("$PG_CONFIG" --pgxs)")/../test/regress/pg_regress"
		TESTDIR="$work/tap" TESTDATADIR="$work/tap/tmp_check" TESTLOGDIR="$work/tap/tmp_check/log"
	)
}

# Ends every server whose data directory is below $work, unmounts its disks, and removes $work
remove_work() {
	local file
	[ -n "${work:-}" ] || return 0
	find "$work" -name postmaster.pid 2>/dev/null | while read -r file; do
		as_account "$bindir/pg_ctl" -D "${file%/*}" -m fast -t 20 stop >/dev/null 2>&1 ||
			as_account "$bindir/pg_ctl" -D "${file%/*}" -m immediate stop >/dev/null 2>&1 || true
	done
	cd /
	for file in "$work"/disk-*; do
		! mountpoint -q "$file" || umount "$file"
	done
	rm -rf "$work"
	work=
}

# Calls a function when the script ends, however it ends; it is not interrupted by another Ctrl-C
at_exit() {
	trap "trap '' HUP INT TERM; $1" EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
}
