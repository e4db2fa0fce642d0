#!/usr/bin/env bash
# Measures everything, and writes benches/RESULTS.md and benches/charts/. See benches/README.md.
#
#     benches/compare.sh           about half an hour
#     benches/compare.sh --quick   under 10 minutes, fewer samples
set -euo pipefail
cd "$(dirname "$0")/.."

case "$*" in
'') mode=() samples=(--sample-size 25 --measurement-time 1 --warm-up-time 0.3) name='Full run' ;;
--quick) mode=(--quick) samples=(--sample-size 10 --measurement-time 0.25 --warm-up-time 0.1 --nresamples 2000) name='Quick run, few samples' ;;
*) echo 'usage: benches/compare.sh [--quick]' >&2; exit 2 ;;
esac

mkdir -p "${CARGO_TARGET_DIR:-target}"
run=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)/compare
rm -rf "$run"
mkdir -p "$run"
# Where criterion leaves its estimates: none of an older run may be among them.
export CRITERION_HOME=$run/criterion CARGO_TERM_COLOR=never

note() { printf 'version\t%s\t%s\n' "$1" "$2" >>"$run/versions.tsv"; }
step() { printf '\n== %s (%ss)\n' "$*" "$SECONDS"; }
load() { cut -d' ' -f1-3 /proc/loadavg 2>/dev/null || echo unknown; }

step 'building'
cargo bench --locked --no-run
SECONDS=0
note Run "$name, $(date -u +%Y-%m-%d)."
note Commit "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)$(git diff --quiet HEAD -- src Cargo.lock 2>/dev/null || echo ', changed')"
note rustc "$(rustc --version)"
note 'Load averages before' "$(load)"

# Each of a bench's figures in a process of its own: what others leave of the heap decides where the workers of a large table,
# or those that are started next, come to lie.
alone() { # alone BENCH PATTERN
    cargo bench --locked --bench "$1" -- --list 2>/dev/null | sed -n "s/: benchmark\$//; /$2/p" >"$run/names"
    while read -r name; do
        cargo bench --locked --bench "$1" -- "${samples[@]}" --exact "$name" >>"$run/$1.log" </dev/null
    done <"$run/names"
}

step 'lookup'
cargo bench --locked --bench lookup -- "${samples[@]}" '^(.*of (1|1,000)\b)' >"$run/lookup.log"
alone lookup '100,000'
step 'isolation'
alone isolation .
for bench in cold_start messages churn limits metrics bulk; do
    step "$bench"
    cargo bench --locked --bench "$bench" -- "${samples[@]}" >"$run/$bench.log"
done
step 'memory'
cargo bench --locked --bench memory -- "${mode[@]}" >"$run/memory.tsv"
step 'growth'
# Its verdict is in the report as well.
cargo bench --locked --bench growth -- "${mode[@]}" | tee "$run/growth.tsv" | grep -v ^figure || growth=failed
step 'elixir'
if command -v elixir >/dev/null 2>&1; then
    elixir --erl '+S 2:2 +P 4000000' benches/elixir/registry.exs "${mode[@]}" >"$run/elixir.tsv"
else
    echo 'SKIPPED: no elixir here (Debian: apt-get install elixir)'
    note Elixir 'not measured: not installed'
fi
note 'Load averages after' "$(load)"
note 'Took' "$((SECONDS / 60)) minutes"

step 'report'
cargo bench --locked --bench report -- "$run" "$PWD/benches"
if [ "${growth-}" ]; then
    echo 'something grows worse than logarithmically' >&2
    exit 1
fi
