#!/usr/bin/env bash
# Brings the Python and the JavaScript client of Kubernetes, and a framework for operators, into a folder; each with what
# it needs, nothing system-wide.
set -euo pipefail
out=${1:?folder}
python=37.0.2
operators=1.45.2
javascript=1.4.0 # The last that runs on Node 20.

if [ "$(cat "$out/python/.version" 2>/dev/null)" != "$python $operators" ]; then
  echo "fetching the Python client $python and kopf $operators"
  rm -rf "$out/python"
  python3 -m pip install --quiet --disable-pip-version-check --no-warn-conflicts --root-user-action ignore \
    --target "$out/python" "kubernetes==$python" "kopf==$operators"
  echo "$python $operators" >"$out/python/.version"
fi
if [ "$(cat "$out/javascript/.version" 2>/dev/null)" != $javascript ]; then
  echo "fetching the JavaScript client $javascript"
  rm -rf "$out/javascript"
  mkdir -p "$out/javascript"
  npm install --silent --no-fund --no-audit --ignore-scripts --prefix "$out/javascript" "@kubernetes/client-node@$javascript"
  echo $javascript >"$out/javascript/.version"
fi
