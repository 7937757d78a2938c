#!/usr/bin/env bash
# Sends a cluster of its own what its OpenAPI document allows, and what it forbids: no answer may be a fault of the server.
# usage: schemathesis.sh NARU TOOLS SECONDS
set -euo pipefail
naru=${1:?naru} tools=${2:?folder of tools} seconds=${3:?seconds}
here=$(cd "$(dirname "$0")" && pwd)
version=4.32.5

if [ "$(cat "$tools/schemathesis/.version" 2>/dev/null)" != $version ]; then
  echo "fetching schemathesis $version"
  rm -rf "$tools/schemathesis"
  python3 -m pip install --quiet --disable-pip-version-check --no-warn-conflicts --root-user-action ignore \
    --target "$tools/schemathesis" "schemathesis==$version"
  echo $version >"$tools/schemathesis/.version"
fi

work=$(mktemp -d)
server=
finish() {
  code=$?
  if [ -n "$server" ]; then kill "$server" 2>/dev/null && wait "$server" || true; fi
  [ $code = 0 ] || tail -n 30 "$work/log" >&2
  rm -rf "$work"
  exit $code
}
trap finish EXIT
HOME=$work "$naru" server --data-dir "$work/data" --listen 127.0.0.1:0 >"$work/out" 2>"$work/log" &
server=$!
for _ in $(seq 600); do
  ! grep -q ready "$work/out" || break
  kill -0 $server
  sleep 0.1 # Another process: there is nothing to wait on.
done

field() { awk -v key="$1:" '$1 == key || $2 == key { print $NF; exit }' "$work/data/kubeconfig"; }
url=$(field server)
field certificate-authority-data | base64 -d >"$work/ca.pem"
field client-certificate-data | base64 -d >"$work/client.pem"
field client-key-data | base64 -d >"$work/client.key"

cd "$work"
export PYTHONPATH=$tools/schemathesis SCHEMATHESIS_HOOKS=$here/schemathesis_hooks.py REQUESTS_CA_BUNDLE=$work/ca.pem
# Not bindings: to those that are wrong Kubernetes, and so we, answer 500. Nor proxies: what is behind them answers, and
# nothing there is a 503.
st() {
  python3 -m schemathesis.cli run "$@" --url "$url" --tls-verify "$work/ca.pem" --request-cert "$work/client.pem" \
    --request-cert-key "$work/client.key" --checks not_a_server_error --phases fuzzing --max-time "$each" \
    --request-timeout 10 --no-shrink --suppress-health-check all --warnings off --no-color --continue-on-failure \
    --generation-database none --exclude-path-regex '/(binding|bindings)$|/proxy(/|$)'
}
# One document a group, as a client generator would take them; the kinds that decide who may do what come last.
groups="apis/apps/v1 apis/batch/v1 apis/networking.k8s.io/v1 apis/apiextensions.k8s.io/v1 api/v1"
each=$((seconds / $(wc -w <<<"$groups")))
for group in $groups; do
  curl --silent --fail --cacert ca.pem --cert client.pem --key client.key "$url/openapi/v3/$group" >document.json
  echo "schemathesis: $group for $each seconds"
  st document.json >report || { grep -v '^$' report | tail -n 60 >&2; exit 1; }
  grep -E "generated|passed|failed" report | tail -n 3 || true
  kill -0 $server
done
