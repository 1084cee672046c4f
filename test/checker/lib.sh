# shellcheck shell=bash
# test/checker/lib.sh: what ./check, run and run-mutants share beside test/lib.sh.

python=/usr/bin/python3

# for require
checker_packages=(
	"$python -c 'import psycopg2'=python3-psycopg2"
	"ls /usr/lib/*/faketime/libfaketime.so.1=libfaketime"
	"patch --version=patch"
)

# The names of all mutants
mutant_names() { (cd "$repo/test/checker/mutants" && ls *.patch) | sed 's/\.patch$//'; }

# patch_sources <mutant> <directory>: makes a copy of $work/source that has the mutant
patch_sources() {
	rm -rf "$2"
	as_account cp -a "$work/source" "$2"
	as_account patch -d "$2" -p1 -s -F0 --no-backup-if-mismatch <"$repo/test/checker/mutants/$1.patch"
}

# Whether the sources that a mutant changes compile; warnings are the mutation's
mutant_compiles() {
	local objects
	mapfile -t objects < <(sed -n 's|^+++ b/\(src/.*\)\.c$|\1.o|p' "$repo/test/checker/mutants/$1.patch")
	as_account make -C "$work/mutant" PG_CONFIG="$PG_CONFIG" with_llvm=no PG_CFLAGS=-fsyntax-only "${objects[@]}" \
		>"$work/mutant.log" 2>&1
}

# Whether all mutants apply to the sources, and compile; says which do not
mutants_apply() {
	local name result=0
	for name in $(mutant_names); do
		if ! patch_sources "$name" "$work/mutant"; then
			say "the mutant $name does not apply"
			result=1
		elif ! mutant_compiles "$name"; then
			say "the mutant $name does not compile"
			cat "$work/mutant.log"
			result=1
		fi
	done
	rm -rf "$work/mutant"
	return $result
}

# Mounts two small file systems, for data and for WAL, and names them in the
# array "disks", which stays empty where that is not possible
make_disks() {
	disks=()
	[ "$EUID" = 0 ] || return 0
	mkdir "$work/disk-data" "$work/disk-wal"
	mount -t tmpfs -o size=384m pg_topics "$work/disk-data" 2>/dev/null || return 0
	mount -t tmpfs -o size=128m pg_topics "$work/disk-wal" 2>/dev/null || { umount "$work/disk-data"; return 0; }
	chown "$account:" "$work/disk-data" "$work/disk-wal"
	disks=("$work/disk-data" "$work/disk-wal")
}

# run_checker <option...>: checker.py of the build, with files that options name readable for the account
run_checker() {
	local directory=$work/checker
	rm -rf "$directory"
	as_account mkdir "$directory"
	as_account "$python" -B "$work/source/test/checker/checker.py" --bindir "$bindir" --directory "$directory" \
		${disks[@]:+--disks "${disks[@]}"} "$@"
}
