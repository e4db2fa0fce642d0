#!/usr/bin/env bash
# Measures everything, and writes benches/RESULTS.md and benches/charts/. See benches/README.md.
#
#     benches/compare.sh           about half an hour
#     benches/compare.sh --quick   under 10 minutes after the build, fewer rounds
set -euo pipefail
cd "$(dirname "$0")/.."

case "$*" in
'') mode=() rounds=(15 3) compiles=3 name='Full run' ;;
--quick) mode=(--quick) rounds=(12 1) compiles=1 name='Quick run, few rounds' ;;
*) echo 'usage: benches/compare.sh [--quick]' >&2; exit 2 ;;
esac

mkdir -p "${CARGO_TARGET_DIR:-target}"
run=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)/compare
rm -rf "$run"
mkdir -p "$run"
export CARGO_TERM_COLOR=never

note() { printf 'version\t%s\t%s\n' "$1" "$2" >>"$run/versions.tsv"; }
step() { printf '\n== %s (%ss)\n' "$*" "$SECONDS"; }
load() { cut -d' ' -f1-3 /proc/loadavg 2>/dev/null || echo unknown; }

step 'building'
cargo bench --locked -p benches --no-run
SECONDS=0
note Run "$name, $(date -u +%Y-%m-%d)."
note Commit "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)$(git diff --quiet HEAD -- src Cargo.lock 2>/dev/null || echo ', changed')"
note rustc "$(rustc --version)"
note 'Load averages before' "$(load)"

# All variants of a group are interleaved: see benches/common/interleaved.rs.
for bench in lookup isolation cold_start messages churn limits metrics bulk; do
    step "$bench"
    cargo bench --locked -p benches --bench "$bench" -- --interleaved "${rounds[@]}" >"$run/$bench.tsv"
done
step 'memory'
cargo bench --locked -p benches --bench memory -- "${mode[@]}" >"$run/memory.tsv"
step 'growth'
# Its verdict is in the report as well.
cargo bench --locked -p benches --bench growth -- "${mode[@]}" | tee "$run/growth.tsv" | grep -v ^figure || growth=failed
step 'worker types'
benches/types/measure "$compiles" >"$run/types.tsv"
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
cargo bench --locked -p benches --bench report -- "$run" "$PWD/benches"
if [ "${growth-}" ]; then
    echo 'something grows worse than logarithmically' >&2
    exit 1
fi
