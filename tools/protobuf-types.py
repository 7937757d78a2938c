#!/usr/bin/env python3
"""Makes control/src/protobuf/types.txt from the Go types of the Kubernetes API.

Usage: tools/protobuf-types.py API APIMACHINERY AGGREGATOR METRICS APIEXTENSIONS > control/src/protobuf/types.txt

API, APIMACHINERY, AGGREGATOR, METRICS and APIEXTENSIONS are git repositories of github.com/kubernetes/api,
.../apimachinery, .../kube-aggregator, .../metrics and .../apiextensions-apiserver (bare ones will do).
The Go types, not the .proto files, are the source, for only they tell which fields are pointers: protobuf sends
the zero value of every other field too, which in JSON would not be there.
"""
import re
import subprocess
import sys

API, MACHINERY, AGGREGATOR, METRICS, EXTENSIONS = sys.argv[1:6]
GROUPS = ("admissionregistration apps authentication authorization autoscaling batch certificates coordination core "
          "discovery events flowcontrol networking node policy rbac resource scheduling storage "
          "storagemigration").split()
META = "k8s.io/apimachinery/pkg/apis/meta/v1"
SCHEMAS = "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
SPECIAL = {
    f"{META}.Time": "T", f"{META}.MicroTime": "M", f"{META}.Duration": "D", f"{META}.FieldsV1": "R",
    "k8s.io/apimachinery/pkg/api/resource.Quantity": "Q",
    "k8s.io/apimachinery/pkg/util/intstr.IntOrString": "I",
    "k8s.io/apimachinery/pkg/runtime.RawExtension": "R",
    # Schemas have unions that JSON writes as one of their parts.
    f"{SCHEMAS}.JSON": "R", f"{SCHEMAS}.JSONSchemaPropsOrBool": "SB",
    f"{SCHEMAS}.JSONSchemaPropsOrArray": "SA", f"{SCHEMAS}.JSONSchemaPropsOrStringArray": "SL",
    "k8s.io/apimachinery/pkg/types.UID": "s", "k8s.io/apimachinery/pkg/types.NodeName": "s",
}
SCALARS = {"string": "s", "bool": "b", "int32": "i", "int64": "i", "float64": "d", "uint32": "i", "int": "i"}

aliases, structs = {}, {}


def files(repo, folder):
    run = lambda *args: subprocess.run(["git", "-C", repo, *args], check=True, capture_output=True, text=True).stdout
    for name in run("ls-tree", "--name-only", "HEAD", folder + "/").split():
        base = name.rsplit("/", 1)[-1]
        if base.endswith(".go") and "generated" not in base and not base.startswith("zz_") and "_test" not in base:
            yield run("show", f"HEAD:{name}")


def imports(text):
    found = {}
    for line in re.findall(r"^import \((.*?)^\)|^import (.*?)$", text, re.S | re.M):
        for alias, path in re.findall(r'(\w+)?\s*"([^"]+)"', "".join(line)):
            found[alias or path.rsplit("/", 1)[-1]] = path
    return found


