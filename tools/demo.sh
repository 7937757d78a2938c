#!/usr/bin/env bash
# Starts a cluster in a temporary folder, applies the samples with kubectl, and shows their answers.
set -euo pipefail
naru=${1:?naru binary}
samples=${2:?folder of built samples}
tools=${3:?folder with kubectl}
here=$(cd "$(dirname "$0")/.." && pwd -P)

work=$(mktemp -d)
up=
finish() {
  status=$?
  if [ -n "$up" ] && kill -0 "$up" 2>/dev/null; then
    kill -TERM "$up"
    wait "$up" || true
  fi
  [ $status -eq 0 ] || { echo "--- the cluster's log:"; tail -40 "$work/log"; }
  rm -rf "$work"
  exit $status
}
trap finish EXIT
trap 'exit 130' INT TERM

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

say "naru up"
"$naru" up --data-dir "$work/data" --listen 127.0.0.1:0 >"$work/out" 2>"$work/log" &
up=$!
for _ in $(seq 300); do
  grep -q '^naru is ready' "$work/out" && break
  kill -0 "$up" 2>/dev/null || { cat "$work/out" "$work/log"; exit 1; }
  sleep 0.1
done
grep '^naru is ready' "$work/out"
export KUBECONFIG=$work/data/kubeconfig
kubectl=$tools/kubectl

say "naru image import"
for image in hello hello-p3 shop-front shop-back worker; do
  "$naru" image import "$samples/$image.wasm" --name "$image:v1"
done
"$naru" image ls

say "kubectl apply -f samples/manifests"
$kubectl apply -f "$here/samples/manifests"
$kubectl rollout status deployment/hello --timeout=60s
$kubectl rollout status deployment/hello-p3 --timeout=60s
$kubectl -n shop rollout status deployment/back --timeout=60s
$kubectl -n shop rollout status deployment/front --timeout=60s
$kubectl wait --for=condition=Ready pod/pair --timeout=60s
$kubectl wait --for=jsonpath='{.status.phase}'=Succeeded pod/worker --timeout=60s
$kubectl get nodes,deployments,pods,services -A -o wide

answer() { # what, URL, expected text
  printf '%-42s' "$1"
  local text
  text=$(curl -sS --max-time 10 --retry 5 --retry-connrefused --retry-delay 1 "$2")
  echo "$text"
  case $text in *"$3"*) ;; *) echo "expected: $3" >&2; exit 1 ;; esac
}
service() { $kubectl -n "$1" get service "$2" -o "jsonpath=$3"; }

say "the answers"
node=$($kubectl get nodes -o 'jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}')
answer "hello by ClusterIP" "http://$(service default hello '{.spec.clusterIP}')/" "Hello from WebAssembly, served by hello-"
answer "hello by NodePort" "http://$node:$(service default hello '{.spec.ports[0].nodePort}')/" "Hello from WebAssembly, served by hello-"
answer "hello-p3 (WASI 0.3) by ClusterIP" "http://$(service default hello-p3 '{.spec.clusterIP}')/" "Hello from WASI 0.3"
answer "shop front, which asks the back" "http://$(service shop front '{.spec.clusterIP}')/" 'Welcome to The Ferry Landing! In stock: [{"item":"oar"'
answer "shop front by NodePort" "http://$node:$(service shop front '{.spec.ports[0].nodePort}')/" 'Welcome to The Ferry Landing!'
answer "two containers of one pod" "http://$(service default pair '{.spec.clusterIP}')/" 'Welcome to The Pair! In stock: [{"item":"oar"'
printf '%-42s' "kubectl logs worker"
$kubectl logs worker | tail -1 | tee "$work/worker"
grep -q 'there are 78498' "$work/worker"

say "the demo is over; stopping the cluster"
