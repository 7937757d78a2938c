#!/usr/bin/env bash
# Runs every benchmark on the release binary, beside its peers where there are any.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=${NARU_TOOLS:-$HOME/.cache/naru/tools}
wasmtime=48.0.8
if [ ! -x "$tools/wasmtime/bin/wasmtime" ]; then
  echo "installing wasmtime-cli $wasmtime for comparison (about 17 minutes of CPU, once)"
  CARGO_TARGET_DIR=$(mktemp -d) cargo install --locked --version $wasmtime --root "$tools/wasmtime" wasmtime-cli
fi
target=${CARGO_TARGET_DIR:-$PWD/target}
export NARU_BIN=$target/release/naru NARU_TOOLS=$tools NARU_SAMPLES=$PWD/build/samples
# Always the same packages: with others, cargo would choose other features and build most of the house again.
packages=(-p naru -p naru-control -p naru-tests)
# The last four print their tables only. What was chosen by those of the log is explained in docs/PERFORMANCE.md, "Raft log".
benches=(startup deployment api http raft_log scheduler fairness admission)
cargo build --locked --release "${packages[@]}" --bins "${benches[@]/#/--bench=}"
for bench in "${benches[@]}"; do
  echo "== $bench"
  cargo bench --locked "${packages[@]}" --bench "$bench"
done