def parse(package, text):
    known = imports(text)

    def absolute(name):
        if "." in name:
            alias, name = name.split(".")
            return f"{known.get(alias, alias)}.{name}"
        return name if name in SCALARS or name in ("byte", "uint8") else f"{package}.{name}"

    for name, target in re.findall(r"^type (\w+) =?\s*([\[\]\w.]+)(?:\s*//.*)?$", text, re.M):
        if target not in ("struct", "interface"):
            aliases[f"{package}.{name}"] = re.sub(r"[\w.]+$", lambda m: absolute(m[0]), target) \
                if not target.startswith("map[") else "map[string]" + absolute(target.split("]", 1)[1])
    for name in re.findall(r"^type (\w+) struct ?\{\}", text, re.M):
        structs[f"{package}.{name}"] = []
    for name, body in re.findall(r"^type (\w+) struct \{\n(.*?)^\}", text, re.S | re.M):
        fields = []
        for line in body.split("\n"):
            match = re.match(r"\s*(?:(\w+)\s+)?([\[\]*\w.]+)\s+`([^`]*)`", line)
            tag = match and re.search(r'protobuf:"\w+,(\d+),', match[3])
            if not tag:
                continue
            # Fields that JSON does not know belong to messages that are no objects.
            json = re.search(r'json:"([^"]*)"', match[3])
            if not json:
                continue
            json = json[1].split(",")
            kind = match[2]
            pointer = kind.startswith("*")
            kind = kind.lstrip("*")
            if kind.startswith("map["):
                kind = "map[string]" + re.sub(r"[\w.]+$", lambda m: absolute(m[0]), kind.split("]", 1)[1].lstrip("*"))
            else:
                kind = re.sub(r"[\w.]+$", lambda m: absolute(m[0]), kind.replace("[]*", "[]"))
            fields.append((int(tag[1]), json[0] or "-", kind, pointer, "omitempty" in json))
        structs[f"{package}.{name}"] = fields


def short(name):
    package, kind = name.rsplit(".", 1)
    for home in ("k8s.io/api/", "k8s.io/apimachinery/pkg/apis/", "k8s.io/kube-aggregator/pkg/apis/",
                 "k8s.io/metrics/pkg/apis/", "k8s.io/apiextensions-apiserver/pkg/apis/"):
        package = package.removeprefix(home)
    return f"{package}.{kind}"


def code(kind, wanted):
    """The type's code in the table; follows aliases, and notes which messages are needed."""
    if kind in SPECIAL:
        return SPECIAL[kind]
    if kind in ("[]byte", "[]uint8"):
        return "y"
    if kind.startswith("[]"):
        return "[]" + code(kind[2:], wanted)
    if kind.startswith("map[string]"):
        return "{}" + code(kind[len("map[string]"):], wanted)
    if kind in SCALARS:
        return SCALARS[kind]
    if kind in aliases:
        target = code(aliases[kind], wanted)
        # A named list is a message of its own on the wire, a named map is not.
        return "L" if target == "[]s" else target
    if kind in structs:
        wanted.append(kind)
        return short(kind)
    package = kind.rsplit(".", 1)[0]
    if package in parsed:
        raise SystemExit(f"unknown type {kind}")
    parse_package(API, package.removeprefix("k8s.io/api/"), package)
    return code(kind, wanted)


parsed = set()


def parse_package(repo, folder, package):
    parsed.add(package)
    for text in files(repo, folder):
        parse(package, text)


parse_package(MACHINERY, "pkg/apis/meta/v1", META)
for package in [f"{group}/v1" for group in GROUPS] + ["autoscaling/v2"]:
    parse_package(API, package, f"k8s.io/api/{package}")
parse_package(AGGREGATOR, "pkg/apis/apiregistration/v1", "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1")
parse_package(METRICS, "pkg/apis/metrics/v1beta1", "k8s.io/metrics/pkg/apis/metrics/v1beta1")
parse_package(EXTENSIONS, "pkg/apis/apiextensions/v1", SCHEMAS)

kinds = [name for name, fields in structs.items() if any(json == "metadata" for _, json, *_ in fields)]
print("# @generated by tools/protobuf-types.py from the Go types of the Kubernetes API. Do not edit.")
lines = {}
queue, done = [name for name in kinds if not name.endswith("List")] + [f"{META}.DeleteOptions"], set()
while queue:
    name = queue.pop()
    if name in done:
        continue
    done.add(name)
    rows = []
    for number, json, kind, pointer, omits in sorted(structs[name]):
        target = code(kind, queue)
        rows.append(f"{number} {json} {target}{'?' if omits and not pointer else ''}")
    lines[short(name)] = rows
for name in sorted(lines):
    print(f"={name}")
    print("\n".join(lines[name]))
