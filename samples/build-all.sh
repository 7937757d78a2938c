#!/usr/bin/env bash
# Builds every sample into the folder given (default: build/samples at the top of the checkout).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd -P)
out=${1:-$here/../build/samples}
mkdir -p "$out"

build() { # name, crate folder, flag of build-wasm.sh (or nothing)
  local file=$out/$1.wasm
  # Nothing to do when no source is newer than the result.
  if [ -s "$file" ] && [ -z "$(find "$here/$2" "$here/Cargo.lock" "$here/build-wasm.sh" -newer "$file" -type f -not -path '*/target/*' -print -quit)" ]; then
    return
  fi
  echo "building sample $1"
  "$here/build-wasm.sh" "$here/$2" ${3:-} -o "$file.new" >"$out/$1.log" 2>&1 || { tail -30 "$out/$1.log" >&2; exit 1; }
  mv "$file.new" "$file"
}

build hello hello --http
build hello-p3 hello-p3 --http
build shop-front shop/front --http
build shop-back shop/back --http
build worker worker
build worker-component worker --component
